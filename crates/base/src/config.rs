//! Configuration that several crates share: the error of a key, bounds, lists, files, URLs, and the sections `store`,
//! `bus` and `log`.
//!
//! Each section refuses unknown keys: an ignored misspelt key would look as if it worked.

pub mod bus;
pub mod comma_list;
pub mod file_path;
pub mod nats_address;
pub mod regular_file;
pub mod telemetry;
pub mod text_file;
pub mod urls;

use std::{fmt, net::SocketAddr};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use tracing_subscriber::EnvFilter;

/// A missing or invalid configuration value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    key: String,
    value: Option<String>,
    expected: String,
}

impl Error {
    /// Creates the error of `key`. `value` is `None` if the key is not set. Passwords in `value` are masked.
    #[must_use]
    pub fn new(key: impl Into<String>, value: Option<String>, expected: impl Into<String>) -> Self {
        let value = value.map(|value| urls::without_password(&value));
        Self { key: key.into(), value, expected: expected.into() }
    }

    /// Creates the error of a required key that is not set.
    #[must_use]
    pub fn missing(key: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::new(key, None, expected)
    }

    /// The full key, from the root of the configuration.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Prefixes the key with the name of a section.
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
    /// `sqlite:PATH` or `postgres://...`. Default: a SQLite file in the data folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

impl StoreConfig {
    /// Whether no key is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.url.is_none()
    }
}

/// Deserializes a socket address. The error of the standard library does not show the expected format.
///
/// # Errors
/// Fails if the text is not an IP address with a port.
pub fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let expected = "expected an address and a port, such as 127.0.0.1:8082; port 0 selects a free port";
    String::deserialize(deserializer)?.parse().map_err(|_| D::Error::custom(expected))
}

/// Checks that a number is within its bounds.
///
/// # Errors
/// Fails if `value` is below `least` or above `most`.
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
    /// Default: text on a terminal, else JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<LogFormat>,
    /// A level, or a filter in the format of `RUST_LOG`. Default: `RUST_LOG`, else `info`; on a terminal, `warn` until
    /// all servers are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
}

impl LogConfig {
    /// Whether no key is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks `level`.
    ///
    /// # Errors
    /// Fails if it is neither a level nor a filter.
    pub fn check(&self) -> Result<(), Error> {
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        let Some(level) = &self.level else { return Ok(()) };
        // A filter accepts any word as the name of a module, so a misspelt level would silence the log.
        let is_level = |word: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
        let words = level.split(',').map(str::trim).all(|word| word.contains(['=', '[']) || is_level(word));
        if words && EnvFilter::builder().parse(level).is_ok() {
            return Ok(());
        }
        let expected = format!("expected one of {}, or a filter such as info,sqlx=debug", LEVELS.join(", "));
        Err(Error::new("log.level", Some(level.clone()), expected))
    }
}

/// `log.format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line, for log collectors.
    Json,
}
