//! The store on SQLite: one file per service, WAL mode, fsync on commit.
//!
//! Commits are synced; housekeeping (deleting published rows, storing positions) is not, because repeating it after a
//! crash is harmless.

mod bookkeeping;
mod fault;
mod file;
pub mod inspect;
mod readers;
mod rows;
mod table;
#[cfg(test)]
mod tests;
mod writer;

use std::{marker::PhantomData, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use eticket_base::clock::SharedClock;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use sqlx::{
    ConnectOptions,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions},
};
use tokio::sync::{
    Notify,
    oneshot::{self, error::TryRecvError},
};
use uuid::Uuid;

pub(super) use self::fault::is_caused_by_data;
pub use self::{
    bookkeeping::record,
    rows::{id_list, query, query_one, time},
    table::{Column, NULL, Table, micros, optional_text},
    writer::Pending,
};
use self::{file::OwnedFile, readers::Readers, writer::Writer};
use super::{
    ApplyBatch, Commit, Error, PoolUsage, Work,
    handover::{Handover, Limits},
};

static BOOKKEEPING: Migrator = sqlx::migrate!("migrations/sqlite");

/// Longest wait for a lock of another process, below every deadline. Usually only a tool that inspects the file has
/// one.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// Number of prepared statements that a connection keeps.
const STATEMENTS: usize = 128;

/// The durability of commits, and with it which files can be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Commits survive a crash of the machine. The file may be the only copy of its rows, so a file that a newer program has
    /// migrated opens too: migrations only add.
    Synced,
    /// Commits survive a crash of the process. A crash of the machine may lose the newest commits, but none before a
    /// surviving one. For data that can be read again from a position stored in the same commits. A file that a newer program
    /// has migrated is refused: rows that this program writes would lack the new columns, and their revisions would hide that.
    Unsynced,
}

impl Durability {
    /// The value of the pragma `synchronous`.
    fn synchronous(self) -> &'static str {
        match self {
            Self::Synced => "full",
            Self::Unsynced => "normal",
        }
    }
}

/// An open file: a thread that writes, and connections that read.
pub struct File {
    // Closed before the writer: the last connection removes the write-ahead log.
    readers: Readers,
    writer: Writer,
}

impl File {
    /// Opens or creates the file and applies the migrations.
    ///
    /// # Errors
    /// `Unavailable` if the file cannot be opened, created or written, or is locked by another process, or if a migration
    /// differs between the file and this program; with [`Durability::Unsynced`] also if the file has a migration that this
    /// program does not have.
    pub async fn open(path: &Path, mut migrations: Migrator, durability: Durability) -> Result<Self, Error> {
        let owned = OwnedFile::open(path)?;
        migrations.set_ignore_missing(durability == Durability::Synced);
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .busy_timeout(BUSY_TIMEOUT)
            .disable_statement_logging();
        migrate(options, &migrations).await?;
        Ok(Self { readers: Readers::new(path), writer: Writer::open(path, owned, durability).await? })
    }

    /// Reads a few rows by their keys, on this thread.
    ///
    /// # Errors
    /// Returns the error of the read; `Unavailable` if the file is closed.
    pub async fn look_up<T>(&self, read: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
        self.readers.look_up(read).await
    }

    /// Reads many rows, on a thread for blocking work. If the caller is cancelled, the read runs to its end.
    ///
    /// # Errors
    /// Like [`Self::look_up`].
    pub async fn scan<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.readers.scan(read).await
    }

    /// Submits a transaction: it is committed if `write` succeeds, and rolled back otherwise. It holds the write lock
    /// from the start, so that nothing that it reads can be outdated at the commit. It runs to its end even if its
    /// outcome is not awaited.
    pub fn write<T: Send + 'static>(
        &self,
        durability: Durability,
        write: impl FnOnce(&Transaction<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Pending<T> {
        self.writer.submit(durability, |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = write(&transaction)?;
            transaction.commit()?;
            Ok(value)
        })
    }

    /// Runs a job on the write connection.
    pub fn with_connection<T: Send + 'static>(
        &self,
        durability: Durability,
        job: impl FnOnce(&mut Connection) -> Result<T, Error> + Send + 'static,
    ) -> Pending<T> {
        self.writer.submit(durability, job)
    }

    /// Returns how the read connections are used.
    #[must_use]
    pub fn usage(&self) -> PoolUsage {
        self.readers.usage()
    }

    /// Waits for what is in progress and closes the connections.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Sets what each connection needs.
fn configure(connection: &Connection) -> Result<(), Error> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(())
}

/// The file of a service. Clones share it.
#[derive(Clone)]
pub struct Database {
    file: Arc<File>,
    durability: Durability,
    outbox_written: Arc<Notify>,
    handover: Arc<Handover>,
    clock: SharedClock,
}

impl Database {
    /// Opens or creates the file, and applies the common migrations and `migrations`, whose versions must be above 100.
    ///
    /// # Errors
    /// Like [`File::open`].
    pub async fn open(path: &Path, migrations: &Migrator, clock: SharedClock) -> Result<Self, Error> {
        Self::open_with(path, migrations, clock, Durability::Synced).await
    }

