//! The time by which a call must be answered.

use std::time::Duration;

use tokio::time::Instant;

/// The moment at which the caller, or the server for it, gives up: an extension of every request that has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub Instant);

impl Deadline {
    /// What is left, zero once it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}
