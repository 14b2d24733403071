//! Tests with two replicas on one schema, and with failing servers.

mod claims;
mod faults;
mod opening;
mod replicas;

use std::{borrow::Cow, collections::BTreeSet, sync::Mutex};

use eticket_base::clock::{ManualClock, SystemClock};
use eticket_bus::Message;
use eticket_local_servers::postgres::Postgres;
use sqlx::{
    Row, SqlSafeStr,
    migrate::{Migration, MigrationType},
};
use tokio::runtime::Handle;

use super::*;
use crate::{
    EncodedResponse, Idempotency, OutboxRow, OutboxStore, ParkedStore, RecordStore, RequestIdReused, Rows,
    StoreLifecycle, contract,
};

const SCHEMA: &str = "numbers";

/// Counters by name.
#[derive(Default)]
struct Numbers;

#[async_trait]
impl Tables for Numbers {
    type Keys = BTreeSet<String>;
    type Rows = Rows<String, i64>;

    async fn lock_in_tx(connection: &mut PgConnection, keys: &BTreeSet<String>) -> Result<Self::Rows, Error> {
        const LOCK: &str = "select name, value from number where name = any($1) order by name for update";
        let mut rows = Rows::default();
        for row in sqlx::query(LOCK).bind(keys.iter().collect::<Vec<_>>()).fetch_all(connection).await? {
            rows.insert_read(row.try_get("name")?, row.try_get("value")?);
        }
        Ok(rows)
    }

    async fn write_in_tx(_: &mut PgConnection, rows: &Self::Rows, changes: &mut Changes) -> Result<(), Error> {
        const UPDATE: &str = "update number set value = new.value
            from unnest($1::text[], $2::bigint[]) as new (name, value) where number.name = new.name";
        const INSERT: &str = "insert into number (name, value) select * from unnest($1::text[], $2::bigint[])";
        let changed: [(&'static str, Vec<_>); 2] =
            [(UPDATE, rows.updated().collect()), (INSERT, rows.made().collect())];
        for (statement, rows) in changed {
            let (names, values): (Vec<&String>, Vec<&i64>) = rows.into_iter().unzip();
            changes.add(statement).bind(names).bind(values);
        }
        Ok(())
    }
}

fn migration(version: i64, text: &'static str) -> Migration {
    Migration::new(version, Cow::Borrowed("of a test"), MigrationType::Simple, text.into_sql_str(), false)
}

fn migrations() -> Migrator {
    const TABLE: &str = "create table number (name text collate \"C\" primary key, value bigint not null)";
    Migrator::with_migrations(vec![migration(101, TABLE)])
}

fn server() -> Postgres {
    Postgres::start().unwrap()
}

fn url_options(server: &Postgres) -> PgConnectOptions {
    options(&server.url("postgres")).unwrap()
}

async fn database(server: &Postgres) -> Database {
    database_with(server, Limits::default()).await
}

async fn database_with(server: &Postgres, limits: Limits) -> Database {
    let clock = Arc::new(SystemClock);
    Database::open_with(&url_options(server), SCHEMA, &migrations(), clock, limits).await.unwrap()
}

async fn store(server: &Postgres) -> Store<Numbers> {
    Store::new(database(server).await)
}

fn keys(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A response that holds a number.
fn response(number: i64) -> EncodedResponse {
    EncodedResponse { type_name: None, bytes: number.to_be_bytes().to_vec().into(), replayed: false }
}

/// Increments a counter and publishes an event.
fn count(work: &mut Work<Rows<String, i64>>, name: &str) -> i64 {
    let value = work.rows.get(&name.to_owned()).copied().unwrap_or_default() + 1;
    work.rows.put(name.to_owned(), value);
    let message = Message { subject: name.to_owned(), headers: Vec::new(), body: value.to_string().into() };
    work.publish(OutboxRow { revision: value, message });
    value
}

/// Increments these counters in one commit, in this order.
async fn count_all(store: &Store<Numbers>, names: &[&str]) -> Result<(), Error> {
    let apply_batch = &mut |work: &mut Work<Rows<String, i64>>| {
        for name in names {
            count(work, name);
        }
    };
    store.commit(&keys(names), &[], apply_batch).await
}

async fn value(store: &Store<Numbers>, name: &str) -> i64 {
    let select = sqlx::query("select coalesce(max(value), 0) from number where name = $1").bind(name);
    store.database.fetch_one(select).await.unwrap().try_get(0).unwrap()
}

/// The revisions of a subject in the outbox, in the order of publishing.
async fn waiting(database: &Database, subject: &str) -> Vec<i64> {
    let select = sqlx::query("select revision from outbox where subject = $1 order by revision, id").bind(subject);
    database.fetch_all(select).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Runs a future to completion within `apply_batch`, which is synchronous.
fn meanwhile<T>(future: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| Handle::current().block_on(future))
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn keeps_the_contract() {
    #[derive(Default)]
    struct Nothing;

    #[async_trait]
    impl Tables for Nothing {
        type Keys = ();
        type Rows = ();

        async fn lock_in_tx(_: &mut PgConnection, (): &()) -> Result<(), Error> {
            Ok(())
        }

        async fn write_in_tx(_: &mut PgConnection, (): &(), _: &mut Changes) -> Result<(), Error> {
            Ok(())
        }
    }

    let server = server();
    let clock = Arc::new(ManualClock::new(chrono::DateTime::from_timestamp(1_000, 123_456_000).unwrap()));
    let none = Migrator::with_migrations(Vec::new());
    let database = Database::open(&url_options(&server), SCHEMA, &none, clock.clone()).await.unwrap();
    contract::suite(contract::Subject {
        housekeeping: Arc::new(database.clone()),
        commits: Arc::new(Store::<Nothing>::new(database.clone())),
        outbox_written: database.outbox_written(),
        clock,
    })
    .await;
}

#[test]
fn limits_leave_room_below_the_deadline_of_a_call() {
    let limits = Limits::default();
    let deadline = eticket_rpc_server::config::LimitsConfig::default().default_deadline();
    assert!(limits.lock < limits.statement && limits.statement < limits.commit && limits.commit < deadline);
    assert!(limits.connect + limits.read < deadline);
    assert!(limits.idle_in_transaction < deadline && limits.idle_session > 10 * deadline);
}
