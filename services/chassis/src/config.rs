//! Configuration: one typed tree, from embedded defaults → file → environment → flags, checked before anything binds.
//!
//! The keys that every server has are here; each service adds a struct of its own keys. Both refuse what they do not know,
//! because a misspelt key that is ignored looks as if it worked.

pub mod bus;
pub mod comma_list;
pub mod file_path;
pub(crate) mod load;
pub mod text_file;
pub mod urls;

use std::{fmt, net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use tracing_subscriber::EnvFilter;

use self::bus::BusConfig;

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
    pub(crate) fn within(mut self, section: Option<&str>) -> Self {
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

/// What one server needs beside its own keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Address of the gRPC server.
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
    /// Where it keeps its state.
    #[serde(default, skip_serializing_if = "StoreConfig::is_empty")]
    pub store: StoreConfig,
    /// Who may call.
    #[serde(default)]
    pub auth: AuthConfig,
    /// Bounds of its work.
    pub limits: LimitsConfig,
    /// How it stops.
    pub shutdown: ShutdownConfig,
}

impl Settings {
    /// On a free port of the loopback, stopping without delay: for tests that build a service in their own process.
    #[must_use]
    pub fn for_tests() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            store: StoreConfig::default(),
            auth: AuthConfig::default(),
            limits: LimitsConfig::default(),
            shutdown: ShutdownConfig { drain_delay_ms: 0, ..ShutdownConfig::default() },
        }
    }

    /// What a type cannot say.
    fn check(&self) -> Result<(), Error> {
        self.auth.check(self.listen)?;
        self.limits.check()?;
        self.shutdown.check()
    }
}

/// `store.*`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// `sqlite:PATH` or `postgres://...`; without it a file in the data folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

impl StoreConfig {
    fn is_empty(&self) -> bool {
        self.url.is_none()
    }
}

/// `auth.*`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthConfig {
    /// How callers are known; must be given unless the server listens on the loopback only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<AuthMode>,
    /// Lets everyone on the network be an admin.
    #[serde(default)]
    pub allow_off_anywhere: bool,
}

/// `auth.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// Everyone is an admin.
    Off,
    /// By signed tokens.
    Jwt,
}

impl AuthConfig {
    /// What holds where nothing was given, and nothing had to be.
    fn resolve(&mut self) {
        self.mode.get_or_insert(AuthMode::Off);
    }

    fn check(&self, listen: SocketAddr) -> Result<(), Error> {
        const KEY: &str = "auth.mode";
        match self.mode {
            Some(AuthMode::Jwt) => {
                Err(Error::new(KEY, Some("jwt".to_owned()), "this build cannot check tokens yet; only off is possible"))
            }
            _ if listen.ip().is_loopback() || (self.mode.is_some() && self.allow_off_anywhere) => Ok(()),
            Some(AuthMode::Off) => {
                let expected = format!(
                    "with off everyone who reaches {listen} is an admin; listen on a loopback address, or set \
                     auth.allow_off_anywhere = true"
                );
                Err(Error::new(KEY, Some("off".to_owned()), expected))
            }
            None => {
                let expected = format!("must be given when listening on {listen}, which is not a loopback address");
                Err(Error::missing(KEY, expected))
            }
        }
    }
}

/// Streams of health and reflection at once, which do not count towards `limits.concurrency`.
pub(crate) const EXEMPT_STREAMS: usize = 1024;

/// `limits.*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsConfig {
    /// Calls at once before the server sheds.
    pub concurrency: NonZeroUsize,
    /// For unary calls that bring no deadline.
    pub default_deadline_ms: u64,
    /// An HTTP/1.1 connection that is idle for so long is closed.
    pub keep_alive_ms: u64,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            concurrency: NonZeroUsize::new(4096).unwrap_or(NonZeroUsize::MIN),
            default_deadline_ms: 10_000,
            keep_alive_ms: 75_000,
        }
    }
}

impl LimitsConfig {
    /// `default_deadline_ms` as a duration.
    #[must_use]
    pub fn default_deadline(&self) -> Duration {
        Duration::from_millis(self.default_deadline_ms)
    }

    /// Streams at once on one connection, which alone may carry all calls, and those of health and reflection too.
    #[must_use]
    pub fn streams(&self) -> u32 {
        let all = self.concurrency.get().saturating_add(EXEMPT_STREAMS);
        u32::try_from(all).unwrap_or(u32::MAX)
    }

    fn check(&self) -> Result<(), Error> {
        within("limits.concurrency", self.concurrency.get() as u64, 1, 1_000_000)?;
        within("limits.default_deadline_ms", self.default_deadline_ms, 1, 3_600_000)?;
        within("limits.keep_alive_ms", self.keep_alive_ms, 1, 3_600_000)
    }
}

/// `idempotency.*`, of a service whose commands take a `request_id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdempotencyConfig {
    /// How long the answers of commands are kept for retries.
    pub kept_hours: u64,
}

impl IdempotencyConfig {
    /// `kept_hours` as a duration.
    #[must_use]
    pub fn kept(&self) -> Duration {
        Duration::from_secs(self.kept_hours * 60 * 60)
    }

    /// For the checks of services: the contract promises a day.
    ///
    /// # Errors
    /// If it is less, or more than a year.
    pub fn check(&self) -> Result<(), Error> {
        within("idempotency.kept_hours", self.kept_hours, 24, 24 * 365)
    }
}

