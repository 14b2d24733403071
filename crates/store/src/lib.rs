//! The state that every store keeps in addition to the rows of its service (outbox, records, parked messages, epoch of
//! the stream), and the structure of a commit: lock and read rows, apply the batch in memory, write, in one
//! transaction.
//!
//! `Work` holds that memory. The `apply_batch` of a service is a synchronous function over `Work`, so domain rules are
//! tested without a database and are the same with every store.

#![warn(missing_docs)]

#[cfg(test)]
mod contract;
mod handover;
mod headers;
pub mod inspection;
#[cfg(any(test, feature = "memory"))]
pub mod memory;
mod ports;
pub mod postgres;
pub mod sqlite;

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use eticket_bus::{Bytes, Message};
use uuid::Uuid;

pub use self::{
    handover::{Claim, Limits as OutboxLimits, NEWEST, Sent},
    headers::{decode_headers, encode_headers},
    ports::{
        ConsumerStore, DISCARDED, Housekeeping, OutboxStore, ParkedStore, PoolUsage, RecordStore, StoreLifecycle,
        StreamEpochStore, WaitingRow,
    },
};

/// Errors of store operations. After any of them, nothing is known to be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store does not respond, or the outcome of the commit is unknown. Retry later; the record of the request
    /// shows whether it was committed.
    #[error("the store does not respond")]
    Unavailable(#[source] sqlx::Error),
    /// The data of one command is at fault. The rest of the batch can be retried without it.
    #[error("the store refuses the data")]
    Data(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Creates the error of a row with content that this program never writes.
    pub fn data(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Data(error.into())
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let is_caused_by_data = match &error {
            sqlx::Error::Database(cause) => postgres::is_caused_by_data(&**cause)
                .unwrap_or_else(|| sqlite::is_caused_by_data(cause.code().as_deref())),
            sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Encode(_) => true,
            _ => false,
        };
        if is_caused_by_data { Self::data(error) } else { Self::Unavailable(error) }
    }
}

/// A message in the outbox, to be published by the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRow {
    /// The revision of the aggregate. The relay publishes the rows of a subject in this order.
    pub revision: i64,
    /// The message to publish.
    pub message: Message,
}

/// The stored response of a request with a `request_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The idempotency key of the caller.
    pub request_id: Uuid,
    /// A hash of method, caller and fields.
    pub hash: [u8; 32],
    /// The response.
    pub response: EncodedResponse,
}

/// The response to a command as it is sent: encoded once, so that a retry gets the same bytes, also from another version of the
/// program, which may not know all of its fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EncodedResponse {
    /// The full name of the message, as `eticket.ticket.v1.RegisterTicketResponse`; `None` in records that a version wrote which
    /// did not name it.
    pub type_name: Option<String>,
    /// The message, encoded.
    pub bytes: Bytes,
    /// Whether it comes from the record of an earlier attempt. Not stored.
    pub replayed: bool,
}

impl EncodedResponse {
    /// Marks the response as that of an earlier attempt.
    #[must_use]
    pub fn replayed(self) -> Self {
        Self { replayed: true, ..self }
    }
}

/// The idempotency key of a request and a hash of its content; a retry with both gets the stored response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idempotency {
    /// The idempotency key of the caller.
    pub request_id: Uuid,
    /// A hash of method, caller and fields.
    pub hash: [u8; 32],
}

/// The `request_id` was used with another method, caller or other fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request_id was used for another request")]
pub struct RequestIdReused;

impl Idempotency {
    /// Returns the stored response, marked as replayed, if the record is of this request.
    ///
    /// # Errors
    /// `RequestIdReused` if the record is of another request.
    pub fn response_of(&self, record: &Record) -> Result<EncodedResponse, RequestIdReused> {
        if record.hash == self.hash { Ok(record.response.clone().replayed()) } else { Err(RequestIdReused) }
    }
}

/// A message that could not be applied. It is kept until an admin resends or discards it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// The id of the event.
    pub event_id: String,
    /// The message as received.
    pub message: Message,
    /// Why it could not be applied.
    pub reason: String,
    /// Number of attempts to apply it.
    pub attempts: u32,
    /// When it was parked.
    pub park_time: DateTime<Utc>,
}

