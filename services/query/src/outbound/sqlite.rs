//! The view on SQLite, in one file for each replica. The file may be deleted at any time; the rows are then read from
//! the stream again.
//!
//! Commits are not synced to disk: rows and position are written together, so a crash of the machine only causes
//! messages to be read again. The file can be exchanged for one that was built beside it. Reads wait during the
//! exchange.

mod pages;
mod rows;
#[cfg(test)]
mod tests;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use eticket_base::clock::SharedClock;
use eticket_proto::ids::{ReservationId, TicketId, UserId};
use eticket_store::{
    ApplyBatch, Commit, Error, Parked, ParkedStore, PoolUsage, StoreLifecycle,
    sqlite::{Database, Durability, Store, id_list, query, query_one, time},
};
use rusqlite::{Connection, params, params_from_iter, types::Value};
use sqlx::migrate::{MigrateError, Migrator};
use tokio::sync::{RwLock, RwLockReadGuard};
use uuid::Uuid;

use self::rows::ViewTables;
use crate::{
    application::{
        Counts, Keys, Position, StreamRows, ViewRows, ViewStore, Watched,
        listing::{Filter, KeyPart, SortOrder},
    },
    domain::{Reservation, View},
};

pub static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// The view in a file.
pub struct SqliteViews {
    path: PathBuf,
    clock: SharedClock,
    /// `None` after it was closed, or if it could not be opened after an exchange.
    open: RwLock<Option<Store<ViewTables>>>,
    closed: AtomicBool,
}

impl SqliteViews {
    /// Opens or creates the file. An unusable file is replaced by an empty one, because all its rows can be read again.
    ///
    /// # Errors
    /// `Unavailable` if the file cannot be opened, created or written.
    pub async fn open(path: &Path, clock: SharedClock) -> Result<Self, Error> {
        // Remove the file of an interrupted rebuild.
        remove(&beside(path)).map_err(unavailable)?;
        let store = open(path, &clock).await?;
        Ok(Self { path: path.to_owned(), clock, open: RwLock::new(Some(store)), closed: AtomicBool::new(false) })
    }

    /// Opens the file again if an exchange could not do so.
    async fn reopen(&self) -> Result<(), Error> {
        if self.open.read().await.is_some() || self.closed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut current = self.open.write().await;
        if current.is_none() {
            *current = Some(open(&self.path, &self.clock).await?);
        }
        Ok(())
    }

    async fn current(&self) -> Result<RwLockReadGuard<'_, Store<ViewTables>>, Error> {
        let closed = |_| Error::Unavailable(sqlx::Error::PoolClosed);
        RwLockReadGuard::try_map(self.open.read().await, Option::as_ref).map_err(closed)
    }

    /// Reads rows of the view.
    async fn views(&self, statement: &'static str, values: Vec<Value>) -> Result<Vec<(TicketId, View)>, Error> {
        let store = self.current().await?;
        let read =
            move |connection: &Connection| query(connection, statement, params_from_iter(values), rows::view_with_id);
        store.database.scan(read).await
    }

    async fn reservations(&self, statement: &'static str, values: Vec<Value>) -> Result<Vec<Reservation>, Error> {
        let store = self.current().await?;
        let read =
            move |connection: &Connection| query(connection, statement, params_from_iter(values), rows::reservation);
        store.database.scan(read).await
    }

    /// Reads up to `most` rows above a key with one of two statements: for all rows, and for some.
    async fn stream_rows(
        &self,
        watched: &Watched,
        [all, these]: [&'static str; 2],
        above: Value,
        most: i64,
    ) -> Result<StreamRows, Error> {
        let store = self.current().await?;
        let (statement, values) = match watched {
            Watched::All => (all, vec![above, most.into()]),
            Watched::These(ids) => (these, vec![above, most.into(), id_list(ids).into()]),
        };
        let read = move |connection: &Connection| {
            query(connection, statement, params_from_iter(values), rows::view_with_epoch)
        };
        let found = store.database.scan(read).await?;
        let epoch = found.first().map(|(epoch, _)| epoch.clone());
        Ok(StreamRows { epoch, rows: found.into_iter().map(|(_, row)| row).collect() })
    }
}

async fn open(path: &Path, clock: &SharedClock) -> Result<Store<ViewTables>, Error> {
    let open = || Database::open_with(path, &MIGRATIONS, clock.clone(), Durability::Unsynced);
    let database = match open().await {
        Err(Error::Unavailable(error)) if is_unusable(&error) => {
            tracing::warn!(path = %path.display(), %error, "the file of the view is unusable; creating a new one");
            remove(path).map_err(unavailable)?;
            open().await?
        }
        outcome => outcome?,
    };
    Ok(Store::new(database))
}

