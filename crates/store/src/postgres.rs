//! The store on PostgreSQL: one schema per service, shared by its replicas.
//!
//! A process has one connection for commits, because it has one writer, and two small pools, so that reads do not wait
//! for outbox claims and vice versa. Everything has a limit below the deadline of calls: statements and locks on the
//! server, and all operations in this process, in case the server does not respond at all.

mod bookkeeping;
mod changes;
mod fault;
pub mod inspect;
mod joined;
mod migrate;
mod outbox;
mod session;
mod table;
#[cfg(test)]
mod tests;
mod url;
mod writer;

use std::{
    future::Future,
    io,
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use async_trait::async_trait;
use eticket_base::clock::SharedClock;
use sqlx::{
    PgConnection, PgPool, Postgres,
    migrate::Migrator,
    postgres::{PgArguments, PgConnectOptions, PgRow},
    query::Query,
};
use tokio::sync::{Mutex, Notify};
use uuid::Uuid;

pub(super) use self::fault::is_caused_by_data;
pub use self::{
    bookkeeping::record,
    changes::Changes,
    joined::Joined,
    migrate::OpenError,
    table::{Column, Table, each},
    url::options,
};
use self::{
    session::Limits,
    writer::{Session, Writer},
};
use super::{
    ApplyBatch, Commit, Error, WaitingRow, Work,
    handover::{self, Handover},
};

/// Maximum number of attempts per batch, if others insert its keys or lock its rows in another order.
const ATTEMPTS: u32 = 5;

/// The schema of one service in a database. Clones share its connections.
#[derive(Clone)]
pub struct Database {
    writer: Arc<Mutex<Writer>>,
    /// The number of the session of `writer`, for those who must not wait for a commit.
    session: Arc<AtomicI64>,
    readers: PgPool,
    housekeepers: PgPool,
    outbox_written: Arc<Notify>,
    handover: Arc<Handover>,
    search: Arc<outbox::Search>,
    clock: SharedClock,
    limits: Limits,
}

impl Database {
    /// Creates the schema if it does not exist, and applies the common migrations and `migrations`, whose versions must
    /// be above 100. Unknown migrations are ignored: a newer program has applied them.
    ///
    /// # Errors
    /// `OpenError`, which tells whether a retry can help.
    pub async fn open(
        options: &PgConnectOptions,
        schema: &'static str,
        migrations: &Migrator,
        clock: SharedClock,
    ) -> Result<Self, OpenError> {
        Self::open_with(options, schema, migrations, clock, Limits::default()).await
    }

    async fn open_with(
        options: &PgConnectOptions,
        schema: &'static str,
        migrations: &Migrator,
        clock: SharedClock,
        limits: Limits,
    ) -> Result<Self, OpenError> {
        migrate::migrate(options, schema, migrations, &limits).await?;
        let writer = Writer::new(session::commit_options(options, schema, &limits), limits.connect);
        Ok(Self {
            session: writer.newest(),
            writer: Arc::new(Mutex::new(writer)),
            readers: session::readers(options, schema, &limits),
            housekeepers: session::housekeepers(options, schema, &limits),
            outbox_written: Arc::new(Notify::new()),
            handover: Arc::new(Handover::new(handover::Limits::default())),
            search: Arc::default(),
            clock,
            limits,
        })
    }

    /// Notified when a commit of this process has written outbox rows.
    pub fn outbox_written(&self) -> Arc<Notify> {
        self.outbox_written.clone()
    }

    /// Reads outside of a commit. Sees everything committed before.
    ///
    /// # Errors
    /// `Unavailable` if the server does not respond in time.
    pub async fn fetch_all(&self, query: Query<'_, Postgres, PgArguments>) -> Result<Vec<PgRow>, Error> {
        within(self.limits.read, query.fetch_all(&self.readers)).await
    }

    /// Like [`Self::fetch_all`], for one row that may not exist.
    ///
    /// # Errors
    /// Like [`Self::fetch_all`].
    pub async fn fetch_optional(&self, query: Query<'_, Postgres, PgArguments>) -> Result<Option<PgRow>, Error> {
        within(self.limits.read, query.fetch_optional(&self.readers)).await
    }

    /// Like [`Self::fetch_all`], for one row that always exists.
    ///
    /// # Errors
    /// Like [`Self::fetch_all`].
    pub async fn fetch_one(&self, query: Query<'_, Postgres, PgArguments>) -> Result<PgRow, Error> {
        within(self.limits.read, query.fetch_one(&self.readers)).await
    }
}

/// Limits a statement: a frozen or disconnected server does not end it.
async fn within<T>(limit: Duration, answer: impl Future<Output = sqlx::Result<T>>) -> Result<T, Error> {
    Ok(tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| Err(timed_out()))?)
}

