//! The SQLite store passes the contract suite, and keeps what its files promise.

use std::{borrow::Cow, sync::Barrier};

use bytes::Bytes;
use eticket_base::clock::{ManualClock, SystemClock};
use eticket_bus::Message;
use sqlx::{
    SqlSafeStr,
    migrate::{Migration, MigrationType},
};

use super::*;
use crate::{
    EncodedResponse, Idempotency, OutboxRow, OutboxStore, Parked, ParkedStore, RecordStore, RequestIdReused,
    StoreLifecycle, StreamEpochStore, contract,
};

#[tokio::test]
async fn keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(chrono::DateTime::from_timestamp(1_000, 123_456_000).unwrap()));
    let none = Migrator::with_migrations(Vec::new());
    let database = Database::open(&folder.path().join("test.db"), &none, clock.clone()).await.unwrap();
    contract::suite(contract::Subject {
        housekeeping: Arc::new(database.clone()),
        commits: Arc::new(Store::<NoTables>::new(database.clone())),
        outbox_written: database.outbox_written(),
        clock,
    })
    .await;
}

async fn open(path: &Path) -> Result<Database, Error> {
    Database::open(path, &Migrator::with_migrations(Vec::new()), Arc::new(SystemClock)).await
}

/// What a newer program has: one migration more, which adds a column to each table that is written.
fn newer() -> Migrator {
    const COLUMNS: &str =
        "alter table outbox add column more text; alter table record add column more text not null default '';
        alter table parked add column more text; alter table stream add column more text";
    let text = COLUMNS.into_sql_str();
    let add = Migration::new(199, Cow::Borrowed("of a test"), MigrationType::Simple, text, false);
    Migrator::with_migrations(vec![add])
}

#[tokio::test]
async fn an_older_program_opens_a_file_that_a_newer_one_has_migrated() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.db");
    Database::open(&path, &newer(), Arc::new(SystemClock)).await.unwrap().close().await;
    let database = open(&path).await.unwrap();
    let request = Idempotency { request_id: Uuid::new_v4(), hash: [1; 32] };
    let message = Message { subject: "x".to_owned(), headers: Vec::new(), body: Bytes::from_static(b"1") };
    let parked = Parked {
        event_id: "e".to_owned(),
        message: message.clone(),
        reason: "of a test".to_owned(),
        attempts: 1,
        park_time: chrono::DateTime::UNIX_EPOCH,
    };
    let response = EncodedResponse {
        type_name: Some("a type".to_owned()),
        bytes: Bytes::from_static(b"response"),
        replayed: false,
    };
    let apply_batch = &mut |work: &mut Work<()>| {
        work.park(parked.clone());
        let ran = work.run::<RequestIdReused>(Some(request), |work| {
            work.publish(OutboxRow { revision: 1, message: message.clone() });
            Ok(response.clone())
        });
        assert!(ran.is_ok());
    };
    let store = Store::<NoTables>::new(database.clone());
    store.commit(&(), &[request.request_id], apply_batch).await.unwrap();
    database.set_stream_epoch("a").await.unwrap();
    assert_eq!(database.record(request.request_id).await.unwrap().unwrap().response, response);
    assert_eq!(database.outbox_depth().await.unwrap(), 1);
    assert_eq!(database.parked("", 2).await.unwrap().len(), 1);
    // The newer program finds its own schema again.
    database.close().await;
    Database::open(&path, &newer(), Arc::new(SystemClock)).await.unwrap();
}

#[tokio::test]
async fn a_file_that_can_be_made_anew_is_refused_if_a_newer_program_has_migrated_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.db");
    let open = async |migrations: Migrator| {
        Database::open_with(&path, &migrations, Arc::new(SystemClock), Durability::Unsynced).await
    };
    open(newer()).await.unwrap().close().await;
    let refused = open(Migrator::with_migrations(Vec::new())).await.map(drop).unwrap_err();
    assert!(matches!(refused, Error::Unavailable(sqlx::Error::Migrate(_))), "{refused:?}");
}

#[tokio::test]
async fn a_file_is_locked_until_its_database_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.db");
    let first = open(&path).await.unwrap();
    let refused = open(&path).await.map(drop).unwrap_err();
    assert!(eticket_base::error::chain(&refused).contains("in use by another process"), "{refused}");
    first.ping().await.unwrap();
    first.close().await;
    open(&path).await.unwrap().ping().await.unwrap();
}

#[tokio::test]
async fn nothing_is_written_to_a_removed_file() {
    let folder = tempfile::tempdir().unwrap();
    let (path, aside) = (folder.path().join("test.db"), folder.path().join("aside.db"));
    let database = open(&path).await.unwrap();
    database.set_stream_epoch("a").await.unwrap();
    std::fs::rename(&path, &aside).unwrap();
    assert!(matches!(database.ping().await, Err(Error::Unavailable(_))), "health reports it");
    assert!(matches!(database.set_stream_epoch("b").await, Err(Error::Unavailable(_))));
    std::fs::rename(&aside, &path).unwrap();
    database.ping().await.unwrap();
    assert_eq!(database.stream_epoch().await.unwrap().as_deref(), Some("a"));
    database.set_stream_epoch("c").await.unwrap();
}

