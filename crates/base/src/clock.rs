//! The one source of wall-clock time: injected, so that tests decide what time it is.
//!
//! Times are cut to microseconds here, because that is the finest that every store keeps; what is compared in memory
//! then equals what is read back.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, TimeDelta, Utc};
use eticket_proto::time::truncated;

/// Tells the time, cut to microseconds.
pub trait Clock: Send + Sync + Debug {
    /// The time now.
    fn now(&self) -> DateTime<Utc>;
}

/// A clock that many parts of a process share.
pub type SharedClock = Arc<dyn Clock>;

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        truncated(Utc::now())
    }
}

/// A clock that stands still until it is told otherwise, for the tests of all crates.
#[derive(Debug)]
pub struct ManualClock {
    time: Mutex<DateTime<Utc>>,
}

impl ManualClock {
    /// A clock that shows `time`.
    #[must_use]
    pub fn new(time: DateTime<Utc>) -> Self {
        Self { time: Mutex::new(truncated(time)) }
    }

    /// Shows `time` from now on, which may be earlier than before.
    pub fn set(&self, time: DateTime<Utc>) {
        *self.time.lock().unwrap_or_else(PoisonError::into_inner) = truncated(time);
    }

    /// Moves on by `delta`.
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
    fn the_system_clock_is_cut_to_microseconds() {
        let now = SystemClock.now();
        assert_eq!(now.timestamp_subsec_nanos() % 1_000, 0);
        assert!((Utc::now() - now).num_seconds() < 60);
    }

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let start = DateTime::from_timestamp(1_000, 1_999).expect("a valid time");
        let clock = ManualClock::new(start);
        assert_eq!(clock.now(), DateTime::from_timestamp(1_000, 1_000).expect("a valid time"));
        clock.advance(TimeDelta::seconds(5));
        assert_eq!(clock.now().timestamp(), 1_005);
        clock.set(start);
        assert_eq!(clock.now().timestamp(), 1_000);
    }
}
