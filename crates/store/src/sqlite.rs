//! The store on SQLite: one file per service, WAL mode, fsync on commit.
//!
//! A mutex of this process serializes writers, because SQLite would let a second writer poll for the lock and fail
//! under load. There are two write connections: commits are synced; housekeeping (deleting published rows, storing
//! positions) is not, because repeating it after a crash is harmless.

mod bookkeeping;
mod file;
pub mod inspect;
mod writer;

use std::{marker::PhantomData, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use eticket_base::clock::SharedClock;
use sqlx::{
    ConnectOptions, Connection, SqliteConnection, SqlitePool,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::{Mutex, MutexGuard, Notify};
use uuid::Uuid;

pub use self::{bookkeeping::record, file::OwnedFile, writer::Writer};
use super::{ApplyBatch, Commit, Error, Work};

static BOOKKEEPING: Migrator = sqlx::migrate!("migrations/sqlite");

/// Longest wait for a lock of another process, below every deadline. Usually only a tool that inspects the file has
/// one.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
const READERS: u32 = 4;

/// Whether the data is at fault. Primary result codes: 18 too big, 19 constraint, 20 type mismatch, 25 bind out of
/// range.
pub(super) fn is_caused_by_data(extended_code: Option<&str>) -> bool {
    let code = extended_code.and_then(|code| code.parse::<u32>().ok()).map(|code| code & 0xff);
    matches!(code, Some(18 | 19 | 20 | 25))
}

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

struct Writers {
    synced: Writer,
    unsynced: Writer,
    /// Unlocked after the connections are closed.
    file: OwnedFile,
}

/// One SQLite file. Clones share it.
#[derive(Clone)]
pub struct Database {
    writers: Arc<Mutex<Option<Writers>>>,
    readers: SqlitePool,
    outbox_written: Arc<Notify>,
    clock: SharedClock,
}

impl Database {
    /// Opens or creates the file, and applies the common migrations and `migrations`, whose versions must be above 100.
    ///
    /// # Errors
    /// `Unavailable` if the file cannot be opened, created or written, or is locked by another process, or if a migration
    /// differs between the file and this program.
    pub async fn open(path: &Path, migrations: &Migrator, clock: SharedClock) -> Result<Self, Error> {
        Self::open_with(path, migrations, clock, Durability::Synced).await
    }

    /// Like [`Self::open`], with another durability of commits.
    ///
    /// # Errors
    /// Like [`Self::open`]; with [`Durability::Unsynced`] also if the file has a migration that this program does not have.
    pub async fn open_with(
        path: &Path,
        migrations: &Migrator,
        clock: SharedClock,
        durability: Durability,
    ) -> Result<Self, Error> {
        let synchronous = match durability {
            Durability::Synced => SqliteSynchronous::Full,
            Durability::Unsynced => SqliteSynchronous::Normal,
        };
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(synchronous)
            .busy_timeout(BUSY_TIMEOUT)
            .statement_cache_capacity(256)
            .disable_statement_logging();
        let file = OwnedFile::open(path)?;
        let all = BOOKKEEPING.iter().chain(migrations.iter()).cloned().collect();
        let mut migrator = Migrator::with_migrations(all);
        migrator.set_ignore_missing(durability == Durability::Synced);
        migrate(options.clone(), &migrator).await?;
        let synced = Writer::open(options.clone()).await?;
        let unsynced = Writer::open(options.clone().synchronous(SqliteSynchronous::Normal)).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .test_before_acquire(false)
            .acquire_timeout(BUSY_TIMEOUT)
            .connect_lazy_with(options.read_only(true).create_if_missing(false));
        let writers = Arc::new(Mutex::new(Some(Writers { synced, unsynced, file })));
        Ok(Self { writers, readers, outbox_written: Arc::new(Notify::new()), clock })
    }

    /// The pool for reads outside of a commit. Each read sees everything committed before it began.
    pub fn readers(&self) -> &SqlitePool {
        &self.readers
    }

    /// Returns the query plan of a statement, for tests that check the use of an index.
    ///
    /// # Errors
    /// Fails if the statement cannot be planned.
    #[cfg(any(test, feature = "memory"))]
    pub async fn plan(&self, statement: &str) -> Result<String, sqlx::Error> {
        let explained = sqlx::query_as(sqlx::AssertSqlSafe(format!("explain query plan {statement}")));
        let steps: Vec<(i64, i64, i64, String)> = explained.fetch_all(&self.readers).await?;
        Ok(steps.into_iter().map(|(.., detail)| detail).collect::<Vec<_>>().join("; "))
    }

    /// Notified when a commit has written outbox rows.
    pub fn outbox_written(&self) -> Arc<Notify> {
        self.outbox_written.clone()
    }

    async fn writers(&self) -> Result<WritersGuard<'_>, Error> {
        let guard = self.writers.lock().await;
        // Writes to a removed file succeed, and would be lost with the process.
        guard.as_ref().ok_or(sqlx::Error::PoolClosed)?.file.check()?;
        Ok(WritersGuard(guard))
    }
}

/// The lock on the write connections of an open database.
struct WritersGuard<'a>(MutexGuard<'a, Option<Writers>>);

