//! Lists that can be written as one text with commas, for environment variables: `#[serde(with = "comma_list")]`.

use std::{
    fmt::{Display, Write},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serializer, de::Error};

#[derive(Deserialize)]
#[serde(untagged)]
enum TextOrList {
    Text(String),
    List(Vec<String>),
}

/// Deserializes a list, or a text with commas.
///
/// # Errors
/// Fails if the value is neither text nor a list of texts, or if one of them is not a `T`.
pub fn deserialize<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    let form = TextOrList::deserialize(deserializer)
        .map_err(|_| D::Error::custom("expected a text with commas or a list of texts"))?;
    let parts = match form {
        TextOrList::Text(text) => text.split(',').map(str::to_owned).collect(),
        TextOrList::List(parts) => parts,
    };
    let parts = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty());
    parts.map(|part| part.parse().map_err(D::Error::custom)).collect()
}

/// Serializes a list as a text with commas.
///
/// # Errors
/// Returns the errors of the serializer.
pub fn serialize<S: Serializer, T: Display>(parts: &[T], serializer: S) -> Result<S::Ok, S::Error> {
    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        // Writing to a `String` cannot fail.
        write!(text, "{comma}{part}").ok();
    }
    serializer.serialize_str(&text)
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;
    use crate::config::comma_list;

    #[test]
    fn lists_are_read_in_both_forms() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Keys {
            #[serde(with = "comma_list")]
            only: Vec<String>,
        }
        let expected = Keys { only: vec!["A".into(), "B".into()] };
        for text in ["only = 'A, B'", "only = ['A', 'B']", "only = 'A,,B'"] {
            assert_eq!(toml::from_str::<Keys>(text).expect(text), expected);
        }
        assert_eq!(toml::to_string(&expected).expect("TOML").trim(), "only = \"A,B\"");
        assert!(toml::from_str::<Keys>("only = 5").is_err());
        assert_eq!(toml::from_str::<Keys>("only = ''").expect("empty").only, Vec::<String>::new());
    }
}
