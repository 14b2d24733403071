//! Connections for reads outside of a transaction. Each read sees everything that was committed before it began.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::available_parallelism,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::{AcquireError, Semaphore};

use super::{configure, writer::closed};
use crate::{Error, PoolUsage};

/// Minimum number of reads at the same time.
const READERS: usize = 4;
/// Maximum number of reads at the same time: each connection has statements and a cache of its own.
const MOST_READERS: usize = 16;
/// Longest wait for a connection, below every deadline.
const WAIT: Duration = Duration::from_secs(2);

/// The read connections of a file, opened at first use.
pub(super) struct Readers(Arc<Shared>);

struct Shared {
    path: PathBuf,
    most: usize,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: &Path) -> Self {
        let most = available_parallelism().map_or(READERS, |cores| cores.get().clamp(READERS, MOST_READERS));
        let shared =
            Shared { path: path.to_owned(), most, permits: Arc::new(Semaphore::new(most)), idle: Mutex::default() };
        Self(Arc::new(shared))
    }

    /// Runs a read of a few rows by their keys on this thread: the hand-over to another one would take several times
    /// as long as the read.
    pub(super) async fn look_up<T>(&self, read: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
        let _permit = in_time(self.0.permits.acquire()).await?;
        self.0.read(read)
    }

    /// Runs a read of many rows on a thread for blocking work. If the caller is cancelled, the read runs to its end.
    pub(super) async fn scan<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let permit = in_time(self.0.permits.clone().acquire_owned()).await?;
        let shared = self.0.clone();
        let read = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            shared.read(read)
        });
        read.await.unwrap_or_else(|error| Err(Error::Unavailable(std::io::Error::other(error).into())))
    }

    pub(super) fn usage(&self) -> PoolUsage {
        let idle = self.0.idle().len();
        PoolUsage { name: "read", used: self.0.most - self.0.permits.available_permits(), idle }
    }

    /// Waits for the reads in progress and closes the connections.
    pub(super) async fn close(&self) {
        let all = u32::try_from(self.0.most).unwrap_or(u32::MAX);
        // Fails if it was closed before.
        if let Ok(_all) = self.0.permits.acquire_many(all).await {
            self.0.permits.close();
            self.0.idle().clear();
        }
    }
}

/// Limits the wait for a connection: other reads may be slow.
async fn in_time<P>(permit: impl Future<Output = Result<P, AcquireError>>) -> Result<P, Error> {
    let waited = tokio::time::timeout(WAIT, permit).await.map_err(|_| Error::Unavailable(sqlx::Error::PoolTimedOut))?;
    waited.map_err(|_| closed())
}

impl Shared {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
        let idle = self.idle().pop();
        let connection = idle.map_or_else(|| open(&self.path), Ok)?;
        let outcome = read(&connection);
        self.idle().push(connection);
        outcome
    }
}

fn open(path: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    configure(&connection)?;
    Ok(connection)
}
