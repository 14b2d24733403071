//! Outbox, records, parked messages and epoch of the SQLite store.

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use eticket_bus::Message;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use uuid::Uuid;

use super::{Database, Durability, query, query_one};
use crate::{
    Claim, DISCARDED, EncodedResponse, Error, OutboxRow, OutboxStore, Parked, ParkedStore, PoolUsage, Record,
    RecordStore, Sent, StoreLifecycle, StreamEpochStore, WaitingRow, Work, decode_headers, encode_headers,
    handover::Waiting,
};

const SELECT_RECORD: &str = "select request_id, hash, answer, response_type from record where request_id = ?1";

pub(super) fn records_in_tx(connection: &Connection, requests: &[Uuid]) -> Result<Vec<Record>, Error> {
    let mut found = Vec::new();
    for request in requests {
        found.extend(query_one(connection, SELECT_RECORD, [request.to_string()], record)?);
    }
    Ok(found)
}

/// The record in a row with the columns `request_id`, `hash`, `answer` and `response_type` of the table `record`.
///
/// # Errors
/// If a column is missing or does not hold what this program writes.
pub fn record(row: &Row<'_>) -> Result<Record, Error> {
    let (hash, bytes): (Vec<u8>, Vec<u8>) = (row.get("hash")?, row.get("answer")?);
    Ok(Record {
        request_id: row.get::<_, String>("request_id")?.parse().map_err(Error::data)?,
        hash: hash.try_into().map_err(|_| Error::data("the hash of a record is not 32 bytes long"))?,
        response: EncodedResponse { type_name: row.get("response_type")?, bytes: bytes.into(), replayed: false },
    })
}

const INSERT_OUTBOX: &str = "insert into outbox (subject, revision, headers, body) values (?1, ?2, ?3, ?4)";
const INSERT_RECORD: &str =
    "insert into record (request_id, hash, answer, response_type, create_time) values (?1, ?2, ?3, ?4, ?5)";
// A message that is parked again replaces the stored one: the newer reason counts.
const INSERT_PARKED: &str =
    "insert or replace into parked (event_id, subject, headers, body, reason, attempts, park_time)
    select ?1, ?2, ?3, ?4, ?5, ?6, ?7 where ?1 not in (select event_id from discarded)";
const INSERT_DISCARDED: &str = "insert or replace into discarded (event_id, discard_time) values (?1, ?2)";
const TRIM_DISCARDED: &str = "delete from discarded where event_id in
    (select event_id from discarded order by discard_time desc, event_id limit -1 offset ?1)";
const DELETE_PARKED: &str = "delete from parked where event_id = ?1";

/// Writes all but the rows of the service. Returns the rows that were added to the outbox.
pub(super) fn write_in_tx<R>(
    transaction: &Transaction<'_>,
    work: Work<R>,
    now: DateTime<Utc>,
) -> Result<Vec<WaitingRow>, Error> {
    let mut added = Vec::with_capacity(work.outbox.len());
    if !work.outbox.is_empty() {
        let mut insert = transaction.prepare_cached(INSERT_OUTBOX)?;
        for OutboxRow { revision, message } in work.outbox {
            let id = insert.insert(params![message.subject, revision, encode_headers(&message)?, &message.body[..]])?;
            added.push(WaitingRow { id, revision, message, was_read: false });
        }
    }
    if !work.new_records.is_empty() {
        let (mut insert, now) = (transaction.prepare_cached(INSERT_RECORD)?, now.timestamp_micros());
        for Record { request_id, hash, response } in work.new_records.values() {
            let EncodedResponse { type_name, bytes, .. } = response;
            insert.execute(params![request_id.to_string(), hash, &bytes[..], type_name, now])?;
        }
    }
    for event_id in &work.unparked {
        transaction.prepare_cached(DELETE_PARKED)?.execute([event_id])?;
    }
    for Parked { event_id, message, reason, attempts, park_time } in &work.parked {
        let (headers, park_time) = (encode_headers(message)?, park_time.timestamp_micros());
        let row = params![event_id, message.subject, headers, &message.body[..], reason, attempts, park_time];
        transaction.prepare_cached(INSERT_PARKED)?.execute(row)?;
    }
    Ok(added)
}

