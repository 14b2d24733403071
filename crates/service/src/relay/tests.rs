//! The relay over a real outbox, with a bus that fails on request.

use std::{path::Path, sync::Arc};

use eticket_base::clock::SystemClock;
use eticket_bus::memory::Stream;
use eticket_store::{
    Commit, OutboxLimits, StoreLifecycle, Work, memory,
    sqlite::{Database, NoTables, Store},
};
use sqlx::migrate::Migrator;

use super::*;

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

fn relay(stream: &Stream, database: &Database) -> Relay {
    let health = Health::new(["test"]).with_bus();
    Relay::new("test", Arc::new(stream.connect()), Arc::new(database.clone()), database.outbox_written(), health)
}

fn sent(stream: &Stream, subject: &str) -> Vec<String> {
    let published = stream.messages();
    let of_subject = published.iter().filter(|(_, message)| message.subject == subject);
    of_subject.map(|(_, message)| String::from_utf8(message.body.to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn the_rows_of_a_subject_are_sent_in_the_order_of_revisions() {
    let folder = tempfile::tempdir().unwrap();
    let (database, stream) = (database(folder.path()).await, Stream::default());
    write(&database, &[("a", 2), ("b", 1), ("a", 3)]).await;
    // The lowest revision is written last, as by another, slower writer of the store.
    write(&database, &[("a", 1)]).await;
    let relay = relay(&stream, &database);
    assert_eq!(relay.run_once().await, Outcome::Sent(4));
    assert_eq!(
        (sent(&stream, "a"), sent(&stream, "b")),
        (vec!["1".into(), "2".into(), "3".into()], vec!["1".to_owned()])
    );
    assert_eq!(relay.run_once().await, Outcome::Idle);
    assert_eq!(database.outbox_depth().await.unwrap(), 0);
}

#[tokio::test]
async fn unacknowledged_rows_are_kept_and_sent_later() {
    let folder = tempfile::tempdir().unwrap();
    let (database, stream) = (database(folder.path()).await, Stream::default());
    stream.refuse_publication_after(2);
    write(&database, &[("a", 1), ("a", 2), ("a", 3), ("a", 4)]).await;
    let relay = relay(&stream, &database);
    relay.health.set_bus(true);
    assert_eq!(relay.run_once().await, Outcome::Failed);
    assert_eq!(database.outbox_depth().await.unwrap(), 2, "only acknowledged rows are deleted");
    assert_eq!(relay.health.is_serving("bus"), Some(false));
    assert_eq!(relay.run_once().await, Outcome::Sent(2));
    assert_eq!(relay.health.is_serving("bus"), Some(true), "without waiting for another event");
    // A relay that sends several rows of a subject at a time would have sent the last row before the refused one.
    assert_eq!(sent(&stream, "a"), ["1", "2", "3", "4"]);
}

#[tokio::test]
async fn a_row_that_is_sent_again_has_another_publication_id() {
    let folder = tempfile::tempdir().unwrap();
    let (database, stream) = (database(folder.path()).await, Stream::default());
    stream.lose_next_acknowledgement();
    write(&database, &[("a", 1)]).await;
    let relay = relay(&stream, &database);
    assert_eq!(relay.run_once().await, Outcome::Failed);
    assert_eq!(relay.run_once().await, Outcome::Sent(1));
    let published = stream.messages();
    let ids: Vec<Uuid> = published
        .iter()
        .map(|(_, message)| message.header(headers::PUBLICATION_ID)?.parse().ok())
        .map(Option::unwrap)
        .collect();
    assert!(ids.len() == 2 && ids[0] != ids[1], "{ids:?}");
}

/// The event of a ticket.
fn ticket(revision: i64, trace: &eticket_base::telemetry::TraceContext) -> Envelope<'_> {
    Envelope {
        owner: "ticket",
        aggregate: "t-1".into(),
        ticket_id: "t-1",
        subject: "eticket.v1.ticket.t-1".into(),
        event_type: "TicketRegistered",
        revision,
        time: chrono::DateTime::UNIX_EPOCH,
        trace,
        body: Vec::new(),
    }
}

#[tokio::test]
async fn a_row_that_is_on_the_stream_is_not_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let (database, stream) = (database(folder.path()).await, Stream::default());
    let trace = eticket_base::telemetry::TraceContext::new_root();
    let row = |revision| ticket(revision, &trace);
    let store = Store::<NoTables>::new(database.clone());
    let apply_batch = &mut |work: &mut Work<()>| work.publish(row(1).into_row());
    store.commit(&(), &[], apply_batch).await.unwrap();
    stream.lose_next_acknowledgement();
    let relay = relay(&stream, &database);
    assert_eq!(relay.run_once().await, Outcome::Failed);
    // Another process has sent a newer state meanwhile.
    stream.append(row(2).into_row().message);
    assert_eq!(relay.run_once().await, Outcome::Sent(1));
    assert_eq!((stream.messages().len(), database.outbox_depth().await.unwrap()), (2, 0));
}

const INTERVAL: Duration = Duration::from_secs(1);
/// After this time, a message is durable, and its row is deleted.
const LONG_ENOUGH: Duration = Duration::from_millis(2_250);

async fn rows(database: &Database) -> i64 {
    database.count("select count(*) from outbox").await.unwrap()
}

/// A relay that has sent one row to a bus that syncs later.
async fn sent_to_a_late_bus(database: &Database, stream: &Stream) -> Relay {
    tokio::time::pause();
    stream.sync_after(INTERVAL);
    write(database, &[("a", 1)]).await;
    let relay = relay(stream, database);
    assert_eq!(relay.run_once().await, Outcome::Sent(1));
    relay
}

#[tokio::test]
async fn rows_stay_until_their_messages_are_durable() {
    let folder = tempfile::tempdir().unwrap();
    let (database, stream) = (database(folder.path()).await, Stream::default());
    let relay = sent_to_a_late_bus(&database, &stream).await;
    assert_eq!(database.outbox_depth().await.unwrap(), 0, "it does not wait any more");
    tokio::time::advance(2 * INTERVAL).await;
    assert_eq!((relay.run_once().await, rows(&database).await), (Outcome::Idle, 1));
    tokio::time::advance(LONG_ENOUGH - 2 * INTERVAL).await;
    assert_eq!((relay.run_once().await, rows(&database).await), (Outcome::Idle, 0));
    assert_eq!(sent(&stream, "a"), ["1"]);
}

#[tokio::test]
async fn rows_that_another_server_process_has_acknowledged_are_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let (database, stream) = (database(folder.path()).await, Stream::default());
    let relay = sent_to_a_late_bus(&database, &stream).await;
    // The message is still there, but nobody knows for how long.
    stream.crash(|_| 0);
    assert_eq!(relay.run_once().await, Outcome::Sent(1));
    assert_eq!(sent(&stream, "a"), ["1", "1"]);
    tokio::time::advance(LONG_ENOUGH).await;
    assert_eq!((relay.run_once().await, rows(&database).await), (Outcome::Idle, 0));
}

