//! PostgreSQL under the store port: a schema a service, shared by its replicas.
//!
//! A process has one connection for commits, because it has one writer, and two small pools: reads must not wait behind claims of the
//! outbox, nor the other way round. Everything has a limit below the deadlines of calls, on the server for statements and locks,
//! and here for a server that does not answer at all.

mod bookkeeping;
mod claim;
mod fault;
mod migrate;
mod session;
#[cfg(test)]
mod tests;
mod url;
mod writer;

use std::{future::Future, io, marker::PhantomData, sync::Arc, time::Duration};

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

pub(super) use self::fault::lies_in_the_data;
pub use self::{bookkeeping::response, migrate::OpenError, url::options};
use self::{session::Limits, writer::Writer};
use super::{ApplyBatch, Commit, Error, Work};

/// How often a batch is begun in all, where others insert its keys or hold its rows in another order.
const ATTEMPTS: u32 = 5;

/// The schema of one service in a database. Clones share its connections.
#[derive(Clone)]
pub struct Database {
    writer: Arc<Mutex<Writer>>,
    readers: PgPool,
    housekeepers: PgPool,
    outbox_written: Arc<Notify>,
    clock: SharedClock,
    limits: Limits,
}

impl Database {
    /// Makes the schema of this name if it is absent and brings it up to date: the common tables and those of `migrations`, whose
    /// versions must be above 100. Migrations that this program does not know are left alone: a newer one has made them.
    ///
    /// # Errors
    /// `OpenError`, which says whether it is worth another try.
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
            writer: Arc::new(Mutex::new(writer)),
            readers: session::readers(options, schema, &limits),
            housekeepers: session::housekeepers(options, schema, &limits),
            outbox_written: Arc::new(Notify::new()),
            clock,
            limits,
        })
    }

    /// Rung whenever a commit of this process has left rows in the outbox.
    pub fn outbox_written(&self) -> Arc<Notify> {
        self.outbox_written.clone()
    }

    /// Reads outside a commit: all that was committed before is seen.
    ///
    /// # Errors
    /// `Unavailable` if the server does not answer in time.
    pub async fn fetch_all(&self, query: Query<'_, Postgres, PgArguments>) -> Result<Vec<PgRow>, Error> {
        within(self.limits.read, query.fetch_all(&self.readers)).await
    }

    /// The same of one row that may be absent.
    ///
    /// # Errors
    /// As [`Self::fetch_all`].
    pub async fn fetch_optional(&self, query: Query<'_, Postgres, PgArguments>) -> Result<Option<PgRow>, Error> {
        within(self.limits.read, query.fetch_optional(&self.readers)).await
    }

    /// The same of one row that is always there.
    ///
    /// # Errors
    /// As [`Self::fetch_all`].
    pub async fn fetch_one(&self, query: Query<'_, Postgres, PgArguments>) -> Result<PgRow, Error> {
        within(self.limits.read, query.fetch_one(&self.readers)).await
    }
}

/// A server that is frozen or cut off ends no statement: its clients have to.
async fn within<T>(limit: Duration, answer: impl Future<Output = sqlx::Result<T>>) -> Result<T, Error> {
    Ok(tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| Err(timed_out()))?)
}

fn timed_out() -> sqlx::Error {
    sqlx::Error::Io(io::ErrorKind::TimedOut.into())
}

/// How a service's own rows are read and written within a commit. Other processes use the same schema, and programs of other
/// versions: statements name their columns, so that a column that is added changes nothing for them.
#[async_trait]
pub trait Tables: Send + Sync + 'static {
    /// Names the rows that a batch needs.
    type Keys: Send + Sync;
    /// The service's own rows.
    type Rows: Send + Sync;

    /// Locks the rows of `keys` in the order of their ids, the same in every process, and reads what they show under the lock.
    async fn lock_in_tx(connection: &mut PgConnection, keys: &Self::Keys) -> Result<Self::Rows, Error>;

    /// Writes what has changed, in a few multi-row statements. What was not there is inserted, not upserted: another process may
    /// have made it since, and that must be met, not written over.
    async fn write_in_tx(connection: &mut PgConnection, rows: &Self::Rows) -> Result<(), Error>;
}

/// A service's store on PostgreSQL.
pub struct Store<T> {
    /// The schema.
    pub database: Database,
    tables: PhantomData<T>,
}

impl<T> Store<T> {
    /// Keeps its rows in this schema.
    pub fn new(database: Database) -> Self {
        Self { database, tables: PhantomData }
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
                    Err(error) if fault::is_of_others(&error) => {
                        metrics::counter!("eticket_batches_begun_again_total").increment(1);
                        tracing::debug!(%error, "another process was faster: the batch is begun again");
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
        // Owned from here on: dropped before its end, the connection goes with the transaction.
        let mut connection = writer.begin().await?;
        match self.run_in_tx(&mut connection, keys, requests, apply_batch).await {
            Ok(work) => {
                writer.commit(connection).await?;
                if !work.outbox.is_empty() {
                    self.database.outbox_written.notify_one();
                }
                Ok(())
            }
            Err(error) => {
                writer.roll_back(connection, &error).await;
                Err(error)
            }
        }
    }

    async fn run_in_tx(
        &self,
        connection: &mut PgConnection,
        keys: &T::Keys,
        requests: &[Uuid],
        apply_batch: ApplyBatch<'_, T::Rows>,
    ) -> Result<Work<T::Rows>, Error> {
        let rows = T::lock_in_tx(connection, keys).await?;
        // Only under the locks: a batch of another process on the same rows has left its records by now.
        let records = bookkeeping::records_in_tx(connection, requests).await?;
        let mut work = Work::new(rows, records);
        apply_batch(&mut work);
        T::write_in_tx(connection, &work.rows).await?;
        bookkeeping::write_in_tx(connection, &work, self.database.clock.now()).await?;
        Ok(work)
    }
}
