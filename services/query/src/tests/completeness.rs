//! Completeness of a view whose stream has lost messages.

use std::{collections::BTreeMap, sync::Mutex as StdMutex};

use async_trait::async_trait;
use eticket_bus::{Message, memory::Stream};
use eticket_service::{
    audit::{Comparer, Owner, Responder, State},
    batch,
    config::AuditConfig,
};
use eticket_store::{self as store, Claim, OutboxStore, Sent, memory::NoSteps};
use tokio::time::sleep;

use super::*;
use crate::{
    application::{
        completeness::{Completeness, OWNERS},
        rebuild::Progress,
    },
    outbound::memory::MemoryViews,
};

/// An owner with these states, which republishes them on request.
struct Owned {
    stream: Stream,
    states: StdMutex<BTreeMap<String, Message>>,
}

#[async_trait]
impl Owner for Owned {
    async fn count(&self) -> Result<u64, batch::Error> {
        Ok(self.states.lock().unwrap().len() as u64)
    }

    async fn states(&self, after: &str, most: usize) -> Result<Vec<State>, batch::Error> {
        let states = self.states.lock().unwrap();
        let above = states.iter().filter(|(key, _)| key.as_str() > after).take(most);
        Ok(above.map(|(key, message)| State { key: key.clone(), message: message.clone() }).collect())
    }

    async fn republish(&self, subjects: &[String]) -> Result<u64, batch::Error> {
        let states = self.states.lock().unwrap();
        for subject in subjects {
            self.stream.append(states[subject].clone());
        }
        Ok(subjects.len() as u64)
    }
}

/// The outbox of an owner whose relay has sent all rows.
struct EmptyOutbox;

#[async_trait]
impl OutboxStore for EmptyOutbox {
    async fn claim_outbox(&self, _: usize) -> Result<Claim, store::Error> {
        Err(store::Error::data("the outbox is empty"))
    }

    async fn delete_sent(&self, _: Sent) -> Result<Vec<i64>, store::Error> {
        Ok(Vec::new())
    }

    async fn outbox_depth(&self) -> Result<i64, store::Error> {
        Ok(0)
    }

    async fn oldest_waiting(&self) -> Result<Option<Message>, store::Error> {
        Ok(None)
    }
}

/// A stream, the owners of the published states, and views of the stream.
struct World {
    stream: Stream,
    owners: BTreeMap<&'static str, Arc<Owned>>,
    clock: Arc<ManualClock>,
    tasks: Tasks,
}

