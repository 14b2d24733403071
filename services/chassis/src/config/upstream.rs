//! Values that several services configure in the same form: addresses of other services, and lists.

use std::{fmt, str::FromStr};

use http::{Uri, uri::Scheme};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// More addresses than this are a mistake.
const MOST: usize = 64;

/// `http://host:port[,http://host:port...]`: at least one address of a service, to be balanced over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamUrls(Vec<Uri>);

impl UpstreamUrls {
    /// In the order given, at least one.
    #[must_use]
    pub fn uris(&self) -> &[Uri] {
        &self.0
    }
}

impl From<std::net::SocketAddr> for UpstreamUrls {
    fn from(address: std::net::SocketAddr) -> Self {
        // An address and a port always make a URI.
        Self(format!("http://{address}").parse().into_iter().collect())
    }
}

impl FromStr for UpstreamUrls {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uris = text.split(',').map(|part| uri(part.trim())).collect::<Result<Vec<_>, _>>()?;
        if uris.len() > MOST { Err(format!("expected at most {MOST} addresses")) } else { Ok(Self(uris)) }
    }
}

fn uri(text: &str) -> Result<Uri, String> {
    let wrong = || format!("{text:?} is not of the form http://host:port");
    let uri = text.parse::<Uri>().map_err(|_| wrong())?;
    let plain = uri.scheme() == Some(&Scheme::HTTP)
        && uri.port_u16().is_some_and(|port| port > 0)
        && uri.host().is_some_and(|host| !host.is_empty())
        && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
        && matches!(uri.path(), "" | "/")
        && uri.query().is_none();
    if plain { Ok(uri) } else { Err(wrong()) }
}

impl fmt::Display for UpstreamUrls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, uri) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(formatter, "{comma}{}", uri.to_string().trim_end_matches('/'))?;
        }
        Ok(())
    }
}

impl Serialize for UpstreamUrls {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UpstreamUrls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let parts: Vec<String> = comma_list::deserialize(deserializer)?;
        parts.join(",").parse().map_err(|error| {
            serde::de::Error::custom(format_args!("{error}; expected http://host:port[,http://host:port...]"))
        })
    }
}

/// Lists that may be written with commas in one text, as the environment must: `#[serde(with = "comma_list")]`.
pub mod comma_list {
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

    /// # Errors
    /// If it is neither text nor a list of texts, or one of them is not a `T`.
    pub fn deserialize<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
    where
        D: Deserializer<'de>,
        T: FromStr<Err: Display>,
    {
        let form = TextOrList::deserialize(deserializer)
            .map_err(|_| D::Error::custom("expected a text with commas, or a list of texts"))?;
        let parts = match form {
            TextOrList::Text(text) => text.split(',').map(str::to_owned).collect(),
            TextOrList::List(parts) => parts,
        };
        let parts = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty());
        parts.map(|part| part.parse().map_err(D::Error::custom)).collect()
    }

    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer, T: Display>(parts: &[T], serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::new();
        for (index, part) in parts.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            // Writing to a `String` cannot fail.
            write!(text, "{comma}{part}").ok();
        }
        serializer.serialize_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_listed_with_commas() {
        let urls: UpstreamUrls = "http://a:1, http://[::1]:2".parse().expect("two addresses");
        assert_eq!(urls.uris().len(), 2);
        assert_eq!(urls.to_string(), "http://a:1,http://[::1]:2");
        let own = UpstreamUrls::from(std::net::SocketAddr::from(([127, 0, 0, 1], 8082)));
        assert_eq!(own.to_string(), "http://127.0.0.1:8082");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "a:1", "http://a", "https://a:1", "http://a:1/x", "http://u@a:1", "http://a:1,", "http://:1"] {
            let error = text.parse::<UpstreamUrls>().expect_err(text);
            assert!(error.contains("http://host:port"), "{error}");
        }
    }

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
