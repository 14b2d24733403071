//! Compares the states that a service has applied with the current states of their owners, and repairs the differences.
//!
//! A position in the stream cannot show that the stream has lost messages: by a purge, at its tail, or one by one. Each
//! service that keeps states of other services therefore requests the current states from their owners over the bus, at
//! a limited rate, and checks in its own store which of them are newer than the applied ones. If a state is missing in
//! two checks, with enough time between them for a message in transit to arrive, the service requests that the owner
//! republishes it. A republished state goes through the stream like any other message. Sequences and resume tokens
//! therefore stay valid, and every other service that missed the state receives it too.

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

/// Maximum number of states in one page, and of subjects in one republish request.
pub const PAGE: usize = 500;
/// Maximum total size of the message bodies in one page, in bytes. A response must stay below the 1 MiB limit of NATS.
const PAGE_BYTES: usize = 512 * 1024;

/// The current state of an aggregate, as its owner publishes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Position of the state in the owner's sort order.
    pub key: String,
    /// The message that the owner would republish.
    pub message: Message,
}

/// A service that owns aggregates.
#[async_trait]
pub trait Owner: Send + Sync + 'static {
    /// Returns the number of states.
    async fn count(&self) -> Result<u64, batch::Error>;

    /// Returns up to `most` states with keys above `after`, sorted by key. An empty `after` starts at the first state.
    /// Fewer than `most` states mean that there are no more.
    async fn states(&self, after: &str, most: usize) -> Result<Vec<State>, batch::Error>;

    /// Republishes the current states of these aggregates, each as a new outbox row. Returns the number of republished
    /// states. Subjects of other services and subjects without an aggregate are skipped.
    async fn republish(&self, subjects: &[String]) -> Result<u64, batch::Error>;
}

/// Republishes the current state of every aggregate of an owner, page by page. Returns the number of republished
/// states. `progress` is called with the total so far after each page.
///
/// # Errors
/// If the store is unavailable. Some states may already be republished; it is safe to start again.
pub async fn republish_all(owner: &dyn Owner, progress: &(dyn Fn(u64) + Send + Sync)) -> Result<u64, batch::Error> {
    let (mut after, mut count) = (String::new(), 0);
    loop {
        let page = owner.states(&after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(count) };
        after.clone_from(&last.key);
        // Only the subjects are taken from the page: the owner reads each state again under its row lock.
        let subjects: Vec<String> = page.into_iter().map(|state| state.message.subject).collect();
        count += owner.republish(&subjects).await?;
        progress(count);
    }
}

/// The states of other services that a service has applied.
#[async_trait]
pub trait Replica: Send + Sync + 'static {
    /// Returns the states that are newer than the applied ones, from one read of the store. States that cannot be
    /// applied, because they cannot be decoded or are parked, are not returned: republishing would not help.
    async fn missing(&self, states: Vec<Message>) -> Result<Vec<Message>, batch::Error>;
}

/// Removes the states whose messages are parked: operators already see those.
///
/// # Errors
/// If the store is unavailable.
pub async fn without_parked(store: &dyn ParkedStore, missing: Vec<Message>) -> Result<Vec<Message>, store::Error> {
    let mut left = Vec::with_capacity(missing.len());
    for message in missing {
        let is_parked = match message.header(eticket_proto::headers::ID) {
            Some(id) => store.parked_by_id(id).await?.is_some() || store.is_discarded(id).await?,
            None => false,
        };
        if !is_parked {
            left.push(message);
        }
    }
    Ok(left)
}
