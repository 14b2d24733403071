//! A storm of commands on a few tickets, by clients that are cut off again and again, ask again what they got no answer to, and
//! remember everything; and what must be true of their memories.

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

/// Tickets that there should be to quarrel about.
const TICKETS: usize = 8;

/// What clients know of each other.
pub struct Arena {
    /// Of every ticket at first. Kept, because a command that is asked again must have the same fields.
    slot: Slot,
    /// In front of all names, where one storm follows another.
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
    /// One whose tickets nobody has heard of.
    pub fn start() -> Self {
        Self { prefix: format!("{}-", uuid::Uuid::new_v4().simple()), ..Self::default() }
    }

    /// How many commands were answered or refused.
    pub fn answered(&self) -> usize {
        *self.answered.borrow()
    }

    /// Waits until so many were.
    pub async fn reached(&self, count: usize) {
        self.answered.subscribe().wait_for(|answered| *answered >= count).await.expect("the arena outlives who waits");
    }

    /// Something that nobody else is called.
    fn name(&self, of: &str) -> String {
        format!("{}{of}-{}", self.prefix, self.numbers.fetch_add(1, Ordering::Relaxed))
    }

    fn tickets(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.tickets.lock().expect("nobody panics with it")
    }

    /// One of the tickets that are not known to be withdrawn; none while there are too few.
    fn ticket(&self, random: &mut StdRng) -> Option<String> {
        let tickets = self.tickets();
        let index = random.random_range(0..TICKETS);
        (tickets.len() >= TICKETS).then(|| tickets.iter().nth(index).cloned()).flatten()
    }
}
