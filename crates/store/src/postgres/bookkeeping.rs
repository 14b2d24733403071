//! Outbox, records, parked messages and epoch of the PostgreSQL store.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use eticket_bus::Message;
use sqlx::{PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use super::{Changes, Database, within};
use crate::{
    Claim, DISCARDED, EncodedResponse, Error, OutboxRow, OutboxStore, Parked, ParkedStore, PoolUsage, Record,
    RecordStore, Sent, StoreLifecycle, StreamEpochStore, WaitingRow, Work, decode_headers, encode_headers,
};

const SELECT_RECORDS: &str = "select request_id, hash, answer, response_type from record where request_id = any($1)";

pub(super) async fn records_in_tx(connection: &mut PgConnection, requests: &[Uuid]) -> Result<Vec<Record>, Error> {
    if requests.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query(SELECT_RECORDS).bind(requests).fetch_all(connection).await?.iter().map(record).collect()
}

/// The record in a row with the columns `request_id`, `hash`, `answer` and `response_type` of the table `record`.
///
/// # Errors
/// If a column is missing or does not hold what this program writes.
pub fn record(row: &PgRow) -> Result<Record, Error> {
    let (hash, bytes): (Vec<u8>, Vec<u8>) = (row.try_get("hash")?, row.try_get("answer")?);
    Ok(Record {
        request_id: row.try_get("request_id")?,
        hash: hash.try_into().map_err(|_| Error::data("the hash of a record is not 32 bytes long"))?,
        response: EncodedResponse { type_name: row.try_get("response_type")?, bytes: bytes.into(), replayed: false },
    })
}

// In the order of arrival: ids rise with time.
const INSERT_OUTBOX: &str = "insert into outbox (writer, subject, revision, headers, body)
    select $5, subject, revision, headers, body
    from unnest($1::text[], $2::bigint[], $3::text[], $4::bytea[]) with ordinality
        as new (subject, revision, headers, body, position)
    order by position returning id";
// In the order of keys, so that two processes with the same keys cannot deadlock.
const INSERT_RECORDS: &str = "insert into record (request_id, hash, answer, response_type, create_time)
    select request_id, hash, answer, response_type, $5 from unnest($1::uuid[], $2::bytea[], $3::bytea[], $4::text[])
        as new (request_id, hash, answer, response_type)
    order by request_id";
// A message that is parked again replaces the stored one: the newer reason counts.
const UPSERT_PARKED: &str = "insert into parked (event_id, subject, headers, body, reason, attempts, park_time)
    select * from unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::text[], $6::integer[], $7::timestamptz[])
        as new (event_id, subject, headers, body, reason, attempts, park_time)
    where not exists (select from discarded where discarded.event_id = new.event_id)
    on conflict (event_id) do update set subject = excluded.subject, headers = excluded.headers, body = excluded.body,
        reason = excluded.reason, attempts = excluded.attempts, park_time = excluded.park_time";
const DELETE_PARKED: &str = "delete from parked where event_id = any($1)";

/// Makes the changes of the service and writes everything else. Returns the rows that were added to the outbox, under
/// the number of the session.
pub(super) async fn write_in_tx<R>(
    connection: &mut PgConnection,
    number: i64,
    work: Work<R>,
    mut changes: Changes,
    now: DateTime<Utc>,
) -> Result<Vec<WaitingRow>, Error> {
    // One after the other: an event can be unparked and parked again.
    if !work.unparked.is_empty() {
        sqlx::query(DELETE_PARKED).bind(&work.unparked).execute(&mut *connection).await?;
    }
    if !work.parked.is_empty() {
        park_in_tx(connection, &work.parked).await?;
    }
    if !work.outbox.is_empty() {
        let rows = &work.outbox;
        changes
            .add(INSERT_OUTBOX)
            .bind(rows.iter().map(|row| row.message.subject.as_str()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.revision).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| encode_headers(&row.message)).collect::<Result<Vec<_>, _>>()?)
            .bind(rows.iter().map(|row| &row.message.body[..]).collect::<Vec<_>>())
            .bind(number)
            .returning("id");
    }
    if !work.new_records.is_empty() {
        let rows = &work.new_records;
        changes
            .add(INSERT_RECORDS)
            .bind(rows.keys().copied().collect::<Vec<_>>())
            .bind(rows.values().map(|record| &record.hash[..]).collect::<Vec<_>>())
            .bind(rows.values().map(|record| &record.response.bytes[..]).collect::<Vec<_>>())
            .bind(rows.values().map(|record| record.response.type_name.as_deref()).collect::<Vec<_>>())
            .bind(now);
    }
    let ids = changes.execute(connection).await?;
    let waiting = |(id, OutboxRow { revision, message })| WaitingRow { id, revision, message, was_read: false };
    Ok(ids.into_iter().zip(work.outbox).map(waiting).collect())
}