#[tokio::test]
async fn rows_whose_messages_are_lost_are_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let (database, stream) = (database(folder.path()).await, Stream::default());
    let relay = sent_to_a_late_bus(&database, &stream).await;
    // The server process is the same, as if another one of its cluster had the stream.
    stream.lose_last(1);
    tokio::time::advance(LONG_ENOUGH).await;
    assert_eq!(relay.run_once().await, Outcome::Sent(1));
    assert_eq!((sent(&stream, "a"), rows(&database).await), (vec!["1".to_owned()], 1));
    tokio::time::advance(LONG_ENOUGH).await;
    assert_eq!((relay.run_once().await, rows(&database).await), (Outcome::Idle, 0));
}

#[tokio::test]
async fn the_loss_of_the_last_message_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let (database, stream) = (database(folder.path()).await, Stream::default());
    let relay = sent_to_a_late_bus(&database, &stream).await;
    write(&database, &[("b", 1)]).await;
    assert_eq!(relay.run_once().await, Outcome::Sent(1));
    stream.lose_last(1);
    tokio::time::advance(LONG_ENOUGH).await;
    assert_eq!(relay.run_once().await, Outcome::Sent(2));
    assert_eq!((sent(&stream, "a").len(), sent(&stream, "b").len()), (2, 1));
}

