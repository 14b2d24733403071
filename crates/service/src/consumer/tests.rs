//! The consumer over the embedded bus and a real store, with a service that fails on request.

mod stall;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use eticket_base::clock::{Clock, SystemClock};
use eticket_bus::memory::Stream;
use eticket_bus_embedded::Embedded;
use eticket_proto::headers;
use eticket_store::{
    Commit, ParkedStore, Work,
    sqlite::{Database, NoTables, Store},
};

use super::*;
use crate::{audit::State, relay::tests::database};

/// Decodes bodies of the form `aggregate=revision` and keeps the newest revision of each aggregate.
pub(crate) struct TestService {
    database: Database,
    newest: Mutex<BTreeMap<String, i64>>,
    /// Events passed to `handle`, in order.
    applied: Mutex<Vec<String>>,
    out: AtomicBool,
    republished: AtomicU64,
}

/// An aggregate and its revision.
impl Event for (String, i64) {
    const FILTERS: &'static [&'static str] = &["eticket.v1.a.*"];

    fn decode(message: &Message) -> Result<Self, String> {
        let text = std::str::from_utf8(&message.body).map_err(|error| error.to_string())?;
        let (aggregate, revision) = text.split_once('=').ok_or("expected aggregate=revision")?;
        Ok((aggregate.to_owned(), revision.parse().map_err(|_| "the revision is not a number")?))
    }

    fn aggregate(&self) -> (String, i64) {
        self.clone()
    }
}

#[async_trait]
impl EventHandler for TestService {
    type Event = (String, i64);

    async fn handle(&self, events: Vec<Incoming<(String, i64)>>) -> Vec<Result<(), batch::Error>> {
        let apply = |incoming: Incoming<(String, i64)>| {
            let (aggregate, revision) = incoming.event;
            self.applied.lock().unwrap().push(format!("{aggregate}={revision}"));
            if self.out.load(Ordering::SeqCst) {
                return Err(batch::Error::Unavailable);
            }
            if aggregate == "poison" {
                return Err(batch::Error::Failed("poison".into()));
            }
            let mut newest = self.newest.lock().unwrap();
            let known = newest.entry(aggregate).or_insert(0);
            *known = revision.max(*known);
            Ok(())
        };
        events.into_iter().map(apply).collect()
    }

    async fn park(&self, parked: Parked) -> Result<(), batch::Error> {
        let apply_batch = &mut |work: &mut Work<()>| work.park(parked.clone());
        Store::<NoTables>::new(self.database.clone()).commit(&(), &[], apply_batch).await.unwrap();
        Ok(())
    }

    async fn missing(&self, events: &[(String, i64)]) -> Result<Vec<bool>, batch::Error> {
        let newest = self.newest.lock().unwrap();
        let known = |aggregate: &String| newest.get(aggregate).copied().unwrap_or(0);
        Ok(events.iter().map(|(aggregate, revision)| known(aggregate) < *revision).collect())
    }
}

/// Number of states of the test service; each page has one state.
pub(crate) const STATES: u64 = 100;

#[async_trait]
impl Owner for TestService {
    async fn count(&self) -> Result<u64, batch::Error> {
        Ok(STATES)
    }

    async fn states(&self, after: &str, _: usize) -> Result<Vec<State>, batch::Error> {
        let number = after.parse::<u64>().map_or(0, |after| after + 1);
        if number == 0 {
            self.republished.fetch_add(1, Ordering::SeqCst);
        }
        let state = State { key: number.to_string(), message: Message::default() };
        Ok(if number < STATES { vec![state] } else { Vec::new() })
    }

    async fn republish(&self, subjects: &[String]) -> Result<u64, batch::Error> {
        Ok(subjects.len() as u64)
    }
}

struct Fixture {
    folder: tempfile::TempDir,
    bus: Arc<Embedded>,
    service: Arc<TestService>,
    consumer: Consumer<TestService>,
}

async fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let database = database(folder.path()).await;
    let bus = Arc::new(Embedded::open(&folder.path().join("bus.db")).await.unwrap());
    let service = service(database);
    let consumer = consumer(bus.clone(), &service);
    Fixture { folder, bus, service, consumer }
}