async fn park_in_tx(connection: &mut PgConnection, parked: &[Parked]) -> Result<(), Error> {
    // A message that is parked twice in a batch is one row; the later one counts.
    let rows: BTreeMap<&str, &Parked> = parked.iter().map(|parked| (parked.event_id.as_str(), parked)).collect();
    let rows = || rows.values().copied();
    let upsert = sqlx::query(UPSERT_PARKED)
        .bind(rows().map(|row| row.event_id.as_str()).collect::<Vec<_>>())
        .bind(rows().map(|row| row.message.subject.as_str()).collect::<Vec<_>>())
        .bind(rows().map(|row| encode_headers(&row.message)).collect::<Result<Vec<_>, _>>()?)
        .bind(rows().map(|row| &row.message.body[..]).collect::<Vec<_>>())
        // PostgreSQL's text type cannot hold this character. A message that cannot be parked would block all later
        // ones.
        .bind(rows().map(|row| row.reason.replace('\0', "\u{fffd}")).collect::<Vec<_>>())
        .bind(rows().map(|row| i32::try_from(row.attempts).unwrap_or(i32::MAX)).collect::<Vec<_>>())
        .bind(rows().map(|row| row.park_time).collect::<Vec<_>>());
    upsert.execute(connection).await?;
    Ok(())
}

pub(super) fn message(row: &PgRow) -> Result<Message, Error> {
    Ok(Message {
        subject: row.try_get("subject")?,
        headers: decode_headers(row.try_get("headers")?)?,
        body: Bytes::from(row.try_get::<Vec<u8>, _>("body")?),
    })
}

fn parked(row: &PgRow) -> Result<Parked, Error> {
    let attempts: i32 = row.try_get("attempts")?;
    Ok(Parked {
        event_id: row.try_get("event_id")?,
        message: message(row)?,
        reason: row.try_get("reason")?,
        attempts: u32::try_from(attempts).map_err(Error::data)?,
        park_time: row.try_get("park_time")?,
    })
}

// A standby also responds, but cannot be written.
const PING: &str = "select current_setting('transaction_read_only') = 'off' as writable from (select 1) one
    left join stream on true";

#[async_trait]
impl StoreLifecycle for Database {
    async fn ping(&self) -> Result<(), Error> {
        let answer = sqlx::query(PING).fetch_one(&self.housekeepers);
        let writable: bool = within(self.limits.ping, answer).await?.try_get("writable")?;
        if writable {
            Ok(())
        } else {
            Err(Error::Unavailable(sqlx::Error::Protocol("the server is read-only".to_owned())))
        }
    }

    async fn pools(&self) -> Vec<PoolUsage> {
        vec![PoolUsage::read("read", &self.readers), PoolUsage::read("housekeeping", &self.housekeepers)]
    }

    async fn close(&self) {
        self.writer.lock().await.close().await;
        self.readers.close().await;
        self.housekeepers.close().await;
    }
}

#[async_trait]
impl OutboxStore for Database {
    async fn claim_outbox(&self, most: usize) -> Result<Claim, Error> {
        self.claim(most).await
    }

    async fn delete_sent(&self, sent: Sent) -> Result<Vec<i64>, Error> {
        self.delete(sent).await
    }

