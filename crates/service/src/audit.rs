//! Compares what a service has applied with what the owners have, and repairs the difference.
//!
//! A position in the stream says nothing about messages that the stream has lost: by a purge, with its tail, or one by one. So each
//! service that keeps what others own asks the owners, over the bus and at a bounded rate, for their current states, and asks its own
//! store which of them are newer than what it has applied. What is missing twice, with enough time between that it is not merely
//! under way, the owner publishes again. It travels through the stream like every other message, so that sequences and resume tokens
//! stay right, and whoever else misses it gets it too.

mod comparer;
mod owner;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use eticket_bus::Message;
use eticket_store::{self as store, ParkedStore};

pub use self::{
    comparer::{AppliedEvents, Comparer, Error},
    owner::Responder,
};
use crate::batch;

/// States of one page, and subjects of one republishing, at the most.
pub const PAGE: usize = 500;
/// Bytes of the bodies of one page; a response has to stay below the 1 MiB that NATS carries.
const PAGE_BYTES: usize = 512 * 1024;

/// The current state of an aggregate, as its owner publishes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Its place in the owner's order.
    pub key: String,
    /// What a republishing would send.
    pub message: Message,
}

/// A service that owns aggregates.
#[async_trait]
pub trait Owner: Send + Sync + 'static {
    /// How many states there are.
    async fn count(&self) -> Result<u64, batch::Error>;

    /// Up to `most` states with keys above `after`, in the order of keys; from the first if it is empty. Fewer: these are the last.
    async fn states(&self, after: &str, most: usize) -> Result<Vec<State>, batch::Error>;

    /// Publishes the current states of these aggregates again, each as an outbox row of its own; returns how many. Subjects that are
    /// not its own, or of no aggregate, are left out.
    async fn republish(&self, subjects: &[String]) -> Result<u64, batch::Error>;
}

/// Publishes the current state of every aggregate of an owner again, page by page; returns how many. `progress` gets the number
/// after each page.
///
/// # Errors
/// If the store does not answer. A part may have been published then; starting again is harmless.
pub async fn republish_all(owner: &dyn Owner, progress: &(dyn Fn(u64) + Send + Sync)) -> Result<u64, batch::Error> {
    let (mut after, mut count) = (String::new(), 0);
    loop {
        let page = owner.states(&after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(count) };
        after.clone_from(&last.key);
        // Only the names are taken from the page: the owner reads each state again under its row's lock.
        let subjects: Vec<String> = page.into_iter().map(|state| state.message.subject).collect();
        count += owner.republish(&subjects).await?;
        progress(count);
    }
}

/// What a service has applied of the states of others.
#[async_trait]
pub trait Replica: Send + Sync + 'static {
    /// Those of the states that are newer than what is applied, from one read of the store. States that cannot be applied (what
    /// nobody can decode, what is parked) are not among them: publishing them again would not help.
    async fn missing(&self, states: Vec<Message>) -> Result<Vec<Message>, batch::Error>;
}

/// Leaves out the states whose messages are parked: an operator sees them already.
///
/// # Errors
/// If the store does not answer.
pub async fn without_parked(store: &dyn ParkedStore, missing: Vec<Message>) -> Result<Vec<Message>, store::Error> {
    let mut left = Vec::with_capacity(missing.len());
    for message in missing {
        let is_parked = match message.header(eticket_proto::headers::ID) {
            Some(id) => store.parked_by_id(id).await?.is_some(),
            None => false,
        };
        if !is_parked {
            left.push(message);
        }
    }
    Ok(left)
}
