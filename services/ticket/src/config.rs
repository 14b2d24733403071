//! Configuration keys that only the ticket service accepts.

use std::time::Duration;

use eticket_base::config::{Error, comma_list, within};
use eticket_service::config::{AuditConfig, IdempotencyConfig};
use serde::{Deserialize, Serialize};

/// The configuration of the ticket service.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub sweep: SweepConfig,
    pub idempotency: IdempotencyConfig,
    pub fault: FaultConfig,
    pub audit: AuditConfig,
}

/// Section `sweep`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepConfig {
    /// Interval between announcements of expired tickets, in milliseconds.
    pub interval_ms: u64,
}

impl SweepConfig {
    pub fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }
}

impl Config {
    /// Validates the values.
    ///
    /// # Errors
    /// The first invalid value.
    pub fn check(&self) -> Result<(), Error> {
        within("sweep.interval_ms", self.sweep.interval_ms, 10, 3_600_000)?;
        self.idempotency.check()?;
        self.audit.check()?;
        self.fault.check()
    }
}

/// The RPCs that `fault.only` may name.
const METHODS: [&str; 6] =
    ["RegisterTicket", "UpdateTicket", "WithdrawTicket", "GetTicket", "ListTickets", "CheckAvailability"];

/// Section `fault`: faults that are injected on purpose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultConfig {
    /// Delay added to each call, in milliseconds.
    pub latency_ms: u64,
    /// Fraction of the calls that fail with UNAVAILABLE, from 0 to 1.
    pub error_ratio: f64,
    /// RPCs that the faults affect; empty for all.
    #[serde(with = "comma_list")]
    pub only: Vec<String>,
}

impl FaultConfig {
    fn check(&self) -> Result<(), Error> {
        within("fault.latency_ms", self.latency_ms, 0, 600_000)?;
        if !(0.0..=1.0).contains(&self.error_ratio) {
            return Err(Error::new("fault.error_ratio", Some(self.error_ratio.to_string()), "expected 0 to 1"));
        }
        match self.only.iter().find(|method| !METHODS.contains(&method.as_str())) {
            Some(_) => {
                let expected = format!("expected some of {}, or nothing for all", METHODS.join(","));
                Err(Error::new("fault.only", Some(self.only.join(",")), expected))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(latency_ms: u64, error_ratio: f64, only: &str) -> FaultConfig {
        let only = only.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        FaultConfig { latency_ms, error_ratio, only }
    }

    #[test]
    fn faults_outside_their_bounds_are_refused() {
        assert!(fault(0, 0.5, "GetTicket,CheckAvailability").check().is_ok());
        for (bad, key) in [
            (fault(0, 1.5, ""), "fault.error_ratio"),
            (fault(0, f64::NAN, ""), "fault.error_ratio"),
            (fault(0, 0.0, "GetPrice"), "fault.only"),
            (fault(600_001, 0.0, ""), "fault.latency_ms"),
        ] {
            assert_eq!(bad.check().expect_err(key).key(), key);
        }
    }
}
