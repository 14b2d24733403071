//! The thread that owns the write connection of a file.
//!
//! A transaction is one job of this thread. SQLite allows one writer at a time; a second one would poll for the lock,
//! and fail under load.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Mutex, PoisonError, mpsc},
    thread::JoinHandle,
};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

use super::{Durability, OwnedFile, configure};
use crate::Error;

type Job = Box<dyn FnOnce(&mut Owned) + Send>;

/// What the thread owns. The connection is closed before the file is unlocked.
struct Owned {
    connection: Connection,
    /// The durability that the connection is set to.
    durability: Durability,
    file: OwnedFile,
}

impl Owned {
    /// Returns the connection, without an open transaction.
    fn ready(&mut self, durability: Durability) -> Result<&mut Connection, Error> {
        // Writes to a removed file succeed, and would be lost with the process.
        self.file.check()?;
        if !self.connection.is_autocommit() {
            self.connection.execute_batch("rollback")?;
        }
        if self.durability != durability {
            self.connection.pragma_update(None, "synchronous", durability.synchronous())?;
            self.durability = durability;
        }
        Ok(&mut self.connection)
    }
}

/// The queue to the thread, and its handle.
struct Thread {
    jobs: mpsc::Sender<Job>,
    handle: JoinHandle<()>,
}

impl Thread {
    fn end(self) {
        drop(self.jobs);
        if self.handle.join().is_err() {
            tracing::error!("the thread of a store has panicked");
        }
    }
}

/// The outcome of a job that has not ended yet.
pub struct Pending<T>(oneshot::Receiver<Result<T, Error>>);

impl<T> Pending<T> {
    /// Waits for the end of the job. The job runs to its end in any case.
    ///
    /// # Errors
    /// Returns the error of the job; `Unavailable` if the file is closed or the job panicked.
    pub async fn outcome(self) -> Result<T, Error> {
        self.0.await.unwrap_or_else(|_| Err(closed()))
    }
}

/// The write connection of a file.
pub(super) struct Writer {
    /// `None` after it was closed.
    thread: Mutex<Option<Thread>>,
}

impl Writer {
    /// Opens the file, which exists, on a new thread.
    pub(super) async fn open(path: &Path, file: OwnedFile, durability: Durability) -> Result<Self, Error> {
        let path = path.to_owned();
        let (jobs, waiting) = mpsc::channel::<Job>();
        let (opened, outcome) = oneshot::channel();
        let run = move || {
            let mut owned = match open(&path, durability) {
                Ok(connection) => Owned { connection, durability, file },
                Err(error) => {
                    // Before the result, so that the file can be opened again at once.
                    drop(file);
                    let _ = opened.send(Err(error));
                    return;
                }
            };
            let _ = opened.send(Ok(()));
            for job in waiting {
                // A job that panics rolls back. Its caller gets an error, and the panic is in the log.
                let _ = catch_unwind(AssertUnwindSafe(|| job(&mut owned)));
            }
            let Owned { connection, file, .. } = owned;
            if let Err((_, error)) = connection.close() {
                tracing::warn!(%error, path = %path.display(), "cannot close a store");
            }
            drop(file);
        };
        let handle = std::thread::Builder::new().name("sqlite-writer".to_owned()).spawn(run);
        let thread = Thread { jobs, handle: handle.map_err(sqlx::Error::from)? };
        outcome.await.unwrap_or_else(|_| Err(closed()))?;
        Ok(Self { thread: Mutex::new(Some(thread)) })
    }

    /// Runs a job on the thread after all jobs that were submitted before. A transaction that the job leaves open is
    /// rolled back.
    pub(super) fn submit<T: Send + 'static>(
        &self,
        durability: Durability,
        job: impl FnOnce(&mut Connection) -> Result<T, Error> + Send + 'static,
    ) -> Pending<T> {
        let (reply, outcome) = oneshot::channel();
        let job: Job = Box::new(move |owned| {
            let outcome = owned.ready(durability).and_then(job);
            // The caller may have stopped waiting.
            let _ = reply.send(outcome);
        });
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Thread { jobs, .. }) = &*thread {
            // Without the thread, the sender of the outcome is dropped.
            let _ = jobs.send(job);
        }
        Pending(outcome)
    }

    /// Completes the submitted jobs and closes the file.
    pub(super) async fn close(&self) {
        let Some(thread) = self.take() else { return };
        let ended = tokio::task::spawn_blocking(|| thread.end()).await;
        if let Err(error) = ended {
            tracing::error!(%error, "cannot wait for the end of a store");
        }
    }

    fn take(&self) -> Option<Thread> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Writer {
    /// Waits for the end of the submitted jobs, so that the file can be opened again afterwards.
    fn drop(&mut self) {
        if let Some(thread) = self.take() {
            thread.end();
        }
    }
}

fn open(path: &Path, durability: Durability) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    configure(&connection)?;
    connection.pragma_update(None, "synchronous", durability.synchronous())?;
    Ok(connection)
}

pub(super) fn closed() -> Error {
    Error::Unavailable(sqlx::Error::PoolClosed)
}
