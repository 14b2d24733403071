//! Who waits for which ticket: told by the commit that changes it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use eticket_proto::{ids::TicketId, token::Consistency};
use tokio::sync::{Notify, oneshot};

use super::ordered_watch::{Listener, OrderedWatch};
use crate::domain::{View, Wait};

/// What a row must have before it answers somebody.
#[derive(Debug, Clone)]
pub struct Condition {
    pub token: Option<Consistency>,
    pub wait: Wait,
}

/// The stream that the rows reflect, and repairs that readers of it must look back for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamInfo {
    /// `None` before the first stream is met.
    pub epoch: Option<String>,
    /// Counts the times that a row changed without a message of its own.
    pub repairs: u64,
    /// The sequence that the last such row was given.
    pub repaired_at: u64,
}

enum Waiter {
    /// Wants the row once the condition holds.
    Respond(Condition, oneshot::Sender<View>),
    /// Wants to know of each change.
    Wake(Arc<Notify>),
}

/// By ticket, and within it in the order of registration: who waits longest is told first.
type Waiters = BTreeMap<TicketId, BTreeMap<u64, Waiter>>;

/// Clones tell the same ones.
#[derive(Clone)]
pub struct Changes(Arc<Inner>);

struct Inner {
    waiters: Mutex<Waiters>,
    ids: AtomicU64,
    /// Moves with each commit that changes a row.
    commits: OrderedWatch<u64>,
    stream_info: OrderedWatch<StreamInfo>,
    caught_up: AtomicBool,
}

impl Default for Changes {
    fn default() -> Self {
        Self(Arc::new(Inner {
            waiters: Mutex::default(),
            ids: AtomicU64::new(0),
            commits: OrderedWatch::new(0),
            stream_info: OrderedWatch::new(StreamInfo::default()),
            caught_up: AtomicBool::new(false),
        }))
    }
}

impl Changes {
    /// These rows are committed.
    pub fn committed<'a>(&self, rows: impl Iterator<Item = (&'a TicketId, &'a View)>) {
        let mut any = false;
        let mut waiters = self.waiters();
        for (id, view) in rows {
            any = true;
            if let Some(of_ticket) = waiters.get_mut(id) {
                tell(of_ticket, view);
            }
        }
        drop(waiters);
        if any {
            self.count_commit();
        }
    }

    fn count_commit(&self) {
        self.0.commits.modify(|count| {
            *count += 1;
            true
        });
    }

    /// The rows have once caught up with a stream, maybe before this process.
    pub fn caught_up(&self) {
        self.0.caught_up.store(true, Ordering::Relaxed);
    }

    /// Whether the rows are all there is, or were once.
    pub fn has_caught_up(&self) -> bool {
        self.0.caught_up.load(Ordering::Relaxed)
    }

    /// Rows reflect the stream of this epoch from now on.
    pub fn attached(&self, epoch: &str) {
        self.0.stream_info.modify(|stream_info| {
            let changed = stream_info.epoch.as_deref() != Some(epoch);
            if changed {
                stream_info.epoch = Some(epoch.to_owned());
            }
            changed
        });
    }

    /// A row was changed without a message of its own, and given this sequence.
    pub fn repaired(&self, sequence: u64) {
        self.0.stream_info.modify(|stream_info| {
            stream_info.repairs += 1;
            stream_info.repaired_at = sequence;
            true
        });
    }

    /// All rows may have changed at once.
    pub fn exchanged(&self) {
        let mut waiters = self.waiters();
        for of_ticket in waiters.values_mut() {
            // Who wants an answer finds the sender gone and looks for themselves.
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

    /// Returns the row of the first commit after which the condition holds; `None` if all rows were exchanged meanwhile.
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

    /// Rings `wake` at each change of one of these tickets until the registration is dropped.
    pub fn wake(&self, tickets: impl IntoIterator<Item = TicketId>, wake: &Arc<Notify>) -> Registration {
        self.register(tickets.into_iter().map(|ticket| (ticket, Waiter::Wake(wake.clone()))))
    }

    /// Moves with each commit that changes a row.
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

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        // Changed in single steps; a panic elsewhere leaves nothing half done in it.
        self.0.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(of_ticket: &mut BTreeMap<u64, Waiter>, view: &View) {
    let answered = |waiter: &Waiter| matches!(waiter, Waiter::Respond(condition, _) if condition.holds(view));
    let keys: Vec<u64> = of_ticket.iter().filter(|(_, waiter)| answered(waiter)).map(|(key, _)| *key).collect();
    for key in keys {
        if let Some(Waiter::Respond(_, answer)) = of_ticket.remove(&key) {
            // Who no longer waits has gone.
            let _ = answer.send(view.clone());
        }
    }
    for waiter in of_ticket.values() {
        if let Waiter::Wake(wake) = waiter {
            wake.notify_one();
        }
    }
}

/// A waiter, until it is dropped.
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
