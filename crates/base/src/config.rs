//! What several crates read of the configuration: the error of a key, bounds, lists, files, URLs, and the sections of store, bus and log.
//!
//! Each section refuses keys that it does not know, because a misspelt key that is ignored looks as if it worked.

pub mod bus;
pub mod comma_list;
pub mod file_path;
pub mod nats_address;
pub mod text_file;
pub mod urls;

use std::{fmt, net::SocketAddr};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use tracing_subscriber::EnvFilter;

/// A value that is wrong, or missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    key: String,
    value: Option<String>,
    expected: String,
}

impl Error {
    /// `value` is `None` where nothing was given. Passwords in it are hidden.
    #[must_use]
    pub fn new(key: impl Into<String>, value: Option<String>, expected: impl Into<String>) -> Self {
        let value = value.map(|value| urls::without_password(&value));
        Self { key: key.into(), value, expected: expected.into() }
    }

    /// A value that has to be given and was not.
    #[must_use]
    pub fn missing(key: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::new(key, None, expected)
    }

    /// The key, from the root of the tree.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The same of a key that stands in a section.
    #[must_use]
    pub fn within(mut self, section: Option<&str>) -> Self {
        if let Some(section) = section {
            self.key = format!("{section}.{}", self.key);
        }
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, expected } = self;
        match value {
            Some(value) => write!(formatter, "configuration: {key} = {value}: {expected}"),
            None => write!(formatter, "configuration: {key} is not set: {expected}"),
        }
    }
}

impl std::error::Error for Error {}

/// `store.*`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// `sqlite:PATH` or `postgres://...`; without it a file in the data folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

impl StoreConfig {
    /// Whether no key was given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.url.is_none()
    }
}

/// For fields that hold the address of a server. The standard library's own words do not say what an address looks like.
///
/// # Errors
/// If the text is no address with a port.
pub fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let expected = "expected an address and a port, as 127.0.0.1:8082; port 0 takes a free one";
    String::deserialize(deserializer)?.parse().map_err(|_| D::Error::custom(expected))
}

/// Refuses a number outside of its bounds; for the checks of services too.
///
/// # Errors
/// If it is below `least` or above `most`.
pub fn within(key: &str, value: u64, least: u64, most: u64) -> Result<(), Error> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::new(key, Some(value.to_string()), format!("expected {least} to {most}")))
}

/// `log.*`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// Without it text on a terminal, else JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<LogFormat>,
    /// A level, or a filter as in `RUST_LOG`. Without it `RUST_LOG`, else info, and on a terminal warn until all is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
}

impl LogConfig {
    /// Whether no key was given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks `level`.
    ///
    /// # Errors
    /// If it is neither a level nor a filter.
    pub fn check(&self) -> Result<(), Error> {
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        let Some(level) = &self.level else { return Ok(()) };
        // A filter takes any word for the name of a module, so a misspelt level would silence the log.
        let is_level = |word: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
        let words = level.split(',').map(str::trim).all(|word| word.contains(['=', '[']) || is_level(word));
        if words && EnvFilter::builder().parse(level).is_ok() {
            return Ok(());
        }
        let expected = format!("expected one of {}, or a filter, as info,sqlx=debug", LEVELS.join(", "));
        Err(Error::new("log.level", Some(level.clone()), expected))
    }
}

/// `log.format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For collectors.
    Json,
}
