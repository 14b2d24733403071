//! Reads a pricing policy from YAML. The keys are the fields of `PricingPolicy` in the contract.
//!
//! Errors name the line and the rule. The parser reports the line of a syntax or type error. If the domain rejects a
//! rule, the file is parsed again up to that rule to find its line.

mod forms;

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use eticket_base::config::regular_file;
use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::domain::{Policy, Reduction, Rule};
use forms::{AmountForm, DateForm, GradeForm, RoundingForm, WeekdayForm, ZoneForm};

/// The embedded policy, used if the configuration names no file.
pub const DEFAULT: &str = include_str!("../policy.yaml");

/// Maximum size of a policy file, in bytes.
pub const LARGEST: usize = 1 << 20;

/// Maximum version. Every client can represent it. A larger version is likely a typing error, and no later version
/// could correct it.
const HIGHEST_VERSION: i64 = i32::MAX as i64;

/// A problem in a policy file. `Display` states the line, the rule and the expected value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}{problem}", line.map(|line| format!("line {line}: ")).unwrap_or_default(),
        rule.as_ref().map(|rule| format!("rule {rule}: ")).unwrap_or_default())]
pub struct Error {
    /// Line number, starting at 1.
    pub line: Option<usize>,
    /// The `rule_id`, or `number N` (from 1) for a rule without a valid id.
    pub rule: Option<String>,
    pub problem: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyForm {
    version: i64,
    base_price: AmountForm,
    #[serde(default)]
    business_time_zone: ZoneForm,
    #[serde(default)]
    rounding: RoundingForm,
    #[serde(default)]
    rules: Vec<RuleForm>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleForm {
    rule_id: String,
    #[serde(default)]
    description: String,
    #[serde(default, deserialize_with = "forms::at_least_one")]
    weekdays: Vec<WeekdayForm>,
    #[serde(default, deserialize_with = "forms::at_least_one")]
    user_grades: Vec<GradeForm>,
    date_from: Option<DateForm>,
    date_to: Option<DateForm>,
    percent: Option<i64>,
    amount: Option<AmountForm>,
}

/// Reads the text of a policy file. Symbolic links are followed.
///
/// # Errors
/// If the file cannot be read, is not a regular file, is larger than [`LARGEST`], or is not UTF-8.
pub fn read(path: &Path) -> io::Result<String> {
    regular_file::check(&fs::metadata(path)?)?;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(LARGEST as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > LARGEST {
        let problem = format!("it has more than {LARGEST} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
    }
    String::from_utf8(bytes).map_err(|error| {
        let problem = format!("it is not UTF-8 at byte {}: save it as UTF-8", error.utf8_error().valid_up_to() + 1);
        io::Error::new(io::ErrorKind::InvalidData, problem)
    })
}

/// Parses a policy.
///
/// # Errors
/// The first problem that is found.
pub fn parse(text: &str) -> Result<Policy, Error> {
    // Some editors write a byte order mark at the start of a file.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.len() > LARGEST {
        let problem = format!("the file has {} bytes: expected at most {LARGEST}", text.len());
        return Err(Error { line: None, rule: None, problem });
    }
    let form: PolicyForm = serde_norway::from_str(text).map_err(|error| unreadable(text, &error))?;
    if form.version > HIGHEST_VERSION {
        let problem = format!("version: expected at most {HIGHEST_VERSION}, got {}", form.version);
        return Err(Error { line: line_of(text, &problem), rule: None, problem });
    }
    let base_price = form.base_price.in_krw();
    let rules = form.rules.into_iter().enumerate().map(|(index, rule)| {
        let reduction = reduction(&rule, base_price.currency()).map_err(|problem| in_rule(text, index, problem))?;
        Ok(Rule {
            rule_id: rule.rule_id,
            description: rule.description,
            weekdays: rule.weekdays.into_iter().map(Into::into).collect(),
            user_grades: rule.user_grades.into_iter().map(Into::into).collect(),
            date_from: rule.date_from.map(|date| date.0),
            date_to: rule.date_to.map(|date| date.0),
            reduction,
        })
    });
    let rules = rules.collect::<Result<Vec<_>, Error>>()?;
    Policy::try_new(form.version, base_price, form.business_time_zone.0, form.rounding.into(), rules).map_err(
        |invalid| match invalid.rule {
            Some(index) => in_rule(text, index, invalid.problem),
            None => Error { line: line_of(text, &invalid.problem), rule: None, problem: invalid.problem },
        },
    )
}

fn reduction(rule: &RuleForm, currency: crate::domain::Currency) -> Result<Reduction, String> {
    match (rule.percent, rule.amount) {
        (Some(percent), None) => u8::try_from(percent)
            .map(Reduction::Percent)
            .map_err(|_| format!("percent: expected 1 to 100, got {percent}")),
        (None, Some(amount)) => {
            amount.in_currency(currency).map(Reduction::Amount).map_err(|error| format!("amount: {error}"))
        }
        (None, None) => Err("expected either percent or amount".to_owned()),
        (Some(_), Some(_)) => Err("expected either percent or amount, got both".to_owned()),
    }
}

/// Converts an error of the parser. Its message starts with the path (`rules[1].percent: …`) and ends with the
/// location.
fn unreadable(text: &str, error: &serde_norway::Error) -> Error {
    let message = error.to_string();
    let index = message
        .strip_prefix("rules[")
        .and_then(|rest| rest.split_once(']'))
        .and_then(|(index, _)| index.parse::<usize>().ok());
    let problem = match message.rfind(" at line ") {
        Some(place) => message[..place].to_owned(),
        None => message,
    };
    Error {
        line: error.location().map(|location| location.line()),
        rule: index.map(|index| rule_name(text, index)),
        problem,
    }
}

/// Returns the line of the key with which a problem starts, if a line of the file starts with that key.
fn line_of(text: &str, problem: &str) -> Option<usize> {
    let (key, _) = problem.split_once(':')?;
    let is_its = |line: &str| line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with(':'));
    text.lines().position(is_its).map(|index| index + 1)
}

fn in_rule(text: &str, index: usize, problem: String) -> Error {
    let refusal = StopAt { index }.deserialize(serde_norway::Deserializer::from_str(text)).err();
    let line = refusal.and_then(|error| error.location().map(|location| location.line()));
    Error { line, rule: Some(rule_name(text, index)), problem }
}

fn rule_name(text: &str, index: usize) -> String {
    #[derive(Deserialize)]
    struct Named {
        rule_id: Option<String>,
    }
    #[derive(Deserialize)]
    struct Names {
        rules: Vec<serde_norway::Value>,
    }
    let name = serde_norway::from_str::<Names>(text)
        .ok()
        .and_then(|names| names.rules.into_iter().nth(index))
        .and_then(|rule| serde_norway::from_value::<Named>(rule).ok())
        .and_then(|named| named.rule_id)
        .filter(|name| (1..=64).contains(&name.chars().count()) && !name.chars().any(char::is_control));
    name.unwrap_or_else(|| format!("number {}", index + 1))
}

/// Parses the file again and fails at the rule at `index`, so that the error of the parser contains its line.
struct StopAt {
    index: usize,
}

impl<'de> DeserializeSeed<'de> for StopAt {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for StopAt {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a policy")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        while let Some(key) = fields.next_key::<String>()? {
            if key == "rules" {
                fields.next_value_seed(StopInList { index: self.index })?;
            } else {
                fields.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

struct StopInList {
    index: usize,
}

impl<'de> DeserializeSeed<'de> for StopInList {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for StopInList {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a list of rules")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rules: A) -> Result<(), A::Error> {
        for _ in 0..self.index {
            rules.next_element::<IgnoredAny>()?;
        }
        rules.next_element::<Refused>()?;
        Ok(())
    }
}

struct Refused;

impl<'de> Deserialize<'de> for Refused {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Here;
        impl<'de> Visitor<'de> for Here {
            type Value = Refused;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a rule")
            }

            fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Refused, A::Error> {
                Err(A::Error::custom("here"))
            }
        }
        deserializer.deserialize_map(Here)
    }
}

#[cfg(test)]
mod tests;
