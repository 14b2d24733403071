//! Random schedules: commands, sends of the relays, deliveries and losses, in any order.
//!
//! Numbers in steps are reduced modulo the available choices, so that a step is valid anywhere and a failing schedule
//! can be shrunk.

use proptest::prelude::*;

use super::world::Service;

#[derive(Debug, Clone, Copy)]
pub enum Change {
    Title,
    /// In hours from now.
    Start(i64),
    /// In minutes from now.
    End(i64),
}

/// The precondition of an admin's edit.
#[derive(Debug, Clone, Copy)]
pub enum Etag {
    None,
    Newest,
    /// The etag right after the ticket's registration.
    First,
}

/// What happens to the rows that a relay has sent.
#[derive(Debug, Clone, Copy)]
pub enum Afterwards {
    Deleted,
    /// The relay dies before it deletes them; they are sent again.
    Forgotten,
    /// They are deleted some steps later.
    DeletedLate,
}

#[derive(Debug, Clone)]
pub enum Step {
    Register {
        ticket: usize,
        start_hours: i64,
        end_minutes: i64,
    },
    Update {
        ticket: usize,
        change: Change,
        etag: Etag,
    },
    Withdraw {
        ticket: usize,
        etag: Etag,
    },
    Reserve {
        ticket: usize,
        vip: bool,
        held_up: bool,
    },
    /// A reserve that was paused after its check commits.
    GoOn {
        which: usize,
    },
    Cancel {
        which: usize,
    },
    /// An earlier request is sent again with its id.
    Retry {
        which: usize,
        held_up: bool,
    },
    Advance {
        minutes: i64,
    },
    Sweep,
    /// Sends up to `most` rows, beginning with any subject.
    Relay {
        service: Service,
        first: usize,
        most: usize,
        afterwards: Afterwards,
    },
    FinishRelay {
        service: Service,
    },
    /// A message of any current or lost stream is published again, late.
    Straggler {
        which: usize,
    },
    /// Even picks select messages that the service has not acknowledged, odd ones any messages that match its filters.
    Deliver {
        service: Service,
        picks: Vec<usize>,
        acknowledged: bool,
    },
    /// The view reads on, or gets arbitrary messages.
    View {
        picks: Vec<usize>,
    },
    /// A consumer (the last number is the view) loses its connection.
    Detach {
        reader: usize,
    },
    /// The stream is lost and created again.
    Wipe,
    /// The newest messages are lost and the stream keeps its epoch; an operator republishes all states later.
    LoseTail {
        count: u64,
    },
    Republish {
        service: Service,
    },
}

#[derive(Debug, Clone)]
pub struct Schedule {
    pub tickets: usize,
    /// Number of tickets that are registered first.
    pub registered: usize,
    /// When these tickets end.
    pub end_minutes: i64,
    /// The view reads in order from its own position, as in production; otherwise it gets messages in any order.
    pub view_in_order: bool,
    pub kept_per_subject: usize,
    pub steps: Vec<Step>,
    /// Determines the order of the remaining deliveries at the end.
    pub order: u64,
}

/// The minimum retention that the protocol requires: two late duplicates and the newest message.
const KEPT: usize = 4;
pub const MOST_STRAGGLERS: usize = 2;

fn any_service() -> impl Strategy<Value = Service> {
    proptest::sample::select(Service::ALL.to_vec())
}

fn any_command() -> impl Strategy<Value = Step> {
    let ticket = 0_usize..2;
    let end = proptest::sample::select(vec![-30_i64, 30, 90, 100_000, 100_000]);
    let start = -60_i64..240;
    let change =
        prop_oneof![Just(Change::Title), start.clone().prop_map(Change::Start), end.clone().prop_map(Change::End)];
    let etag = proptest::sample::select(vec![Etag::None, Etag::None, Etag::Newest, Etag::First]);
    prop_oneof![
        2 => (ticket.clone(), start, end).prop_map(|(ticket, start_hours, end_minutes)| {
            Step::Register { ticket, start_hours, end_minutes }
        }),
        3 => (ticket.clone(), change, etag.clone())
            .prop_map(|(ticket, change, etag)| Step::Update { ticket, change, etag }),
        1 => (ticket.clone(), etag).prop_map(|(ticket, etag)| Step::Withdraw { ticket, etag }),
        8 => (ticket, any::<bool>(), any::<bool>())
            .prop_map(|(ticket, vip, held_up)| Step::Reserve { ticket, vip, held_up }),
        3 => (0_usize..8).prop_map(|which| Step::GoOn { which }),
        5 => (0_usize..2).prop_map(|which| Step::Cancel { which }),
        3 => (0_usize..64, any::<bool>()).prop_map(|(which, held_up)| Step::Retry { which, held_up }),
    ]
}

fn any_passage() -> impl Strategy<Value = Step> {
    let afterwards = proptest::sample::select(vec![
        Afterwards::Deleted,
        Afterwards::Deleted,
        Afterwards::Forgotten,
        Afterwards::DeletedLate,
    ]);
    let picks = || proptest::collection::vec(0_usize..1_000, 1..6);
    prop_oneof![
        8 => (any_service(), 0_usize..8, 1_usize..12, afterwards)
            .prop_map(|(service, first, most, afterwards)| Step::Relay { service, first, most, afterwards }),
        1 => any_service().prop_map(|service| Step::FinishRelay { service }),
        1 => (0_usize..1_000).prop_map(|which| Step::Straggler { which }),
        12 => (any_service(), picks(), proptest::bool::weighted(0.8))
            .prop_map(|(service, picks, acknowledged)| Step::Deliver { service, picks, acknowledged }),
        8 => picks().prop_map(|picks| Step::View { picks }),
    ]
}

fn any_mishap() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => proptest::sample::select(vec![1_i64, 29, 61, 600]).prop_map(|minutes| Step::Advance { minutes }),
        1 => Just(Step::Sweep),
        2 => (0_usize..4).prop_map(|reader| Step::Detach { reader }),
        2 => Just(Step::Wipe),
        1 => (1_u64..6).prop_map(|count| Step::LoseTail { count }),
        1 => any_service().prop_map(|service| Step::Republish { service }),
    ]
}

/// Returns a strategy for all schedules.
pub fn any_schedule() -> impl Strategy<Value = Schedule> {
    let step = prop_oneof![10 => any_command(), 20 => any_passage(), 2 => any_mishap()];
    let kept = proptest::sample::select(vec![KEPT, usize::MAX]);
    let steps = proptest::collection::vec(step, 8..64);
    let end = proptest::sample::select(vec![60_i64, 100_000, 100_000]);
    let tickets = proptest::sample::select(vec![(1_usize, 1_usize), (2, 2), (2, 2), (2, 1)]);
    (tickets, end, any::<bool>(), kept, steps, any::<u64>()).prop_map(
        |((tickets, registered), end_minutes, view_in_order, kept_per_subject, steps, order)| Schedule {
            tickets,
            registered,
            end_minutes,
            view_in_order,
            kept_per_subject,
            steps,
            order,
        },
    )
}
