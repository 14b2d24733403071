//! What every store keeps beside its service's own rows (outbox, records, parked messages, stream epoch), and the shape of a
//! commit: lock and read, work the batch off in memory, write, all in one transaction.
//!
//! `Work` is that memory. A service's `apply_batch` is a plain function over it, so the rules of the domain are tested without a
//! database and are the same on every one.

#![warn(missing_docs)]

#[cfg(test)]
mod contract;
#[cfg(any(test, feature = "memory"))]
pub mod memory;
mod ports;
pub mod postgres;
pub mod sqlite;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use eticket_bus::{Bytes, Message};
use uuid::Uuid;

pub use self::ports::{
    Claim, Housekeeping, OutboxStore, ParkedStore, RecordStore, StoreLifecycle, StreamEpochStore, WaitingRow,
};

/// Why a store did not do what it was asked. Nothing is known to be written after any of them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store does not answer, or the outcome of the commit is unknown: ask again later; the record tells whether it was done.
    #[error("the store does not answer")]
    Unavailable(#[source] sqlx::Error),
    /// The fault lies in the data of one command: the others of the batch are worth another try without it.
    #[error("the store refuses the data")]
    Data(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// For rows that do not hold what this program writes.
    pub fn data(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Data(error.into())
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let lies_in_the_data = match &error {
            sqlx::Error::Database(cause) => postgres::lies_in_the_data(&**cause)
                .unwrap_or_else(|| sqlite::lies_in_the_data(cause.code().as_deref())),
            sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Encode(_) => true,
            _ => false,
        };
        if lies_in_the_data { Self::data(error) } else { Self::Unavailable(error) }
    }
}

/// A message that waits in the outbox for the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRow {
    /// Of the aggregate: the relay sends each subject's rows in this order.
    pub revision: i64,
    /// What is sent, as it is sent.
    pub message: Message,
}

/// The first answer to a request that carried a `request_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The caller's.
    pub request_id: Uuid,
    /// Of method, caller and fields.
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
}

/// Identifies a request, so that a retry gets the first answer: the caller's `request_id`, and a hash of method, caller and fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idempotency {
    /// The caller's.
    pub request_id: Uuid,
    /// Of method, caller and fields.
    pub hash: [u8; 32],
}

/// The same `request_id` came with another method, caller or fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request_id was used for another request")]
pub struct RequestIdReused;

impl Idempotency {
    /// Returns the response that a record holds for this request.
    ///
    /// # Errors
    /// `RequestIdReused` if the record is of another request.
    pub fn response_of(&self, record: &Record) -> Result<EncodedResponse, RequestIdReused> {
        if record.hash == self.hash { Ok(record.response.clone()) } else { Err(RequestIdReused) }
    }
}

/// A message that could not be applied: kept with the reason until an admin has it applied again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// Names it.
    pub event_id: String,
    /// What is sent, as it is sent.
    pub message: Message,
    /// Why it could not be applied.
    pub reason: String,
    /// How often that was tried.
    pub attempts: u32,
    /// Since when it is set aside.
    pub park_time: DateTime<Utc>,
}

/// Rows by key, as read and as changed since. A map, so that a commit can never carry two input rows for one row written.
#[derive(Debug, Clone)]
pub struct Rows<K, V> {
    rows: BTreeMap<K, V>,
    read: BTreeSet<K>,
    changed: BTreeSet<K>,
}

impl<K, V> Default for Rows<K, V> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), read: BTreeSet::new(), changed: BTreeSet::new() }
    }
}

impl<K: Ord + Clone, V> Rows<K, V> {
    /// The row as it stands now in this batch.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key)
    }

    /// Adds a row as the store holds it.
    pub fn insert_read(&mut self, key: K, row: V) {
        self.read.insert(key.clone());
        self.rows.insert(key, row);
    }

    /// Makes or changes a row: the commit writes it.
    pub fn put(&mut self, key: K, row: V) {
        self.changed.insert(key.clone());
        self.rows.insert(key, row);
    }

    /// What the commit has to write, in the order of the keys.
    pub fn changed(&self) -> impl Iterator<Item = (&K, &V)> {
        self.changed.iter().filter_map(|key| self.rows.get_key_value(key))
    }

    /// Of these, the rows that the store did not show when it was read. Another process may have made them since.
    pub fn made(&self) -> impl Iterator<Item = (&K, &V)> {
        self.changed().filter(|(key, _)| !self.read.contains(key))
    }

    /// Of these, the rows that the store holds, locked.
    pub fn updated(&self) -> impl Iterator<Item = (&K, &V)> {
        self.changed().filter(|(key, _)| self.read.contains(key))
    }

    /// All rows, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.rows.iter()
    }
}

