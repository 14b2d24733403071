//! Configuration that is specific to the query service.

use eticket_base::config::{Error, within};
use eticket_rpc_client::addresses::Targets;
use eticket_rpc_server::config::LimitsConfig;
use eticket_service::config::AuditConfig;
use eticket_tls::ClientTlsConfig;
use serde::{Deserialize, Serialize};

/// Configuration keys of the query service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Limit of the calls that wait for the view.
    pub wait: Bound,
    /// Limit of the streams that watch the view.
    pub watch: Bound,
    /// Addresses of the owners. Only comparisons need them.
    #[serde(default)]
    pub upstream: Upstreams,
    /// Configuration of the continuous comparison with the owners.
    pub audit: AuditConfig,
}

/// Limit of concurrent calls of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bound {
    /// Maximum number of concurrent calls; further calls are refused with `SERVICE_OVERLOADED`.
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
    /// Addresses of the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<Targets>,
    /// Certificates, for `https` addresses.
    #[serde(skip_serializing_if = "ClientTlsConfig::is_empty")]
    pub tls: ClientTlsConfig,
}

impl Config {
    /// Checks conditions that the types cannot express.
    ///
    /// # Errors
    /// The first invalid value.
    pub fn check(&self, limits: &LimitsConfig) -> Result<(), Error> {
        within("wait.most", self.wait.most, 1, 1_000_000)?;
        within("watch.most", self.watch.most, 1, 1_000_000)?;
        self.audit.check()?;
        let Upstreams { ticket, reservation, pricing } = &self.upstream;
        for (section, Upstream { url, tls }) in
            [("upstream.ticket", ticket), ("upstream.reservation", reservation), ("upstream.pricing", pricing)]
        {
            tls.check(section, url.as_ref().map(Targets::are_encrypted))?;
        }
        let (wait, watch, concurrency) = (self.wait.most, self.watch.most, limits.concurrency.get() as u64);
        if wait + watch < concurrency {
            return Ok(());
        }
        // Otherwise waiting calls could take every slot, and calls that need not wait would be shed.
        let expected = format!(
            "must be above query's wait.most + watch.most, which are {wait} and {watch}: raise this one, or lower those"
        );
        Err(Error::new("limits.concurrency", Some(concurrency.to_string()), expected))
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
    fn upstreams_are_optional_and_unknown_keys_are_refused() {
        assert_eq!(parse("").expect("a configuration").upstream, Upstreams::default());
        let config = parse("upstream.ticket.url = 'http://t:1,http://t:2'").expect("an address");
        assert_eq!(config.upstream.ticket.url.expect("given").to_string(), "http://t:1,http://t:2");
        for more in ["upstream.ticket.url = 'nonsense'", "upstream.gateway.url = 'http://g:1'", "wait.least = 1"] {
            assert!(parse(more).is_err(), "{more}");
        }
    }

    #[test]
    fn a_bound_of_zero_is_refused() {
        let none = Config { watch: Bound { most: 0 }, ..parse("").expect("valid") };
        let limits = LimitsConfig::default();
        assert_eq!(none.check(&limits).expect_err("no watch allowed").key(), "watch.most");
    }

    #[test]
    fn waiting_calls_leave_slots_for_other_calls() {
        let limits = |concurrency| LimitsConfig {
            concurrency: std::num::NonZeroUsize::new(concurrency).expect("not zero"),
            ..LimitsConfig::default()
        };
        let config = Config { wait: Bound { most: 20 }, watch: Bound { most: 10 }, ..parse("").expect("valid") };
        assert_eq!(config.check(&limits(31)), Ok(()));
        let refused = config.check(&limits(30)).expect_err("no slot left");
        assert_eq!(refused.key(), "limits.concurrency");
        let text = refused.to_string();
        assert!(text.contains("wait.most") && text.contains("watch.most") && text.contains("20 and 10"), "{text}");
    }
}
