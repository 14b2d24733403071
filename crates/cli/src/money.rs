//! Amounts of money as text.

use eticket_proto::r#type::Money;

/// As `8,000 KRW` or `12.50 USD`.
pub(crate) fn show(money: &Money) -> String {
    format!("{} {}", grouped(money), money.currency_code)
}

/// The amount alone, without separators: `8000` or `12.50`.
pub(crate) fn amount(money: &Money) -> String {
    let sign = if money.units < 0 || money.nanos < 0 { "-" } else { "" };
    format!("{sign}{}{}", money.units.unsigned_abs(), fraction(money))
}

fn grouped(money: &Money) -> String {
    let digits = money.units.unsigned_abs().to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    let sign = if money.units < 0 || money.nanos < 0 { "-" } else { "" };
    format!("{sign}{text}{}", fraction(money))
}

/// The point and at least two digits; nothing for whole units.
fn fraction(money: &Money) -> String {
    if money.nanos == 0 {
        return String::new();
    }
    let digits = format!("{:09}", money.nanos.unsigned_abs());
    format!(".{:0<2}", digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_grouped_and_keep_their_fraction() {
        for (units, nanos, shown, plain) in [
            (0, 0, "0 X", "0"),
            (999, 0, "999 X", "999"),
            (8_000, 0, "8,000 X", "8000"),
            (1_234_567, 0, "1,234,567 X", "1234567"),
            (12, 500_000_000, "12.50 X", "12.50"),
            (12, 345_000_000, "12.345 X", "12.345"),
            (-1_000, -10_000_000, "-1,000.01 X", "-1000.01"),
            (0, -500_000_000, "-0.50 X", "-0.50"),
        ] {
            let money = Money { currency_code: "X".to_owned(), units, nanos };
            assert_eq!((show(&money).as_str(), amount(&money).as_str()), (shown, plain));
        }
    }
}