pub(crate) fn service(database: Database) -> Arc<TestService> {
    Arc::new(TestService {
        database,
        newest: Mutex::default(),
        applied: Mutex::default(),
        out: AtomicBool::new(false),
        republished: AtomicU64::new(0),
    })
}

pub(crate) fn consumer(bus: Arc<dyn Bus>, service: &Arc<TestService>) -> Consumer<TestService> {
    Consumer {
        name: "test",
        bus,
        store: Arc::new(service.database.clone()),
        handler: service.clone(),
        owner: service.clone(),
        clock: Arc::new(SystemClock),
        health: Health::new(["test"]).with_bus(),
    }
}

impl TestService {
    pub(crate) fn newest(&self, aggregate: &str) -> Option<i64> {
        self.newest.lock().unwrap().get(aggregate).copied()
    }
}

impl Fixture {
    async fn publish(&self, bodies: &[&str]) {
        for body in bodies {
            let id = vec![("ce-id".into(), (*body).to_owned())];
            let message = Message { subject: "eticket.v1.a.x".into(), headers: id, body: (*body).to_owned().into() };
            self.bus.publish(message).await.unwrap();
        }
    }

    async fn step(&self, session: &mut Session<'_, TestService>) -> Result<(), Error> {
        let batch = tokio::time::timeout(Duration::from_secs(10), session.next()).await.expect("in time")?;
        session.apply(batch).await
    }

    fn newest(&self, aggregate: &str) -> Option<i64> {
        self.service.newest(aggregate)
    }

    async fn parked(&self) -> Vec<Parked> {
        self.service.database.parked("", 100).await.unwrap()
    }
}

