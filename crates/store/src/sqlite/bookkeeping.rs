//! Outbox, records, parked messages and epoch of the SQLite store.

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use eticket_bus::Message;
use serde_json::json;
use sqlx::{Connection, Row, SqliteConnection, sqlite::SqliteRow};
use uuid::Uuid;

use super::{Database, hex, json_rows};
use crate::{
    Claim, DISCARDED, EncodedResponse, Error, OutboxStore, Parked, ParkedStore, PoolUsage, Record, RecordStore,
    StoreLifecycle, StreamEpochStore, WaitingRow, Work,
};

const SELECT_RECORDS: &str =
    "select request_id, hash, answer, response_type from record where request_id in (select value from json_each(?1))";

pub(super) async fn records_in_tx(connection: &mut SqliteConnection, requests: &[Uuid]) -> Result<Vec<Record>, Error> {
    if requests.is_empty() {
        return Ok(Vec::new());
    }
    let ids = json_rows(requests.iter().map(|id| json!(id)));
    sqlx::query(SELECT_RECORDS).bind(ids).fetch_all(connection).await?.iter().map(record).collect()
}

/// The record in a row with the columns `request_id`, `hash`, `answer` and `response_type` of the table `record`.
///
/// # Errors
/// If a column is missing or does not hold what this program writes.
pub fn record(row: &SqliteRow) -> Result<Record, Error> {
    let (hash, bytes): (Vec<u8>, Vec<u8>) = (row.try_get("hash")?, row.try_get("answer")?);
    Ok(Record {
        request_id: row.try_get::<String, _>("request_id")?.parse().map_err(Error::data)?,
        hash: hash.try_into().map_err(|_| Error::data("the hash of a record is not 32 bytes long"))?,
        response: EncodedResponse { type_name: row.try_get("response_type")?, bytes: bytes.into(), replayed: false },
    })
}

const INSERT_OUTBOX: &str = "insert into outbox (subject, revision, headers, body)
    select value ->> 0, value ->> 1, value ->> 2, unhex(value ->> 3) from json_each(?1)";
const INSERT_RECORDS: &str = "insert into record (request_id, hash, answer, response_type, create_time)
    select value ->> 0, unhex(value ->> 1), unhex(value ->> 2), value ->> 3, ?2 from json_each(?1)";
// A message that is parked again replaces the stored one: the newer reason counts.
const INSERT_PARKED: &str = "insert or replace into parked (event_id, subject, headers, body, reason, attempts, park_time)
    select value ->> 0, value ->> 1, value ->> 2, unhex(value ->> 3), value ->> 4, value ->> 5, value ->> 6 from json_each(?1)
    where value ->> 0 not in (select event_id from discarded)";
const INSERT_DISCARDED: &str = "insert or replace into discarded (event_id, discard_time)
    select value, ?2 from json_each(?1)";
const TRIM_DISCARDED: &str = "delete from discarded where event_id in
    (select event_id from discarded order by discard_time desc, event_id limit -1 offset ?1)";
const DELETE_PARKED: &str = "delete from parked where event_id in (select value from json_each(?1))";

pub(super) async fn write_in_tx<R>(
    connection: &mut SqliteConnection,
    work: &Work<R>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    if !work.outbox.is_empty() {
        let rows = json_rows(work.outbox.iter().map(|row| {
            json!([row.message.subject, row.revision, encode_headers(&row.message), hex(&row.message.body)])
        }));
        sqlx::query(INSERT_OUTBOX).bind(rows).execute(&mut *connection).await?;
    }
    if !work.new_records.is_empty() {
        let rows = work.new_records.values();
        let rows = json_rows(rows.map(|Record { request_id, hash, response }| {
            json!([request_id, hex(hash), hex(&response.bytes), response.type_name])
        }));
        sqlx::query(INSERT_RECORDS).bind(rows).bind(now.timestamp_micros()).execute(&mut *connection).await?;
    }
    if !work.unparked.is_empty() {
        let ids = json_rows(work.unparked.iter().map(|id| json!(id)));
        sqlx::query(DELETE_PARKED).bind(ids).execute(&mut *connection).await?;
    }
    if !work.parked.is_empty() {
        let rows = json_rows(work.parked.iter().map(|parked| {
            let Parked { event_id, message, reason, attempts, park_time } = parked;
            let (subject, headers, body) = (&message.subject, encode_headers(message), hex(&message.body));
            json!([event_id, subject, headers, body, reason, attempts, park_time.timestamp_micros()])
        }));
        sqlx::query(INSERT_PARKED).bind(rows).execute(connection).await?;
    }
    Ok(())
}

