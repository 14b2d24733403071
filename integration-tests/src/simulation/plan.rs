//! The parameters of a run, derived from its seed.

use std::time::Duration;

use eticket_store::OutboxLimits;

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
    /// The rows of the outbox that a process has in memory.
    pub(super) outbox: OutboxLimits,
    /// How long a message may not be durable.
    pub(super) sync_interval: Duration,
    /// Number of crashes of the bus with its machine.
    pub(super) bus_crashes: u64,
    pub(super) repair: Repair,
    /// Probability, in thousandths, that a message or response is lost, duplicated or delayed.
    pub(super) losses: u64,
}

impl Plan {
    pub(super) fn draw(scheduler: &Scheduler, wrong: Option<Wrong>) -> Self {
        let relay_deaths = scheduler.number(0..=3);
        let bus_crashes = if scheduler.chance(300) { scheduler.number(0..=3 - relay_deaths) } else { 0 };
        // The stream must not have to keep more messages of a subject than in production.
        let newest = if relay_deaths + bus_crashes > 2 { 1 } else { scheduler.number(1..=2) as usize };
        let rows = scheduler.number(1..=20) as usize;
        // The newest one, and then: two claims of the other replica, a row of the table that each replica sends without a
        // look and one that it sends after a look that was too early; all that again after a crash of the bus or a death;
        // the message on its way of each dead relay.
        let again = 1 + bus_crashes as usize + relay_deaths as usize;
        let as_many_as_needed = 1 + (2 * newest + 4) * again + relay_deaths as usize;
        let plan = Self {
            tickets: scheduler.number(1..=4),
            clients: scheduler.number(2..=5),
            seconds: scheduler.number(2..=6),
            kept: if scheduler.chance(700) { as_many_as_needed } else { 32 },
            relay_deaths,
            sync_interval: Duration::from_millis(if bus_crashes > 0 { scheduler.number(100..=1_500) } else { 0 }),
            bus_crashes,
            outbox: OutboxLimits { rows, page: scheduler.number(1..=rows as u64) as usize, newest },
            repair: if scheduler.chance(700) { Repair::Delete } else { Repair::Republish },
            losses: [0, 10, 40, 120][scheduler.number(0..=3) as usize],
        };
        match wrong {
            // A comparison would repair the effects of a broken rule.
            None if scheduler.chance(300) => Self { repair: Repair::Compare, ..plan },
            // The situations that these rules protect occur more often this way.
            Some(Wrong::PositionWithoutFingerprint) => Self { repair: Repair::Republish, ..plan },
            Some(Wrong::TooFewKept) => Self { kept: 1, ..plan },
            Some(Wrong::SentInAnyOrder) => {
                let outbox = OutboxLimits { newest: 1, ..plan.outbox };
                Self { relay_deaths: 0, bus_crashes: 0, kept: 3, outbox, ..plan }
            }
            _ => plan,
        }
    }
}