impl WritersGuard<'_> {
    async fn synced(&mut self) -> Result<&mut SqliteConnection, Error> {
        Ok(self.writers()?.synced.ready().await?)
    }

    async fn unsynced(&mut self) -> Result<&mut SqliteConnection, Error> {
        Ok(self.writers()?.unsynced.ready().await?)
    }

    fn writers(&mut self) -> Result<&mut Writers, Error> {
        self.0.as_mut().ok_or(Error::Unavailable(sqlx::Error::PoolClosed))
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
#[async_trait]
pub trait Tables: Send + Sync + 'static {
    /// Names the rows that a batch needs.
    type Keys: Send + Sync;
    /// The rows of the service.
    type Rows: Send + Sync;

    /// Reads the rows of `keys`. The whole file is already locked for writing.
    async fn read_in_tx(connection: &mut SqliteConnection, keys: &Self::Keys) -> Result<Self::Rows, Error>;

    /// Writes the changed rows in a few multi-row statements.
    async fn write_in_tx(connection: &mut SqliteConnection, rows: &Self::Rows) -> Result<(), Error>;
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
        let mut writers = self.database.writers().await?;
        // IMMEDIATE takes the write lock at once, so that nothing read here can be outdated at the commit.
        let mut transaction = writers.synced().await?.begin_with("begin immediate").await?;
        let rows = T::read_in_tx(&mut transaction, keys).await?;
        let records = bookkeeping::records_in_tx(&mut transaction, requests).await?;
        let mut work = Work::new(rows, records);
        apply_batch(&mut work);
        T::write_in_tx(&mut transaction, &work.rows).await?;
        bookkeeping::write_in_tx(&mut transaction, &work, self.database.clock.now()).await?;
        transaction.commit().await?;
        if !work.outbox.is_empty() {
            self.database.outbox_written.notify_one();
        }
        Ok(())
    }
}

/// Encodes the rows of a multi-row statement as one JSON array of arrays to bind. SQLite has no other form that keeps
/// the text of the statement independent of the number of rows. Bytes are encoded with [`hex`] and decoded with
/// `unhex`.
pub fn json_rows(rows: impl IntoIterator<Item = serde_json::Value>) -> String {
    serde_json::Value::Array(rows.into_iter().collect()).to_string()
}

/// Encodes bytes for [`json_rows`].
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 0xf)]));
    }
    text
}

/// Reads a time column: microseconds since 1970, UTC.
///
/// # Errors
/// `Data` if the value is not a time.
pub fn time(row: &sqlx::sqlite::SqliteRow, column: &str) -> Result<chrono::DateTime<chrono::Utc>, Error> {
    let micros = sqlx::Row::try_get(row, column)?;
    chrono::DateTime::from_timestamp_micros(micros).ok_or_else(|| Error::data(format!("{column} is out of range")))
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

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

    /// A store without rows of its own.
    struct NoTables;

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
    async fn a_read_only_file_fails_the_ping() {
        let folder = tempfile::tempdir().unwrap();
        let database = open(&folder.path().join("test.db")).await.unwrap();
        database.ping().await.unwrap();
        // Simulates a file without write permission, which the user of these tests might bypass.
        let mut writers = database.writers().await.unwrap();
        sqlx::query("pragma query_only = true").execute(writers.unsynced().await.unwrap()).await.unwrap();
        drop(writers);
        assert!(matches!(database.ping().await, Err(Error::Unavailable(_))));
        assert_eq!(database.outbox_depth().await.unwrap(), 0, "reading still works");
    }
}
