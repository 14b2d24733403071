//! Convergence under any order, repetition and loss of messages, new streams and deleted files: all replicas end with
//! the same rows, which match the newest states of the owners. A watcher that resumes on changing replicas ends with
//! the same rows.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::{
    application::{
        Watched,
        watch::{ResumePoint, Watch},
    },
    domain::{
        self,
        tests::world::{Step, World},
    },
};

/// An action on the stream, the replicas or the watcher.
#[derive(Debug, Clone, Copy)]
enum Action {
    /// Publishes the message with this index, modulo the number of messages, possibly again.
    Publish(usize),
    /// A replica reads this number of messages.
    Read(usize, usize),
    /// The stream is replaced by a new one that holds some of the messages.
    Renew(usize),
    /// The file of a replica is deleted.
    Delete(usize),
    /// The watcher resumes on this replica.
    Watch(usize),
}

fn any_actions() -> impl Strategy<Value = Vec<Action>> {
    let (at, replica) = (0_usize..1_000, 0_usize..2);
    let action = prop_oneof![
        10 => at.clone().prop_map(Action::Publish),
        5 => (replica.clone(), 1_usize..8).prop_map(|(replica, count)| Action::Read(replica, count)),
        1 => at.prop_map(Action::Renew),
        1 => replica.clone().prop_map(Action::Delete),
        3 => replica.prop_map(Action::Watch),
    ];
    proptest::collection::vec(action, 0..60)
}

fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    let at = 0_usize..1_000;
    let step = prop_oneof![
        1 => Just(Step::UpdateTitle),
        1 => Just(Step::UpdateSchedule),
        1 => Just(Step::Withdraw),
        4 => Just(Step::Reserve),
        3 => Just(Step::Cancel),
        5 => at.clone().prop_map(Step::TicketTakes),
        2 => at.clone().prop_map(Step::LedgerTakes),
        6 => at.prop_map(Step::PriceTakes),
    ];
    proptest::collection::vec(step, 0..16)
}

/// All messages that the owners of two tickets have published.
fn published(worlds: [Vec<Step>; 2]) -> Vec<(TicketId, Event)> {
    let mut all = Vec::new();
    for (number, steps) in (1_u128..).zip(worlds) {
        let mut world = World::run(&steps);
        world.come_to_rest();
        let ticket = id(&format!("t-{number}"));
        for emitted in world.emitted {
            let event = match emitted.event {
                Event::Ticket(part) => {
                    Event::Ticket(TicketPart { holder: part.holder.map(|id| with_number(number, id)), ..part })
                }
                Event::Price(part) => Event::Price(part),
                Event::Ledger(part, row) => {
                    let part = LedgerPart { active: part.active.map(|id| with_number(number, id)), ..part };
                    let row = row.map(|row| Reservation {
                        reservation_id: with_number(number, row.reservation_id),
                        ticket_id: ticket.clone(),
                        ..row
                    });
                    Event::Ledger(part, row)
                }
            };
            all.push((ticket.clone(), event));
        }
    }
    all
}

/// Makes the reservation ids of the two tickets distinct.
fn with_number(number: u128, id: ReservationId) -> ReservationId {
    Uuid::from_u128(id.as_uuid().as_u128() + (number << 64)).into()
}

/// The contents of a row that do not depend on the order of messages.
fn shown(view: &View) -> View {
    View { sequence: 0, mark: 0, unsettled_since: None, ..view.clone() }
}

fn expected(all: &[(TicketId, Event)]) -> BTreeMap<TicketId, View> {
    let mut views: BTreeMap<TicketId, View> = BTreeMap::new();
    for (ticket, event) in all {
        let view = views.entry(ticket.clone()).or_default();
        if let Some(next) = domain::apply_event(view, event, 1, time(0)) {
            *view = shown(&next);
        }
    }
    views
}

struct Schedule {
    bus: MemoryStream,
    replicas: [Fixture; 2],
    all: Vec<(TicketId, Event)>,
    watcher: Option<(usize, Watch)>,
    resume: Option<ResumePoint>,
    seen: BTreeMap<TicketId, View>,
}

impl Schedule {
    async fn new(all: Vec<(TicketId, Event)>) -> Self {
        let bus = MemoryStream::default();
        let replica = || Fixture::reading(&bus);
        let replicas = [replica().await, replica().await];
        Self { bus: bus.clone(), replicas, all, watcher: None, resume: None, seen: BTreeMap::new() }
    }