fn message(row: &Row<'_>) -> Result<Message, Error> {
    Ok(Message {
        subject: row.get("subject")?,
        headers: decode_headers(&row.get::<_, String>("headers")?)?,
        body: Bytes::from(row.get::<_, Vec<u8>>("body")?),
    })
}

fn parked(row: &Row<'_>) -> Result<Parked, Error> {
    Ok(Parked {
        event_id: row.get("event_id")?,
        message: message(row)?,
        reason: row.get("reason")?,
        attempts: row.get("attempts")?,
        park_time: super::time(row, "park_time")?,
    })
}

const SELECT_WAITING: &str = "select id, subject, revision, headers, body from outbox
    where id > ?1 order by id limit ?2";
const SELECT_ONE: &str = "select subject, headers, body from outbox where id = ?1";
const COUNT_WAITING: &str = "select count(*) from outbox where id > ?1";
const DELETE_SENT: &str = "delete from outbox where id = ?1";

// No other process sends rows, so they are the same as those of a commit.
fn waiting(row: &Row<'_>) -> Result<WaitingRow, Error> {
    Ok(WaitingRow { id: row.get("id")?, revision: row.get("revision")?, message: message(row)?, was_read: false })
}

#[async_trait]
impl StoreLifecycle for Database {
    async fn ping(&self) -> Result<(), Error> {
        self.stream_epoch().await?;
        // Checks that the file is writable. Nothing reaches the disk, so a full disk does not fail the ping: reads
        // still work.
        let written = self.file.with_connection(Durability::Unsynced, |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction.pragma_update(None, "user_version", 0)?;
            Ok(transaction.rollback()?)
        });
        written.outcome().await
    }

    async fn pools(&self) -> Vec<PoolUsage> {
        vec![self.file.usage()]
    }

    async fn close(&self) {
        self.file.close().await;
    }
}

#[async_trait]
impl OutboxStore for Database {
    async fn claim_outbox(&self, most: usize) -> Result<Claim, Error> {
        // Fails if the file is closed.
        self.look_up(|_| Ok(())).await?;
        // All rows of a page may be on their way already.
        while let Some(above) = self.handover.begin_read() {
            let page = i64::try_from(self.handover.limits.page).unwrap_or(i64::MAX);
            let read = move |connection: &Connection| query(connection, SELECT_WAITING, [above, page], waiting);
            self.handover.end_read(self.scan(read).await?);
        }
        Ok(self.handover.claim(most))
    }

    async fn delete_sent(&self, mut sent: Sent) -> Result<Vec<i64>, Error> {
        let ids = sent.ids();
        // Not synced: a row that reappears after a crash is published again, which is harmless.
        let deleted = self.file.write(Durability::Unsynced, move |transaction| {
            let mut delete = transaction.prepare_cached(DELETE_SENT)?;
            for id in &ids {
                delete.execute([id])?;
            }
            Ok(ids)
        });
        sent.deleted(deleted.outcome().await?);
        Ok(Vec::new())
    }

    async fn outbox_depth(&self) -> Result<i64, Error> {
        let waiting = self.handover.waiting();
        let Some(above) = waiting.unread_above else { return Ok(waiting.depth(0)) };
        let count = move |connection: &Connection| query_one(connection, COUNT_WAITING, [above], |row| Ok(row.get(0)?));
        Ok(waiting.depth(self.scan(count).await?.unwrap_or_default()))
    }

    async fn oldest_waiting(&self) -> Result<Option<Message>, Error> {
        let Waiting { lowest, unread_above, .. } = self.handover.waiting();
        match (lowest, unread_above) {
            (Some(id), _) => self.look_up(|connection| query_one(connection, SELECT_ONE, [id], message)).await,
            (None, Some(above)) => {
                self.look_up(|connection| query_one(connection, SELECT_WAITING, [above, 1], message)).await
            }
            (None, None) => Ok(None),
        }
    }
}

#[async_trait]
impl StreamEpochStore for Database {
    async fn stream_epoch(&self) -> Result<Option<String>, Error> {
        const SELECT: &str = "select identity from stream";
        self.look_up(|connection| query_one(connection, SELECT, [], |row| Ok(row.get(0)?))).await
    }