    /// Like [`Self::open`], with another durability of commits.
    ///
    /// # Errors
    /// Like [`File::open`].
    pub async fn open_with(
        path: &Path,
        migrations: &Migrator,
        clock: SharedClock,
        durability: Durability,
    ) -> Result<Self, Error> {
        let all = BOOKKEEPING.iter().chain(migrations.iter()).cloned().collect();
        let file = Arc::new(File::open(path, Migrator::with_migrations(all), durability).await?);
        // One process sends, so all rows of a subject can follow each other.
        let handover = Arc::new(Handover::new(Limits { newest: usize::MAX, ..Limits::default() }));
        // Those of an earlier run.
        handover.also_read_above(i64::MIN);
        Ok(Self { file, durability, outbox_written: Arc::new(Notify::new()), handover, clock })
    }

    /// Reads a few rows by their keys, on this thread. Sees everything committed before it began.
    ///
    /// # Errors
    /// Like [`File::look_up`].
    pub async fn look_up<T>(&self, read: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
        self.file.look_up(read).await
    }

    /// Reads many rows, on a thread for blocking work. Sees everything committed before it began.
    ///
    /// # Errors
    /// Like [`File::look_up`].
    pub async fn scan<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.file.scan(read).await
    }

    /// Returns the query plan of a statement, for tests that check the use of an index.
    ///
    /// # Errors
    /// Fails if the statement cannot be planned.
    #[cfg(any(test, feature = "memory"))]
    pub async fn plan(&self, statement: &str) -> Result<String, Error> {
        let explained = format!("explain query plan {statement}");
        self.look_up(|connection| {
            let mut statement = connection.prepare(&explained)?;
            let mut rows = statement.raw_query();
            let mut steps = Vec::new();
            while let Some(row) = rows.next()? {
                steps.push(row.get::<_, String>(3)?);
            }
            Ok(steps.join("; "))
        })
        .await
    }

    /// Notified when a commit has written outbox rows.
    pub fn outbox_written(&self) -> Arc<Notify> {
        self.outbox_written.clone()
    }
}

/// Applies migrations over a separate pool, which is closed afterwards: a connection that failed midway would keep its
/// lock.
pub async fn migrate(options: SqliteConnectOptions, migrator: &Migrator) -> sqlx::Result<()> {
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
    let outcome = migrator.run(&pool).await;
    pool.close().await;
    outcome.map_err(|error| sqlx::Error::Migrate(Box::new(error)))
}

/// How the rows of a service are read and written within a commit.
pub trait Tables: Send + Sync + 'static {
    /// Names the rows that a batch needs.
    type Keys: Clone + Send + Sync + 'static;
    /// The rows of the service.
    type Rows: Send + Sync + 'static;

    /// Reads the rows of `keys`. The whole file is already locked for writing.
    ///
    /// # Errors
    /// If the file cannot be read, or holds a row that this program never writes.
    fn read_in_tx(transaction: &Transaction<'_>, keys: &Self::Keys) -> Result<Self::Rows, Error>;

    /// Writes the changed rows.
    ///
    /// # Errors
    /// If the file cannot be written, or refuses a row.
    fn write_in_tx(transaction: &Transaction<'_>, rows: &Self::Rows) -> Result<(), Error>;
}

/// A store without rows of its own, for tests of what all stores have.
#[cfg(any(test, feature = "memory"))]
pub struct NoTables;

#[cfg(any(test, feature = "memory"))]
impl Tables for NoTables {
    type Keys = ();
    type Rows = ();

    fn read_in_tx(_: &Transaction<'_>, (): &()) -> Result<(), Error> {
        Ok(())
    }

    fn write_in_tx(_: &Transaction<'_>, (): &()) -> Result<(), Error> {
        Ok(())
    }
}

/// The store of a service on SQLite.
pub struct Store<T> {
    /// The file.
    pub database: Database,
    tables: PhantomData<T>,
}

impl<T> Store<T> {
    /// Creates a store that keeps its rows in this file.
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
        // `apply_batch` borrows from its caller, so it runs here while the thread of the file waits in the transaction.
        let (to_apply, read) = oneshot::channel::<Work<T::Rows>>();
        let (to_write, applied) = oneshot::channel::<Work<T::Rows>>();
        let (caller, mut is_gone) = oneshot::channel::<()>();
        let Database { clock, outbox_written, handover, .. } = self.database.clone();
        let (keys, requests) = (keys.clone(), requests.to_vec());
        let committed = self.database.file.with_connection(self.database.durability, move |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let records = bookkeeping::records_in_tx(&transaction, &requests)?;
            let work = Work::new(T::read_in_tx(&transaction, &keys)?, records);
            let _ = to_apply.send(work);
            // Without a caller there is nothing to write.
            let Ok(work) = applied.blocking_recv() else { return Ok(()) };
            T::write_in_tx(&transaction, &work.rows)?;
            let outbox = bookkeeping::write_in_tx(&transaction, work, clock.now())?;
            // Who waits for the rows learns of them from the caller.
            if is_gone.try_recv() == Err(TryRecvError::Closed) {
                return Err(writer::closed());
            }
            let first = outbox.first().map(|row| row.id);
            if let Err(error) = transaction.commit() {
                // Its outcome may be unknown.
                first.into_iter().for_each(|id| handover.also_read_above(id - 1));
                return Err(error.into());
            }
            // Here, because the caller may be gone by now.
            if first.is_some() {
                handover.add(outbox);
                outbox_written.notify_one();
            }
            Ok(())
        });
        // Otherwise the outcome is an error.
        if let Ok(mut work) = read.await {
            apply_batch(&mut work);
            let _ = to_write.send(work);
        }
        committed.outcome().await?;
        drop(caller);
        Ok(())
    }
}
