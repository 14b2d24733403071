//! The pricing policy: a base price and an ordered list of discounts with conditions.
//!
//! Rounding applies to the discount, not to the remaining price: the reported amount is the amount subtracted, and DOWN
//! never subtracts more than the exact percentage.

use chrono::{DateTime, Datelike, NaiveDate, Offset, TimeZone, Utc, Weekday};
use chrono_tz::Tz;
use eticket_proto::ids::UserGrade;

use super::money::Money;

/// The last year that the tables of chrono-tz cover.
const LAST_YEAR: i32 = 2099;

/// Maximum number of rules in a policy.
const MOST_RULES: usize = 1_000;

/// Rounding of a percentage to the smallest unit of the currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rounding {
    #[default]
    Down,
    /// Rounds to the nearest integer, halves up.
    HalfUp,
    /// Rounds to the nearest integer, halves to the even neighbour.
    HalfEven,
}

/// The reduction of a rule. It applies to the amount that the preceding rules leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// Percentage from 1 to 100.
    Percent(u8),
    /// A positive amount in the currency of the base price.
    Amount(Money),
}

/// A discount and its conditions. All conditions must hold; an empty condition always holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub rule_id: String,
    pub description: String,
    pub weekdays: Vec<Weekday>,
    /// Grades to which the rule applies: the grade of the holder, or of a quote.
    pub user_grades: Vec<UserGrade>,
    /// First day on which the rule applies.
    pub date_from: Option<NaiveDate>,
    /// Last day on which the rule applies, inclusive.
    pub date_to: Option<NaiveDate>,
    pub reduction: Reduction,
}

impl Rule {
    /// Returns whether the rule applies to a ticket that starts on `day` and is held by, or quoted for, a user of
    /// `grade`.
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
            return Some(format!("date_to: expected date_from ({first}) or a later day, got {last}"));
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

/// Reason why a policy is invalid, and the rule that causes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct InvalidPolicy {
    /// Index of the rule, starting at 0; `None` if no single rule is the cause.
    pub rule: Option<usize>,
    pub problem: String,
}

/// The discount that a rule granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discount {
    pub rule_id: String,
    pub description: String,
    /// Always greater than zero.
    pub amount: Money,
}

/// A price and its derivation: `base_price` minus all discounts is `discounted_price`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Price {
    pub base_price: Money,
    pub discounted_price: Money,
    /// In the order of the rules; rules that subtracted nothing are omitted.
    pub discounts: Vec<Discount>,
}

/// A valid policy: [`Policy::try_new`] checks every rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    version: i64,
    base_price: Money,
    business_time_zone: Tz,
    rounding: Rounding,
    rules: Vec<Rule>,
}

impl Policy {
    /// Creates a policy from its parts.
    ///
    /// # Errors
    /// The first problem that is found.
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
            let repeated =
                again.then(|| format!("rule_id: expected a unique id, but an earlier rule has {}", rule.rule_id));
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

    /// Computes the price of a ticket that starts at `start` and is held by, or quoted for, a user of `grade`.
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

/// Returns the local day in the business time zone, independent of the time zone of this machine.
///
/// The zone tables end with [`LAST_YEAR`]. For later times chrono-tz returns the last offset all year round. This
/// function therefore takes the offset from the newest covered year with the same calendar, in which rules such as "the
/// last Sunday in March" give the same dates. A zone without daylight saving time in the last year keeps its last
/// offset.
pub(super) fn business_day(zone: Tz, start: DateTime<Utc>) -> NaiveDate {
    let start = start.naive_utc();
    let offset = |time| zone.offset_from_utc_datetime(&time).fix();
    let in_last_year = |month| NaiveDate::from_ymd_opt(LAST_YEAR, month, 1)?.and_hms_opt(0, 0, 0).map(offset);
    let known = if start.year() > LAST_YEAR && in_last_year(1) != in_last_year(7) {
        let same_calendar = |year: &i32| {
            let first = |year| NaiveDate::from_ymd_opt(year, 1, 1).map(|day| (day.weekday(), day.leap_year()));
            first(*year) == first(start.year())
        };
        // Each of the 14 calendars occurs within 28 years, unless a leap year is skipped.
        (LAST_YEAR - 27..=LAST_YEAR).rev().find(same_calendar).and_then(|year| start.with_year(year)).unwrap_or(start)
    } else {
        start
    };
    (start + offset(known)).date()
}

/// Returns the percentage in smallest units. An amount is at most 10^15, so the product cannot overflow `u64`.
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

/// Result of offering a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// Its version is the highest: it is stored and comes into force.
    Adopt,
    /// It is the policy in force.
    Same,
    /// A higher version is in force: the offered policy is not used.
    Lower,
    /// The version in force has different content, because the file was edited without a new version: not used.
    OtherContent,
}

/// Decides about an offered policy. The highest stored version is in force. Versions never decrease, so replicas that
/// read their files at different times agree.
pub fn consider(in_force: Option<&Policy>, offered: &Policy) -> Offer {
    match in_force {
        None => Offer::Adopt,
        Some(in_force) if offered.version > in_force.version => Offer::Adopt,
        Some(in_force) if offered.version < in_force.version => Offer::Lower,
        Some(in_force) if offered == in_force => Offer::Same,
        Some(_) => Offer::OtherContent,
    }
}
