//! The relay over a real outbox, with a bus that fails on request.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use eticket_base::clock::SystemClock;
use eticket_bus::{Consumer, Reader, Requests, StreamState};
use eticket_store::{
    Commit, Work,
    sqlite::{Database, Store, Tables},
};
use sqlx::{SqliteConnection, migrate::Migrator};

use super::*;

/// Records published messages, unless it is set to fail.
#[derive(Default)]
struct TestBus {
    published: Mutex<Vec<Message>>,
    /// Number of published messages after which it fails.
    fails_at: AtomicU64,
    /// The next message is stored, but its acknowledgement is lost.
    loses_answer: AtomicBool,
    in_flight: Mutex<Vec<String>>,
}

#[async_trait]
impl Bus for TestBus {
    async fn publish(&self, message: Message) -> Result<u64, bus::Error> {
        let subject = message.subject.clone();
        {
            let mut in_flight = self.in_flight.lock().unwrap();
            assert!(!in_flight.contains(&subject), "two messages of one subject are in flight");
            in_flight.push(subject.clone());
        }
        tokio::task::yield_now().await;
        self.in_flight.lock().unwrap().retain(|other| *other != subject);
        let mut published = self.published.lock().unwrap();
        if published.len() as u64 >= self.fails_at.load(Ordering::SeqCst) {
            return Err(bus::Error::Unavailable("unavailable".into()));
        }
        published.push(message);
        if self.loses_answer.swap(false, Ordering::SeqCst) {
            return Err(bus::Error::Unavailable("the acknowledgement is lost".into()));
        }
        Ok(published.len() as u64)
    }

    async fn state(&self) -> Result<StreamState, bus::Error> {
        unreachable!("the relay only publishes")
    }
    async fn attach(&self, _: &str, _: &[&str]) -> Result<Box<dyn Consumer>, bus::Error> {
        unreachable!("the relay only publishes")
    }
    async fn restart(&self, _: &str) -> Result<(), bus::Error> {
        unreachable!("the relay only publishes")
    }
    async fn lag(&self, _: &str) -> Result<Option<u64>, bus::Error> {
        unreachable!("the relay only publishes")
    }
    async fn read(&self, _: u64) -> Result<Box<dyn Reader>, bus::Error> {
        unreachable!("the relay only publishes")
    }
    async fn message_at(&self, _: u64) -> Result<Option<Message>, bus::Error> {
        unreachable!("the relay only publishes")
    }
    async fn history(&self, _: &[&str], _: Option<u64>, _: usize) -> Result<bus::History, bus::Error> {
        unreachable!("the relay only publishes")
    }
    async fn serve(&self, _: &str) -> Result<Box<dyn Requests>, bus::Error> {
        unreachable!("the relay only publishes")
    }
    async fn request(&self, _: &str, _: bytes::Bytes) -> Result<Option<bytes::Bytes>, bus::Error> {
        unreachable!("the relay only publishes")
    }
    async fn close(&self) {}
}

/// A store without tables.
pub(crate) struct NoTables;

#[async_trait]
impl Tables for NoTables {
    type Keys = ();
    type Rows = ();

    async fn read_in_tx(_: &mut SqliteConnection, (): &()) -> Result<(), Error> {
        Ok(())
    }

    async fn write_in_tx(_: &mut SqliteConnection, (): &()) -> Result<(), Error> {
        Ok(())
    }
}

pub(crate) async fn database(folder: &Path) -> Database {
    let none = Migrator::with_migrations(Vec::new());
    Database::open(&folder.join("test.db"), &none, Arc::new(SystemClock)).await.unwrap()
}

async fn write(database: &Database, rows: &[(&str, i64)]) {
    let store = Store::<NoTables>::new(database.clone());
    let apply_batch = &mut |work: &mut Work<()>| {
        for (subject, revision) in rows {
            let message =
                Message { subject: (*subject).to_owned(), headers: Vec::new(), body: revision.to_string().into() };
            work.publish(OutboxRow { revision: *revision, message });
        }
    };
    store.commit(&(), &[], apply_batch).await.unwrap();
}

fn relay(bus: &Arc<TestBus>, database: &Database) -> Relay {
    let health = Health::new(["test"]).with_bus();
    Relay::new("test", bus.clone(), Arc::new(database.clone()), database.outbox_written(), health)
}

