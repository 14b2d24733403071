//! The sections of the configuration that services have which write events.

use std::time::Duration;

use eticket_base::config::{Error, within};
use serde::{Deserialize, Serialize};

/// `idempotency.*`, of a service whose commands take a `request_id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdempotencyConfig {
    /// How long the answers of commands are kept for retries.
    pub kept_hours: u64,
}

impl IdempotencyConfig {
    /// `kept_hours` as a duration.
    #[must_use]
    pub fn kept(&self) -> Duration {
        Duration::from_secs(self.kept_hours * 60 * 60)
    }

    /// For the checks of services: the contract promises a day.
    ///
    /// # Errors
    /// If it is less, or more than a year.
    pub fn check(&self) -> Result<(), Error> {
        within("idempotency.kept_hours", self.kept_hours, 24, 24 * 365)
    }
}

/// `audit.*`, of a service that keeps what other services own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditConfig {
    /// How many states of other services are compared in a second; 0: none.
    pub rows_per_second: u64,
    /// What is missing is looked at again after this, before its owner is asked for it. Also the pause between two comparisons.
    pub confirm_after_ms: u64,
}

impl AuditConfig {
    /// `confirm_after_ms` as a duration.
    #[must_use]
    pub fn confirm_after(&self) -> Duration {
        Duration::from_millis(self.confirm_after_ms)
    }

    /// For the checks of services.
    ///
    /// # Errors
    /// The first value that makes no sense.
    pub fn check(&self) -> Result<(), Error> {
        within("audit.rows_per_second", self.rows_per_second, 0, 1_000_000)?;
        within("audit.confirm_after_ms", self.confirm_after_ms, 100, 3_600_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_bounds() {
        let kept = |kept_hours| IdempotencyConfig { kept_hours }.check();
        assert_eq!(kept(23).expect_err("less than is promised").key(), "idempotency.kept_hours");
        assert!(kept(24).is_ok() && kept(8_760).is_ok() && kept(8_761).is_err());
        let audit = |rows_per_second, confirm_after_ms| AuditConfig { rows_per_second, confirm_after_ms }.check();
        assert_eq!(audit(1_000_001, 10_000).expect_err("too many").key(), "audit.rows_per_second");
        assert_eq!(audit(200, 99).expect_err("less than a message takes").key(), "audit.confirm_after_ms");
        assert!(audit(0, 100).is_ok() && audit(1_000_000, 3_600_000).is_ok() && audit(0, 3_600_001).is_err());
    }
}
