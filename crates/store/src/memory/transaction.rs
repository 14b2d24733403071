//! A transaction with separate steps.

use std::{collections::BTreeSet, sync::atomic::Ordering};

use uuid::Uuid;

use super::{State, Store, Tables};
use crate::{Error, Record, WaitingRow, Work};

/// The result of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The transaction is committed.
    Committed,
    /// A row or record has appeared that this transaction should have seen. Nothing is written; begin again.
    Overtaken,
}

/// An open transaction. Dropping it releases its locks and rolls it back.
pub struct Transaction<T: Tables> {
    store: Store<T>,
    locks: BTreeSet<String>,
    records: BTreeSet<Uuid>,
    /// The first id of its outbox rows. Like those of a sequence, ids are drawn before the commit, so a row can appear
    /// below others that were committed earlier.
    first_id: i64,
}

/// Ids of outbox rows that are drawn for a transaction.
const IDS: i64 = 10_000;

impl<T: Tables> Store<T> {
    /// Begins a transaction.
    ///
    /// # Errors
    /// `Unavailable` if the store is closed or the simulation ends the process.
    pub async fn begin(&self) -> Result<Transaction<T>, Error> {
        self.step("begin").await?;
        let first_id = self.shared.state().draw_ids(IDS);
        Ok(Transaction { store: self.clone(), locks: BTreeSet::new(), records: BTreeSet::new(), first_id })
    }
}

impl<T: Tables> Transaction<T> {
    /// Returns the existing rows of `keys`, in the order in which they must be locked.
    #[must_use]
    pub fn rows(&self, keys: &T::Keys) -> BTreeSet<String> {
        self.store.shared.state().tables.locks(keys)
    }

    /// Locks a row; waits while another transaction has the lock.
    ///
    /// # Errors
    /// Like [`Store::begin`].
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

    /// Reads the rows of `keys` and the records of `requests`. `None` if a row has appeared that is not locked: begin
    /// again.
    pub fn read(&mut self, keys: &T::Keys, requests: &[Uuid]) -> Option<Work<T::Rows>> {
        let state = self.store.shared.state();
        if !state.tables.locks(keys).is_subset(&self.locks) {
            return None;
        }
        let records: Vec<Record> = state.known(requests).cloned().collect();
        self.records = records.iter().map(|record| record.request_id).collect();
        Some(Work::new(state.tables.read(keys), records))
    }

    /// Writes the changes of the work, all or nothing.
    ///
    /// # Errors
    /// `Data` if a constraint is violated. `Unavailable` as in [`Store::begin`]; the transaction may have been
    /// committed.
    pub async fn commit(self, keys: &T::Keys, requests: &[Uuid], work: &Work<T::Rows>) -> Result<Outcome, Error> {
        self.store.step("commit").await?;
        let Some(outbox) = self.write(keys, requests, work)? else { return Ok(Outcome::Overtaken) };
        let store = self.store.clone();
        drop(self);
        let mut unlearned = Unlearned(Some(&store));
        store.step("committed").await?;
        unlearned.0 = None;
        if !outbox.is_empty() {
            store.handover.add(outbox);
            store.outbox_written.notify_one();
        }
        Ok(Outcome::Committed)
    }

    /// Returns the rows that were added to the outbox; `None` if the transaction was overtaken.
    fn write(&self, keys: &T::Keys, requests: &[Uuid], work: &Work<T::Rows>) -> Result<Option<Vec<WaitingRow>>, Error> {
        let mut state = self.store.shared.state();
        let overtaken = !state.tables.locks(keys).is_subset(&self.locks)
            || state.known(requests).any(|record| !self.records.contains(&record.request_id));
        if overtaken {
            return Ok(None);
        }
        // A constraint may fail after some rows were written.
        let mut tables = state.tables.clone();
        tables.write(&work.rows)?;
        state.tables = tables;
        let session = self.store.session.load(Ordering::Relaxed);
        let outbox = state.write_bookkeeping(work, session, self.first_id, self.store.clock.now());
        self.store.steps.wrote(&work.outbox);
        Ok(Some(outbox))
    }
}

/// A commit whose outcome its process has not learned. Its session ends, so that its rows are adopted.
struct Unlearned<'a, T: Tables>(Option<&'a Store<T>>);

impl<T: Tables> Drop for Unlearned<'_, T> {
    fn drop(&mut self) {
        if let Some(store) = self.0 {
            store.begin_another_session();
        }
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
