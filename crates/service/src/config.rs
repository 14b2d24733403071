//! Configuration sections of the services that write events.

use std::time::Duration;

use eticket_base::config::{Error, within};
use serde::{Deserialize, Serialize};

/// `idempotency.*`, for services whose commands take a `request_id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdempotencyConfig {
    /// Retention of command responses for retries, in hours.
    pub kept_hours: u64,
}

impl IdempotencyConfig {
    /// Returns `kept_hours` as a duration.
    #[must_use]
    pub fn kept(&self) -> Duration {
        Duration::from_secs(self.kept_hours * 60 * 60)
    }

    /// Checks the values. The contract promises a retention of one day.
    ///
    /// # Errors
    /// If the retention is less than a day or more than a year.
    pub fn check(&self) -> Result<(), Error> {
        within("idempotency.kept_hours", self.kept_hours, 24, 24 * 365)
    }
}

/// `audit.*`, for services that keep states of other services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditConfig {
    /// Number of states of other services that are compared per second; 0 disables the comparison.
    pub rows_per_second: u64,
    /// Delay in milliseconds before a missing state is checked again and then requested from its owner. Also the pause
    /// between two comparisons.
    pub confirm_after_ms: u64,
}

impl AuditConfig {
    /// Returns `confirm_after_ms` as a duration.
    #[must_use]
    pub fn confirm_after(&self) -> Duration {
        Duration::from_millis(self.confirm_after_ms)
    }

    /// Checks the values.
    ///
    /// # Errors
    /// The first invalid value.
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
        assert_eq!(kept(23).expect_err("less than the contract promises").key(), "idempotency.kept_hours");
        assert!(kept(24).is_ok() && kept(8_760).is_ok() && kept(8_761).is_err());
        let audit = |rows_per_second, confirm_after_ms| AuditConfig { rows_per_second, confirm_after_ms }.check();
        assert_eq!(audit(1_000_001, 10_000).expect_err("too many").key(), "audit.rows_per_second");
        assert_eq!(audit(200, 99).expect_err("below the minimum").key(), "audit.confirm_after_ms");
        assert!(audit(0, 100).is_ok() && audit(1_000_000, 3_600_000).is_ok() && audit(0, 3_600_001).is_err());
    }
}
