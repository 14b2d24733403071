//! The configuration that only the ticket service has.

use std::time::Duration;

use eticket_chassis::config::{Error, within};
use serde::{Deserialize, Serialize};

use crate::inbound::fault::FaultConfig;

/// The ticket service's own keys.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub sweep: SweepConfig,
    pub fault: FaultConfig,
}

/// `sweep.*`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepConfig {
    /// How often expired tickets are announced.
    pub interval_ms: u64,
}

impl SweepConfig {
    pub fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }
}

impl Config {
    /// # Errors
    /// The first value that makes no sense.
    pub fn check(&self) -> Result<(), Error> {
        within("sweep.interval_ms", self.sweep.interval_ms, 10, 3_600_000)?;
        self.fault.check()
    }
}
