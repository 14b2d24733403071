//! Converts the errors of figment into errors that name the key, the value and what is expected.

use eticket_base::config::Error;
use figment::{
    error::Kind,
    value::{Dict, Value},
};

/// Follows the first key of nested sections, so that a misspelt section is reported with a key that was set in it.
pub(super) fn leaf<'a>(path: &mut Vec<String>, mut value: &'a Value) -> &'a Value {
    while let Value::Dict(_, section) = value
        && let Some((key, inner)) = section.first_key_value()
    {
        path.push(key.clone());
        value = inner;
    }
    value
}

/// Describes a type of serde for people.
fn describe_type(expected: &str) -> &str {
    match expected {
        "a nonzero usize" | "a nonzero u64" | "a nonzero u32" => "a whole number above zero",
        "u8" | "u16" | "u32" | "u64" | "u128" | "usize" => "a whole number, not below zero",
        "i8" | "i16" | "i32" | "i64" | "i128" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" => "text",
        "path string" | "a path string" => "a path",
        other if other.starts_with("struct ") || other.starts_with("a map") => "a section with keys",
        other => other,
    }
}

/// Converts an error of figment. `beside` are further valid keys at the root.
pub(super) fn from_figment(error: figment::Error, tree: &Dict, beside: &[&str]) -> Error {
    // Only the first error is reported; the others follow when it is corrected.
    let error = error.into_iter().next().unwrap_or_else(|| figment::Error::from("no reason given".to_owned()));
    let mut path = error.path.clone();
    let at = |path: &[String]| {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(tree.get(first)?, |value, key| value.as_dict()?.get(key))
    };
    let value_at = |path: &[String]| at(path).map(shown);
    match error.kind {
        Kind::UnknownField(field, expected) => {
            if path.last() != Some(&field) {
                path.push(field);
            }
            let mut known: Vec<&str> = if path.len() == 1 { beside.to_vec() } else { Vec::new() };
            known.extend(expected);
            let known = known.join(", ");
            let value = at(&path).map(|value| shown(leaf(&mut path, value)));
            Error::new(path.join("."), value, format!("unknown key; expected one of {known}"))
        }
        Kind::MissingField(field) => {
            if path.last().map(String::as_str) != Some(&field) {
                path.push(field.into_owned());
            }
            Error::missing(path.join("."), "expected a value")
        }
        Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) => {
            Error::new(path.join("."), value_at(&path), format!("expected {}", describe_type(&expected.to_string())))
        }
        Kind::UnknownVariant(_, variants) => {
            Error::new(path.join("."), value_at(&path), format!("expected one of {}", variants.join(", ")))
        }
        kind => Error::new(path.join("."), value_at(&path), kind.to_string()),
    }
}

/// Formats a value as in a configuration file.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(_, text) => text.clone(),
        Value::Dict(..) => "a section".to_owned(),
        other => toml::Value::try_from(other).map_or_else(|_| "?".to_owned(), |value| value.to_string()),
    }
}
