//! The in-memory store, for tests and simulations. Its content is lost with the process.
//!
//! It allows every interleaving that a shared database server allows. A transaction locks its existing rows one after
//! another, and other processes can act between any two steps. If a row appears meanwhile, the transaction starts
//! again; if it is dropped before its commit, it is rolled back. `Steps` lets a simulation act between two steps.

mod housekeeping;
#[cfg(test)]
mod tests;
mod transaction;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use eticket_base::clock::SharedClock;
use tokio::sync::Notify;
use uuid::Uuid;

pub use self::transaction::{Outcome, Transaction};
use super::{
    ApplyBatch, Commit, Error, OutboxRow, Parked, Record,
    handover::{Handover, Limits},
};

/// The rows of a service in memory.
pub trait Tables: Default + Clone + Send + 'static {
    /// Names the rows that a batch needs.
    type Keys: Send + Sync;
    /// The rows of the service.
    type Rows: Send + Sync;

    /// Returns the existing rows of `keys`, in the order in which they are locked.
    fn locks(&self, keys: &Self::Keys) -> BTreeSet<String>;

    /// Reads the rows of `keys`.
    fn read(&self, keys: &Self::Keys) -> Self::Rows;

    /// Writes the changed rows.
    ///
    /// # Errors
    /// `Data` if a constraint is violated; the transaction is rolled back.
    fn write(&mut self, rows: &Self::Rows) -> Result<(), Error>;
}

/// Hooks of a simulation into the steps of a store. The defaults do nothing.
#[async_trait]
pub trait Steps: Send + Sync {
    /// Called before a step, or (`committed`) after the commit and before its result is returned.
    ///
    /// # Errors
    /// `Unavailable` ends the process of the simulation at this step.
    async fn step(&self, step: &'static str) -> Result<(), Error> {
        let _ = step;
        Ok(())
    }

    /// Whether the process lives. The outbox rows of a dead one are for the others.
    fn is_alive(&self) -> bool {
        true
    }

    /// Called after a commit with its new outbox rows.
    fn wrote(&self, outbox: &[OutboxRow]) {
        let _ = outbox;
    }
}

/// Hooks that do nothing.
pub struct NoSteps;

impl Steps for NoSteps {}

struct State<T> {
    tables: T,
    records: BTreeMap<Uuid, (Record, DateTime<Utc>)>,
    /// By id, with the number of the session that wrote the row.
    outbox: BTreeMap<i64, (u64, OutboxRow)>,
    outbox_ids: i64,
    /// The session of each process.
    sessions: BTreeMap<u64, Session>,
    session_numbers: u64,
    parked: BTreeMap<String, Parked>,
    discarded: BTreeSet<String>,
    stream_epoch: Option<String>,
    /// Rows locked by transactions.
    locked: BTreeSet<String>,
}

/// What shows whether a session has ended.
struct Session {
    steps: Arc<dyn Steps>,
    closed: Arc<AtomicBool>,
}

impl<T> State<T> {
    fn begin_session(&mut self, session: Session) -> u64 {
        self.session_numbers += 1;
        self.sessions.insert(self.session_numbers, session);
        self.session_numbers
    }

    /// Whether the process of a session still sends its rows.
    fn lives(&self, number: u64) -> bool {
        let session = self.sessions.get(&number);
        session.is_some_and(|session| session.steps.is_alive() && !session.closed.load(Ordering::Relaxed))
    }
}

struct Shared<T> {
    state: Mutex<State<T>>,
    /// Notified when locks are released.
    unlocked: Notify,
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        // Every change is one step, so a panic elsewhere leaves no partial change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connection of one process to a store. Clones belong to the same process.
pub struct Store<T> {
    shared: Arc<Shared<T>>,
    clock: SharedClock,
    steps: Arc<dyn Steps>,
    outbox_written: Arc<Notify>,
    handover: Arc<Handover>,
    /// The number of the session.
    session: Arc<AtomicU64>,
    closed: Arc<AtomicBool>,
}

impl<T> Clone for Store<T> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            clock: self.clock.clone(),
            steps: self.steps.clone(),
            outbox_written: self.outbox_written.clone(),
            handover: self.handover.clone(),
            session: self.session.clone(),
            closed: self.closed.clone(),
        }
    }
}

impl<T: Tables> Store<T> {
    /// Creates an empty store.
    #[must_use]
    pub fn new(clock: SharedClock) -> Self {
        let state = State {
            tables: T::default(),
            records: BTreeMap::new(),
            outbox: BTreeMap::new(),
            outbox_ids: 0,
            sessions: BTreeMap::new(),
            session_numbers: 0,
            parked: BTreeMap::new(),
            discarded: BTreeSet::new(),
            stream_epoch: None,
            locked: BTreeSet::new(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), unlocked: Notify::new() });
        Self::with_shared(shared, clock, Arc::new(NoSteps))
    }

    /// Connects another process to this store.
    #[must_use]
    pub fn process(&self, clock: SharedClock, steps: Arc<dyn Steps>) -> Self {
        Self::with_shared(self.shared.clone(), clock, steps)
    }

    /// Limits the rows of the outbox that this process has in memory.
    #[must_use]
    pub fn with_outbox_limits(mut self, limits: Limits) -> Self {
        self.handover = Arc::new(Handover::new(limits));
        self
    }

    fn with_shared(shared: Arc<Shared<T>>, clock: SharedClock, steps: Arc<dyn Steps>) -> Self {
        let closed = Arc::new(AtomicBool::new(false));
        let session = shared.state().begin_session(Session { steps: steps.clone(), closed: closed.clone() });
        let (outbox_written, handover) = (Arc::new(Notify::new()), Arc::new(Handover::new(Limits::default())));
        Self { shared, clock, steps, outbox_written, handover, session: Arc::new(AtomicU64::new(session)), closed }
    }

    /// Notified when a commit of this process has written outbox rows.
    #[must_use]
    pub fn outbox_written(&self) -> Arc<Notify> {
        self.outbox_written.clone()
    }

    /// Returns how many rows the outbox has, of all processes.
    #[must_use]
    pub fn outbox_rows(&self) -> usize {
        self.shared.state().outbox.len()
    }

    /// Reads rows at one point in time.
    ///
    /// # Errors
    /// `Unavailable` if the store is closed or the simulation ends the process.
    pub async fn look<R>(&self, look: impl FnOnce(&T) -> R) -> Result<R, Error> {
        self.step("read").await?;
        Ok(look(&self.shared.state().tables))
    }

    /// Reads rows and the record of a request at one point in time.
    ///
    /// # Errors
    /// Like [`Self::look`].
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

    /// Begins another session, after a commit whose outcome the process did not learn. Its rows are adopted.
    fn begin_another_session(&self) {
        let mut state = self.shared.state();
        state.sessions.remove(&self.session.load(Ordering::Relaxed));
        let session = Session { steps: self.steps.clone(), closed: self.closed.clone() };
        self.session.store(state.begin_session(session), Ordering::Relaxed);
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
