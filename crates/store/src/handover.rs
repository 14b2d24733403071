//! The rows of an outbox on their way from the commits of a process to its relay.
//!
//! Rows are handed over in memory after their commit, so that the relay does not read them back. The table is read only
//! for what is not in memory: rows of an earlier run, rows that a claim has given back, and rows above the limit of the
//! queue, which a long outage of the bus fills.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::WaitingRow;

/// Maximum number of the newest rows of a subject in one claim of a store that several processes share. They send
/// independently of each other, so up to two claims of each other process may follow the newest state of an aggregate,
/// which must be among the messages that the stream keeps of a subject.
pub const NEWEST: usize = 2;

/// The limits of a queue.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Maximum number of rows in memory.
    pub rows: usize,
    /// Maximum number of rows that are read from the table at a time.
    pub page: usize,
    /// Maximum number of rows of a subject in one claim. Older ones are superseded by them.
    pub newest: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { rows: 16_384, page: 4_096, newest: NEWEST }
    }
}

/// The queue of one process.
#[derive(Debug)]
pub(crate) struct Handover {
    queue: Mutex<Queue>,
    pub(crate) limits: Limits,
}

#[derive(Debug, Default)]
struct Queue {
    /// By id.
    rows: BTreeMap<i64, WaitingRow>,
    /// The ids in `rows`.
    of_subject: HashMap<String, Vec<i64>>,
    /// Rows above this id are in the table, and maybe not in memory.
    unread_above: Option<i64>,
    /// Rows that were committed since the last read from the table began, as many as there is room for.
    new: Vec<WaitingRow>,
    /// Rows above this id were committed since then, too.
    missed_above: Option<i64>,
    /// A read from the table is going on, and nothing was given back meanwhile.
    is_reading: bool,
    /// Rows of claims.
    claimed: BTreeSet<i64>,
    /// Rows that are on the stream, and not deleted yet.
    sent: BTreeSet<i64>,
    /// The last claim was given back, so the bus or the store has failed.
    has_failed: bool,
}

impl Queue {
    fn extend(&mut self, rows: Vec<WaitingRow>) {
        for row in rows {
            let (id, subject) = (row.id, row.message.subject.clone());
            let is_known = self.claimed.contains(&id) || self.sent.contains(&id);
            if !is_known && self.rows.insert(id, row).is_none() {
                self.of_subject.entry(subject).or_default().push(id);
            }
        }
    }

    /// Returns up to `most` subjects, those with the lowest ids first.
    fn first_subjects(&self, most: usize) -> Vec<String> {
        let mut names = HashSet::new();
        let subjects = self.rows.values().map(|row| row.message.subject.as_str()).filter(|name| names.insert(*name));
        subjects.take(most).map(str::to_owned).collect()
    }

    fn take(&mut self, subject: &str) -> Vec<WaitingRow> {
        let ids = self.of_subject.remove(subject).unwrap_or_default();
        ids.iter().filter_map(|id| self.rows.remove(id)).collect()
    }

    fn miss(&mut self, above: i64) {
        self.missed_above = Some(self.missed_above.map_or(above, |known| known.min(above)));
    }

    /// Forgets the new rows, which are in the table.
    fn miss_new(&mut self) {
        for row in std::mem::take(&mut self.new) {
            self.miss(row.id - 1);
        }
    }

    /// All rows above this id are read from the table again, after those in memory.
    fn also_read_above(&mut self, id: i64) {
        self.is_reading = false;
        self.miss_new();
        let known = [Some(id), self.unread_above, self.missed_above.take()];
        self.unread_above = known.into_iter().flatten().min();
    }

    /// Forgets the rows in memory. They and all rows above this id are read from the table again.
    fn read_above(&mut self, id: i64) {
        let in_memory = self.rows.keys().next().map_or(id, |lowest| lowest - 1);
        self.rows.clear();
        self.of_subject.clear();
        self.also_read_above(id.min(in_memory));
    }
}

