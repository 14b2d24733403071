//! A transaction, step by step.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::{State, Store, Tables};
use crate::{Error, Record, Work};

/// What came of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is kept.
    Committed,
    /// A row or record appeared meanwhile that this one would have seen: nothing is written, begin again.
    Overtaken,
}

/// A transaction under way. Dropped, it gives its locks back and has done nothing.
pub struct Transaction<T: Tables> {
    store: Store<T>,
    locks: BTreeSet<String>,
    records: BTreeSet<Uuid>,
}

impl<T: Tables> Store<T> {
    /// Begins.
    ///
    /// # Errors
    /// `Unavailable` if it is closed, or a simulation says so.
    pub async fn begin(&self) -> Result<Transaction<T>, Error> {
        self.step("begin").await?;
        Ok(Transaction { store: self.clone(), locks: BTreeSet::new(), records: BTreeSet::new() })
    }
}

impl<T: Tables> Transaction<T> {
    /// The rows of `keys` that are there, in the order in which they are to be locked.
    #[must_use]
    pub fn rows(&self, keys: &T::Keys) -> BTreeSet<String> {
        self.store.shared.state().tables.locks(keys)
    }

    /// Locks a row, once whoever has it has given it back.
    ///
    /// # Errors
    /// As [`Store::begin`].
    pub async fn lock(&mut self, row: String) -> Result<(), Error> {
        loop {
            let unlocked = self.store.shared.unlocked.notified();
            if self.store.shared.state().locked.insert(row.clone()) {
                self.locks.insert(row);
                return self.store.step("locked").await;
            }
            unlocked.await;
        }
    }

    /// Reads the rows of `keys` and the records of `requests`; `None` if there is a row by now that is not locked: begin again.
    pub fn read(&mut self, keys: &T::Keys, requests: &[Uuid]) -> Option<Work<T::Rows>> {
        let state = self.store.shared.state();
        if !state.tables.locks(keys).is_subset(&self.locks) {
            return None;
        }
        let records: Vec<Record> = state.known(requests).cloned().collect();
        self.records = records.iter().map(|record| record.request_id).collect();
        Some(Work::new(state.tables.read(keys), records))
    }

    /// Writes what the work has changed, all or nothing.
    ///
    /// # Errors
    /// `Data` where a constraint forbids it; `Unavailable` as [`Store::begin`], and then it may have happened all the same.
    pub async fn commit(self, keys: &T::Keys, requests: &[Uuid], work: &Work<T::Rows>) -> Result<Outcome, Error> {
        self.store.step("commit").await?;
        let outcome = self.write(keys, requests, work)?;
        let store = self.store.clone();
        drop(self);
        if outcome == Outcome::Committed {
            if !work.outbox.is_empty() {
                store.outbox_written.notify_one();
            }
            store.step("committed").await?;
        }
        Ok(outcome)
    }

    fn write(&self, keys: &T::Keys, requests: &[Uuid], work: &Work<T::Rows>) -> Result<Outcome, Error> {
        let mut state = self.store.shared.state();
        let overtaken = !state.tables.locks(keys).is_subset(&self.locks)
            || state.known(requests).any(|record| !self.records.contains(&record.request_id));
        if overtaken {
            return Ok(Outcome::Overtaken);
        }
        // A constraint may forbid it in the middle.
        let mut tables = state.tables.clone();
        tables.write(&work.rows)?;
        state.tables = tables;
        state.keep_books(work, self.store.clock.now());
        self.store.steps.wrote(&work.outbox);
        Ok(Outcome::Committed)
    }
}

impl<T: Tables> Drop for Transaction<T> {
    fn drop(&mut self) {
        if !self.locks.is_empty() {
            self.store.shared.state().locked.retain(|row| !self.locks.contains(row));
            self.store.shared.unlocked.notify_waiters();
        }
    }
}

impl<T> State<T> {
    fn known(&self, requests: &[Uuid]) -> impl Iterator<Item = &Record> {
        requests.iter().filter_map(|id| self.records.get(id)).map(|(record, _)| record)
    }
}