fn encode_headers(message: &Message) -> String {
    json!(message.headers).to_string()
}

fn message(row: &SqliteRow) -> Result<Message, Error> {
    Ok(Message {
        subject: row.try_get("subject")?,
        headers: serde_json::from_str(row.try_get("headers")?).map_err(Error::data)?,
        body: Bytes::from(row.try_get::<Vec<u8>, _>("body")?),
    })
}

fn parked(row: &SqliteRow) -> Result<Parked, Error> {
    let park_time = row.try_get("park_time")?;
    Ok(Parked {
        event_id: row.try_get("event_id")?,
        message: message(row)?,
        reason: row.try_get("reason")?,
        attempts: row.try_get("attempts")?,
        park_time: DateTime::from_timestamp_micros(park_time)
            .ok_or_else(|| Error::data("park_time is out of range"))?,
    })
}

/// Nothing to lock: the data folder is locked against other processes, and a process has one relay.
struct SqliteClaim {
    database: Database,
    subjects: Vec<Vec<WaitingRow>>,
}

// Uses outbox_by_subject for the order within a subject.
const SELECT_WAITING: &str = "select id, subject, revision, headers, body from outbox
    where subject in (select subject from outbox order by id limit ?1) order by subject, revision, id limit ?2";
const DELETE_SENT: &str = "delete from outbox where id in (select value from json_each(?1))";

/// Maximum number of rows per claim; the rest is claimed next time.
const MOST_ROWS: i64 = 4096;

#[async_trait]
impl Claim for SqliteClaim {
    fn subjects(&mut self) -> Vec<Vec<WaitingRow>> {
        std::mem::take(&mut self.subjects)
    }

    async fn done(self: Box<Self>, published: &[i64]) -> Result<(), Error> {
        if published.is_empty() {
            return Ok(());
        }
        let ids = json_rows(published.iter().map(|id| json!(id)));
        // Not synced: a row that reappears after a crash is published again, which is harmless.
        let mut writers = self.database.writers().await?;
        sqlx::query(DELETE_SENT).bind(ids).execute(writers.unsynced().await?).await?;
        Ok(())
    }
}

#[async_trait]
impl StoreLifecycle for Database {
    async fn ping(&self) -> Result<(), Error> {
        sqlx::query("select identity from stream").execute(&self.readers).await?;
        // Checks that the file is writable. Nothing reaches the disk, so a full disk does not fail the ping: reads
        // still work.
        let mut writers = self.writers().await?;
        let mut transaction = writers.unsynced().await?.begin_with("begin immediate").await?;
        sqlx::query("pragma user_version = 0").execute(&mut *transaction).await?;
        transaction.rollback().await?;
        Ok(())
    }

    async fn pools(&self) -> Vec<PoolUsage> {
        vec![PoolUsage::read("read", &self.readers)]
    }

    async fn close(&self) {
        self.readers.close().await;
        if let Some(writers) = self.writers.lock().await.take() {
            for connection in [writers.unsynced, writers.synced] {
                if let Err(error) = connection.close().await {
                    tracing::warn!(%error, "cannot close the store");
                }
            }
        }
    }
}

#[async_trait]
impl OutboxStore for Database {
    async fn claim_outbox(&self, most: usize) -> Result<Box<dyn Claim>, Error> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let rows = sqlx::query(SELECT_WAITING).bind(most).bind(MOST_ROWS).fetch_all(&self.readers).await?;
        let mut subjects: Vec<Vec<WaitingRow>> = Vec::new();
        for row in &rows {
            let waiting =
                WaitingRow { id: row.try_get("id")?, revision: row.try_get("revision")?, message: message(row)? };
            match subjects.last_mut() {
                Some(same) if same.last().is_some_and(|last| last.message.subject == waiting.message.subject) => {
                    same.push(waiting);
                }
                _ => subjects.push(vec![waiting]),
            }
        }
        Ok(Box::new(SqliteClaim { database: self.clone(), subjects }))
    }

    async fn outbox_depth(&self) -> Result<i64, Error> {
        Ok(sqlx::query_scalar("select count(*) from outbox").fetch_one(&self.readers).await?)
    }

    async fn oldest_waiting(&self) -> Result<Option<Message>, Error> {
        let select = sqlx::query("select subject, headers, body from outbox order by id limit 1");
        select.fetch_optional(&self.readers).await?.as_ref().map(message).transpose()
    }
}