/// Rows that one relay sends. Those that are not on the stream when it is dropped are claimed again.
#[derive(Debug)]
pub struct Claim {
    handover: Arc<Handover>,
    subjects: Vec<Vec<WaitingRow>>,
    /// By the id of the row whose publication makes them obsolete.
    superseded: HashMap<i64, Vec<i64>>,
    ids: BTreeSet<i64>,
    /// None of the rows could be sent.
    has_failed: bool,
}

impl Claim {
    /// Takes the rows: one list for each subject, each in the order (revision, id). A store that several processes share
    /// leaves out all but the [`NEWEST`] rows of a subject.
    pub fn subjects(&mut self) -> Vec<Vec<WaitingRow>> {
        std::mem::take(&mut self.subjects)
    }

    /// Ends the claim. Returns the rows that are on the stream, and those that they supersede. The others are claimed
    /// again.
    #[must_use]
    pub fn sent(mut self, published: &[i64]) -> Sent {
        let superseded = published.iter().filter_map(|id| self.superseded.get(id)).flatten();
        let ids: BTreeSet<i64> = published.iter().chain(superseded).copied().collect();
        self.ids.retain(|id| !ids.contains(id));
        self.has_failed = ids.is_empty() && !self.ids.is_empty();
        let handover = self.handover.clone();
        {
            let mut queue = handover.queue();
            queue.claimed.retain(|id| !ids.contains(id));
            queue.sent.extend(&ids);
            queue.has_failed = self.has_failed;
        }
        Sent { handover, ids }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.handover.give_back(&self.ids, self.has_failed);
    }
}

/// Rows that are on the stream. Those that are not deleted when it is dropped are claimed again.
#[derive(Debug)]
pub struct Sent {
    handover: Arc<Handover>,
    ids: BTreeSet<i64>,
}

impl Sent {
    /// Returns the ids of the rows.
    pub fn ids(&self) -> Vec<i64> {
        self.ids.iter().copied().collect()
    }

    /// Returns the number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Adds the rows of another one.
    pub fn append(&mut self, mut other: Self) {
        self.ids.append(&mut other.ids);
    }

    /// Notes that rows are deleted.
    pub(crate) fn deleted(&mut self, ids: impl IntoIterator<Item = i64>) {
        let mut queue = self.handover.queue();
        for id in ids {
            self.ids.remove(&id);
            queue.sent.remove(&id);
        }
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.handover.give_back(&self.ids, false);
    }
}

/// The rows that are not on the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// The number of those in memory and in claims.
    pub(crate) known: usize,
    /// The lowest of them.
    pub(crate) lowest: Option<i64>,
    /// There may be more in the table above this id.
    pub(crate) unread_above: Option<i64>,
    /// How many rows of claims, or that are on the stream, are in the table above that id.
    pub(crate) known_above: usize,
}

impl Waiting {
    /// The number of rows that are not on the stream, if the table has this many above `unread_above`.
    pub(crate) fn depth(self, in_table: i64) -> i64 {
        let [known, known_above] = [self.known, self.known_above].map(|count| i64::try_from(count).unwrap_or(i64::MAX));
        known.saturating_add(in_table.saturating_sub(known_above).max(0))
    }
}

