//! The parameters of a run, derived from its seed.

use super::{Wrong, scheduler::Scheduler};

/// How the operator repairs a stream that has lost its newest messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repair {
    /// As the protocol specifies: the operator deletes the stream, and the services create it again.
    Delete,
    /// The stream stays, and all services publish their states again. Tokens of watchers are then invalid.
    Republish,
    /// No operator acts: services and views compare themselves with the owners. The stream also loses single messages.
    Compare,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) tickets: u64,
    pub(super) clients: u64,
    /// How long faults are injected, in seconds.
    pub(super) seconds: u64,
    /// Number of messages of each subject that the stream keeps.
    pub(super) kept: usize,
    /// Number of relays that may die with a message in flight.
    pub(super) relay_deaths: u64,
    pub(super) repair: Repair,
    /// Probability, in thousandths, that a message or response is lost, duplicated or delayed.
    pub(super) losses: u64,
}

impl Plan {
    pub(super) fn draw(scheduler: &Scheduler, wrong: Option<Wrong>) -> Self {
        let relay_deaths = scheduler.number(0..=3);
        let as_many_as_needed = relay_deaths as usize + 2;
        let plan = Self {
            tickets: scheduler.number(1..=4),
            clients: scheduler.number(2..=5),
            seconds: scheduler.number(2..=6),
            kept: if scheduler.chance(700) { as_many_as_needed } else { 32 },
            relay_deaths,
            repair: if scheduler.chance(700) { Repair::Delete } else { Repair::Republish },
            losses: [0, 10, 40, 120][scheduler.number(0..=3) as usize],
        };
        match wrong {
            // A comparison would repair the effects of a broken rule.
            None if scheduler.chance(300) => Self { repair: Repair::Compare, ..plan },
            // The situations that these rules protect occur more often this way.
            Some(Wrong::PositionWithoutFingerprint) => Self { repair: Repair::Republish, ..plan },
            Some(Wrong::AsManyDeathsAsKept) => Self { relay_deaths: 1, kept: 1, ..plan },
            _ => plan,
        }
    }
}
