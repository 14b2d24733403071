//! What a seed has in store.

use super::{Wrong, scheduler::Scheduler};

/// How the operator mends a stream that has lost its newest messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repair {
    /// As the protocol says: it is deleted, and the services make it anew.
    Delete,
    /// It stays, and all publish their states again. Tokens of watchers mean nothing then.
    Republish,
    /// Nobody does: services and views compare themselves with the owners. The stream loses messages one by one, too.
    Compare,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) tickets: u64,
    pub(super) clients: u64,
    /// How long faults go on.
    pub(super) seconds: u64,
    /// Messages of each subject that the stream keeps.
    pub(super) kept: usize,
    /// Relays that may die with something under way.
    pub(super) relay_deaths: u64,
    pub(super) repair: Repair,
    /// Times in a thousand that a message or an answer is lost, doubled or held up.
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
            // A comparison would repair what a rule given wrongly has spoilt.
            None if scheduler.chance(300) => Self { repair: Repair::Compare, ..plan },
            // What these rules are for is met more often so.
            Some(Wrong::PositionWithoutFingerprint) => Self { repair: Repair::Republish, ..plan },
            Some(Wrong::AsManyDeathsAsKept) => Self { relay_deaths: 1, kept: 1, ..plan },
            _ => plan,
        }
    }
}
