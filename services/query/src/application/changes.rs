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

use super::signal::{Listener, Signal};
use crate::domain::{View, Wait};

/// What a row must have before it answers somebody.
#[derive(Debug, Clone)]
pub struct Condition {
    pub token: Option<Consistency>,
    pub wait: Wait,
}

/// The stream that the rows reflect, and repairs that readers of it must look back for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Epoch {
    /// `None` before the first stream is met.
    pub identity: Option<String>,
    /// Counts the times that a row changed without a message of its own.
    pub repairs: u64,
    /// The sequence that the last such row was given.
    pub repaired_at: u64,
}

enum Interest {
    /// Wants the row once the condition holds.
    Answer(Condition, oneshot::Sender<View>),
    /// Wants to know of each change.
    Wake(Arc<Notify>),
}

/// By ticket, and within it in the order of registration: who waits longest is told first.
type Interests = BTreeMap<TicketId, BTreeMap<u64, Interest>>;

/// Clones tell the same ones.
#[derive(Clone)]
pub struct Changes(Arc<Inner>);

struct Inner {
    interests: Mutex<Interests>,
    ids: AtomicU64,
    /// Moves with each commit that changes a row.
    commits: Signal<u64>,
    epoch: Signal<Epoch>,
    caught_up: AtomicBool,
}

impl Default for Changes {
    fn default() -> Self {
        Self(Arc::new(Inner {
            interests: Mutex::default(),
            ids: AtomicU64::new(0),
            commits: Signal::new(0),
            epoch: Signal::new(Epoch::default()),
            caught_up: AtomicBool::new(false),
        }))
    }
}

impl Changes {
    /// These rows are committed.
    pub fn committed<'a>(&self, rows: impl Iterator<Item = (&'a TicketId, &'a View)>) {
        let mut any = false;
        let mut interests = self.interests();
        for (id, view) in rows {
            any = true;
            if let Some(of_ticket) = interests.get_mut(id) {
                tell(of_ticket, view);
            }
        }
        drop(interests);
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

    /// Rows reflect the stream of this identity from now on.
    pub fn attached(&self, identity: &str) {
        self.0.epoch.modify(|epoch| {
            let changed = epoch.identity.as_deref() != Some(identity);
            if changed {
                epoch.identity = Some(identity.to_owned());
            }
            changed
        });
    }

    /// A row was changed without a message of its own, and given this sequence.
    pub fn repaired(&self, sequence: u64) {
        self.0.epoch.modify(|epoch| {
            epoch.repairs += 1;
            epoch.repaired_at = sequence;
            true
        });
    }

    /// All rows may have changed at once.
    pub fn exchanged(&self) {
        let mut interests = self.interests();
        for of_ticket in interests.values_mut() {
            // Who wants an answer finds the sender gone and looks for themselves.
            of_ticket.retain(|_, interest| matches!(interest, Interest::Wake(_)));
            for interest in of_ticket.values() {
                if let Interest::Wake(wake) = interest {
                    wake.notify_one();
                }
            }
        }
        drop(interests);
        self.count_commit();
    }

    /// Answers with the row of the first commit after which the condition holds; `None` if all rows were exchanged meanwhile.
    pub fn answer_once(
        &self,
        id: &TicketId,
        condition: Condition,
    ) -> impl Future<Output = Option<View>> + Send + use<> {
        let (sender, answer) = oneshot::channel();
        let registration = self.register([(id.clone(), Interest::Answer(condition, sender))]);
        async move {
            let _registration = registration;
            answer.await.ok()
        }
    }

    /// Rings `wake` at each change of one of these tickets until the registration is dropped.
    pub fn wake(&self, tickets: impl IntoIterator<Item = TicketId>, wake: &Arc<Notify>) -> Registration {
        self.register(tickets.into_iter().map(|ticket| (ticket, Interest::Wake(wake.clone()))))
    }

    /// Moves with each commit that changes a row.
    pub fn commits(&self) -> Listener<u64> {
        self.0.commits.listen()
    }

    pub fn epoch(&self) -> Listener<Epoch> {
        self.0.epoch.listen()
    }

    fn register(&self, new: impl IntoIterator<Item = (TicketId, Interest)>) -> Registration {
        let key = self.0.ids.fetch_add(1, Ordering::Relaxed);
        let mut tickets = Vec::new();
        let mut interests = self.interests();
        for (ticket, interest) in new {
            interests.entry(ticket.clone()).or_default().insert(key, interest);
            tickets.push(ticket);
        }
        drop(interests);
        Registration { changes: self.clone(), key, tickets }
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.interests().values().map(BTreeMap::len).sum()
    }

    fn interests(&self) -> MutexGuard<'_, Interests> {
        // Changed in single steps; a panic elsewhere leaves nothing half done in it.
        self.0.interests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(of_ticket: &mut BTreeMap<u64, Interest>, view: &View) {
    let answered = |interest: &Interest| matches!(interest, Interest::Answer(condition, _) if condition.holds(view));
    let keys: Vec<u64> = of_ticket.iter().filter(|(_, interest)| answered(interest)).map(|(key, _)| *key).collect();
    for key in keys {
        if let Some(Interest::Answer(_, answer)) = of_ticket.remove(&key) {
            // Who no longer waits has gone.
            let _ = answer.send(view.clone());
        }
    }
    for interest in of_ticket.values() {
        if let Interest::Wake(wake) = interest {
            wake.notify_one();
        }
    }
}

/// An interest, until it is dropped.
pub struct Registration {
    changes: Changes,
    key: u64,
    tickets: Vec<TicketId>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut interests = self.changes.interests();
        for ticket in &self.tickets {
            if let Some(of_ticket) = interests.get_mut(ticket) {
                of_ticket.remove(&self.key);
                if of_ticket.is_empty() {
                    interests.remove(ticket);
                }
            }
        }
    }
}
