//! The pricing policy: a base price and an ordered list of discounts, each with its conditions.
//!
//! What is rounded is the discount, not the price that remains: the amount shown is what was really taken off, and DOWN never
//! gives away more than the percentage says.

use chrono::{DateTime, Datelike, NaiveDate, Offset, TimeZone, Utc, Weekday};
use chrono_tz::Tz;
use eticket_proto::ids::UserGrade;

use super::money::Money;

/// The last year that the tables of chrono-tz cover.
const LAST_YEAR: i32 = 2099;

/// The most rules a policy may have.
const MOST_RULES: usize = 1_000;

/// How a percentage is rounded to the currency's smallest unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rounding {
    #[default]
    Down,
    /// To the nearest, halves up.
    HalfUp,
    /// To the nearest, halves to the even neighbour.
    HalfEven,
}

/// What a rule takes off from what the rules before it left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// 1 to 100.
    Percent(u8),
    /// More than nothing, in the currency of the base price.
    Amount(Money),
}

/// A discount with its conditions, which are joined by AND; one that is empty holds always.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub rule_id: String,
    pub description: String,
    pub weekdays: Vec<Weekday>,
    /// Holds for a holder, or a quote, of one of these grades.
    pub user_grades: Vec<UserGrade>,
    /// The first day.
    pub date_from: Option<NaiveDate>,
    /// The last day.
    pub date_to: Option<NaiveDate>,
    pub reduction: Reduction,
}

impl Rule {
    /// Whether the rule is for a ticket that starts on this day and is held by (or quoted for) somebody of this grade.
    fn holds(&self, day: NaiveDate, grade: Option<UserGrade>) -> bool {
        (self.weekdays.is_empty() || self.weekdays.contains(&day.weekday()))
            && (self.user_grades.is_empty() || grade.is_some_and(|grade| self.user_grades.contains(&grade)))
            && self.date_from.is_none_or(|first| first <= day)
            && self.date_to.is_none_or(|last| day <= last)
    }

    fn problem(&self, base_price: Money) -> Option<String> {
        let id_fits = (1..=64).contains(&self.rule_id.len())
            && self.rule_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        if !id_fits {
            return Some("rule_id: expected 1 to 64 of A-Z a-z 0-9 _ -".to_owned());
        }
        if self.description.chars().count() > 200 || self.description.chars().any(char::is_control) {
            return Some("description: expected at most 200 characters on one line".to_owned());
        }
        if let (Some(first), Some(last)) = (self.date_from, self.date_to)
            && first > last
        {
            return Some(format!("date_to: expected no day before date_from ({first}), got {last}"));
        }
        match self.reduction {
            Reduction::Percent(1..=100) => None,
            Reduction::Percent(percent) => Some(format!("percent: expected 1 to 100, got {percent}")),
            Reduction::Amount(amount) if amount.smallest() == 0 => Some("amount: expected more than 0".to_owned()),
            Reduction::Amount(amount) if amount.currency() != base_price.currency() => {
                Some(format!("amount: expected {}, the currency of base_price, got {amount}", base_price.currency()))
            }
            Reduction::Amount(_) => None,
        }
    }
}

/// What is wrong with a policy, and with which of its rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct InvalidPolicy {
    /// Counted from 0; `None` if it is no single rule's fault.
    pub rule: Option<usize>,
    pub problem: String,
}

/// What a rule took off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discount {
    pub rule_id: String,
    pub description: String,
    /// More than nothing.
    pub amount: Money,
}

/// A price and how it came about: the base price less the discounts is the discounted one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Price {
    pub base_price: Money,
    pub discounted_price: Money,
    /// In the order of the policy's rules; rules that took nothing are not among them.
    pub discounts: Vec<Discount>,
}

/// A policy that can be applied: whoever has one knows that it is sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    version: i64,
    base_price: Money,
    business_time_zone: Tz,
    rounding: Rounding,
    rules: Vec<Rule>,
}

impl Policy {
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn try_new(
        version: i64,
        base_price: Money,
        business_time_zone: Tz,
        rounding: Rounding,
        rules: Vec<Rule>,
    ) -> Result<Self, InvalidPolicy> {
        if version < 1 {
            return Err(InvalidPolicy { rule: None, problem: format!("version: expected at least 1, got {version}") });
        }
        if rules.len() > MOST_RULES {
            let problem = format!("rules: expected at most {MOST_RULES}, got {}", rules.len());
            return Err(InvalidPolicy { rule: None, problem });
        }
        for (index, rule) in rules.iter().enumerate() {
            let again = rules.iter().take(index).any(|earlier| earlier.rule_id == rule.rule_id);
            let repeated = again.then(|| format!("rule_id: expected another than the earlier rule's {}", rule.rule_id));
            if let Some(problem) = rule.problem(base_price).or(repeated) {
                return Err(InvalidPolicy { rule: Some(index), problem });
            }
        }
        Ok(Self { version, base_price, business_time_zone, rounding, rules })
    }