fn timed_out() -> sqlx::Error {
    sqlx::Error::Io(io::ErrorKind::TimedOut.into())
}

/// How the rows of a service are read and written within a commit. Processes of other versions share the schema, so
/// statements name their columns: an additional column must not affect them.
#[async_trait]
pub trait Tables: Send + Sync + 'static {
    /// Names the rows that a batch needs.
    type Keys: Send + Sync;
    /// The rows of the service.
    type Rows: Send + Sync;

    /// Locks the rows of `keys` in the order of their ids, which is the same in every process, and reads them under the
    /// lock.
    async fn lock_in_tx(connection: &mut PgConnection, keys: &Self::Keys) -> Result<Self::Rows, Error>;

    /// Adds the statements that write the changed rows, or runs those that must come before the others. New rows are
    /// inserted, not upserted: if another process has inserted the same key, the conflict must be detected.
    async fn write_in_tx(connection: &mut PgConnection, rows: &Self::Rows, changes: &mut Changes) -> Result<(), Error>;
}

/// The store of a service on PostgreSQL.
pub struct Store<T> {
    /// The schema.
    pub database: Database,
    /// What the tables keep in memory.
    pub tables: T,
}

impl<T: Default> Store<T> {
    /// Creates a store that keeps its rows in this schema.
    pub fn new(database: Database) -> Self {
        Self { database, tables: T::default() }
    }
}

#[async_trait]
impl<T: Tables> Commit for Store<T> {
    type Keys = T::Keys;
    type Rows = T::Rows;

    async fn commit(
        &self,
        keys: &T::Keys,
        requests: &[Uuid],
        apply_batch: ApplyBatch<'_, T::Rows>,
    ) -> Result<(), Error> {
        let mut writer = self.database.writer.lock().await;
        let attempts = async {
            for _ in 1..ATTEMPTS {
                match self.attempt(&mut writer, keys, requests, apply_batch).await {
                    Err(error) if fault::is_conflict(&error) => {
                        metrics::counter!("eticket_batches_begun_again_total").increment(1);
                        tracing::debug!(%error, "another process committed a conflicting batch first: retrying");
                    }
                    outcome => return outcome,
                }
            }
            self.attempt(&mut writer, keys, requests, apply_batch).await
        };
        let outcome = tokio::time::timeout(self.database.limits.commit, attempts).await;
        outcome.unwrap_or_else(|_| Err(Error::Unavailable(timed_out())))
    }
}

impl<T: Tables> Store<T> {
    async fn attempt(
        &self,
        writer: &mut Writer,
        keys: &T::Keys,
        requests: &[Uuid],
        apply_batch: ApplyBatch<'_, T::Rows>,
    ) -> Result<(), Error> {
        // Taken out of the writer: if this future is dropped, the session ends with its transaction.
        let mut session = writer.begin().await?;
        match self.run_in_tx(&mut session, keys, requests, apply_batch).await {
            Ok(outbox) => {
                writer.commit(session).await?;
                // Not before: a commit whose outcome is unknown may not have happened.
                if !outbox.is_empty() {
                    self.database.handover.add(outbox);
                    self.database.outbox_written.notify_one();
                }
                Ok(())
            }
            Err(error) => {
                writer.roll_back(session, &error).await;
                Err(error)
            }
        }
    }

    /// Returns the rows that were added to the outbox.
    async fn run_in_tx(
        &self,
        Session { connection, number }: &mut Session,
        keys: &T::Keys,
        requests: &[Uuid],
        apply_batch: ApplyBatch<'_, T::Rows>,
    ) -> Result<Vec<WaitingRow>, Error> {
        let rows = T::lock_in_tx(connection, keys).await?;
        // Read under the locks: batches of other processes on the same rows have written their records by now.
        let records = bookkeeping::records_in_tx(connection, requests).await?;
        let mut work = Work::new(rows, records);
        apply_batch(&mut work);
        let mut changes = Changes::default();
        T::write_in_tx(connection, &work.rows, &mut changes).await?;
        bookkeeping::write_in_tx(connection, *number, work, changes, self.database.clock.now()).await
    }
}
