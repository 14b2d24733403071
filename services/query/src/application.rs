//! What can be asked of the view, and the ports it needs: a store of rows with the position up to which they reflect the stream,
//! and a decoder of messages.
//!
//! Everything that changes rows goes through the reader's commits, so whoever waits is woken by them and nothing polls.

mod apply_batch;
pub mod changes;
pub mod compare;
pub mod completeness;
pub mod listing;
pub mod monitor;
pub mod ordered_watch;
pub mod reader;
pub mod rebuild;
pub mod watch;

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use eticket_base::clock::SharedClock;
use eticket_bus::{Bus, Message};
use eticket_proto::{
    ids::{ReservationId, TicketId, UserId},
    token::Consistency,
};
use eticket_store::{self as store, Commit, ParkedStore, Rows, StoreLifecycle};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use self::{
    changes::{Changes, Condition},
    listing::{Filter, KeyPart, SortOrder},
};
use crate::domain::{self, Event, Reservation, View, Wait};

/// How far the rows reflect the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Of the stream: another one says nothing about these sequences.
    pub epoch: String,
    /// Of the last message that was read; 0 for none.
    pub sequence: u64,
    /// What that message was, to know it again: a stream that lost its tail may have another one there.
    pub fingerprint: String,
}

impl Position {
    /// Before the first message of a stream.
    pub fn start(epoch: String) -> Self {
        Self { epoch, sequence: 0, fingerprint: String::new() }
    }
}

/// The rows that a commit is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys {
    pub tickets: BTreeSet<TicketId>,
    pub reservations: BTreeSet<ReservationId>,
}

/// The rows of a commit.
#[derive(Debug, Default)]
pub struct ViewRows {
    pub views: Rows<TicketId, View>,
    pub reservations: Rows<ReservationId, Reservation>,
    /// As the store holds it; `None` before the first stream is met.
    pub position: Option<Position>,
    /// Where it moves to, in the same transaction.
    pub moved_to: Option<Position>,
    /// The rows have caught up with the stream. The store keeps that for good.
    pub has_caught_up: bool,
    /// The sequences of all rows are of another stream: they become 0.
    pub forget_sequences: bool,
}

/// Which rows somebody watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watched {
    All,
    These(BTreeSet<TicketId>),
}

/// Rows, and the stream that their sequences are of; `None` if there is no row to say it.
#[derive(Debug, Default)]
pub struct StreamRows {
    pub epoch: Option<String>,
    pub rows: Vec<(TicketId, View)>,
}

/// How many rows there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub tickets: i64,
    pub prices: i64,
    pub reservations: i64,
    /// Tickets that can never be reserved again.
    pub closed_ledgers: i64,
}

/// Where the view is kept.
#[async_trait]
pub trait ViewStore: Commit<Keys = Keys, Rows = ViewRows> + ParkedStore + StoreLifecycle {
    /// A row, once it has a ticket part.
    async fn view(&self, id: &TicketId) -> Result<Option<View>, store::Error>;

    async fn position(&self) -> Result<Option<Position>, store::Error>;

    /// Whether the rows have once caught up with a stream: before that they are a part of what there is.
    async fn has_caught_up(&self) -> Result<bool, store::Error>;

    /// Rows in an order, those above `after`.
    async fn page(
        &self,
        filter: &Filter,
        order: &SortOrder,
        after: Option<&[KeyPart]>,
        now: DateTime<Utc>,
        most: i64,
    ) -> Result<Vec<(TicketId, View)>, store::Error>;

    /// A user's reservations with the rows of their tickets, newest first, those before `before`. A row of a ticket that is not
    /// known yet has no ticket part.
    async fn user_reservations(
        &self,
        user: &UserId,
        before: Option<(DateTime<Utc>, ReservationId)>,
        most: i64,
    ) -> Result<Vec<(Reservation, View)>, store::Error>;

    /// Watched rows with a sequence above this one, in the order of sequences.
    async fn changed_above(&self, watched: &Watched, sequence: u64, most: i64) -> Result<StreamRows, store::Error>;

    /// Watched rows as they are, with ids above `after`, in the order of ids.
    async fn snapshot(&self, watched: &Watched, after: &str, most: i64) -> Result<StreamRows, store::Error>;

    /// The rows of these tickets, also where only other parts than the ticket's are there.
    async fn views_of(&self, ids: &[TicketId]) -> Result<Vec<(TicketId, View)>, store::Error>;

    async fn reservations_of(&self, ids: &[ReservationId]) -> Result<Vec<Reservation>, store::Error>;

    /// All rows of tickets, those with ids above `after`, in the order of ids, also without a ticket part.
    async fn all_views(&self, after: &str, most: i64) -> Result<Vec<(TicketId, View)>, store::Error>;

    /// All reservations with ids above `after`, in the order of ids.
    async fn all_reservations(&self, after: &str, most: i64) -> Result<Vec<Reservation>, store::Error>;

