//! Conversion of prices and policies to the messages of the contract, shared by the inbound and outbound adapters.

use chrono::{Datelike, NaiveDate, Weekday};
use eticket_proto::{
    ids::{TicketId, UserGrade},
    pricing::{self as pb, pricing_rule},
    time::to_proto,
    r#type::{Date, DayOfWeek, Money as MoneyMessage},
};
use prost::Message;

use crate::domain::{Money, Policy, Price, Reduction, Rounding, Row, Rule};

/// Returns the message for a price, or `None` for a row without a price.
pub fn row_to_message(id: &TicketId, row: &Row) -> Option<pb::Price> {
    let price = row.price.as_ref()?;
    Some(pb::Price {
        ticket_id: id.to_string(),
        schedule_revision: row.schedule_revision,
        reservation_revision: row.reservation_revision,
        revision: row.revision,
        update_time: row.update_time.map(to_proto),
        ..quote_to_message(price)
    })
}

/// Returns the message for a price that belongs to no ticket.
pub fn quote_to_message(price: &Price) -> pb::Price {
    let discounts = price.discounts.iter().map(|discount| pb::Discount {
        rule_id: discount.rule_id.clone(),
        description: discount.description.clone(),
        amount: Some(money_to_message(discount.amount)),
    });
    pb::Price {
        base_price: Some(money_to_message(price.base_price)),
        discounted_price: Some(money_to_message(price.discounted_price)),
        discounts: discounts.collect(),
        ..pb::Price::default()
    }
}

pub fn policy_to_message(policy: &Policy) -> pb::PricingPolicy {
    pb::PricingPolicy {
        version: policy.version(),
        base_price: Some(money_to_message(policy.base_price())),
        business_time_zone: policy.business_time_zone().name().to_owned(),
        rounding: rounding_to_message(policy.rounding()).into(),
        rules: policy.rules().iter().map(rule_to_message).collect(),
    }
}

/// Encodes a policy for storage.
pub fn policy_to_bytes(policy: &Policy) -> Vec<u8> {
    policy_to_message(policy).encode_to_vec()
}

/// Decodes a stored policy.
///
/// # Errors
/// If the bytes are not an output of [`policy_to_bytes`].
pub fn policy_from_bytes(bytes: &[u8]) -> Result<Policy, String> {
    let message = pb::PricingPolicy::decode(bytes).map_err(|error| error.to_string())?;
    let rounding = match message.rounding() {
        pb::Rounding::Down => Rounding::Down,
        pb::Rounding::HalfUp => Rounding::HalfUp,
        pb::Rounding::HalfEven => Rounding::HalfEven,
        pb::Rounding::Unspecified => return Err("rounding is not set".to_owned()),
    };
    let zone = message.business_time_zone.parse().map_err(|_| "this version does not know the time zone".to_owned())?;
    let base_price = money_from_message(message.base_price.as_ref())?;
    let rules = message.rules.into_iter().map(rule_from_message).collect::<Result<_, _>>()?;
    Policy::try_new(message.version, base_price, zone, rounding, rules).map_err(|invalid| invalid.to_string())
}

fn money_to_message(money: Money) -> MoneyMessage {
    MoneyMessage { currency_code: money.currency().to_string(), units: money.units(), nanos: money.nanos() }
}

fn money_from_message(message: Option<&MoneyMessage>) -> Result<Money, String> {
    let MoneyMessage { currency_code, units, nanos } = message.ok_or("an amount is not set")?;
    let currency = currency_code.parse().map_err(|error: crate::domain::InvalidMoney| error.to_string())?;
    Money::try_from_units(currency, *units, *nanos).map_err(|error| error.to_string())
}

fn rounding_to_message(rounding: Rounding) -> pb::Rounding {
    match rounding {
        Rounding::Down => pb::Rounding::Down,
        Rounding::HalfUp => pb::Rounding::HalfUp,
        Rounding::HalfEven => pb::Rounding::HalfEven,
    }
}

fn rule_to_message(rule: &Rule) -> pb::PricingRule {
    pb::PricingRule {
        rule_id: rule.rule_id.clone(),
        description: rule.description.clone(),
        weekdays: rule.weekdays.iter().map(|day| weekday_to_message(*day).into()).collect(),
        user_grades: rule.user_grades.iter().map(|grade| grade.to_proto().into()).collect(),
        date_from: rule.date_from.map(date_to_message),
        date_to: rule.date_to.map(date_to_message),
        discount: Some(match rule.reduction {
            Reduction::Percent(percent) => pricing_rule::Discount::Percent(percent.into()),
            Reduction::Amount(amount) => pricing_rule::Discount::Amount(money_to_message(amount)),
        }),
    }
}