    pub fn version(&self) -> i64 {
        self.version
    }

    #[cfg(test)]
    pub(super) fn with_version(&self, version: i64) -> Self {
        Self { version, ..self.clone() }
    }

    pub fn base_price(&self) -> Money {
        self.base_price
    }

    pub fn business_time_zone(&self) -> Tz {
        self.business_time_zone
    }

    pub fn rounding(&self) -> Rounding {
        self.rounding
    }

    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The price of a ticket that starts then, held by (or quoted for) somebody of this grade.
    pub fn price(&self, start: DateTime<Utc>, grade: Option<UserGrade>) -> Price {
        let day = business_day(self.business_time_zone, start);
        let mut left = self.base_price;
        let mut discounts = Vec::new();
        for rule in self.rules.iter().filter(|rule| rule.holds(day, grade)) {
            let wanted = match rule.reduction {
                Reduction::Percent(percent) => percent_of(left, percent, self.rounding),
                Reduction::Amount(amount) => amount.smallest(),
            };
            let (rest, taken) = left.less_up_to(wanted);
            left = rest;
            if taken.smallest() > 0 {
                let Rule { rule_id, description, .. } = rule;
                discounts.push(Discount { rule_id: rule_id.clone(), description: description.clone(), amount: taken });
            }
        }
        Price { base_price: self.base_price, discounted_price: left, discounts }
    }
}

/// The day in a zone. A weekday and a date are those of the business, wherever this program runs.
///
/// The zones' tables end with [`LAST_YEAR`]; from then on they repeat their last offset, summer or winter. So the offset of a later
/// time is that of the newest year in the tables with the same calendar: a rule such as "the last Sunday in March" gives the same
/// dates there. A zone without summer time in the last year keeps its last offset.
pub(super) fn business_day(zone: Tz, start: DateTime<Utc>) -> NaiveDate {
    let start = start.naive_utc();
    let offset = |time| zone.offset_from_utc_datetime(&time).fix();
    let in_last_year = |month| NaiveDate::from_ymd_opt(LAST_YEAR, month, 1)?.and_hms_opt(0, 0, 0).map(offset);
    let known = if start.year() > LAST_YEAR && in_last_year(1) != in_last_year(7) {
        let same_calendar = |year: &i32| {
            let first = |year| NaiveDate::from_ymd_opt(year, 1, 1).map(|day| (day.weekday(), day.leap_year()));
            first(*year) == first(start.year())
        };
        // All 14 calendars come up within 28 years without a skipped leap year.
        (LAST_YEAR - 27..=LAST_YEAR).rev().find(same_calendar).and_then(|year| start.with_year(year)).unwrap_or(start)
    } else {
        start
    };
    (start + offset(known)).date()
}

/// In smallest units. Money is at most 10^15 of them, so the product stays far below the limit.
fn percent_of(money: Money, percent: u8, rounding: Rounding) -> u64 {
    let product = money.smallest() * u64::from(percent);
    let (whole, rest) = (product / 100, product % 100);
    let up = match rounding {
        Rounding::Down => false,
        Rounding::HalfUp => rest >= 50,
        Rounding::HalfEven => rest > 50 || (rest == 50 && !whole.is_multiple_of(2)),
    };
    whole + u64::from(up)
}

/// What becomes of a policy that is offered while another is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// Its version is the highest: it is stored and is in force from now on.
    Adopt,
    /// It is the one in force.
    Same,
    /// A higher version is in force: not used.
    Lower,
    /// The version in force has other content; its editor forgot to raise the version: not used.
    OtherContent,
}

/// The one in force is the highest version stored: versions only ever go up, so replicas that read files at different moments
/// agree.
pub fn consider(in_force: Option<&Policy>, offered: &Policy) -> Offer {
    match in_force {
        None => Offer::Adopt,
        Some(in_force) if offered.version > in_force.version => Offer::Adopt,
        Some(in_force) if offered.version < in_force.version => Offer::Lower,
        Some(in_force) if offered == in_force => Offer::Same,
        Some(_) => Offer::OtherContent,
    }
}