#[async_trait]
impl StreamEpochStore for Database {
    async fn stream_epoch(&self) -> Result<Option<String>, Error> {
        Ok(sqlx::query_scalar("select identity from stream").fetch_optional(&self.readers).await?)
    }

    async fn set_stream_epoch(&self, epoch: &str) -> Result<(), Error> {
        let mut writers = self.writers().await?;
        let statement = sqlx::query("insert or replace into stream (id, identity) values (1, ?1)").bind(epoch);
        statement.execute(writers.synced().await?).await?;
        Ok(())
    }
}

#[async_trait]
impl RecordStore for Database {
    async fn record(&self, request_id: Uuid) -> Result<Option<Record>, Error> {
        let ids = json_rows([json!(request_id)]);
        let row = sqlx::query(SELECT_RECORDS).bind(ids).fetch_optional(&self.readers).await?;
        row.as_ref().map(record).transpose()
    }

    async fn purge_records(&self, before: DateTime<Utc>) -> Result<u64, Error> {
        // Uses record_by_create_time. Deletes a bounded number of rows at a time, so that commands do not wait long.
        const DELETE: &str = "delete from record where request_id in
            (select request_id from record where create_time < ?1 order by create_time limit 1000)";
        let mut writers = self.writers().await?;
        let done = sqlx::query(DELETE).bind(before.timestamp_micros()).execute(writers.unsynced().await?).await?;
        Ok(done.rows_affected())
    }
}

async fn discard_in_tx(
    connection: &mut SqliteConnection,
    event_ids: &[String],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let ids = json_rows(event_ids.iter().map(|id| json!(id)));
    sqlx::query(DELETE_PARKED).bind(&ids).execute(&mut *connection).await?;
    sqlx::query(INSERT_DISCARDED).bind(ids).bind(now.timestamp_micros()).execute(&mut *connection).await?;
    let most = i64::try_from(DISCARDED).unwrap_or(i64::MAX);
    sqlx::query(TRIM_DISCARDED).bind(most).execute(connection).await?;
    Ok(())
}

/// For a view, whose rows are built again in another file.
impl Database {
    /// Returns the ids of the discarded events that are remembered.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub async fn discarded(&self) -> Result<Vec<String>, Error> {
        Ok(sqlx::query_scalar("select event_id from discarded").fetch_all(&self.readers).await?)
    }

    /// Remembers these events as discarded too, and deletes them from the parked ones.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub async fn keep_discarded(&self, event_ids: &[String]) -> Result<(), Error> {
        let mut writers = self.writers().await?;
        let mut transaction = writers.synced().await?.begin_with("begin immediate").await?;
        discard_in_tx(&mut transaction, event_ids, self.clock.now()).await?;
        Ok(transaction.commit().await?)
    }
}

#[async_trait]
impl ParkedStore for Database {
    async fn parked(&self, after: &str, most: i64) -> Result<Vec<Parked>, Error> {
        const SELECT: &str = "select * from parked where event_id > ?1 order by event_id limit ?2";
        sqlx::query(SELECT).bind(after).bind(most).fetch_all(&self.readers).await?.iter().map(parked).collect()
    }

    async fn parked_by_id(&self, event_id: &str) -> Result<Option<Parked>, Error> {
        const SELECT: &str = "select * from parked where event_id = ?1";
        let row = sqlx::query(SELECT).bind(event_id).fetch_optional(&self.readers).await?;
        row.as_ref().map(parked).transpose()
    }

    async fn parked_count(&self) -> Result<i64, Error> {
        Ok(sqlx::query_scalar("select count(*) from parked").fetch_one(&self.readers).await?)
    }

    async fn discard_parked(&self, event_id: &str) -> Result<bool, Error> {
        let mut writers = self.writers().await?;
        let mut transaction = writers.synced().await?.begin_with("begin immediate").await?;
        let delete = sqlx::query("delete from parked where event_id = ?1").bind(event_id);
        let was_there = delete.execute(&mut *transaction).await?.rows_affected() > 0;
        if was_there {
            discard_in_tx(&mut transaction, &[event_id.to_owned()], self.clock.now()).await?;
        }
        transaction.commit().await?;
        Ok(was_there)
    }

    async fn is_discarded(&self, event_id: &str) -> Result<bool, Error> {
        let found = sqlx::query("select 1 from discarded where event_id = ?1").bind(event_id);
        Ok(found.fetch_optional(&self.readers).await?.is_some())
    }
}