    async fn set_stream_epoch(&self, epoch: &str) -> Result<(), Error> {
        const REPLACE: &str = "insert or replace into stream (id, identity) values (1, ?1)";
        let epoch = epoch.to_owned();
        let written = self.file.write(self.durability, |transaction| Ok(transaction.execute(REPLACE, [epoch])?));
        written.outcome().await.map(drop)
    }
}

#[async_trait]
impl RecordStore for Database {
    async fn record(&self, request_id: Uuid) -> Result<Option<Record>, Error> {
        self.look_up(|connection| query_one(connection, SELECT_RECORD, [request_id.to_string()], record)).await
    }

    async fn purge_records(&self, before: DateTime<Utc>) -> Result<u64, Error> {
        // Uses record_by_create_time. Deletes a bounded number of rows at a time, so that commands do not wait long.
        const DELETE: &str = "delete from record where request_id in
            (select request_id from record where create_time < ?1 order by create_time limit 1000)";
        let before = before.timestamp_micros();
        let deleted =
            self.file.write(Durability::Unsynced, move |transaction| Ok(transaction.execute(DELETE, [before])?));
        Ok(deleted.outcome().await? as u64)
    }
}

fn discard_in_tx(transaction: &Transaction<'_>, event_ids: &[String], now: DateTime<Utc>) -> Result<(), Error> {
    for event_id in event_ids {
        transaction.prepare_cached(DELETE_PARKED)?.execute([event_id])?;
        transaction.prepare_cached(INSERT_DISCARDED)?.execute(params![event_id, now.timestamp_micros()])?;
    }
    transaction.execute(TRIM_DISCARDED, [i64::try_from(DISCARDED).unwrap_or(i64::MAX)])?;
    Ok(())
}

impl Database {
    /// Returns the number that a statement counts.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub async fn count(&self, statement: &'static str) -> Result<i64, Error> {
        let count = self.scan(|connection| query_one(connection, statement, [], |row| Ok(row.get(0)?))).await?;
        Ok(count.unwrap_or_default())
    }

    /// Returns the ids of the discarded events that are remembered.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub async fn discarded(&self) -> Result<Vec<String>, Error> {
        const SELECT: &str = "select event_id from discarded";
        self.scan(|connection| query(connection, SELECT, [], |row| Ok(row.get(0)?))).await
    }

    /// Remembers these events as discarded too, and deletes them from the parked ones. For a view, whose rows are built
    /// again in another file.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub async fn keep_discarded(&self, event_ids: &[String]) -> Result<(), Error> {
        let (event_ids, now) = (event_ids.to_vec(), self.clock.now());
        let kept = self.file.write(self.durability, move |transaction| discard_in_tx(transaction, &event_ids, now));
        kept.outcome().await
    }
}

#[async_trait]
impl ParkedStore for Database {
    async fn parked(&self, after: &str, most: i64) -> Result<Vec<Parked>, Error> {
        const SELECT: &str = "select * from parked where event_id > ?1 order by event_id limit ?2";
        let after = after.to_owned();
        self.scan(move |connection| query(connection, SELECT, params![after, most], parked)).await
    }

    async fn parked_by_id(&self, event_id: &str) -> Result<Option<Parked>, Error> {
        const SELECT: &str = "select * from parked where event_id = ?1";
        self.look_up(|connection| query_one(connection, SELECT, [event_id], parked)).await
    }

    async fn parked_count(&self) -> Result<i64, Error> {
        self.count("select count(*) from parked").await
    }

    async fn discard_parked(&self, event_id: &str) -> Result<bool, Error> {
        const IS_PARKED: &str = "select 1 from parked where event_id = ?1";
        let (event_id, now) = (event_id.to_owned(), self.clock.now());
        let discarded = self.file.write(self.durability, move |transaction| {
            let was_there = transaction.query_row(IS_PARKED, [&event_id], |_| Ok(())).optional()?.is_some();
            if was_there {
                discard_in_tx(transaction, &[event_id], now)?;
            }
            Ok(was_there)
        });
        discarded.outcome().await
    }

    async fn is_discarded(&self, event_id: &str) -> Result<bool, Error> {
        const SELECT: &str = "select 1 from discarded where event_id = ?1";
        let found = self.look_up(|connection| query_one(connection, SELECT, [event_id], |_| Ok(()))).await?;
        Ok(found.is_some())
    }
}