fn rule_from_message(rule: pb::PricingRule) -> Result<Rule, String> {
    let reduction = match &rule.discount {
        Some(pricing_rule::Discount::Percent(percent)) => {
            Reduction::Percent(u8::try_from(*percent).map_err(|_| "a percentage is out of range")?)
        }
        Some(pricing_rule::Discount::Amount(amount)) => Reduction::Amount(money_from_message(Some(amount))?),
        None => return Err("a rule has no discount".to_owned()),
    };
    let weekday = |number: &i32| weekday_from_message(*number).ok_or_else(|| format!("{number} is not a weekday"));
    let grade = |number: &i32| UserGrade::from_proto(*number).ok_or_else(|| format!("{number} is not a grade"));
    let date = |date: Option<Date>| date.map(|date| date_from_message(&date).ok_or("a date is not valid")).transpose();
    Ok(Rule {
        weekdays: rule.weekdays.iter().map(weekday).collect::<Result<_, _>>()?,
        user_grades: rule.user_grades.iter().map(grade).collect::<Result<_, _>>()?,
        date_from: date(rule.date_from)?,
        date_to: date(rule.date_to)?,
        rule_id: rule.rule_id,
        description: rule.description,
        reduction,
    })
}

fn weekday_to_message(day: Weekday) -> DayOfWeek {
    match day {
        Weekday::Mon => DayOfWeek::Monday,
        Weekday::Tue => DayOfWeek::Tuesday,
        Weekday::Wed => DayOfWeek::Wednesday,
        Weekday::Thu => DayOfWeek::Thursday,
        Weekday::Fri => DayOfWeek::Friday,
        Weekday::Sat => DayOfWeek::Saturday,
        Weekday::Sun => DayOfWeek::Sunday,
    }
}

fn weekday_from_message(number: i32) -> Option<Weekday> {
    match DayOfWeek::try_from(number).ok()? {
        DayOfWeek::Monday => Some(Weekday::Mon),
        DayOfWeek::Tuesday => Some(Weekday::Tue),
        DayOfWeek::Wednesday => Some(Weekday::Wed),
        DayOfWeek::Thursday => Some(Weekday::Thu),
        DayOfWeek::Friday => Some(Weekday::Fri),
        DayOfWeek::Saturday => Some(Weekday::Sat),
        DayOfWeek::Sunday => Some(Weekday::Sun),
        DayOfWeek::Unspecified => None,
    }
}

fn date_to_message(date: NaiveDate) -> Date {
    // Months and days are far below `i32::MAX`.
    Date { year: date.year(), month: date.month().cast_signed(), day: date.day().cast_signed() }
}

fn date_from_message(date: &Date) -> Option<NaiveDate> {
    NaiveDate::from_ymd_opt(date.year, u32::try_from(date.month).ok()?, u32::try_from(date.day).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy_file;

    /// A policy that uses every feature.
    const EVERYTHING: &str = "version: 7
base_price: 12.50 EUR
business_time_zone: America/New_York
rounding: HALF_EVEN
rules:
  - {rule_id: a, description: days, weekdays: [MONDAY, TUESDAY, WEDNESDAY, THURSDAY, FRIDAY, SATURDAY, SUNDAY], percent: 100}
  - {rule_id: b, user_grades: [SILVER, GOLD, VIP], date_from: 2027-01-31, date_to: 2028-02-29, amount: 0.01 EUR}
";

    #[test]
    fn a_stored_policy_is_decoded_unchanged() {
        for text in [EVERYTHING, policy_file::DEFAULT, &EVERYTHING.replace("HALF_EVEN", "HALF_UP")] {
            let policy = policy_file::parse(text).expect("a policy");
            assert_eq!(policy_from_bytes(&policy_to_bytes(&policy)), Ok(policy));
        }
    }

    #[test]
    fn invalid_stored_policies_are_refused() {
        assert!(policy_from_bytes(b"nonsense").is_err());
        assert!(policy_from_bytes(b"").is_err());
        let message = policy_to_message(&policy_file::parse(EVERYTHING).expect("a policy"));
        let break_by = |change: &dyn Fn(&mut pb::PricingPolicy)| {
            let mut message = message.clone();
            change(&mut message);
            policy_from_bytes(&message.encode_to_vec())
        };
        assert!(break_by(&|policy| policy.business_time_zone = "Mars/Olympus".to_owned()).is_err());
        assert!(break_by(&|policy| policy.rules[0].weekdays = vec![0]).is_err());
        assert!(break_by(&|policy| policy.rules[1].user_grades = vec![9]).is_err());
        assert!(break_by(&|policy| policy.rules[1].discount = None).is_err());
        assert!(break_by(&|policy| policy.rules[0].discount = Some(pricing_rule::Discount::Percent(300))).is_err());
        assert!(break_by(&|policy| policy.rules[1].date_to = Some(Date { year: 2027, month: 2, day: 30 })).is_err());
        assert!(break_by(&|policy| policy.base_price = None).is_err());
        assert!(break_by(&|_| ()).is_ok());
    }
}
