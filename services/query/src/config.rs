//! The configuration that only the query service has.

use eticket_chassis::{
    client::balance::Targets,
    config::{AuditConfig, Error, within},
};
use serde::{Deserialize, Serialize};

/// The query service's own keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Calls that wait for the view.
    pub wait: Bound,
    /// Streams that watch it.
    pub watch: Bound,
    /// Where the owners are, for comparisons; nothing else needs them.
    #[serde(default)]
    pub upstream: Upstreams,
    /// How it is compared with the owners all the time.
    pub audit: AuditConfig,
}

/// How many there may be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bound {
    /// At once; more are refused with `SERVICE_OVERLOADED`.
    pub most: u64,
}

/// `upstream.*`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upstreams {
    /// The ticket service.
    pub ticket: Upstream,
    /// The reservation service.
    pub reservation: Upstream,
    /// The pricing service.
    pub pricing: Upstream,
}

/// `upstream.NAME.*`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upstream {
    /// Its addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<Targets>,
}

impl Config {
    /// What a type cannot say.
    ///
    /// # Errors
    /// The first value that is wrong.
    pub fn check(&self) -> Result<(), Error> {
        within("wait.most", self.wait.most, 1, 1_000_000)?;
        within("watch.most", self.watch.most, 1, 1_000_000)?;
        self.audit.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: &str = "wait.most = 1\nwatch.most = 1\naudit.rows_per_second = 1\naudit.confirm_after_ms = 1000\n";

    fn parse(more: &str) -> Result<Config, toml::de::Error> {
        toml::from_str(&format!("{DEFAULTS}{more}"))
    }

    #[test]
    fn upstreams_are_optional_and_unknown_keys_refused() {
        assert_eq!(parse("").expect("enough").upstream, Upstreams::default());
        let config = parse("upstream.ticket.url = 'http://t:1,http://t:2'").expect("an address");
        assert_eq!(config.upstream.ticket.url.expect("given").to_string(), "http://t:1,http://t:2");
        for more in ["upstream.ticket.url = 'nonsense'", "upstream.gateway.url = 'http://g:1'", "wait.least = 1"] {
            assert!(parse(more).is_err(), "{more}");
        }
    }

    #[test]
    fn bounds_have_bounds() {
        let none = Config { watch: Bound { most: 0 }, ..parse("").expect("valid") };
        assert_eq!(none.check().expect_err("nobody could watch").key(), "watch.most");
    }
}
