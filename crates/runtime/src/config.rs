//! Configuration: typed structs from embedded defaults, file, environment and flags, checked before anything is bound.
//!
//! The keys of every server are here; each service adds a struct with its specific keys. Both refuse unknown keys: an
//! ignored misspelt key would look as if it worked.

pub(crate) mod load;

use std::{net::SocketAddr, path::PathBuf};

use eticket_auth::config::AuthConfig;
use eticket_base::config::{
    Error, LogConfig, StoreConfig, address,
    bus::BusConfig,
    file_path,
    telemetry::{Export, TelemetryConfig},
};
use eticket_rpc_server::config::{AdminConfig, LimitsConfig, ShutdownConfig};
use eticket_tls::ServerTlsConfig;
use serde::{Deserialize, Serialize};

/// The settings of a server that every server has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Listen address of the gRPC server.
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
    /// The store.
    #[serde(default, skip_serializing_if = "StoreConfig::is_empty")]
    pub store: StoreConfig,
    /// Authentication.
    #[serde(default)]
    pub auth: AuthConfig,
    /// Certificates; none for plain text.
    #[serde(default, skip_serializing_if = "ServerTlsConfig::is_empty")]
    pub tls: ServerTlsConfig,
    /// Limits of its load and of calls.
    pub limits: LimitsConfig,
    /// The shutdown.
    pub shutdown: ShutdownConfig,
}

impl Settings {
    /// Listens on a free loopback port and stops without delay, for tests that build a service in their own process.
    #[must_use]
    pub fn for_tests() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            store: StoreConfig::default(),
            auth: AuthConfig::default(),
            tls: ServerTlsConfig::default(),
            limits: LimitsConfig::default(),
            shutdown: ShutdownConfig { drain_delay_ms: 0, ..ShutdownConfig::default() },
        }
    }

    /// Checks what the types cannot.
    fn check(&self) -> Result<(), Error> {
        self.auth.check(self.listen)?;
        self.tls.check()?;
        self.limits.check()?;
        self.shutdown.check()
    }
}

/// The settings of the process, independent of its servers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProcessSettings {
    #[serde(default, deserialize_with = "file_path::optional", skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<PathBuf>,
    pub(crate) admin: AdminConfig,
    #[serde(default, skip_serializing_if = "BusConfig::is_empty")]
    pub(crate) bus: BusConfig,
    #[serde(default, skip_serializing_if = "LogConfig::is_empty")]
    pub(crate) log: LogConfig,
    #[serde(default, skip_serializing_if = "TelemetryConfig::is_empty")]
    pub(crate) telemetry: TelemetryConfig,
}

impl ProcessSettings {
    /// Checks what the types cannot, except for the bus, which not every process has.
    fn check(&self) -> Result<(), Error> {
        self.export()?;
        self.log.check()
    }

    /// Where spans are sent, by the section `telemetry` and the variables of OpenTelemetry.
    pub(crate) fn export(&self) -> Result<Option<Export>, Error> {
        self.telemetry.export(|name| std::env::var(name).ok())
    }
}