/// `audit.*`, of a service that keeps what other services own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditConfig {
    /// How many states of other services are compared in a second; 0: none.
    pub rows_per_second: u64,
    /// What is missing is looked at again after this, before its owner is asked for it. Also the pause between two comparisons.
    pub confirm_after_ms: u64,
}

impl AuditConfig {
    /// `confirm_after_ms` as a duration.
    #[must_use]
    pub fn confirm_after(&self) -> Duration {
        Duration::from_millis(self.confirm_after_ms)
    }

    /// For the checks of services.
    ///
    /// # Errors
    /// The first value that makes no sense.
    pub fn check(&self) -> Result<(), Error> {
        within("audit.rows_per_second", self.rows_per_second, 0, 1_000_000)?;
        within("audit.confirm_after_ms", self.confirm_after_ms, 100, 3_600_000)
    }
}

/// `shutdown.*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShutdownConfig {
    /// From "not ready" to taking no more calls.
    pub drain_delay_ms: u64,
    /// What has not ended after this is cut.
    pub hard_cap_ms: u64,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self { drain_delay_ms: 5_000, hard_cap_ms: 25_000 }
    }
}

impl ShutdownConfig {
    /// `drain_delay_ms` as a duration.
    #[must_use]
    pub fn drain_delay(&self) -> Duration {
        Duration::from_millis(self.drain_delay_ms)
    }

    /// `hard_cap_ms` as a duration.
    #[must_use]
    pub fn hard_cap(&self) -> Duration {
        Duration::from_millis(self.hard_cap_ms)
    }

    fn check(&self) -> Result<(), Error> {
        within("shutdown.hard_cap_ms", self.hard_cap_ms, 1, 3_600_000)?;
        if self.drain_delay_ms >= self.hard_cap_ms {
            let expected = format!("must be below shutdown.hard_cap_ms, which is {}", self.hard_cap_ms);
            return Err(Error::new("shutdown.drain_delay_ms", Some(self.drain_delay_ms.to_string()), expected));
        }
        Ok(())
    }
}

/// The standard library's own words do not say what an address looks like.
fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
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

/// What the process needs, whichever servers it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProcessSettings {
    #[serde(default, deserialize_with = "file_path::optional", skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<PathBuf>,
    pub(crate) admin: AdminConfig,
    #[serde(default, skip_serializing_if = "BusConfig::is_empty")]
    pub(crate) bus: BusConfig,
    #[serde(default, skip_serializing_if = "LogConfig::is_empty")]
    pub(crate) log: LogConfig,
}

impl ProcessSettings {
    /// What a type cannot say, but for the bus, which not every process has.
    fn check(&self) -> Result<(), Error> {
        self.log.check()
    }
}

/// `admin.*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig {
    /// Address of `/metrics`, `/livez` and `/readyz`.
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
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
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether `level` is one.
    fn check(&self) -> Result<(), Error> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(mode: Option<AuthMode>, allow_off_anywhere: bool, listen: &str) -> Result<(), Error> {
        AuthConfig { mode, allow_off_anywhere }.check(listen.parse().expect("an address"))
    }

    #[test]
    fn authentication_is_off_on_the_loopback_only() {
        for listen in ["127.0.0.1:1", "127.1.2.3:1", "[::1]:1"] {
            assert_eq!(auth(None, false, listen), Ok(()));
            assert_eq!(auth(Some(AuthMode::Off), false, listen), Ok(()));
        }
        for listen in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1"] {
            let missing = auth(None, true, listen).expect_err("must be given");
            assert!(missing.to_string().starts_with("configuration: auth.mode is not set"), "{missing}");
            let refused = auth(Some(AuthMode::Off), false, listen).expect_err("refused");
            assert!(refused.to_string().contains("auth.allow_off_anywhere"), "{refused}");
            assert_eq!(auth(Some(AuthMode::Off), true, listen), Ok(()));
        }
        assert!(auth(Some(AuthMode::Jwt), true, "127.0.0.1:1").is_err());
    }

    #[test]
    fn numbers_have_bounds() {
        let limits = LimitsConfig { default_deadline_ms: 0, ..LimitsConfig::default() };
        assert_eq!(limits.check().expect_err("zero").key(), "limits.default_deadline_ms");
        let limits = LimitsConfig { concurrency: NonZeroUsize::MAX, ..LimitsConfig::default() };
        assert_eq!(limits.check().expect_err("too many").key(), "limits.concurrency");
        let shutdown = ShutdownConfig { drain_delay_ms: 25_000, hard_cap_ms: 25_000 };
        assert_eq!(shutdown.check().expect_err("no time left").key(), "shutdown.drain_delay_ms");
        let kept = |kept_hours| IdempotencyConfig { kept_hours }.check();
        assert_eq!(kept(23).expect_err("less than is promised").key(), "idempotency.kept_hours");
        assert!(kept(24).is_ok() && kept(8_760).is_ok() && kept(8_761).is_err());
        let audit = |rows_per_second, confirm_after_ms| AuditConfig { rows_per_second, confirm_after_ms }.check();
        assert_eq!(audit(1_000_001, 10_000).expect_err("too many").key(), "audit.rows_per_second");
        assert_eq!(audit(200, 99).expect_err("less than a message takes").key(), "audit.confirm_after_ms");
        assert!(audit(0, 100).is_ok() && audit(1_000_000, 3_600_000).is_ok() && audit(0, 3_600_001).is_err());
        assert!(LimitsConfig::default().check().is_ok() && ShutdownConfig::default().check().is_ok());
    }
}
