//! How an upstream is called: a service's configuration has one section per upstream.

use std::time::Duration;

use eticket_tls::ClientTlsConfig;
use serde::{Deserialize, Serialize};

use super::addresses::Targets;

/// The addresses of an upstream, and the limits and retries of calls to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamConfig {
    /// The addresses of the upstream; `None` if none is configured.
    pub url: Option<Targets>,
    /// Certificates, for `https` addresses.
    #[serde(skip_serializing_if = "ClientTlsConfig::is_empty")]
    pub tls: ClientTlsConfig,
    /// Limit of a call including all its attempts, in milliseconds.
    pub deadline_ms: u64,
    /// Limit of each attempt, in milliseconds.
    pub attempt_timeout_ms: u64,
    /// Maximum number of attempts after the first.
    pub retries: u32,
    /// The circuit breaker of the upstream.
    pub breaker: BreakerConfig,
}

/// When the circuit breaker opens and closes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerConfig {
    /// The length of the window in which calls are counted, in milliseconds.
    pub window_ms: u64,
    /// The breaker does not open with fewer calls in the window.
    pub min_calls: u32,
    /// The breaker opens when this share of the calls failed or was slow; above 0, at most 1.
    pub failure_ratio: f64,
    /// A call that takes at least this many milliseconds counts as a failure.
    pub slow_call_ms: u64,
    /// How long an open breaker rejects all calls, in milliseconds.
    pub open_ms: u64,
    /// The number of probes that a half-open breaker admits. It closes when all of them succeed.
    pub half_open_calls: u32,
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self {
            url: None,
            tls: ClientTlsConfig::default(),
            deadline_ms: 1_200,
            attempt_timeout_ms: 400,
            retries: 2,
            breaker: BreakerConfig::default(),
        }
    }
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            window_ms: 10_000,
            min_calls: 20,
            failure_ratio: 0.5,
            slow_call_ms: 250,
            open_ms: 5_000,
            half_open_calls: 3,
        }
    }
}

/// An invalid value. `key` is relative to the section.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value}: expected {expected}")]
pub struct InvalidConfig {
    /// The key, such as `breaker.window_ms`.
    pub key: &'static str,
    /// The configured value.
    pub value: String,
    /// Which values are valid.
    pub expected: &'static str,
}

/// Times above one hour are rejected: they are most likely in the wrong unit.
const LONGEST_MS: u64 = 3_600_000;

impl UpstreamConfig {
    /// Returns `deadline_ms` as a duration.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms)
    }

    /// Returns `attempt_timeout_ms` as a duration.
    #[must_use]
    pub fn attempt_timeout(&self) -> Duration {
        Duration::from_millis(self.attempt_timeout_ms)
    }

    /// Checks all values.
    ///
    /// # Errors
    /// The first invalid value.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        let BreakerConfig { window_ms, min_calls, failure_ratio, slow_call_ms, open_ms, half_open_calls } =
            self.breaker;
        for (key, value, least) in [
            ("deadline_ms", self.deadline_ms, 1),
            ("attempt_timeout_ms", self.attempt_timeout_ms, 1),
            ("breaker.window_ms", window_ms, 100),
            ("breaker.slow_call_ms", slow_call_ms, 1),
            ("breaker.open_ms", open_ms, 1),
        ] {
            if !(least..=LONGEST_MS).contains(&value) {
                let expected = if least == 1 { "1 to 3600000 milliseconds" } else { "100 to 3600000 milliseconds" };
                return Err(InvalidConfig { key, value: value.to_string(), expected });
            }
        }
        let counts = [("breaker.min_calls", min_calls, 1), ("breaker.half_open_calls", half_open_calls, 1)];
        for (key, value, least) in counts {
            if !(least..=1_000_000).contains(&value) {
                return Err(InvalidConfig { key, value: value.to_string(), expected: "1 to 1000000 calls" });
            }
        }
        if self.retries > 10 {
            return Err(InvalidConfig { key: "retries", value: self.retries.to_string(), expected: "0 to 10" });
        }
        if failure_ratio > 0.0 && failure_ratio <= 1.0 {
            return Ok(());
        }
        let value = failure_ratio.to_string();
        Err(InvalidConfig { key: "breaker.failure_ratio", value, expected: "a number above 0, at most 1" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_needs_only_what_differs() {
        let config: UpstreamConfig =
            toml::from_str("url = 'http://a:1,http://b:2'\nretries = 0\n[breaker]\nopen_ms = 100\n")
                .expect("a section");
        assert_eq!((config.retries, config.deadline_ms, config.breaker.open_ms), (0, 1_200, 100));
        assert_eq!(config.breaker.window_ms, 10_000);
        assert_eq!(config.url.as_ref().map(ToString::to_string).as_deref(), Some("http://a:1,http://b:2"));
        let again: UpstreamConfig = toml::from_str(&toml::to_string(&config).expect("TOML")).expect("a section");
        assert_eq!(again, config);
        assert_eq!(config.check(), Ok(()));
    }

    #[test]
    fn unknown_keys_are_refused() {
        for text in ["retry = 3", "[breaker]\nwindow = 3", "url = 'ftp://a:1'"] {
            assert!(toml::from_str::<UpstreamConfig>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn invalid_values_are_named() {
        for (text, key) in [
            ("deadline_ms = 0", "deadline_ms"),
            ("attempt_timeout_ms = 0", "attempt_timeout_ms"),
            ("retries = 11", "retries"),
            ("[breaker]\nwindow_ms = 99", "breaker.window_ms"),
            ("[breaker]\nmin_calls = 0", "breaker.min_calls"),
            ("[breaker]\nfailure_ratio = 0.0", "breaker.failure_ratio"),
            ("[breaker]\nfailure_ratio = 1.1", "breaker.failure_ratio"),
            ("[breaker]\nfailure_ratio = nan", "breaker.failure_ratio"),
            ("[breaker]\nslow_call_ms = 0", "breaker.slow_call_ms"),
            ("[breaker]\nopen_ms = 3600001", "breaker.open_ms"),
            ("[breaker]\nhalf_open_calls = 0", "breaker.half_open_calls"),
        ] {
            let config: UpstreamConfig = toml::from_str(text).expect(text);
            assert_eq!(config.check().map_err(|error| error.key), Err(key));
        }
    }
}