    async fn run(&mut self, action: Action) {
        match action {
            Action::Publish(index) => self.append(index % self.all.len()),
            Action::Read(replica, count) => self.read(replica, count).await,
            Action::Renew(from) => {
                self.bus.wipe();
                for index in (from % self.all.len())..self.all.len() {
                    self.append(index);
                }
            }
            Action::Delete(replica) => {
                if self.watcher.as_ref().is_some_and(|(at, _)| *at == replica) {
                    self.watcher = None;
                }
                self.replicas[replica] = Fixture::reading(&self.bus).await;
            }
            Action::Watch(replica) => self.watch(replica).await,
        }
        self.see().await;
    }

    fn append(&self, index: usize) {
        let (ticket, event) = &self.all[index];
        self.bus.append(message(ticket, event));
    }

    async fn read(&self, replica: usize, count: usize) {
        self.bus.deliver_at_most(count);
        let reader = &self.replicas[replica].reader;
        let mut session = reader.attach().await.unwrap();
        let (read, end) = session.progress();
        if read < end {
            let batch = session.next().await.unwrap();
            session.apply(batch).await.unwrap();
        }
        self.bus.deliver_at_most(usize::MAX);
    }

    async fn watch(&mut self, replica: usize) {
        let views = &self.replicas[replica].views;
        // A replica without a known stream has no position to watch from.
        if views.store.position().await.unwrap().is_some() {
            let watch = views.watch(Watched::All, self.resume.clone(), CancellationToken::new()).await.unwrap();
            self.watcher = Some((replica, watch));
        }
    }

    /// The watcher receives all available rows.
    async fn see(&mut self) {
        let Some((_, watch)) = &mut self.watcher else { return };
        loop {
            match watch.next_now().await {
                Ok(Some(sent)) => {
                    self.seen.extend(sent.row.map(|(ticket, view)| (ticket, shown(&view))));
                    self.resume = sent.resume.or(self.resume.take());
                }
                Ok(None) => return,
                // The stream was replaced: the watcher resumes with its token at its next connection.
                Err(_) => {
                    self.watcher = None;
                    return;
                }
            }
        }
    }
}

async fn converges(all: Vec<(TicketId, Event)>, actions: Vec<Action>, last: usize) {
    let expected = expected(&all);
    let mut schedule = Schedule::new(all).await;
    for action in actions {
        schedule.run(action).await;
    }
    // Final state: all owners have published their states, and every replica has read them. The newest state of each
    // aggregate would be sufficient; older ones do no harm.
    let mut publishing: Vec<usize> = (0..schedule.all.len()).collect();
    publishing.sort_by_key(|index| (index * 7_919 + last) % 1_009);
    publishing.iter().for_each(|index| schedule.append(*index));
    for replica in &schedule.replicas {
        replica.read_all().await;
    }
    schedule.see().await;
    schedule.watch(last % 2).await;
    schedule.see().await;
    assert_eq!(schedule.seen, expected, "the watcher ends with the newest states");
    for replica in &schedule.replicas {
        let mut reservations: BTreeMap<ReservationId, Reservation> = BTreeMap::new();
        for (_, event) in &schedule.all {
            if let Event::Ledger(_, Some(row)) = event {
                let newer = reservations.get(&row.reservation_id).is_none_or(|known| known.revision < row.revision);
                newer.then(|| reservations.insert(row.reservation_id, row.clone()));
            }
        }
        let mut sequences = BTreeSet::new();
        for (ticket, expected) in &expected {
            let view = replica.view(ticket).await;
            assert_eq!(&shown(&view), expected);
            assert!(domain::settled(&view), "{:?}", domain::missing(&view));
            assert_eq!(view.unsettled_since, None);
            assert!(sequences.insert(view.sequence) && view.sequence > 0, "rows have different sequences");
        }
        let rows = replica.store().all_reservations("", 1_000).await.unwrap();
        assert_eq!(rows, reservations.into_values().collect::<Vec<_>>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn replicas_and_watchers_converge_to_the_newest_states(
        first in any_steps(), second in any_steps(), actions in any_actions(), last in 0_usize..1_000,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(converges(published([first, second]), actions, last));
    }
}