/// Rows by key, as read and as changed since. A map, because a commit must not write one row twice.
#[derive(Debug, Clone)]
pub struct Rows<K, V> {
    rows: BTreeMap<K, V>,
    /// The changed rows; `Some` as they were read.
    changed: BTreeMap<K, Option<V>>,
}

impl<K, V> Default for Rows<K, V> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), changed: BTreeMap::new() }
    }
}

impl<K: Ord + Clone, V> Rows<K, V> {
    /// Returns the current row, including changes of this batch.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key)
    }

    /// Adds a row as read from the store.
    pub fn insert_read(&mut self, key: K, row: V) {
        self.rows.insert(key, row);
    }

    /// Inserts or updates a row; the commit writes it.
    pub fn put(&mut self, key: K, row: V) {
        let old = self.rows.insert(key.clone(), row);
        self.changed.entry(key).or_insert(old);
    }

    /// Returns the changed rows in the order of their keys.
    pub fn changed(&self) -> impl Iterator<Item = (&K, &V)> {
        self.changed.keys().filter_map(|key| self.rows.get_key_value(key))
    }

    /// Returns the changed rows that were not in the store when it was read. Another process may have inserted them
    /// since.
    pub fn made(&self) -> impl Iterator<Item = (&K, &V)> {
        let made = self.changed.iter().filter(|(_, old)| old.is_none());
        made.filter_map(|(key, _)| self.rows.get_key_value(key))
    }

    /// Returns the changed rows that were in the store, and are locked.
    pub fn updated(&self) -> impl Iterator<Item = (&K, &V)> {
        self.updated_from().map(|(key, _, new)| (key, new))
    }

    /// Like [`Self::updated`], each as it was read and as it is now.
    pub fn updated_from(&self) -> impl Iterator<Item = (&K, &V, &V)> {
        self.changed.iter().filter_map(|(key, old)| Some((key, old.as_ref()?, self.rows.get(key)?)))
    }

    /// Returns all rows in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.rows.iter()
    }
}

/// The state of a batch while it is applied: the locked rows, the records found, and the effects so far.
#[derive(Debug, Default)]
pub struct Work<R> {
    /// The rows of the service.
    pub rows: R,
    found: HashMap<Uuid, Record>,
    pub(crate) new_records: BTreeMap<Uuid, Record>,
    pub(crate) outbox: Vec<OutboxRow>,
    pub(crate) parked: Vec<Parked>,
    pub(crate) unparked: Vec<String>,
}

impl<R> Work<R> {
    /// Creates the state before the first command of the batch.
    pub fn new(rows: R, records: impl IntoIterator<Item = Record>) -> Self {
        Self {
            rows,
            found: records.into_iter().map(|record| (record.request_id, record)).collect(),
            new_records: BTreeMap::new(),
            outbox: Vec::new(),
            parked: Vec::new(),
            unparked: Vec::new(),
        }
    }

    /// Runs one command. The record is checked here, under the row locks and before any rule: another attempt with the
    /// same id may have succeeded since the request arrived, and then a refusal would be wrong. A refusal leaves no
    /// record.
    ///
    /// # Errors
    /// Returns the refusal of `effect`, or `RequestIdReused`.
    pub fn run<E: From<RequestIdReused>>(
        &mut self,
        idempotency: Option<Idempotency>,
        effect: impl FnOnce(&mut Self) -> Result<EncodedResponse, E>,
    ) -> Result<EncodedResponse, E> {
        let Some(idempotency) = idempotency else { return effect(self) };
        let known = self.new_records.get(&idempotency.request_id).or_else(|| self.found.get(&idempotency.request_id));
        if let Some(record) = known {
            return Ok(idempotency.response_of(record)?);
        }
        let response = effect(self)?;
        let Idempotency { request_id, hash } = idempotency;
        self.new_records.insert(request_id, Record { request_id, hash, response: response.clone() });
        Ok(response)
    }

    /// Adds a message to the outbox; it is published after the commit.
    pub fn publish(&mut self, row: OutboxRow) {
        self.outbox.push(row);
    }

    /// Parks a message in this transaction.
    pub fn park(&mut self, parked: Parked) {
        self.parked.push(parked);
    }

    /// Removes a parked message in this transaction.
    pub fn unpark(&mut self, event_id: String) {
        self.unparked.push(event_id);
    }

    /// The messages that this batch publishes.
    pub fn outbox(&self) -> &[OutboxRow] {
        &self.outbox
    }