fn sent(bus: &TestBus, subject: &str) -> Vec<String> {
    let published = bus.published.lock().unwrap();
    let of_subject = published.iter().filter(|message| message.subject == subject);
    of_subject.map(|message| String::from_utf8(message.body.to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn the_rows_of_a_subject_are_sent_in_the_order_of_revisions() {
    let folder = tempfile::tempdir().unwrap();
    let (database, bus) = (database(folder.path()).await, Arc::new(TestBus::default()));
    bus.fails_at.store(u64::MAX, Ordering::SeqCst);
    write(&database, &[("a", 2), ("b", 1), ("a", 3)]).await;
    // The lowest revision is written last, as by another, slower writer of the store.
    write(&database, &[("a", 1)]).await;
    let relay = relay(&bus, &database);
    assert_eq!(relay.run_once().await, Outcome::Sent(4));
    assert_eq!((sent(&bus, "a"), sent(&bus, "b")), (vec!["1".into(), "2".into(), "3".into()], vec!["1".to_owned()]));
    assert_eq!(relay.run_once().await, Outcome::Idle);
    assert_eq!(database.outbox_depth().await.unwrap(), 0);
}

#[tokio::test]
async fn unacknowledged_rows_are_kept_and_sent_later() {
    let folder = tempfile::tempdir().unwrap();
    let (database, bus) = (database(folder.path()).await, Arc::new(TestBus::default()));
    bus.fails_at.store(2, Ordering::SeqCst);
    write(&database, &[("a", 1), ("a", 2), ("a", 3), ("a", 4)]).await;
    let relay = relay(&bus, &database);
    relay.health.set_bus(true);
    assert_eq!(relay.run_once().await, Outcome::Failed);
    assert_eq!(database.outbox_depth().await.unwrap(), 2, "only acknowledged rows are deleted");
    assert_eq!(relay.health.is_serving("bus"), Some(false));
    bus.fails_at.store(u64::MAX, Ordering::SeqCst);
    assert_eq!(relay.run_once().await, Outcome::Sent(2));
    assert_eq!(relay.health.is_serving("bus"), Some(true), "without waiting for another event");
    assert_eq!(sent(&bus, "a"), ["1", "2", "3", "4"]);
}

#[tokio::test]
async fn a_row_that_is_sent_again_has_another_publication_id() {
    let folder = tempfile::tempdir().unwrap();
    let (database, bus) = (database(folder.path()).await, Arc::new(TestBus::default()));
    bus.fails_at.store(u64::MAX, Ordering::SeqCst);
    bus.loses_answer.store(true, Ordering::SeqCst);
    write(&database, &[("a", 1)]).await;
    let relay = relay(&bus, &database);
    assert_eq!(relay.run_once().await, Outcome::Failed);
    assert_eq!(relay.run_once().await, Outcome::Sent(1));
    let published = bus.published.lock().unwrap();
    let ids: Vec<Uuid> = published
        .iter()
        .map(|message| message.header(headers::PUBLICATION_ID)?.parse().ok())
        .map(Option::unwrap)
        .collect();
    assert!(ids.len() == 2 && ids[0] != ids[1], "{ids:?}");
}

#[tokio::test]
async fn a_stopping_relay_sends_its_rows_unless_the_bus_fails() {
    let folder = tempfile::tempdir().unwrap();
    let (database, bus) = (database(folder.path()).await, Arc::new(TestBus::default()));
    bus.fails_at.store(1, Ordering::SeqCst);
    write(&database, &[("a", 1), ("b", 1)]).await;
    let stopping = CancellationToken::new();
    stopping.cancel();
    relay(&bus, &database).run(stopping.clone()).await;
    assert_eq!(database.outbox_depth().await.unwrap(), 1, "one row was sent before the bus failed");
    bus.fails_at.store(u64::MAX, Ordering::SeqCst);
    relay(&bus, &database).run(stopping).await;
    assert_eq!(database.outbox_depth().await.unwrap(), 0);
}

#[tokio::test]
async fn a_commit_wakes_the_relay() {
    let folder = tempfile::tempdir().unwrap();
    let (database, bus) = (database(folder.path()).await, Arc::new(TestBus::default()));
    bus.fails_at.store(u64::MAX, Ordering::SeqCst);
    let woken = database.outbox_written();
    write(&database, &[("a", 1)]).await;
    tokio::time::timeout(std::time::Duration::from_secs(5), woken.notified()).await.expect("notified");
    assert_eq!(relay(&bus, &database).run_once().await, Outcome::Sent(1));
}

#[test]
fn an_envelope_is_a_cloud_event() {
    let trace = eticket_base::telemetry::TraceContext::new_root();
    let envelope = Envelope {
        owner: "ticket",
        aggregate: "t-1".into(),
        ticket_id: "t-1",
        subject: "eticket.v1.ticket.t-1".into(),
        event_type: "TicketRegistered",
        revision: 4,
        time: chrono::DateTime::from_timestamp(0, 5_000).unwrap(),
        trace: &trace,
        body: vec![1],
    };
    let row = envelope.into_row();
    for (name, value) in [
        ("ce-id", "ticket/t-1/4"),
        ("ce-type", "eticket.event.v1.TicketRegistered"),
        ("ce-source", "/eticket/ticket"),
        ("ce-time", "1970-01-01T00:00:00.000005Z"),
        ("ce-subject", "t-1"),
        ("traceparent", &trace.traceparent),
        ("eticket-correlation-id", &trace.correlation_id),
    ] {
        assert_eq!(row.message.header(name), Some(value), "{name}");
    }
    assert_eq!((row.revision, row.message.subject.as_str()), (4, "eticket.v1.ticket.t-1"));
}