    async fn outbox_depth(&self) -> Result<i64, Error> {
        self.depth().await
    }

    async fn oldest_waiting(&self) -> Result<Option<Message>, Error> {
        self.oldest().await
    }
}

#[async_trait]
impl StreamEpochStore for Database {
    async fn stream_epoch(&self) -> Result<Option<String>, Error> {
        let select = sqlx::query_scalar("select identity from stream").fetch_optional(&self.housekeepers);
        within(self.limits.read, select).await
    }

    async fn set_stream_epoch(&self, epoch: &str) -> Result<(), Error> {
        const UPSERT: &str = "insert into stream (id, identity) values (1, $1)
            on conflict (id) do update set identity = excluded.identity";
        within(self.limits.read, sqlx::query(UPSERT).bind(epoch).execute(&self.housekeepers)).await?;
        Ok(())
    }
}

#[async_trait]
impl RecordStore for Database {
    async fn record(&self, request_id: Uuid) -> Result<Option<Record>, Error> {
        let row = self.fetch_optional(sqlx::query(SELECT_RECORDS).bind(vec![request_id])).await?;
        row.as_ref().map(record).transpose()
    }

    async fn purge_records(&self, before: DateTime<Utc>) -> Result<u64, Error> {
        // Uses record_by_create_time. Deletes a bounded number of rows at a time, and skips those that another process
        // is deleting.
        const DELETE: &str = "delete from record where request_id in (select request_id from record
            where create_time < $1 order by create_time limit 1000 for update skip locked)";
        let delete = sqlx::query(DELETE).bind(before).execute(&self.housekeepers);
        Ok(within(self.limits.read, delete).await?.rows_affected())
    }
}

#[async_trait]
impl ParkedStore for Database {
    async fn parked(&self, after: &str, most: i64) -> Result<Vec<Parked>, Error> {
        // Uses the primary key.
        const SELECT: &str = "select event_id, subject, headers, body, reason, attempts, park_time from parked
            where event_id > $1 order by event_id limit $2";
        let rows = sqlx::query(SELECT).bind(after).bind(most).fetch_all(&self.housekeepers);
        within(self.limits.read, rows).await?.iter().map(parked).collect()
    }

    async fn parked_by_id(&self, event_id: &str) -> Result<Option<Parked>, Error> {
        const SELECT: &str = "select event_id, subject, headers, body, reason, attempts, park_time from parked
            where event_id = $1";
        let row = sqlx::query(SELECT).bind(event_id).fetch_optional(&self.housekeepers);
        within(self.limits.read, row).await?.as_ref().map(parked).transpose()
    }

    async fn parked_count(&self) -> Result<i64, Error> {
        let count = sqlx::query_scalar("select count(*) from parked").fetch_one(&self.housekeepers);
        within(self.limits.read, count).await
    }

    async fn discard_parked(&self, event_id: &str) -> Result<bool, Error> {
        // In one statement, so that no event is gone and not remembered.
        const DISCARD: &str = "with gone as (delete from parked where event_id = $1 returning event_id)
            insert into discarded (event_id, discard_time) select event_id, $2 from gone
            on conflict (event_id) do update set discard_time = excluded.discard_time";
        const TRIM: &str = "delete from discarded where event_id in
            (select event_id from discarded order by discard_time desc, event_id offset $1)";
        let discard = sqlx::query(DISCARD).bind(event_id).bind(self.clock.now()).execute(&self.housekeepers);
        let was_there = within(self.limits.read, discard).await?.rows_affected() > 0;
        if was_there {
            let trim = sqlx::query(TRIM).bind(i64::try_from(DISCARDED).unwrap_or(i64::MAX));
            within(self.limits.read, trim.execute(&self.housekeepers)).await?;
        }
        Ok(was_there)
    }

    async fn is_discarded(&self, event_id: &str) -> Result<bool, Error> {
        let found = sqlx::query("select 1 from discarded where event_id = $1").bind(event_id);
        Ok(within(self.limits.read, found.fetch_optional(&self.housekeepers)).await?.is_some())
    }
}