impl Handover {
    /// Creates an empty queue.
    pub(crate) fn new(limits: Limits) -> Self {
        Self { queue: Mutex::default(), limits }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the rows of a commit.
    pub(crate) fn add(&self, rows: Vec<WaitingRow>) {
        let mut queue = self.queue();
        let Some(lowest) = rows.iter().map(|row| row.id).min() else { return };
        if queue.unread_above.is_some() {
            if queue.is_reading && queue.new.len() + rows.len() <= self.limits.rows {
                queue.new.extend(rows);
            } else {
                queue.miss(lowest - 1);
            }
        } else if queue.rows.len() + rows.len() > self.limits.rows {
            queue.unread_above = Some(lowest - 1);
        } else {
            queue.extend(rows);
        }
    }

    /// Whether this process should take over a page of rows of others: there is room for them, and the last claim did
    /// not fail. Otherwise another process may do better.
    pub(crate) fn may_adopt(&self) -> bool {
        let queue = self.queue();
        let has_room = queue.unread_above.is_none() && queue.rows.len() + self.limits.page <= self.limits.rows;
        has_room && !queue.has_failed
    }

    /// Adds rows that this process has taken over from others.
    pub(crate) fn adopt(&self, rows: Vec<WaitingRow>) {
        self.queue().extend(rows);
    }

    /// Begins a read of the table, at most a page. Returns the id above which to read; `None` if there is something in
    /// memory, or nothing to read.
    pub(crate) fn begin_read(&self) -> Option<i64> {
        let mut queue = self.queue();
        let unread = queue.unread_above.filter(|_| queue.rows.is_empty())?;
        let above = queue.missed_above.take().map_or(unread, |missed| missed.min(unread));
        queue.unread_above = Some(above);
        queue.is_reading = true;
        Some(above)
    }

    /// Adds the rows that were read, in the order of their ids.
    pub(crate) fn end_read(&self, rows: Vec<WaitingRow>) {
        let mut queue = self.queue();
        if !std::mem::take(&mut queue.is_reading) {
            // A claim has given rows back meanwhile.
            return;
        }
        let rest = rows.last().map(|row| row.id).filter(|_| rows.len() >= self.limits.page);
        // A row that was committed after the read began may not be among those read, wherever its id is.
        if rest.is_some() {
            queue.miss_new();
        }
        queue.unread_above = [rest, queue.missed_above.take()].into_iter().flatten().min();
        queue.extend(rows);
        let new = std::mem::take(&mut queue.new);
        queue.extend(new);
    }

    /// All rows above this id are read from the table, after those in memory.
    pub(crate) fn also_read_above(&self, id: i64) {
        self.queue().also_read_above(id);
    }

    fn give_back(&self, ids: &BTreeSet<i64>, has_failed: bool) {
        let Some(lowest) = ids.first() else { return };
        let mut queue = self.queue();
        for id in ids {
            queue.claimed.remove(id);
            queue.sent.remove(id);
        }
        queue.has_failed |= has_failed;
        queue.read_above(lowest - 1);
    }

    /// Claims all rows of up to `most` subjects, those with the lowest ids first.
    pub(crate) fn claim(self: &Arc<Self>, most: usize) -> Claim {
        let mut queue = self.queue();
        let (mut subjects, mut superseded, mut ids) = (Vec::new(), HashMap::new(), BTreeSet::new());
        for subject in queue.first_subjects(most) {
            let mut rows = queue.take(&subject);
            ids.extend(rows.iter().map(|row| row.id));
            rows.sort_unstable_by_key(|row| (row.revision, row.id));
            let surplus = rows.len().saturating_sub(self.limits.newest);
            let older: Vec<i64> = rows.drain(..surplus).map(|row| row.id).collect();
            if !older.is_empty() {
                superseded.insert(rows[0].id, older);
            }
            subjects.push(rows);
        }
        queue.claimed.extend(&ids);
        queue.has_failed &= !ids.is_empty();
        // Until rows of it are sent.
        let has_failed = !ids.is_empty();
        Claim { handover: self.clone(), subjects, superseded, ids, has_failed }
    }

    /// Whether a row is on the stream and not deleted.
    #[cfg(any(test, feature = "memory"))]
    pub(crate) fn is_sent(&self, id: i64) -> bool {
        self.queue().sent.contains(&id)
    }

    /// Returns what is not on the stream.
    pub(crate) fn waiting(&self) -> Waiting {
        let queue = self.queue();
        let lowest = [queue.rows.keys().next(), queue.claimed.first()].into_iter().flatten().min();
        let unread_above = queue.missed_above.into_iter().chain(queue.unread_above).min();
        let above = |ids: &BTreeSet<i64>| unread_above.map_or(0, |id| ids.range(id.saturating_add(1)..).count());
        Waiting {
            known: queue.rows.len() + queue.claimed.len(),
            lowest: lowest.copied(),
            unread_above,
            known_above: above(&queue.claimed) + above(&queue.sent),
        }
    }
}

#[cfg(test)]
mod tests;
