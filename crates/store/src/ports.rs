//! What the parts of a service other than its commands need of its store: one trait for each of them, so that a part names only what
//! it uses, and a store implements only what it has.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use eticket_bus::Message;
use uuid::Uuid;

use crate::{Claim, Error, Parked, Record, Sent};

/// A row of the outbox that has not been sent yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingRow {
    /// Identifies the row when it is deleted.
    pub id: i64,
    /// The revision of the aggregate.
    pub revision: i64,
    /// The message, exactly as the relay sends it.
    pub message: Message,
    /// It was read from the table, which several processes share: the others may have sent newer states of its subject.
    pub was_read: bool,
}

/// The outbox, for the relay.
#[async_trait]
pub trait OutboxStore: Send + Sync {
    /// Claims the rows of up to `most` subjects that wait in the outbox and that no other process sends.
    async fn claim_outbox(&self, most: usize) -> Result<Claim, Error>;

    /// Deletes rows that are on the stream. Returns those that it could not delete, because a process of an earlier version
    /// has them; they are claimed again.
    async fn delete_sent(&self, sent: Sent) -> Result<Vec<i64>, Error>;

    /// Returns how many rows wait in the outbox and are not on the stream: those of this process, and those of processes
    /// that have ended and that nobody has taken over yet.
    async fn outbox_depth(&self) -> Result<i64, Error>;

    /// Returns the message of the row of this process that has waited longest.
    async fn oldest_waiting(&self) -> Result<Option<Message>, Error>;
}

/// The stream that a consumer last read from, for consumers.
#[async_trait]
pub trait StreamEpochStore: Send + Sync {
    /// Returns the epoch of the stream that this store last met.
    async fn stream_epoch(&self) -> Result<Option<String>, Error>;

    /// Stores the epoch of the stream that was met.
    async fn set_stream_epoch(&self, epoch: &str) -> Result<(), Error>;
}

/// The records of requests with a `request_id`.
#[async_trait]
pub trait RecordStore: Send + Sync {
    /// Returns the record of a request, without a lock: a look before another service is called.
    async fn record(&self, request_id: Uuid) -> Result<Option<Record>, Error>;

    /// Deletes records made before `before`; returns how many.
    async fn purge_records(&self, before: DateTime<Utc>) -> Result<u64, Error>;
}

/// How many discarded events are remembered. Operators discard them one by one, so this is no limit in practice, and the
/// table stays small.
pub const DISCARDED: usize = 10_000;

/// Parked messages, for operators.
#[async_trait]
pub trait ParkedStore: Send + Sync {
    /// Returns parked messages with an id above `after`, in the order of their ids.
    async fn parked(&self, after: &str, most: i64) -> Result<Vec<Parked>, Error>;

    /// Returns one parked message.
    async fn parked_by_id(&self, event_id: &str) -> Result<Option<Parked>, Error>;

    /// Returns how many messages are parked.
    async fn parked_count(&self) -> Result<i64, Error>;

    /// Deletes a parked message for good; returns whether it was there. A commit does not park the event again. The
    /// newest [`DISCARDED`] events are remembered.
    async fn discard_parked(&self, event_id: &str) -> Result<bool, Error>;

    /// Returns whether an event is remembered as discarded.
    async fn is_discarded(&self, event_id: &str) -> Result<bool, Error>;
}

/// The connections of one pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolUsage {
    /// What the pool is for: `read` or `housekeeping`.
    pub name: &'static str,
    /// Connections in use.
    pub used: usize,
    /// Open connections that wait for use.
    pub idle: usize,
}

impl PoolUsage {
    /// Reads the state of a pool. The numbers are not from one instant.
    #[must_use]
    pub fn read(name: &'static str, pool: &sqlx::PgPool) -> Self {
        let (open, idle) = (pool.size() as usize, pool.num_idle());
        Self { name, used: open.saturating_sub(idle), idle }
    }
}

/// Health and shutdown.
#[async_trait]
pub trait StoreLifecycle: Send + Sync {
    /// Checks that the store can be written.
    async fn ping(&self) -> Result<(), Error>;

    /// Returns how the connections are used; nothing for a store without a pool.
    async fn pools(&self) -> Vec<PoolUsage> {
        Vec::new()
    }

    /// Ends all use: waits for what is in progress and closes the files or connections.
    async fn close(&self);
}

/// What a consumer of events needs.
pub trait ConsumerStore: StreamEpochStore + ParkedStore {}

impl<S: StreamEpochStore + ParkedStore> ConsumerStore for S {}

/// All of it: the store of a service that writes.
pub trait Housekeeping: OutboxStore + ConsumerStore + RecordStore + StoreLifecycle {}

impl<S: OutboxStore + StreamEpochStore + RecordStore + ParkedStore + StoreLifecycle> Housekeeping for S {}
