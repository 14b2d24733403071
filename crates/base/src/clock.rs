//! Wall-clock time, injected so that tests can control it.
//!
//! Times are truncated to microseconds, the precision of every store, so that a value in memory equals the value read
//! back from a store.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, TimeDelta, Utc};
use eticket_proto::time::truncated;

/// A source of the current time, truncated to microseconds.
pub trait Clock: Send + Sync + Debug {
    /// Returns the current time.
    fn now(&self) -> DateTime<Utc>;
}

/// A clock shared by several parts of a process.
pub type SharedClock = Arc<dyn Clock>;

/// The system clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        truncated(Utc::now())
    }
}

/// A clock for tests that changes only through [`set`](Self::set) and [`advance`](Self::advance).
#[derive(Debug)]
pub struct ManualClock {
    time: Mutex<DateTime<Utc>>,
}

impl ManualClock {
    /// Creates a clock that shows `time`.
    #[must_use]
    pub fn new(time: DateTime<Utc>) -> Self {
        Self { time: Mutex::new(truncated(time)) }
    }

    /// Sets the clock to `time`, which may be earlier than the current value.
    pub fn set(&self, time: DateTime<Utc>) {
        *self.time.lock().unwrap_or_else(PoisonError::into_inner) = truncated(time);
    }

    /// Moves the clock by `delta`.
    pub fn advance(&self, delta: TimeDelta) {
        let mut time = self.time.lock().unwrap_or_else(PoisonError::into_inner);
        *time = truncated(*time + delta);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> DateTime<Utc> {
        *self.time.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_is_truncated_to_microseconds() {
        let now = SystemClock.now();
        assert_eq!(now.timestamp_subsec_nanos() % 1_000, 0);
        assert!((Utc::now() - now).num_seconds() < 60);
    }

    #[test]
    fn a_manual_clock_changes_only_by_set_and_advance() {
        let start = DateTime::from_timestamp(1_000, 1_999).expect("a valid time");
        let clock = ManualClock::new(start);
        assert_eq!(clock.now(), DateTime::from_timestamp(1_000, 1_000).expect("a valid time"));
        clock.advance(TimeDelta::seconds(5));
        assert_eq!(clock.now().timestamp(), 1_005);
        clock.set(start);
        assert_eq!(clock.now().timestamp(), 1_000);
    }
}