#[tokio::test]
async fn a_transaction_that_panics_is_rolled_back_and_the_next_one_runs() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(&folder.path().join("test.db")).await.unwrap();
    database.set_stream_epoch("a").await.unwrap();
    let panics = database.file.write(Durability::Synced, |transaction| -> Result<(), Error> {
        transaction.execute("delete from stream", [])?;
        panic!("of a test")
    });
    assert!(matches!(panics.outcome().await, Err(Error::Unavailable(_))));
    assert_eq!(database.stream_epoch().await.unwrap().as_deref(), Some("a"));
    database.set_stream_epoch("b").await.unwrap();
    assert_eq!(database.stream_epoch().await.unwrap().as_deref(), Some("b"));
}

#[tokio::test]
async fn commits_are_synced_also_after_housekeeping() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(&folder.path().join("test.db")).await.unwrap();
    let synchronous = async |durability| {
        let read = |connection: &mut Connection| {
            Ok(connection.pragma_query_value(None, "synchronous", |row| row.get::<_, i64>(0))?)
        };
        database.file.with_connection(durability, read).outcome().await.unwrap()
    };
    let (normal, full) = (1, 2);
    assert_eq!(synchronous(Durability::Unsynced).await, normal);
    assert_eq!(synchronous(Durability::Synced).await, full);
}

/// Waits in its commit until a test goes on.
struct Waits;

/// Where [`Waits`] and its test meet: when the rows are written, and when the caller is gone.
static MEETING: Barrier = Barrier::new(2);

impl Tables for Waits {
    type Keys = ();
    type Rows = ();

    fn read_in_tx(_: &Transaction<'_>, (): &()) -> Result<(), Error> {
        Ok(())
    }

    fn write_in_tx(_: &Transaction<'_>, (): &()) -> Result<(), Error> {
        MEETING.wait();
        MEETING.wait();
        Ok(())
    }
}

#[tokio::test]
async fn a_commit_whose_caller_is_gone_is_rolled_back() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(&folder.path().join("test.db")).await.unwrap();
    let store = Store::<Waits>::new(database.clone());
    let commit = tokio::spawn(async move {
        let message = Message { subject: "x".to_owned(), ..Message::default() };
        let apply_batch = &mut |work: &mut Work<()>| work.publish(OutboxRow { revision: 1, message: message.clone() });
        store.commit(&(), &[], apply_batch).await
    });
    tokio::task::spawn_blocking(|| MEETING.wait()).await.unwrap();
    commit.abort();
    assert!(commit.await.unwrap_err().is_cancelled());
    tokio::task::spawn_blocking(|| MEETING.wait()).await.unwrap();
    assert_eq!(database.outbox_depth().await.unwrap(), 0);
    // After this write, the one before has ended.
    database.set_stream_epoch("a").await.unwrap();
    assert_eq!(database.outbox_depth().await.unwrap(), 0);
}

#[tokio::test]
async fn a_read_only_file_fails_the_ping() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(&folder.path().join("test.db")).await.unwrap();
    database.ping().await.unwrap();
    // Simulates a file without write permission, which the user of these tests might bypass.
    let query_only = |connection: &mut Connection| Ok(connection.pragma_update(None, "query_only", true)?);
    database.file.with_connection(Durability::Unsynced, query_only).outcome().await.unwrap();
    assert!(matches!(database.ping().await, Err(Error::Unavailable(_))));
    assert_eq!(database.outbox_depth().await.unwrap(), 0, "reading still works");
}

#[tokio::test]
async fn rows_of_an_earlier_run_are_claimed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.db");
    let none = Migrator::with_migrations(Vec::new());
    let open = || Database::open(&path, &none, Arc::new(SystemClock));
    let database = open().await.unwrap();
    let row = |revision| OutboxRow {
        revision,
        message: Message { subject: "a".to_owned(), body: Bytes::new(), headers: Vec::new() },
    };
    let store = Store::<NoTables>::new(database.clone());
    for revision in 1..=2 {
        store.commit(&(), &[], &mut |work: &mut Work<()>| work.publish(row(revision))).await.unwrap();
    }
    database.close().await;
    drop((store, database));
    let database = open().await.unwrap();
    assert_eq!(database.outbox_depth().await.unwrap(), 2);
    let claimed: Vec<i64> =
        database.claim_outbox(10).await.unwrap().subjects().iter().flatten().map(|row| row.revision).collect();
    assert_eq!(claimed, [1, 2]);
}
