//! Registry of the waiters for tickets. Each commit that changes a ticket notifies its waiters.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use eticket_proto::{ids::TicketId, token::Consistency};
use tokio::sync::{Notify, oneshot};

use super::{
    Watched,
    ordered_watch::{Listener, OrderedWatch},
    recent::Recent,
    watch::ResumePoint,
};
use crate::domain::{self, Lacking, View, Wait};

/// The condition that a row must fulfil before it is returned: all of its parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition(Vec<(Option<Consistency>, Wait)>);

impl Condition {
    pub fn new(token: Option<Consistency>, wait: Wait) -> Self {
        Self(vec![(token, wait)])
    }

    /// Adds a part.
    #[must_use]
    pub fn and(mut self, token: Option<Consistency>, wait: Wait) -> Self {
        self.0.push((token, wait));
        self
    }

    /// Returns whether nothing is waited for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether the row fulfils the condition.
    pub fn holds(&self, view: &View) -> bool {
        self.0.iter().all(|(token, wait)| domain::answers(view, token.as_ref(), *wait))
    }

    /// Returns the parts of the row that are behind, each once.
    pub fn lacking(&self, view: &View) -> Vec<Lacking> {
        let mut all: Vec<Lacking> = Vec::new();
        for lacking in self.0.iter().flat_map(|(token, wait)| domain::lacking(view, token.as_ref(), *wait)) {
            if all.iter().all(|known| known.part != lacking.part) {
                all.push(lacking);
            }
        }
        all.sort_by_key(|lacking| lacking.part);
        all
    }
}

/// Why the reader does not follow the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The bus does not respond.
    Bus,
    /// The stream holds messages that the bus does not deliver.
    Stalled,
}

/// The stream that the rows reflect, and the repairs after which its readers must read again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamInfo {
    /// `None` before the first stream is known.
    pub epoch: Option<String>,
    /// Number of row changes without a new message in the stream.
    pub repairs: u64,
    /// The sequence that the last such row received.
    pub repaired_at: u64,
    /// How often the stream was found without its tail. Sequences from before mean other messages.
    pub forks: u64,
}

enum Waiter {
    /// Receives the row once the condition holds.
    Respond(Condition, oneshot::Sender<View>),
    /// Is notified of each change.
    Wake(Arc<Notify>),
}

/// By ticket, and within a ticket in the order of registration: the oldest waiter is notified first.
type Waiters = BTreeMap<TicketId, BTreeMap<u64, Waiter>>;

/// Clones share the same registry.
#[derive(Clone)]
pub struct Changes(Arc<Inner>);

struct Inner {
    waiters: Mutex<Waiters>,
    ids: AtomicU64,
    /// Changes with each commit that changes a row.
    commits: OrderedWatch<u64>,
    stream_info: OrderedWatch<StreamInfo>,
    recent: Mutex<Recent>,
    caught_up: AtomicBool,
    trouble: Mutex<Option<Trouble>>,
    rebuilding: AtomicBool,
}

impl Default for Changes {
    fn default() -> Self {
        Self(Arc::new(Inner {
            waiters: Mutex::default(),
            ids: AtomicU64::new(0),
            commits: OrderedWatch::new(0),
            stream_info: OrderedWatch::new(StreamInfo::default()),
            recent: Mutex::default(),
            caught_up: AtomicBool::new(false),
            trouble: Mutex::default(),
            rebuilding: AtomicBool::new(false),
        }))
    }
}

impl Changes {
    /// Notifies the waiters of these committed rows.
    pub fn committed(&self, rows: Vec<(TicketId, Arc<View>)>) {
        if rows.is_empty() {
            return;
        }
        let mut waiters = self.waiters();
        // Before any notification, so that a notified watcher finds them.
        self.recent().add(&rows);
        for (id, view) in &rows {
            if let Some(of_ticket) = waiters.get_mut(id) {
                tell(of_ticket, view);
            }
        }
        drop(waiters);
        self.count_commit();
    }

    /// Records a position of the reader above which the store has no row: newer rows are kept in memory from now on.
    pub fn keep_rows_above(&self, position: ResumePoint) {
        self.recent().begin(position);
    }

    /// Returns up to `most` of the watched rows above a position, in the order of their sequences. `None`: they must be
    /// read from the store.
    pub fn rows_above(
        &self,
        position: &ResumePoint,
        watched: &Watched,
        most: usize,
    ) -> Option<Vec<(TicketId, Arc<View>)>> {
        self.recent().above(position, watched, most)
    }

    fn count_commit(&self) {
        self.0.commits.modify(|count| {
            *count += 1;
            true
        });
    }

    /// Records that the rows have caught up with a stream, possibly in an earlier process.
    pub fn caught_up(&self) {
        self.0.caught_up.store(true, Ordering::Relaxed);
    }

    /// Returns whether the rows are complete, or have been complete before.
    pub fn has_caught_up(&self) -> bool {
        self.0.caught_up.load(Ordering::Relaxed)
    }