/// A batch being worked off: the rows it locked, the records it found, and what it has brought about so far.
#[derive(Debug, Default)]
pub struct Work<R> {
    /// The service's own rows.
    pub rows: R,
    found: HashMap<Uuid, Record>,
    pub(crate) new_records: BTreeMap<Uuid, Record>,
    pub(crate) outbox: Vec<OutboxRow>,
    pub(crate) parked: Vec<Parked>,
    pub(crate) unparked: Vec<String>,
}

impl<R> Work<R> {
    /// Nothing has been worked off yet.
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

    /// Runs one command. The record is looked for here, under the row locks and before any guard: another attempt with the same
    /// id may have succeeded since the request came in, and then a refusal would be wrong. A refusal leaves no record.
    ///
    /// # Errors
    /// The refusal of `effect`, or `RequestIdReused`.
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

    /// Has a message sent once the transaction is committed.
    pub fn publish(&mut self, row: OutboxRow) {
        self.outbox.push(row);
    }

    /// Sets a message aside, in the same transaction.
    pub fn park(&mut self, parked: Parked) {
        self.parked.push(parked);
    }

    /// Takes a message out of those set aside, in the same transaction.
    pub fn unpark(&mut self, event_id: String) {
        self.unparked.push(event_id);
    }

    /// What the relay will send.
    pub fn outbox(&self) -> &[OutboxRow] {
        &self.outbox
    }

    /// What is set aside.
    pub fn parked(&self) -> &[Parked] {
        &self.parked
    }
}

/// Works a batch off in memory.
pub type ApplyBatch<'a, R> = &'a mut (dyn for<'w> FnMut(&'w mut Work<R>) + Send);

/// A store that commits batches: `Keys` names the rows to lock, `Rows` is what is read and written.
#[async_trait]
pub trait Commit: Send + Sync {
    /// Names the rows that a batch needs.
    type Keys: Send + Sync;
    /// The service's own rows.
    type Rows: Send + 'static;

    /// Begins, locks the rows of `keys` in their order, reads them and the records of `requests`, has `apply_batch` work the batch
    /// off, writes what it changed, commits. Where another transaction inserted a key of this one meanwhile, all of that is done
    /// again; [`CommitExt::commit_with`] returns what the last of these calls has returned.
    ///
    /// # Errors
    /// See [`Error`]; nothing is written then, or (`Unavailable`) it is not known.
    async fn commit(
        &self,
        keys: &Self::Keys,
        requests: &[Uuid],
        apply_batch: ApplyBatch<'_, Self::Rows>,
    ) -> Result<(), Error>;
}

/// For callers of [`Commit`], also through `dyn`.
#[async_trait]
pub trait CommitExt: Commit {
    /// As [`Commit::commit`]; returns what `apply_batch` has returned for the attempt that was committed, and nothing of earlier ones.
    ///
    /// # Errors
    /// As [`Commit::commit`].
    async fn commit_with<A, F>(&self, keys: &Self::Keys, requests: &[Uuid], mut apply_batch: F) -> Result<A, Error>
    where
        A: Send,
        F: for<'w> FnMut(&'w mut Work<Self::Rows>) -> A + Send,
    {
        let mut returned = None;
        let mut keep = |work: &mut Work<Self::Rows>| returned = Some(apply_batch(work));
        self.commit(keys, requests, &mut keep).await?;
        returned.ok_or_else(|| Error::data("the store has committed a batch without applying it"))
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
        EncodedResponse { type_name: Some("eticket.v1.Response".to_owned()), bytes: vec![byte].into() }
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
    fn a_retry_gets_the_first_answer_and_no_second_effect() {
        let mut work = Work::new((), []);
        let first = work.run::<Refusal>(idempotency(1), |_| Ok(response(7)));
        let again = work.run(idempotency(1), |_| Err(Refusal::Guard));
        assert_eq!((first, again), (Ok(response(7)), Ok(response(7))));
        assert_eq!(work.new_records.len(), 1);
    }

    #[test]
    fn the_record_is_looked_for_before_any_refusal() {
        let record = Record { request_id: Uuid::from_u128(1), hash: [1; 32], response: response(9) };
        let mut work = Work::new((), [record]);
        assert_eq!(work.run(idempotency(1), |_| Err(Refusal::Guard)), Ok(response(9)));
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
