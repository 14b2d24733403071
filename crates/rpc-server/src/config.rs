//! The configuration sections of a server: `auth`, `limits`, `shutdown`, `admin`.

use std::{net::SocketAddr, num::NonZeroUsize, time::Duration};

use eticket_base::config::{Error, address, within};
use serde::{Deserialize, Serialize};

/// `auth.*`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthConfig {
    /// How callers are authenticated. Required unless the server listens on a loopback address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<AuthMode>,
    /// Accepts `mode = off` on a network address, where every caller is then an admin.
    #[serde(default)]
    pub allow_off_anywhere: bool,
}

/// `auth.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// No authentication: every caller is an admin.
    Off,
    /// Signed tokens (JWT).
    Jwt,
}

impl AuthConfig {
    /// Sets the defaults of absent optional keys.
    pub fn resolve(&mut self) {
        self.mode.get_or_insert(AuthMode::Off);
    }

    /// Checks the mode against the listen address.
    ///
    /// # Errors
    /// If every caller from the network would be an admin without an explicit setting.
    pub fn check(&self, listen: SocketAddr) -> Result<(), Error> {
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

/// Maximum of concurrent health and reflection streams, which do not count towards `limits.concurrency`.
pub const EXEMPT_STREAMS: usize = 1024;

/// `limits.*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsConfig {
    /// Maximum of concurrent calls; the server rejects further calls.
    pub concurrency: NonZeroUsize,
    /// Deadline in milliseconds of unary calls that set none.
    pub default_deadline_ms: u64,
    /// Milliseconds after which an idle HTTP/1.1 connection is closed.
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
    /// Returns `default_deadline_ms` as a duration.
    #[must_use]
    pub fn default_deadline(&self) -> Duration {
        Duration::from_millis(self.default_deadline_ms)
    }

    /// Maximum of concurrent streams on one connection: a single connection may carry all admitted calls and all health
    /// and reflection streams.
    #[must_use]
    pub fn streams(&self) -> u32 {
        let all = self.concurrency.get().saturating_add(EXEMPT_STREAMS);
        u32::try_from(all).unwrap_or(u32::MAX)
    }

    /// Checks the bounds.
    ///
    /// # Errors
    /// The first value that is out of bounds.
    pub fn check(&self) -> Result<(), Error> {
        within("limits.concurrency", self.concurrency.get() as u64, 1, 1_000_000)?;
        within("limits.default_deadline_ms", self.default_deadline_ms, 1, 3_600_000)?;
        within("limits.keep_alive_ms", self.keep_alive_ms, 1, 3_600_000)
    }
}

/// `shutdown.*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShutdownConfig {
    /// Milliseconds between "not ready" and the refusal of new calls.
    pub drain_delay_ms: u64,
    /// Milliseconds after which calls that have not ended are aborted.
    pub hard_cap_ms: u64,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self { drain_delay_ms: 5_000, hard_cap_ms: 25_000 }
    }
}

impl ShutdownConfig {
    /// Returns `drain_delay_ms` as a duration.
    #[must_use]
    pub fn drain_delay(&self) -> Duration {
        Duration::from_millis(self.drain_delay_ms)
    }

    /// Returns `hard_cap_ms` as a duration.
    #[must_use]
    pub fn hard_cap(&self) -> Duration {
        Duration::from_millis(self.hard_cap_ms)
    }

    /// Checks the bounds.
    ///
    /// # Errors
    /// The first value that is out of bounds.
    pub fn check(&self) -> Result<(), Error> {
        within("shutdown.hard_cap_ms", self.hard_cap_ms, 1, 3_600_000)?;
        if self.drain_delay_ms >= self.hard_cap_ms {
            let expected = format!("must be below shutdown.hard_cap_ms, which is {}", self.hard_cap_ms);
            return Err(Error::new("shutdown.drain_delay_ms", Some(self.drain_delay_ms.to_string()), expected));
        }
        Ok(())
    }
}

/// `admin.*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig {
    /// Address of the HTTP endpoints `/metrics`, `/livez`, `/readyz` and `/log-level`.
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
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
        assert!(LimitsConfig::default().check().is_ok() && ShutdownConfig::default().check().is_ok());
    }
}
