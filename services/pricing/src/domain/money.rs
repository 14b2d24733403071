//! Amounts of money. An amount is a currency and a non-negative integer number of its smallest units, so that all
//! arithmetic is exact.
//!
//! `12.50 EUR` is 1250 smallest units (cents). KRW has no fractional unit, so `10000 KRW` is 10000 smallest units.

use std::{fmt, str::FromStr};

/// Maximum amount, in smallest units. It is far above any price, and low enough that the computation of a percentage
/// never overflows `u64`.
pub(super) const LARGEST: u64 = 1_000_000_000_000_000;

/// Reason why an amount is invalid. `Display` states the expected form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMoney {
    #[error("expected an ISO 4217 currency code, three capital letters such as KRW, got {0:?}")]
    Currency(String),
    #[error("expected an amount such as 10000 KRW, got {0:?}")]
    Form(String),
    #[error("expected an amount of at least 0, got {0}")]
    Negative(String),
    #[error("expected an amount of at most {LARGEST} of the smallest unit")]
    TooLarge,
    #[error("expected at most {digits} decimal places for {currency}")]
    TooFine { currency: Currency, digits: u32 },
}

/// A currency, identified by its ISO 4217 code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Currency([u8; 3]);

impl Currency {
    /// South Korean won, the default currency.
    pub const KRW: Self = Self(*b"KRW");

    pub fn code(&self) -> &str {
        // The code contains only ASCII capital letters, so it is valid UTF-8.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Returns the number of digits after the decimal point: 2, except for the currencies that ISO 4217 lists with
    /// another number.
    pub fn digits(&self) -> u32 {
        match &self.0 {
            b"BIF" | b"CLP" | b"DJF" | b"GNF" | b"ISK" | b"JPY" | b"KMF" | b"KRW" | b"PYG" | b"RWF" | b"UGX"
            | b"UYI" | b"VND" | b"VUV" | b"XAF" | b"XOF" | b"XPF" => 0,
            b"BHD" | b"IQD" | b"JOD" | b"KWD" | b"LYD" | b"OMR" | b"TND" => 3,
            b"CLF" | b"UYW" => 4,
            _ => 2,
        }
    }
}

impl FromStr for Currency {
    type Err = InvalidMoney;

    fn from_str(text: &str) -> Result<Self, InvalidMoney> {
        match <[u8; 3]>::try_from(text.as_bytes()) {
            Ok(code) if code.iter().all(u8::is_ascii_uppercase) => Ok(Self(code)),
            _ => Err(InvalidMoney::Currency(text.chars().take(20).collect())),
        }
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.code())
    }
}

/// An amount from 0 to `LARGEST` smallest units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Money {
    currency: Currency,
    smallest: u64,
}

impl Money {
    /// Creates an amount from smallest units.
    ///
    /// # Errors
    /// [`InvalidMoney::TooLarge`] above `LARGEST`.
    pub fn try_new(currency: Currency, smallest: u64) -> Result<Self, InvalidMoney> {
        if smallest > LARGEST { Err(InvalidMoney::TooLarge) } else { Ok(Self { currency, smallest }) }
    }

    /// Creates an amount from whole units and billionths of a unit, the form of `google.type.Money`.
    ///
    /// # Errors
    /// If the amount is negative, too large, or finer than the smallest unit of the currency.
    pub fn try_from_units(currency: Currency, units: i64, nanos: i32) -> Result<Self, InvalidMoney> {
        let negative = || InvalidMoney::Negative(format!("{units} units, {nanos} nanos"));
        let whole = u64::try_from(units).map_err(|_| negative())?;
        let nanos = u64::try_from(nanos).map_err(|_| negative())?;
        let digits = currency.digits();
        let nanos_of_smallest = 10_u64.pow(9 - digits);
        if !nanos.is_multiple_of(nanos_of_smallest) {
            return Err(InvalidMoney::TooFine { currency, digits });
        }
        if nanos >= 1_000_000_000 {
            return Err(InvalidMoney::TooLarge);
        }
        let smallest = whole.checked_mul(10_u64.pow(digits)).ok_or(InvalidMoney::TooLarge)? + nanos / nanos_of_smallest;
        Self::try_new(currency, smallest)
    }

    pub fn zero(currency: Currency) -> Self {
        Self { currency, smallest: 0 }
    }

    pub fn currency(&self) -> Currency {
        self.currency
    }

    /// Returns the amount in the smallest unit of the currency.
    pub fn smallest(&self) -> u64 {
        self.smallest
    }

    /// Returns the whole units of the amount.
    pub fn units(&self) -> i64 {
        (self.smallest / 10_u64.pow(self.currency.digits())).cast_signed()
    }

    /// Returns the fraction of a unit that [`Self::units`] omits, in billionths of a unit.
    pub fn nanos(&self) -> i32 {
        let digits = self.currency.digits();
        let rest = (self.smallest % 10_u64.pow(digits)) * 10_u64.pow(9 - digits);
        i32::try_from(rest).unwrap_or_default()
    }

