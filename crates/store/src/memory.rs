//! The store in memory, for tests and simulations: nothing outlives the process.
//!
//! It is as adversarial as a database server that processes share may be. A transaction locks its rows one after another, and
//! those only that are there; others act between any two of its steps. What appears meanwhile makes it start over, and it is
//! rolled back where it is dropped before its commit. `Steps` lets a simulation say what happens between two steps.

mod housekeeping;
#[cfg(test)]
mod tests;
mod transaction;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use eticket_base::clock::SharedClock;
use tokio::sync::Notify;
use uuid::Uuid;

pub use self::transaction::{Outcome, Transaction};
use super::{ApplyBatch, Commit, Error, OutboxRow, Parked, Record};

/// A service's own rows in memory.
pub trait Tables: Default + Clone + Send + 'static {
    /// Names the rows that a batch needs.
    type Keys: Send + Sync;
    /// The service's own rows.
    type Rows: Send + Sync;

    /// The rows of `keys` that are there, in the order in which they are locked.
    fn locks(&self, keys: &Self::Keys) -> BTreeSet<String>;

    /// Reads the rows of `keys`.
    fn read(&self, keys: &Self::Keys) -> Self::Rows;

    /// Writes what has changed.
    ///
    /// # Errors
    /// `Data` where a constraint forbids it: nothing of the transaction is kept then.
    fn write(&mut self, rows: &Self::Rows) -> Result<(), Error>;
}

/// What a simulation knows of the steps of a store, and does about them. The default lets all of it happen.
#[async_trait]
pub trait Steps: Send + Sync {
    /// A step is about to be taken, or (`committed`) was taken and is not answered yet.
    ///
    /// # Errors
    /// `Unavailable`: the process does not get further.
    async fn step(&self, step: &'static str) -> Result<(), Error> {
        let _ = step;
        Ok(())
    }

    /// A commit has happened and left these rows in the outbox.
    fn wrote(&self, outbox: &[OutboxRow]) {
        let _ = outbox;
    }
}

/// Lets everything happen.
pub struct NoSteps;

impl Steps for NoSteps {}

struct State<T> {
    tables: T,
    records: BTreeMap<Uuid, (Record, DateTime<Utc>)>,
    outbox: BTreeMap<i64, OutboxRow>,
    outbox_ids: i64,
    parked: BTreeMap<String, Parked>,
    stream_epoch: Option<String>,
    /// Rows that a transaction has locked.
    locked: BTreeSet<String>,
    /// Subjects that a relay owns.
    claimed: BTreeSet<String>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    /// Rung when locks were given back.
    unlocked: Notify,
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        // What it guards is changed in single steps; a panic elsewhere leaves nothing half done in it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one process has of a store. Clones are the same process's.
pub struct Store<T> {
    shared: Arc<Shared<T>>,
    clock: SharedClock,
    steps: Arc<dyn Steps>,
    outbox_written: Arc<Notify>,
    closed: Arc<AtomicBool>,
}

impl<T> Clone for Store<T> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            clock: self.clock.clone(),
            steps: self.steps.clone(),
            outbox_written: self.outbox_written.clone(),
            closed: self.closed.clone(),
        }
    }
}

impl<T: Tables> Store<T> {
    /// An empty store.
    #[must_use]
    pub fn new(clock: SharedClock) -> Self {
        let state = State {
            tables: T::default(),
            records: BTreeMap::new(),
            outbox: BTreeMap::new(),
            outbox_ids: 0,
            parked: BTreeMap::new(),
            stream_epoch: None,
            locked: BTreeSet::new(),
            claimed: BTreeSet::new(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), unlocked: Notify::new() });
        Self::with_shared(shared, clock, Arc::new(NoSteps))
    }

    /// The same store as another process has it.
    #[must_use]
    pub fn process(&self, clock: SharedClock, steps: Arc<dyn Steps>) -> Self {
        Self::with_shared(self.shared.clone(), clock, steps)
    }

    fn with_shared(shared: Arc<Shared<T>>, clock: SharedClock, steps: Arc<dyn Steps>) -> Self {
        Self { shared, clock, steps, outbox_written: Arc::new(Notify::new()), closed: Arc::new(AtomicBool::new(false)) }
    }

    /// Rung whenever a commit of this process has left rows in the outbox.
    #[must_use]
    pub fn outbox_written(&self) -> Arc<Notify> {
        self.outbox_written.clone()
    }

    /// A look at the rows, all of one moment.
    ///
    /// # Errors
    /// `Unavailable` if it is closed, or a simulation says so.
    pub async fn look<R>(&self, look: impl FnOnce(&T) -> R) -> Result<R, Error> {
        self.step("read").await?;
        Ok(look(&self.shared.state().tables))
    }

    /// The rows and the record of a request, both of one moment.
    ///
    /// # Errors
    /// As [`Self::look`].
    pub async fn look_with_record<R>(
        &self,
        request_id: Option<Uuid>,
        look: impl FnOnce(&T) -> R,
    ) -> Result<(Option<Record>, R), Error> {
        self.step("read").await?;
        let state = self.shared.state();
        let record = request_id.and_then(|id| state.records.get(&id)).map(|(record, _)| record.clone());
        Ok((record, look(&state.tables)))
    }

    async fn step(&self, step: &'static str) -> Result<(), Error> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(Error::Unavailable(sqlx::Error::PoolClosed));
        }
        self.steps.step(step).await
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
        loop {
            let mut transaction = self.begin().await?;
            for row in transaction.rows(keys) {
                transaction.lock(row).await?;
            }
            let Some(mut work) = transaction.read(keys, requests) else { continue };
            apply_batch(&mut work);
            if transaction.commit(keys, requests, &work).await? == Outcome::Committed {
                return Ok(());
            }
        }
    }
}