    /// Rows that are not settled, with ids above `after`, in the order of ids.
    async fn unsettled(&self, after: &str, most: i64) -> Result<Vec<(TicketId, View)>, store::Error>;

    /// Since when the row that has been unsettled longest is so.
    async fn oldest_unsettled(&self) -> Result<Option<DateTime<Utc>>, store::Error>;

    async fn counts(&self) -> Result<Counts, store::Error>;

    /// Whether what the rows are kept in was taken away from under the service.
    async fn is_gone(&self) -> bool;

    /// An empty store beside this one. One that was begun before is dropped.
    async fn beside(&self) -> Result<Arc<dyn ViewStore>, store::Error>;

    /// Puts the rows of a store that [`Self::beside`] gave in the place of these, and closes it. Reads wait meanwhile. If that
    /// fails this store is empty, or does not answer until it can be opened again.
    async fn exchange(&self, beside: Arc<dyn ViewStore>) -> Result<(), store::Error>;
}

/// Reads the state out of a message.
pub trait Decode: Send + Sync {
    /// The ticket that it speaks of, and what it says; or why it cannot be read.
    fn decode(&self, message: &Message) -> Result<(TicketId, Event), String>;
}

/// Why a reader of the view gets no row.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    #[error("the view has not caught up in the time given")]
    NotCaughtUp,
    #[error("the service shuts down")]
    ShuttingDown,
    #[error("too many wait already")]
    TooMany,
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// The use cases of whoever reads the view.
#[derive(Clone)]
pub struct Views {
    pub store: Arc<dyn ViewStore>,
    /// Says where the stream ends.
    pub bus: Arc<dyn Bus>,
    pub changes: Changes,
    pub clock: SharedClock,
    /// A permit for each call that waits.
    pub waits: Arc<Semaphore>,
    /// A permit for each stream that watches.
    pub watches: Arc<Semaphore>,
    /// Ends waits.
    pub draining: CancellationToken,
}

impl Views {
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// A row as it is.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn view(&self, id: &TicketId) -> Result<Option<View>, store::Error> {
        self.store.view(id).await
    }

    /// A row once it has what is waited for. The wait ends at `until`, and when the server drains.
    ///
    /// # Errors
    /// See [`WaitError`].
    pub async fn view_with(
        &self,
        id: &TicketId,
        token: Option<Consistency>,
        wait: Wait,
        until: Instant,
    ) -> Result<View, WaitError> {
        let condition = Condition { token, wait };
        // Most often it is there already; that costs one read and no registration.
        if let Some(view) = self.look(id, &condition).await? {
            return Ok(view);
        }
        let _permit = self.waits.try_acquire().map_err(|_| WaitError::TooMany)?;
        let _counted = Counted::new();
        tokio::select! {
            waited = timeout_at(until, self.wait_for(id, &condition)) => waited.unwrap_or(Err(WaitError::NotCaughtUp)),
            () = self.draining.cancelled() => Err(WaitError::ShuttingDown),
        }
    }

    async fn wait_for(&self, id: &TicketId, condition: &Condition) -> Result<View, WaitError> {
        loop {
            let answer = self.changes.answer_once(id, condition.clone());
            // Looked at again after the registration: what was committed between the two would wake nobody.
            if let Some(view) = self.look(id, condition).await? {
                return Ok(view);
            }
            // Without an answer the rows were exchanged as a whole: look again.
            if let Some(view) = answer.await {
                return Ok(view);
            }
        }
    }

    async fn look(&self, id: &TicketId, condition: &Condition) -> Result<Option<View>, store::Error> {
        Ok(self.store.view(id).await?.filter(|view| condition.holds(view)))
    }

    /// # Errors
    /// If the store does not answer.
    pub async fn page(
        &self,
        filter: &Filter,
        order: &SortOrder,
        after: Option<&[KeyPart]>,
        most: i64,
    ) -> Result<Vec<(TicketId, View)>, store::Error> {
        self.store.page(filter, order, after, self.now(), most).await
    }

    /// # Errors
    /// If the store does not answer.
    pub async fn user_reservations(
        &self,
        user: &UserId,
        before: Option<(DateTime<Utc>, ReservationId)>,
        most: i64,
    ) -> Result<Vec<(Reservation, View)>, store::Error> {
        self.store.user_reservations(user, before, most).await
    }
}

/// One of those who wait, also if its caller goes away.
struct Counted;

impl Counted {
    fn new() -> Self {
        metrics::gauge!("eticket_view_waits").increment(1);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!("eticket_view_waits").decrement(1);
    }
}

impl Condition {
    /// Whether a reader who waits so may be answered from the row.
    pub fn holds(&self, view: &View) -> bool {
        domain::answers(view, self.token.as_ref(), self.wait)
    }
}