impl World {
    /// `answering`: the owners that respond.
    fn new(answering: &[&'static str]) -> Self {
        let (stream, tasks) = (Stream::default(), Tasks::new());
        let clock = Arc::new(ManualClock::new(time(0)));
        let mut owners = BTreeMap::new();
        for name in OWNERS {
            let owner = Arc::new(Owned { stream: stream.clone(), states: StdMutex::default() });
            owners.insert(*name, owner.clone());
            if answering.contains(name) {
                let bus = Arc::new(stream.connect());
                let responder = Responder { service: name, bus, owner, store: Arc::new(EmptyOutbox) };
                tasks.spawn("owner", responder.run(tasks.stopping()));
            }
        }
        Self { stream, owners, clock, tasks }
    }

    /// Commits and publishes a state, like an owner and its relay.
    fn publish(&self, ticket: &TicketId, event: &Event) {
        self.commit(ticket, event);
        self.stream.append(message(ticket, event));
    }

    fn commit(&self, ticket: &TicketId, event: &Event) {
        let owner = match event {
            Event::Ticket(_) => "ticket",
            Event::Ledger(..) => "reservation",
            Event::Price(_) => "pricing",
        };
        let message = message(ticket, event);
        self.owners[owner].states.lock().unwrap().insert(message.subject.clone(), message);
    }

    /// Publishes tickets, reservations and prices of all kinds.
    fn fill(&self) {
        for number in 0..10_u128 {
            let ticket = id(&format!("t-{number}"));
            free().iter().for_each(|event| self.publish(&ticket, event));
            if number % 2 == 0 {
                let placed = reservation(&ticket, number, 1, ReservationStatus::Reserved);
                self.publish(&ticket, &reserved(placed));
            }
            if number % 3 == 0 {
                let closed = LedgerPart { revision: 2, active: None, closed: true };
                self.publish(&ticket, &Event::Ledger(closed, None));
            }
        }
    }

    fn store(&self) -> Arc<dyn ViewStore> {
        Arc::new(MemoryViews::new(self.clock.clone(), Arc::new(NoSteps)))
    }

    /// Creates a replica on this store, as a process does.
    fn reader(&self, store: Arc<dyn ViewStore>) -> Reader {
        Reader {
            bus: Arc::new(self.stream.connect()),
            store,
            decode: Arc::new(Protobuf),
            changes: Changes::default(),
            clock: self.clock.clone(),
            health: Health::new(["eticket.query.v1.QueryService"]).with_catching_up().with_bus(),
            turn: Arc::default(),
            reattach: Arc::default(),
            reached_end: Some(Arc::default()),
        }
    }

    fn completeness(&self, rows_per_second: u64) -> Completeness {
        let config = AuditConfig { rows_per_second, confirm_after_ms: 1_000 };
        let bus = Arc::new(self.stream.connect());
        Completeness {
            comparer: Comparer { service: "query", owners: OWNERS, bus, config },
            decode: Arc::new(Protobuf),
        }
    }

    /// Starts the tasks of a process.
    fn run(&self, reader: &Reader, rows_per_second: u64) {
        let completeness = self.completeness(rows_per_second);
        self.tasks.spawn("completeness", completeness.run(reader.clone(), self.tasks.stopping()));
        self.tasks.spawn("reader", reader.clone().run(self.tasks.stopping()));
    }

    async fn counts(store: &dyn ViewStore) -> (i64, i64, i64) {
        let counts = store.counts().await.unwrap();
        (counts.tickets, counts.prices, counts.reservations + counts.closed_ledgers)
    }
}

const ALL: (i64, i64, i64) = (10, 10, 9);

async fn ready(reader: &Reader) {
    timeout(Duration::from_secs(300), reader.health.ready()).await.expect("ready");
    assert!(reader.changes.has_caught_up());
}

/// All ways to lose messages without a new epoch of the stream.
#[tokio::test(start_paused = true)]
async fn a_new_view_serves_once_it_has_all_states_of_the_owners() {
    for purged_to in [0, 1, 15, 28, 29] {
        let world = World::new(OWNERS);
        world.fill();
        assert_eq!(world.stream.messages().len(), 29);
        world.stream.lose(|sequence, _| sequence <= purged_to);
        let reader = world.reader(world.store());
        world.run(&reader, 0);
        ready(&reader).await;
        assert_eq!(World::counts(&*reader.store).await, ALL, "purged up to {purged_to}");
        assert_eq!(world.stream.messages().len(), 29, "only missing states were republished");
        assert!(reader.store.has_caught_up().await.unwrap());
        world.tasks.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_tail_is_detected() {
    let world = World::new(OWNERS);
    world.fill();
    world.stream.lose_last(20);
    let reader = world.reader(world.store());
    world.run(&reader, 0);
    ready(&reader).await;
    assert_eq!(World::counts(&*reader.store).await, ALL);
    world.tasks.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_unavailable_owners_is_bounded() {
    let world = World::new(&["ticket", "reservation"]);
    world.fill();
    world.stream.lose(|sequence, _| sequence <= 20);
    let reader = world.reader(world.store());
    let before = Instant::now();
    world.run(&reader, 0);
    ready(&reader).await;
    assert!((10..30).contains(&before.elapsed().as_secs()), "{:?}", before.elapsed());
    let (tickets, prices, reservations) = World::counts(&*reader.store).await;
    assert_eq!((tickets, reservations), (10, 9), "all states of the other owners");
    assert!(prices < 10);
    world.tasks.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_old_view_that_restarts_on_a_purged_stream_serves() {
    let world = World::new(&[]);
    world.fill();
    let store = world.store();
    let first = world.reader(store.clone());
    let stop = CancellationToken::new();
    let running = tokio::spawn(first.clone().run(stop.clone()));
    while World::counts(&*store).await != ALL {
        sleep(Duration::from_millis(10)).await;
    }
    first.complete().await.unwrap();
    stop.cancel();
    running.await.unwrap();

    world.stream.lose(|_, _| true);
    let second = world.reader(store);
    second.changes.caught_up();
    world.run(&second, 0);
    timeout(Duration::from_secs(1), second.health.ready()).await.expect("at once");
    // A reader without new messages has not stalled.
    sleep(Duration::from_secs(60)).await;
    assert_eq!(second.health.is_serving("bus"), Some(true));
    world.publish(&id("new"), &free()[0]);
    while second.store.view(&id("new")).await.unwrap().is_none() {
        sleep(Duration::from_millis(10)).await;
    }
    world.tasks.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_newest_message_is_not_a_stall() {
    let world = World::new(&[]);
    world.fill();
    world.stream.lose(|sequence, _| sequence == 29);
    let reader = world.reader(world.store());
    world.run(&reader, 0);
    // The reader is at the end, and no owner has responded. A reader that waits for the last sequence would never be
    // ready.
    ready(&reader).await;
    assert_eq!(reader.health.is_serving("bus"), Some(true));
    world.tasks.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_comparison_repairs_a_running_view() {
    let world = World::new(OWNERS);
    world.fill();
    let reader = world.reader(world.store());
    world.run(&reader, 200);
    ready(&reader).await;
    let (a, b) = (id("t-1"), id("t-2"));
    // Committed and sent, but lost by the stream.
    world.commit(&a, &Event::Ticket(ticket(5, 0, None)));
    world.commit(&b, &reserved(reservation(&b, 2, 3, ReservationStatus::Cancelled)));
    let repaired = async {
        loop {
            let (one, other) = (reader.store.view(&a).await.unwrap(), reader.store.view(&b).await.unwrap());
            if one.unwrap().ticket.unwrap().revision == 5 && other.unwrap().ledger.revision == 3 {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(30), repaired).await.expect("found");
    let sequence = reader.store.view(&a).await.unwrap().unwrap().sequence;
    assert!(sequence > 29, "the repair has the sequence {sequence} of the stream");
    world.tasks.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_rebuild_does_not_lose_rows() {
    let world = World::new(OWNERS);
    world.fill();
    let reader = world.reader(world.store());
    world.run(&reader, 0);
    ready(&reader).await;
    world.stream.lose(|sequence, _| sequence <= 25);
    let rebuild = Rebuild::new(reader.clone(), world.tasks.clone()).checked_by(world.completeness(0));
    let mut progress = rebuild.start();
    let ended = |progress: &Progress| !matches!(progress, Progress::Reading { .. });
    let ended = timeout(Duration::from_secs(60), progress.wait_for(ended)).await.expect("in time").unwrap().clone();
    assert!(matches!(ended, Progress::Done { .. }), "{ended:?}");
    assert_eq!(World::counts(&*reader.store).await, ALL);
    world.tasks.stop().await;
}