    /// Records whether the reader follows the stream.
    pub fn set_trouble(&self, trouble: Option<Trouble>) {
        *self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    pub fn trouble(&self) -> Option<Trouble> {
        *self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records whether the rows are being built again.
    pub fn set_rebuilding(&self, rebuilding: bool) {
        self.0.rebuilding.store(rebuilding, Ordering::Relaxed);
    }

    /// Returns whether the rows are being built, for the first time or again.
    pub fn is_building(&self) -> bool {
        !self.has_caught_up() || self.0.rebuilding.load(Ordering::Relaxed)
    }

    /// Records that the rows reflect the stream of this epoch from now on.
    pub fn attached(&self, epoch: &str) {
        self.0.stream_info.modify(|stream_info| {
            let changed = stream_info.epoch.as_deref() != Some(epoch);
            if changed {
                stream_info.epoch = Some(epoch.to_owned());
            }
            changed
        });
    }

    /// Records that the stream has lost its tail.
    pub fn forked(&self) {
        self.recent().clear();
        self.0.stream_info.modify(|stream_info| {
            stream_info.forks += 1;
            true
        });
    }

    /// Records that a row was changed without a new message and received this sequence.
    pub fn repaired(&self, sequence: u64) {
        self.0.stream_info.modify(|stream_info| {
            stream_info.repairs += 1;
            stream_info.repaired_at = sequence;
            true
        });
    }

    /// Notifies all waiters, because any row may have changed.
    pub fn exchanged(&self) {
        self.recent().clear();
        let mut waiters = self.waiters();
        for of_ticket in waiters.values_mut() {
            // Dropping the sender makes a waiting call read the store again.
            of_ticket.retain(|_, waiter| matches!(waiter, Waiter::Wake(_)));
            for waiter in of_ticket.values() {
                if let Waiter::Wake(wake) = waiter {
                    wake.notify_one();
                }
            }
        }
        drop(waiters);
        self.count_commit();
    }

    /// Returns the row of the first commit after which the condition holds, or `None` if all rows were exchanged
    /// meanwhile.
    pub fn answer_once(
        &self,
        id: &TicketId,
        condition: Condition,
    ) -> impl Future<Output = Option<View>> + Send + use<> {
        let (sender, answer) = oneshot::channel();
        let registration = self.register([(id.clone(), Waiter::Respond(condition, sender))]);
        async move {
            let _registration = registration;
            answer.await.ok()
        }
    }

    /// Notifies `wake` of each change of one of these tickets until the registration is dropped.
    pub fn wake(&self, tickets: impl IntoIterator<Item = TicketId>, wake: &Arc<Notify>) -> Registration {
        self.register(tickets.into_iter().map(|ticket| (ticket, Waiter::Wake(wake.clone()))))
    }

    /// Returns a listener to the commits that change a row.
    pub fn commits(&self) -> Listener<u64> {
        self.0.commits.listen()
    }

    pub fn stream_info(&self) -> Listener<StreamInfo> {
        self.0.stream_info.listen()
    }

    fn register(&self, new: impl IntoIterator<Item = (TicketId, Waiter)>) -> Registration {
        let key = self.0.ids.fetch_add(1, Ordering::Relaxed);
        let mut tickets = Vec::new();
        let mut waiters = self.waiters();
        for (ticket, waiter) in new {
            waiters.entry(ticket.clone()).or_default().insert(key, waiter);
            tickets.push(ticket);
        }
        drop(waiters);
        Registration { changes: self.clone(), key, tickets }
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.waiters().values().map(BTreeMap::len).sum()
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        // A panic while rows are added leaves a ticket twice at most, and each state is one that was committed.
        self.0.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        // Each change is a single step, so a panic elsewhere cannot leave the map in an inconsistent state.
        self.0.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(of_ticket: &mut BTreeMap<u64, Waiter>, view: &View) {
    let answered = |waiter: &Waiter| matches!(waiter, Waiter::Respond(condition, _) if condition.holds(view));
    let keys: Vec<u64> = of_ticket.iter().filter(|(_, waiter)| answered(waiter)).map(|(key, _)| *key).collect();
    for key in keys {
        if let Some(Waiter::Respond(_, answer)) = of_ticket.remove(&key) {
            // The waiter may have been cancelled.
            let _ = answer.send(view.clone());
        }
    }
    for waiter in of_ticket.values() {
        if let Waiter::Wake(wake) = waiter {
            wake.notify_one();
        }
    }
}

/// The registration of a waiter. Dropping it removes the waiter.
pub struct Registration {
    changes: Changes,
    key: u64,
    tickets: Vec<TicketId>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut waiters = self.changes.waiters();
        for ticket in &self.tickets {
            if let Some(of_ticket) = waiters.get_mut(ticket) {
                of_ticket.remove(&self.key);
                if of_ticket.is_empty() {
                    waiters.remove(ticket);
                }
            }
        }
    }
}
