//! Use cases of the view, and the ports that they need: a store of rows, with the position up to which the rows reflect
//! the stream, and a decoder of messages.
//!
//! All changes of rows go through the commits of the reader. Each commit wakes the waiting calls, so nothing polls.

mod apply_batch;
pub mod changes;
pub mod compare;
pub mod completeness;
pub mod history;
pub mod listing;
pub mod monitor;
pub mod ordered_watch;
pub mod reader;
pub mod rebuild;
pub(crate) mod recent;
pub mod waiting;
pub mod watch;

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use eticket_base::clock::SharedClock;
use eticket_bus::{Bus, Message};
use eticket_proto::ids::{ReservationId, TicketId, UserId};
use eticket_store::{self as store, Commit, ParkedStore, Rows, StoreLifecycle};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::{
    changes::Changes,
    listing::{Filter, KeyPart, SortOrder},
};
use crate::domain::{Event, Reservation, View};

/// The point in the stream up to which the rows reflect it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Epoch of the stream. Sequences of different epochs cannot be compared.
    pub epoch: String,
    /// Sequence of the last message that was read; 0 if none was read.
    pub sequence: u64,
    /// Fingerprint of that message. A stream that has lost its tail may hold another message at the same sequence.
    pub fingerprint: String,
}

impl Position {
    /// Returns the position before the first message of a stream.
    pub fn start(epoch: String) -> Self {
        Self { epoch, sequence: 0, fingerprint: String::new() }
    }

    /// Identifies the message in the token of a watcher; 0 before the first message.
    #[must_use]
    pub fn mark(&self) -> u32 {
        if self.sequence == 0 { 0 } else { reader::mark(&self.fingerprint) }
    }
}

/// The rows that a commit reads and writes.
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
    /// The stored position; `None` before the first stream is known.
    pub position: Option<Position>,
    /// The new position, stored in the same transaction.
    pub moved_to: Option<Position>,
    /// Set when the rows have caught up with the stream. The store keeps this permanently.
    pub has_caught_up: bool,
    /// Set when the sequences of all rows belong to another stream. The store resets them to 0.
    pub forget_sequences: bool,
}

/// The rows that a client watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watched {
    All,
    These(BTreeSet<TicketId>),
}

/// Rows, and the epoch of the stream that their sequences belong to. The epoch may be `None` if there are no rows.
#[derive(Debug, Default)]
pub struct StreamRows {
    pub epoch: Option<String>,
    pub rows: Vec<(TicketId, View)>,
}

/// Numbers of rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub tickets: i64,
    pub prices: i64,
    pub reservations: i64,
    /// Number of tickets that can never be reserved again.
    pub closed_ledgers: i64,
}

/// The store of the view.
#[async_trait]
pub trait ViewStore: Commit<Keys = Keys, Rows = ViewRows> + ParkedStore + StoreLifecycle {
    /// Returns a row, if it has a ticket part.
    async fn view(&self, id: &TicketId) -> Result<Option<View>, store::Error>;

    async fn position(&self) -> Result<Option<Position>, store::Error>;

    /// Returns whether the rows have ever caught up with a stream. Before that they are incomplete.
    async fn has_caught_up(&self) -> Result<bool, store::Error>;

    /// Returns up to `most` rows after the key `after`, in the given order.
    async fn page(
        &self,
        filter: &Filter,
        order: &SortOrder,
        after: Option<&[KeyPart]>,
        now: DateTime<Utc>,
        most: i64,
    ) -> Result<Vec<(TicketId, View)>, store::Error>;

    /// Returns the reservations of a user with the rows of their tickets, newest first, starting after `before`. If the
    /// ticket is not known yet, its row has no ticket part.
    async fn user_reservations(
        &self,
        user: &UserId,
        before: Option<(DateTime<Utc>, ReservationId)>,
        most: i64,
    ) -> Result<Vec<(Reservation, View)>, store::Error>;

    /// Returns the watched rows with a sequence above `sequence`, sorted by sequence.
    async fn changed_above(&self, watched: &Watched, sequence: u64, most: i64) -> Result<StreamRows, store::Error>;

    /// Returns the current watched rows with ids above `after`, sorted by id.
    async fn snapshot(&self, watched: &Watched, after: &str, most: i64) -> Result<StreamRows, store::Error>;

    /// Returns the rows of these tickets, including rows without a ticket part.
    async fn views_of(&self, ids: &[TicketId]) -> Result<Vec<(TicketId, View)>, store::Error>;

    async fn reservations_of(&self, ids: &[ReservationId]) -> Result<Vec<Reservation>, store::Error>;

    /// Returns all rows of tickets with ids above `after`, sorted by id, including rows without a ticket part.
    async fn all_views(&self, after: &str, most: i64) -> Result<Vec<(TicketId, View)>, store::Error>;

    /// Returns all reservations with ids above `after`, sorted by id.
    async fn all_reservations(&self, after: &str, most: i64) -> Result<Vec<Reservation>, store::Error>;

    /// Returns the unsettled rows with ids above `after`, sorted by id.
    async fn unsettled(&self, after: &str, most: i64) -> Result<Vec<(TicketId, View)>, store::Error>;

    /// Returns the time since which the longest unsettled row has been unsettled.
    async fn oldest_unsettled(&self) -> Result<Option<DateTime<Utc>>, store::Error>;

    async fn counts(&self) -> Result<Counts, store::Error>;

    /// Returns whether the storage of the rows was removed while the service was running.
    async fn is_gone(&self) -> bool;

    /// Returns the ids of the discarded events. The rows of a rebuild must not park them again.
    async fn discarded(&self) -> Result<Vec<String>, store::Error>;

    /// Remembers these events as discarded too, and deletes them from the parked ones.
    async fn keep_discarded(&self, event_ids: &[String]) -> Result<(), store::Error>;

    /// Creates an empty store beside this one. An earlier one that was not exchanged is dropped.
    async fn beside(&self) -> Result<Arc<dyn ViewStore>, store::Error>;

    /// Replaces these rows with those of a store that [`Self::beside`] returned, and closes that store. Reads wait
    /// during the exchange. After an error this store is empty, or unavailable until it can be opened again.
    async fn exchange(&self, beside: Arc<dyn ViewStore>) -> Result<(), store::Error>;
}

/// Decodes states from messages.
pub trait Decode: Send + Sync {
    /// Returns the ticket that the message is about and the decoded state, or the reason why the message cannot be
    /// decoded.
    fn decode(&self, message: &Message) -> Result<(TicketId, Event), String>;
}

/// The read use cases of the view.
#[derive(Clone)]
pub struct Views {
    pub store: Arc<dyn ViewStore>,
    /// Provides the end of the stream.
    pub bus: Arc<dyn Bus>,
    pub changes: Changes,
    pub clock: SharedClock,
    /// One permit for each waiting call.
    pub waits: Arc<Semaphore>,
    /// One permit for each watch.
    pub watches: Arc<Semaphore>,
    /// Cancelled when the server drains; this ends all waits.
    pub draining: CancellationToken,
}

impl Views {
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Returns the current row.
    ///
    /// # Errors
    /// If the store is unavailable.
    pub async fn view(&self, id: &TicketId) -> Result<Option<View>, store::Error> {
        self.store.view(id).await
    }

    /// # Errors
    /// If the store is unavailable.
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
    /// If the store is unavailable.
    pub async fn user_reservations(
        &self,
        user: &UserId,
        before: Option<(DateTime<Utc>, ReservationId)>,
        most: i64,
    ) -> Result<Vec<(Reservation, View)>, store::Error> {
        self.store.user_reservations(user, before, most).await
    }
}