#[tokio::test]
async fn a_message_that_newer_ones_have_displaced_is_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let (database, stream) = (database(folder.path()).await, Stream::default());
    stream.keep_per_subject(1);
    let relay = sent_to_a_late_bus(&database, &stream).await;
    stream.append(stream.messages().pop().map(|(_, message)| (*message).clone()).unwrap());
    tokio::time::advance(LONG_ENOUGH).await;
    assert_eq!((relay.run_once().await, rows(&database).await), (Outcome::Idle, 0));
}

/// A store without rows of its own.
#[derive(Default, Clone)]
struct NoRows;

impl memory::Tables for NoRows {
    type Keys = ();
    type Rows = ();

    fn locks(&self, (): &()) -> BTreeSet<String> {
        BTreeSet::new()
    }

    fn read(&self, (): &()) {}

    fn write(&mut self, (): &()) -> Result<(), Error> {
        Ok(())
    }
}

#[tokio::test]
async fn old_rows_of_another_process_do_not_push_out_the_newest_state() {
    let (dead, stream) = (memory::Store::<NoRows>::new(Arc::new(SystemClock)), Stream::default());
    let trace = eticket_base::telemetry::TraceContext::new_root();
    let row = |revision| ticket(revision, &trace).into_row();
    let apply_batch = &mut |work: &mut Work<()>| (1..=40).for_each(|revision| work.publish(row(revision)));
    dead.commit(&(), &[], apply_batch).await.unwrap();
    // Its rows come in pages of one, as in a large backlog.
    let limits = OutboxLimits { rows: 1, page: 1, newest: 1 };
    let store = dead.process(Arc::new(SystemClock), Arc::new(memory::NoSteps)).with_outbox_limits(limits);
    dead.close().await;
    // A third process has sent the newest state.
    stream.append(row(41).message);
    let health = Health::new(["test"]).with_bus();
    let outbox: Arc<dyn OutboxStore> = Arc::new(store.clone());
    let relay = Relay::new("test", Arc::new(stream.connect()), outbox, store.outbox_written(), health);
    for _ in 0..40 {
        assert_eq!(relay.run_once().await, Outcome::Sent(1));
    }
    assert_eq!((relay.run_once().await, store.outbox_rows()), (Outcome::Idle, 0));
    assert_eq!(stream.messages().len(), 2, "the newest, and the first row that was sent without a look");
}

#[tokio::test]
async fn a_stopping_relay_sends_its_rows_unless_the_bus_fails() {
    let folder = tempfile::tempdir().unwrap();
    let (database, stream) = (database(folder.path()).await, Stream::default());
    stream.refuse_publication_after(1);
    write(&database, &[("a", 1), ("b", 1)]).await;
    let stopping = CancellationToken::new();
    stopping.cancel();
    relay(&stream, &database).run(stopping.clone()).await;
    assert_eq!(database.outbox_depth().await.unwrap(), 1, "one row was sent before the bus failed");
    relay(&stream, &database).run(stopping).await;
    assert_eq!(database.outbox_depth().await.unwrap(), 0);
}

#[tokio::test]
async fn a_commit_wakes_the_relay() {
    let folder = tempfile::tempdir().unwrap();
    let (database, stream) = (database(folder.path()).await, Stream::default());
    let woken = database.outbox_written();
    write(&database, &[("a", 1)]).await;
    tokio::time::timeout(std::time::Duration::from_secs(5), woken.notified()).await.expect("notified");
    assert_eq!(relay(&stream, &database).run_once().await, Outcome::Sent(1));
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
