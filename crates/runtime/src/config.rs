//! Configuration: one typed tree, from embedded defaults → file → environment → flags, checked before anything binds.
//!
//! The keys that every server has are here; each service adds a struct of its own keys. Both refuse what they do not know,
//! because a misspelt key that is ignored looks as if it worked.

pub(crate) mod load;

use std::{net::SocketAddr, path::PathBuf};

use eticket_base::config::{Error, LogConfig, StoreConfig, address, bus::BusConfig, file_path};
use eticket_rpc_server::config::{AdminConfig, AuthConfig, LimitsConfig, ShutdownConfig};
use serde::{Deserialize, Serialize};

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
