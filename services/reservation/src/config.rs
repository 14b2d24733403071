//! Configuration keys that only the reservation service accepts.

use eticket_base::config::Error;
use eticket_rpc_client::{UpstreamConfig, addresses::Targets};
use eticket_runtime::process::Deployment;
use eticket_service::config::{AuditConfig, IdempotencyConfig};
use serde::{Deserialize, Serialize};

/// The configuration of the reservation service.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub upstream: Upstreams,
    pub idempotency: IdempotencyConfig,
    pub audit: AuditConfig,
}

/// Section `upstream`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstreams {
    /// The ticket service, which checks whether a ticket is available.
    pub ticket: UpstreamConfig,
}

/// The section of the ticket service.
pub(crate) const TICKET: &str = "upstream.ticket";

impl Config {
    /// Validates the values.
    ///
    /// # Errors
    /// The first invalid value.
    pub fn check(&self, place: Deployment) -> Result<(), Error> {
        self.idempotency.check()?;
        self.audit.check()?;
        let ticket = &self.upstream.ticket;
        if place == Deployment::Alone && ticket.url.is_none() {
            return Err(Error::missing(
                format!("{TICKET}.url"),
                "expected http://host:port[,http://host:port...], or https://",
            ));
        }
        ticket.tls.check(TICKET, ticket.url.as_ref().map(Targets::are_encrypted))?;
        ticket.check().map_err(|wrong| {
            Error::new(format!("{TICKET}.{}", wrong.key), Some(wrong.value), format!("expected {}", wrong.expected))
        })
    }
}
