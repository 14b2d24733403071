//! The relay over a real outbox, with a bus that fails on request.

use std::{path::Path, sync::Arc};

use eticket_base::clock::SystemClock;
use eticket_bus::memory::Stream;
use eticket_store::{
    Commit, Work,
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
