//! The configuration sections of a server: `limits`, `shutdown`, `admin`.

use std::{
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use eticket_base::config::{Error, address, within};
use serde::{Deserialize, Serialize};

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
    /// How many calls a second each caller of the gateway may make; `None` is no limit. A key of the gateway only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<NonZeroU32>,
    /// How many calls a caller may make at once after a pause; `None` is those of one second. A key of the gateway only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<NonZeroU32>,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            concurrency: NonZeroUsize::new(4096).unwrap_or(NonZeroUsize::MIN),
            default_deadline_ms: 10_000,
            keep_alive_ms: 75_000,
            requests_per_second: None,
            burst: None,
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
        within("limits.keep_alive_ms", self.keep_alive_ms, 1, 3_600_000)?;
        for (key, value) in [("limits.requests_per_second", self.requests_per_second), ("limits.burst", self.burst)] {
            if let Some(value) = value {
                within(key, value.get().into(), 1, 1_000_000)?;
            }
        }
        match self.burst {
            Some(burst) if self.requests_per_second.is_none() => {
                let expected = "has no effect without limits.requests_per_second; set it, or remove the key";
                Err(Error::new("limits.burst", Some(burst.to_string()), expected))
            }
            _ => Ok(()),
        }
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

    #[test]
    fn numbers_have_bounds() {
        let limits = LimitsConfig { default_deadline_ms: 0, ..LimitsConfig::default() };
        assert_eq!(limits.check().expect_err("zero").key(), "limits.default_deadline_ms");
        let limits = LimitsConfig { concurrency: NonZeroUsize::MAX, ..LimitsConfig::default() };
        assert_eq!(limits.check().expect_err("too many").key(), "limits.concurrency");
        let limits = LimitsConfig { burst: NonZeroU32::new(5), ..LimitsConfig::default() };
        assert_eq!(limits.check().expect_err("no rate").key(), "limits.burst");
        let limits = LimitsConfig { requests_per_second: NonZeroU32::new(1), ..limits };
        assert_eq!(limits.check(), Ok(()));
        let limits = LimitsConfig { requests_per_second: Some(NonZeroU32::MAX), ..limits };
        assert_eq!(limits.check().expect_err("too many").key(), "limits.requests_per_second");
        let shutdown = ShutdownConfig { drain_delay_ms: 25_000, hard_cap_ms: 25_000 };
        assert_eq!(shutdown.check().expect_err("no time left").key(), "shutdown.drain_delay_ms");
        assert!(LimitsConfig::default().check().is_ok() && ShutdownConfig::default().check().is_ok());
    }
}