    /// Subtracts up to `wanted` smallest units, but never below zero. Returns the remaining and the subtracted amount.
    pub fn less_up_to(self, wanted: u64) -> (Self, Self) {
        let taken = wanted.min(self.smallest);
        let of = |smallest| Self { currency: self.currency, smallest };
        (of(self.smallest - taken), of(taken))
    }
}

impl FromStr for Money {
    type Err = InvalidMoney;

    /// Parses an amount such as `10000 KRW` or `12.50 EUR`.
    fn from_str(text: &str) -> Result<Self, InvalidMoney> {
        let form = || InvalidMoney::Form(text.chars().take(40).collect());
        let (amount, currency) = text.split_once(' ').ok_or_else(form)?;
        let currency: Currency = currency.trim().parse()?;
        if amount.starts_with('-') {
            return Err(InvalidMoney::Negative(text.chars().take(40).collect()));
        }
        let (whole, fraction) = amount.split_once('.').unwrap_or((amount, ""));
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) || amount.ends_with('.') {
            return Err(form());
        }
        let digits = currency.digits();
        if fraction.len() > digits as usize {
            return Err(InvalidMoney::TooFine { currency, digits });
        }
        let padded = format!("{whole}{fraction:0<width$}", width = digits as usize);
        Self::try_new(currency, padded.parse().map_err(|_| InvalidMoney::TooLarge)?)
    }
}

impl fmt::Display for Money {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.currency.digits();
        let (whole, rest) = (self.smallest / 10_u64.pow(digits), self.smallest % 10_u64.pow(digits));
        if digits == 0 {
            write!(formatter, "{whole} {}", self.currency)
        } else {
            write!(formatter, "{whole}.{rest:0width$} {}", self.currency, width = digits as usize)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_of_an_amount_agree() {
        for (text, smallest, units, nanos) in [
            ("10000 KRW", 10_000, 10_000, 0),
            ("12.50 EUR", 1_250, 12, 500_000_000),
            ("12.5 EUR", 1_250, 12, 500_000_000),
            ("0.001 KWD", 1, 0, 1_000_000),
            ("0 KRW", 0, 0, 0),
            ("38000.1234 CLF", 380_001_234, 38_000, 123_400_000),
            ("1.0001 UYW", 10_001, 1, 100_000),
            ("5 UYI", 5, 5, 0),
        ] {
            let money: Money = text.parse().expect(text);
            assert_eq!((money.smallest(), money.units(), money.nanos()), (smallest, units, nanos), "{text}");
            assert_eq!(Money::try_from_units(money.currency(), units, nanos), Ok(money), "{text}");
            assert_eq!(money.to_string().parse(), Ok(money), "{text}");
        }
    }

    #[test]
    fn invalid_amounts_are_refused() {
        for text in [
            "",
            "KRW",
            "10000",
            "10000KRW",
            "10,000 KRW",
            "1.5 KRW",
            "1.001 EUR",
            "1.00001 CLF",
            "1.5 UYI",
            "-1 KRW",
            "1e3 KRW",
            "1. EUR",
            ".5 EUR",
            "1 krw",
            "1 KRWW",
            "1 €€€",
            "1000000000000001 KRW",
            "99999999999999999999999 KRW",
        ] {
            assert!(text.parse::<Money>().is_err(), "{text:?} must be refused");
        }
        for (units, nanos) in [(-1, 0), (0, -1), (0, 1), (1, 1_000_000_000), (i64::MAX, 0), (i64::MIN, i32::MIN)] {
            assert!(Money::try_from_units(Currency::KRW, units, nanos).is_err(), "{units} {nanos}");
        }
    }

    #[test]
    fn digits_follow_iso_4217() {
        // From list one of ISO 4217: every active currency with a number of digits other than two.
        let none = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF";
        let (three, four) = ("BHD IQD JOD KWD LYD OMR TND", "CLF UYW");
        // Currencies with two digits in ISO 4217 for which other standards list another number.
        let two = "AFN ALL AMD BOV CHE CHW COU CRC EUR HUF IDR IRR KPW LAK LBP MGA MMK MRU MXV PKR RSD SLE SOS SYP TZS USD USN UYU UZS YER ZMW";
        for (digits, codes) in [(0, none), (2, two), (3, three), (4, four)] {
            for code in codes.split(' ') {
                assert_eq!(code.parse::<Currency>().map(|currency| currency.digits()), Ok(digits), "{code}");
            }
        }
    }

    #[test]
    fn a_subtraction_stops_at_zero() {
        let money = |smallest| Money::try_new(Currency::KRW, smallest).expect("an amount");
        assert_eq!(money(700).less_up_to(1_000), (money(0), money(700)));
        assert_eq!(money(1_700).less_up_to(1_000), (money(700), money(1_000)));
    }
}
