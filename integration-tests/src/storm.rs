//! A storm of commands on a few tickets. The clients are disconnected again and again, retry unanswered commands, and
//! record all results; afterwards the records are checked.

pub mod client;
pub mod command;
pub mod judge;
pub mod siege;
pub mod verdict;
pub mod watcher;

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use chrono::Weekday;
use rand::{RngExt, rngs::StdRng};
use tokio::sync::watch;

use crate::calendar::{self, Slot};

/// The number of open tickets that clients compete for.
const TICKETS: usize = 8;

/// State that the clients share.
pub struct Arena {
    /// The first slot of every ticket. A retried command must have the same fields, so it is fixed.
    slot: Slot,
    /// Prefix of all names, so that several storms can follow each other.
    prefix: String,
    tickets: Mutex<BTreeSet<String>>,
    numbers: AtomicUsize,
    answered: watch::Sender<usize>,
}

impl Default for Arena {
    fn default() -> Self {
        Self {
            slot: calendar::upcoming(Weekday::Wed),
            prefix: String::new(),
            tickets: Mutex::default(),
            numbers: AtomicUsize::new(0),
            answered: watch::Sender::new(0),
        }
    }
}

impl Arena {
    /// Creates an arena with new ticket names.
    pub fn start() -> Self {
        Self { prefix: format!("{}-", uuid::Uuid::new_v4().simple()), ..Self::default() }
    }

    /// Returns the number of commands that were answered or rejected.
    pub fn answered(&self) -> usize {
        *self.answered.borrow()
    }

    /// Waits until this number of commands was answered or rejected.
    pub async fn reached(&self, count: usize) {
        self.answered.subscribe().wait_for(|answered| *answered >= count).await.expect("the arena outlives the wait");
    }

    /// Returns a new unique name.
    fn name(&self, of: &str) -> String {
        format!("{}{of}-{}", self.prefix, self.numbers.fetch_add(1, Ordering::Relaxed))
    }

    fn tickets(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.tickets.lock().expect("not poisoned")
    }

    /// Returns one of the tickets that are not known to be withdrawn; `None` while there are too few.
    fn ticket(&self, random: &mut StdRng) -> Option<String> {
        let tickets = self.tickets();
        let index = random.random_range(0..TICKETS);
        (tickets.len() >= TICKETS).then(|| tickets.iter().nth(index).cloned()).flatten()
    }
}