/// Returns whether the file is not a database (26), is damaged (11), or was written by another version of this program.
/// Every other error may be temporary, such as a lack of descriptors (14, cannot open), a full disk or the lock of a
/// tool.
fn is_unusable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Migrate(error) => match &**error {
            MigrateError::Execute(error) => is_unusable(error),
            // An error in a statement (1): the tables of the file do not match its list of migrations.
            MigrateError::ExecuteMigration(error, _) => is_unusable(error) || primary_code(error) == Some(1),
            error => matches!(
                error,
                MigrateError::VersionMissing(_)
                    | MigrateError::VersionMismatch(_)
                    | MigrateError::VersionNotPresent(_)
                    | MigrateError::VersionTooOld(..)
                    | MigrateError::VersionTooNew(..)
                    | MigrateError::Dirty(_)
            ),
        },
        error => matches!(primary_code(error), Some(11 | 26)),
    }
}

/// Returns the primary result code of SQLite.
fn primary_code(error: &sqlx::Error) -> Option<u32> {
    let code = error.as_database_error()?.code()?.parse::<u32>().ok()?;
    Some(code & 0xff)
}

/// Removes a database that is not open.
fn remove(path: &Path) -> std::io::Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        match std::fs::remove_file(with_suffix(path, suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

#[async_trait]
impl Commit for SqliteViews {
    type Keys = Keys;
    type Rows = ViewRows;

    async fn commit(&self, keys: &Keys, requests: &[Uuid], apply_batch: ApplyBatch<'_, ViewRows>) -> Result<(), Error> {
        self.current().await?.commit(keys, requests, apply_batch).await
    }
}

#[async_trait]
impl ViewStore for SqliteViews {
    async fn view(&self, id: &TicketId) -> Result<Option<View>, Error> {
        let store = self.current().await?;
        let found = store
            .database
            .look_up(|connection| query_one(connection, rows::SELECT_VIEW, [id.as_str()], rows::view_with_id));
        Ok(found.await?.map(|(_, view)| view).filter(|view| view.ticket.is_some()))
    }

    async fn position(&self) -> Result<Option<Position>, Error> {
        self.current().await?.database.look_up(rows::position).await
    }

    async fn has_caught_up(&self) -> Result<bool, Error> {
        const SELECT: &str = "select id from caught_up";
        let store = self.current().await?;
        let found = store.database.look_up(|connection| query_one(connection, SELECT, [], |_| Ok(())));
        Ok(found.await?.is_some())
    }

    async fn page(
        &self,
        filter: &Filter,
        order: &SortOrder,
        after: Option<&[KeyPart]>,
        now: DateTime<Utc>,
        most: i64,
    ) -> Result<Vec<(TicketId, View)>, Error> {
        let store = self.current().await?;
        let pages::Query { text, values } = pages::query(filter, order, after, now, most);
        let page =
            move |connection: &Connection| query(connection, &text, params_from_iter(values), rows::view_with_id);
        store.database.scan(page).await
    }

    async fn user_reservations(
        &self,
        user: &UserId,
        before: Option<(DateTime<Utc>, ReservationId)>,
        most: i64,
    ) -> Result<Vec<(Reservation, View)>, Error> {
        let store = self.current().await?;
        let (time, id) = match before {
            Some((time, id)) => (time.timestamp_micros(), id.to_string()),
            None => (i64::MAX, String::new()),
        };
        let user = user.clone();
        let page = move |connection: &Connection| {
            let params = params![user.as_str(), time, id, most];
            query(connection, pages::USER_RESERVATIONS, params, rows::reservation_with_view)
        };
        store.database.scan(page).await
    }

    async fn changed_above(&self, watched: &Watched, sequence: u64, most: i64) -> Result<StreamRows, Error> {
        let above = Value::Integer(i64::try_from(sequence).unwrap_or(i64::MAX));
        self.stream_rows(watched, [pages::CHANGED, pages::CHANGED_OF_THESE], above, most).await
    }

    async fn snapshot(&self, watched: &Watched, after: &str, most: i64) -> Result<StreamRows, Error> {
        let after = Value::Text(after.to_owned());
        self.stream_rows(watched, [pages::SNAPSHOT, pages::SNAPSHOT_OF_THESE], after, most).await
    }

    async fn views_of(&self, ids: &[TicketId]) -> Result<Vec<(TicketId, View)>, Error> {
        const SELECT: &str = "select * from view where ticket_id in (select value from json_each(?1))";
        self.views(SELECT, vec![id_list(ids).into()]).await
    }

    async fn reservations_of(&self, ids: &[ReservationId]) -> Result<Vec<Reservation>, Error> {
        self.reservations(pages::RESERVATIONS_OF_THESE, vec![id_list(ids).into()]).await
    }

    async fn all_views(&self, after: &str, most: i64) -> Result<Vec<(TicketId, View)>, Error> {
        self.views(pages::ALL_VIEWS, vec![after.to_owned().into(), most.into()]).await
    }

    async fn all_reservations(&self, after: &str, most: i64) -> Result<Vec<Reservation>, Error> {
        self.reservations(pages::ALL_RESERVATIONS, vec![after.to_owned().into(), most.into()]).await
    }

    async fn unsettled(&self, after: &str, most: i64) -> Result<Vec<(TicketId, View)>, Error> {
        self.views(pages::UNSETTLED, vec![after.to_owned().into(), most.into()]).await
    }

    async fn oldest_unsettled(&self) -> Result<Option<DateTime<Utc>>, Error> {
        let store = self.current().await?;
        let oldest = store.database.look_up(|connection| {
            query_one(connection, pages::OLDEST_UNSETTLED, [], |row| time(row, "unsettled_since"))
        });
        oldest.await
    }

    async fn counts(&self) -> Result<Counts, Error> {
        let store = self.current().await?;
        let counts = store.database.scan(|connection| {
            query_one(connection, pages::COUNTS, [], |row| {
                let (tickets, prices) = (row.get("tickets")?, row.get("prices")?);
                let (reservations, closed_ledgers) = (row.get("reservations")?, row.get("closed_ledgers")?);
                Ok(Counts { tickets, prices, reservations, closed_ledgers })
            })
        });
        Ok(counts.await?.unwrap_or_default())
    }

    async fn is_gone(&self) -> bool {
        self.open.read().await.is_some() && matches!(self.path.try_exists(), Ok(false))
    }

    async fn discarded(&self) -> Result<Vec<String>, Error> {
        self.current().await?.database.discarded().await
    }

    async fn keep_discarded(&self, event_ids: &[String]) -> Result<(), Error> {
        self.current().await?.database.keep_discarded(event_ids).await
    }

    async fn beside(&self) -> Result<Arc<dyn ViewStore>, Error> {
        let path = beside(&self.path);
        remove(&path).map_err(unavailable)?;
        Ok(Arc::new(Self::open(&path, self.clock.clone()).await?))
    }

    async fn exchange(&self, new: Arc<dyn ViewStore>) -> Result<(), Error> {
        // A closed database is a single file without a write-ahead log.
        new.close().await;
        drop(new);
        let mut current = self.open.write().await;
        let Some(old) = current.take() else { return Err(Error::Unavailable(sqlx::Error::PoolClosed)) };
        old.database.close().await;
        let moved = remove(&self.path).and_then(|()| std::fs::rename(beside(&self.path), &self.path));
        *current = Some(open(&self.path, &self.clock).await?);
        moved.map_err(unavailable)
    }
}

fn beside(path: &Path) -> PathBuf {
    with_suffix(path, ".rebuild")
}

fn unavailable(error: std::io::Error) -> Error {
    Error::Unavailable(error.into())
}

#[async_trait]
impl StoreLifecycle for SqliteViews {
    async fn ping(&self) -> Result<(), Error> {
        self.reopen().await?;
        self.current().await?.database.ping().await
    }

    async fn pools(&self) -> Vec<PoolUsage> {
        match self.current().await {
            Ok(store) => store.database.pools().await,
            Err(_) => Vec::new(),
        }
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        if let Some(store) = self.open.write().await.take() {
            store.database.close().await;
        }
    }
}

#[async_trait]
impl ParkedStore for SqliteViews {
    async fn parked(&self, after: &str, most: i64) -> Result<Vec<Parked>, Error> {
        self.current().await?.database.parked(after, most).await
    }

    async fn parked_by_id(&self, event_id: &str) -> Result<Option<Parked>, Error> {
        self.current().await?.database.parked_by_id(event_id).await
    }

    async fn parked_count(&self) -> Result<i64, Error> {
        self.current().await?.database.parked_count().await
    }

    async fn discard_parked(&self, event_id: &str) -> Result<bool, Error> {
        self.current().await?.database.discard_parked(event_id).await
    }

    async fn is_discarded(&self, event_id: &str) -> Result<bool, Error> {
        self.current().await?.database.is_discarded(event_id).await
    }
}