    /// The messages that this batch parks.
    pub fn parked(&self) -> &[Parked] {
        &self.parked
    }
}

/// A function that applies a batch in memory.
pub type ApplyBatch<'a, R> = &'a mut (dyn for<'w> FnMut(&'w mut Work<R>) + Send);

/// A store that commits batches. `Keys` names the rows to lock; `Rows` holds the rows that are read and written.
#[async_trait]
pub trait Commit: Send + Sync {
    /// Names the rows that a batch needs.
    type Keys: Send + Sync;
    /// The rows of the service.
    type Rows: Send + 'static;

    /// In one transaction: locks the rows of `keys` in their order, reads them and the records of `requests`, calls
    /// `apply_batch`, and writes its changes. If another transaction has inserted one of the keys meanwhile, everything
    /// is repeated; [`CommitExt::commit_with`] returns the result of the last call.
    ///
    /// # Errors
    /// See [`Error`]. Nothing is written, or with `Unavailable` the outcome may be unknown.
    async fn commit(
        &self,
        keys: &Self::Keys,
        requests: &[Uuid],
        apply_batch: ApplyBatch<'_, Self::Rows>,
    ) -> Result<(), Error>;
}

/// Extends [`Commit`], also as a trait object.
#[async_trait]
pub trait CommitExt: Commit {
    /// Like [`Commit::commit`]; returns the result of `apply_batch` in the committed attempt.
    ///
    /// # Errors
    /// Like [`Commit::commit`].
    async fn commit_with<A, F>(&self, keys: &Self::Keys, requests: &[Uuid], mut apply_batch: F) -> Result<A, Error>
    where
        A: Send,
        F: for<'w> FnMut(&'w mut Work<Self::Rows>) -> A + Send,
    {
        let mut returned = None;
        let mut keep = |work: &mut Work<Self::Rows>| returned = Some(apply_batch(work));
        self.commit(keys, requests, &mut keep).await?;
        returned.ok_or_else(|| Error::data("the store committed a batch without applying it"))
    }
}

impl<S: Commit + ?Sized> CommitExt for S {}

#[cfg(test)]
mod tests {
    use super::*;

    fn idempotency(hash: u8) -> Option<Idempotency> {
        Some(Idempotency { request_id: Uuid::from_u128(1), hash: [hash; 32] })
    }

    fn response(byte: u8) -> EncodedResponse {
        let type_name = Some("eticket.v1.Response".to_owned());
        EncodedResponse { type_name, bytes: vec![byte].into(), replayed: false }
    }

    fn replayed(byte: u8) -> EncodedResponse {
        response(byte).replayed()
    }

    #[derive(Debug, PartialEq)]
    enum Refusal {
        Guard,
        Reused,
    }

    impl From<RequestIdReused> for Refusal {
        fn from(_: RequestIdReused) -> Self {
            Self::Reused
        }
    }

    #[test]
    fn a_retry_gets_the_first_response_without_a_second_effect() {
        let mut work = Work::new((), []);
        let first = work.run::<Refusal>(idempotency(1), |_| Ok(response(7)));
        let again = work.run(idempotency(1), |_| Err(Refusal::Guard));
        assert_eq!((first, again), (Ok(response(7)), Ok(replayed(7))));
        assert_eq!(work.new_records.len(), 1);
    }

    #[test]
    fn the_record_is_checked_before_any_refusal() {
        let record = Record { request_id: Uuid::from_u128(1), hash: [1; 32], response: response(9) };
        let mut work = Work::new((), [record]);
        assert_eq!(work.run(idempotency(1), |_| Err(Refusal::Guard)), Ok(replayed(9)));
    }

    #[test]
    fn another_payload_under_the_same_id_is_refused() {
        let mut work = Work::new((), []);
        assert_eq!(work.run::<Refusal>(idempotency(1), |_| Ok(response(7))), Ok(response(7)));
        assert_eq!(work.run(idempotency(2), |_| Ok(response(8))), Err(Refusal::Reused));
    }

    #[test]
    fn a_refusal_leaves_no_record() {
        let mut work = Work::new((), []);
        assert_eq!(work.run(idempotency(1), |_| Err(Refusal::Guard)), Err(Refusal::Guard));
        assert_eq!(work.run::<Refusal>(idempotency(1), |_| Ok(response(7))), Ok(response(7)));
    }
}