#[tokio::test]
async fn a_batch_applies_only_the_newest_event_of_each_aggregate() {
    let fixture = fixture().await;
    fixture.publish(&["x=1", "x=3", "y=1", "x=2"]).await;
    let mut session = fixture.consumer.attach().await.unwrap();
    fixture.step(&mut session).await.unwrap();
    let mut applied = fixture.service.applied.lock().unwrap().clone();
    applied.sort();
    assert_eq!(applied, ["x=3", "y=1"]);
    drop(session);
    // All four messages are acknowledged, so only new messages follow.
    fixture.publish(&["x=4"]).await;
    let mut session = fixture.consumer.attach().await.unwrap();
    assert_eq!(session.next().await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_undecodable_event_is_parked_and_does_not_block_others() {
    let fixture = fixture().await;
    fixture.publish(&["x=1", "nonsense", "y=2"]).await;
    let mut session = fixture.consumer.attach().await.unwrap();
    fixture.step(&mut session).await.unwrap();
    assert_eq!((fixture.newest("x"), fixture.newest("y")), (Some(1), Some(2)));
    let parked = fixture.parked().await;
    assert_eq!(parked.len(), 1);
    assert_eq!((parked[0].event_id.as_str(), parked[0].reason.as_str()), ("nonsense", "expected aggregate=revision"));
}

#[tokio::test]
async fn a_discarded_event_is_not_parked_again() {
    let fixture = fixture().await;
    fixture.publish(&["nonsense"]).await;
    let mut session = fixture.consumer.attach().await.unwrap();
    fixture.step(&mut session).await.unwrap();
    drop(session);
    assert!(fixture.service.database.discard_parked("nonsense").await.unwrap());
    // The comparison does not request it either, or it would do so in every round.
    let headers = vec![(headers::ID.into(), "nonsense".to_owned())];
    let missing = vec![Message { headers, ..Message::default() }];
    assert_eq!(audit::without_parked(&fixture.service.database, missing).await.unwrap(), []);
    // As `Republish` does: the consumer receives all messages again.
    fixture.bus.restart("test").await.unwrap();
    fixture.publish(&["others"]).await;
    let mut session = fixture.consumer.attach().await.unwrap();
    while fixture.parked().await.is_empty() {
        fixture.step(&mut session).await.unwrap();
    }
    let parked: Vec<_> = fixture.parked().await.into_iter().map(|parked| parked.event_id).collect();
    assert_eq!(parked, ["others"]);
}

#[tokio::test]
async fn an_event_that_fails_repeatedly_is_parked() {
    let fixture = fixture().await;
    fixture.publish(&["poison=1", "x=1"]).await;
    let mut session = fixture.consumer.attach().await.unwrap();
    for attempt in 1..=MAX_DELIVER {
        assert_eq!(fixture.parked().await.len(), 0, "before attempt {attempt}");
        fixture.step(&mut session).await.unwrap();
    }
    let parked = fixture.parked().await;
    assert_eq!((parked.len(), parked[0].attempts, parked[0].reason.as_str()), (1, MAX_DELIVER, "poison"));
    assert_eq!(fixture.newest("x"), Some(1), "others are applied");
}

#[tokio::test]
async fn failures_are_not_counted_while_the_store_is_unavailable() {
    let fixture = fixture().await;
    fixture.publish(&["x=1"]).await;
    fixture.service.out.store(true, Ordering::SeqCst);
    for _ in 0..=MAX_DELIVER {
        let mut session = fixture.consumer.attach().await.unwrap();
        assert!(fixture.step(&mut session).await.is_err());
    }
    assert_eq!(fixture.parked().await.len(), 0);
    fixture.service.out.store(false, Ordering::SeqCst);
    let mut session = fixture.consumer.attach().await.unwrap();
    fixture.step(&mut session).await.unwrap();
    assert_eq!(fixture.newest("x"), Some(1));
}

#[tokio::test]
async fn the_health_of_the_bus_returns_only_after_a_success() {
    let fixture = fixture().await;
    let (consumer, stopping) = (&fixture.consumer, CancellationToken::new());
    let serves = || consumer.health.is_serving("bus") == Some(true);
    fixture.publish(&["x=1"]).await;
    fixture.service.out.store(true, Ordering::SeqCst);
    assert!(consumer.attached(&stopping, true).await.is_err());
    assert!(!serves(), "attaching is not a success");
    fixture.service.out.store(false, Ordering::SeqCst);
    let succeeds = async {
        while !serves() {
            tokio::task::yield_now().await;
        }
        stopping.cancel();
    };
    let (outcome, ()) = tokio::join!(consumer.attached(&stopping, true), succeeds);
    assert!(outcome.is_ok());
    assert_eq!(fixture.newest("x"), Some(1));
}

#[tokio::test]
async fn all_states_are_republished_once_per_stream() {
    let fixture = fixture().await;
    drop(fixture.consumer.attach().await.unwrap());
    drop(fixture.consumer.attach().await.unwrap());
    assert_eq!(fixture.service.republished.load(Ordering::SeqCst), 1, "the first stream is new too");
    fixture.bus.close().await;
    let another = Arc::new(Embedded::open(&fixture.folder.path().join("another.db")).await.unwrap());
    let consumer = consumer(another, &fixture.service);
    drop(consumer.attach().await.unwrap());
    drop(consumer.attach().await.unwrap());
    assert_eq!(fixture.service.republished.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_stream_that_changes_during_the_attach_is_detected() {
    let fixture = fixture().await;
    let stream = Stream::default();
    let consumer = consumer(Arc::new(stream.connect()), &fixture.service);
    stream.wipe_at_attach();
    assert!(matches!(consumer.attach().await, Err(Error::Bus(bus::Error::StreamChanged))));
    drop(consumer.attach().await.unwrap());
    assert_eq!(fixture.service.republished.load(Ordering::SeqCst), 2, "once per stream");
}

#[tokio::test]
async fn a_parked_message_can_be_applied_again() {
    let fixture = fixture().await;
    let message = Message { subject: "eticket.v1.a.x".into(), headers: Vec::new(), body: "x=7".into() };
    let parked =
        Parked { event_id: "e".into(), message, reason: "r".into(), attempts: 1, park_time: SystemClock.now() };
    apply_parked(&*fixture.service, parked.clone()).await.unwrap();
    assert_eq!(fixture.newest("x"), Some(7));
    fixture.service.out.store(true, Ordering::SeqCst);
    assert_eq!(apply_parked(&*fixture.service, parked).await, Err(batch::Error::Unavailable));
}

#[test]
fn backoff_grows_and_is_bounded() {
    assert_eq!(backoff(1), Duration::from_millis(200));
    assert!(backoff(2) > backoff(1));
    assert_eq!(backoff(u32::MAX), RETRY_LONGEST);
}
