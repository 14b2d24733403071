//! Storage of tickets in SQLite.

use std::collections::BTreeSet;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use eticket_proto::ids::TicketId;
use eticket_store::{
    Error,
    sqlite::{Store, Tables, json_rows, time},
};
use serde_json::json;
use sqlx::{Row, SqliteConnection, migrate::Migrator, sqlite::SqliteRow};

use crate::{
    application::{TicketRows, TicketStore},
    domain::{Schedule, Status, Ticket, Title},
};

pub static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// Reads and writes the rows of a commit.
pub struct TicketTables;

const SELECT_BY_IDS: &str = "select * from ticket where ticket_id in (select value from json_each(?1))";
const UPSERT: &str = "insert into ticket (ticket_id, title, start_time, end_time, withdrawn, holder, reservation_revision,
        announced, edits, schedule_revision, revision, create_time, update_time)
    select value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
        value ->> 7, value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12
    from json_each(?1) where true
    on conflict (ticket_id) do update set title = excluded.title, start_time = excluded.start_time,
        end_time = excluded.end_time, withdrawn = excluded.withdrawn, holder = excluded.holder,
        reservation_revision = excluded.reservation_revision, announced = excluded.announced, edits = excluded.edits,
        schedule_revision = excluded.schedule_revision, revision = excluded.revision, update_time = excluded.update_time";

#[async_trait]
impl Tables for TicketTables {
    type Keys = BTreeSet<TicketId>;
    type Rows = TicketRows;

    async fn read_in_tx(connection: &mut SqliteConnection, keys: &BTreeSet<TicketId>) -> Result<TicketRows, Error> {
        let mut rows = TicketRows::default();
        if keys.is_empty() {
            return Ok(rows);
        }
        let ids = json_rows(keys.iter().map(|id| json!(id.as_str())));
        for row in sqlx::query(SELECT_BY_IDS).bind(ids).fetch_all(connection).await? {
            let ticket = ticket(&row)?;
            rows.insert_read(ticket.id.clone(), ticket);
        }
        Ok(rows)
    }

    async fn write_in_tx(connection: &mut SqliteConnection, rows: &TicketRows) -> Result<(), Error> {
        let mut changed = rows.changed().peekable();
        if changed.peek().is_none() {
            return Ok(());
        }
        let rows = changed.map(|(id, ticket)| {
            json!([
                id.as_str(),
                ticket.title.as_str(),
                ticket.schedule.start().timestamp_micros(),
                ticket.schedule.end().timestamp_micros(),
                i64::from(ticket.withdrawn),
                ticket.holder.map(|holder| holder.to_string()),
                ticket.reservation_revision,
                i64::from(ticket.announced),
                ticket.edits,
                ticket.schedule_revision,
                ticket.revision,
                ticket.create_time.timestamp_micros(),
                ticket.update_time.timestamp_micros(),
            ])
        });
        sqlx::query(UPSERT).bind(json_rows(rows)).execute(connection).await?;
        Ok(())
    }
}

fn ticket(row: &SqliteRow) -> Result<Ticket, Error> {
    let title: String = row.try_get("title")?;
    let holder: Option<String> = row.try_get("holder")?;
    let schedule = Schedule::new(time(row, "start_time")?, time(row, "end_time")?);
    Ok(Ticket {
        id: row.try_get::<&str, _>("ticket_id")?.parse().map_err(Error::data)?,
        title: Title::parse(&title).ok_or_else(|| Error::data("a stored title is not valid"))?,
        schedule: schedule.ok_or_else(|| Error::data("a stored schedule is not valid"))?,
        withdrawn: row.try_get("withdrawn")?,
        holder: holder.map(|holder| holder.parse()).transpose().map_err(Error::data)?,
        reservation_revision: row.try_get("reservation_revision")?,
        announced: row.try_get("announced")?,
        edits: row.try_get("edits")?,
        schedule_revision: row.try_get("schedule_revision")?,
        revision: row.try_get("revision")?,
        create_time: time(row, "create_time")?,
        update_time: time(row, "update_time")?,
    })
}

// Each filter repeats the condition of the index that serves it, so that pages need no sorting.
const PAGE_ALL: &str = "select * from ticket where ticket_id > ?1 order by ticket_id limit ?2";
const PAGE_WITHDRAWN: &str = "select * from ticket where withdrawn = 1 and ticket_id > ?1 order by ticket_id limit ?2";
const PAGE_RESERVED: &str = "select * from ticket where withdrawn = 0 and holder is not null and ticket_id > ?1
    order by ticket_id limit ?2";
const PAGE_EXPIRED: &str = "select * from ticket where withdrawn = 0 and holder is null and end_time <= ?3
    and ticket_id > ?1 order by ticket_id limit ?2";
const PAGE_AVAILABLE: &str = "select * from ticket where withdrawn = 0 and holder is null and end_time > ?3
    and ticket_id > ?1 order by ticket_id limit ?2";
// Uses `ticket_to_announce`.
const TO_ANNOUNCE: &str = "select ticket_id from ticket where withdrawn = 0 and holder is null and announced = 0
    and end_time <= ?1 order by end_time limit ?2";

#[async_trait]
impl TicketStore for Store<TicketTables> {
    async fn ticket(&self, id: &TicketId) -> Result<Option<Ticket>, Error> {
        const SELECT: &str = "select * from ticket where ticket_id = ?1";
        let row = sqlx::query(SELECT).bind(id.as_str()).fetch_optional(self.database.readers()).await?;
        row.as_ref().map(ticket).transpose()
    }

    async fn tickets_of(&self, ids: &[TicketId]) -> Result<Vec<Ticket>, Error> {
        let ids = json_rows(ids.iter().map(|id| json!(id.as_str())));
        let rows = sqlx::query(SELECT_BY_IDS).bind(ids).fetch_all(self.database.readers()).await?;
        rows.iter().map(ticket).collect()
    }

    async fn page(
        &self,
        status: Option<Status>,
        now: DateTime<Utc>,
        after: &str,
        most: i64,
    ) -> Result<Vec<Ticket>, Error> {
        let (statement, by_clock) = match status {
            None => (PAGE_ALL, false),
            Some(Status::Withdrawn) => (PAGE_WITHDRAWN, false),
            Some(Status::Reserved) => (PAGE_RESERVED, false),
            Some(Status::Expired) => (PAGE_EXPIRED, true),
            Some(Status::Available) => (PAGE_AVAILABLE, true),
        };
        let mut query = sqlx::query(statement).bind(after).bind(most);
        if by_clock {
            query = query.bind(now.timestamp_micros());
        }
        query.fetch_all(self.database.readers()).await?.iter().map(ticket).collect()
    }

    async fn to_announce(&self, now: DateTime<Utc>, most: i64) -> Result<Vec<TicketId>, Error> {
        let query = sqlx::query_scalar::<_, String>(TO_ANNOUNCE).bind(now.timestamp_micros()).bind(most);
        let ids = query.fetch_all(self.database.readers()).await?;
        ids.iter().map(|id| id.parse().map_err(Error::data)).collect()
    }

    async fn count(&self) -> Result<i64, Error> {
        Ok(sqlx::query_scalar("select count(*) from ticket").fetch_one(self.database.readers()).await?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use eticket_base::clock::SystemClock;
    use eticket_store::sqlite::Database;

    use super::*;
    use crate::outbound::contract;

    #[tokio::test]
    async fn keeps_the_contract() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("t.db"), &MIGRATIONS, Arc::new(SystemClock)).await.unwrap();
        contract::suite(Arc::new(Store::<TicketTables>::new(database))).await;
    }

    #[tokio::test]
    async fn every_list_has_its_index() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("t.db"), &MIGRATIONS, Arc::new(SystemClock)).await.unwrap();
        for (statement, index) in [
            (PAGE_ALL, "PRIMARY KEY"),
            (PAGE_WITHDRAWN, "ticket_withdrawn"),
            (PAGE_RESERVED, "ticket_reserved"),
            (PAGE_EXPIRED, "ticket_free"),
            (PAGE_AVAILABLE, "ticket_free"),
            (TO_ANNOUNCE, "ticket_to_announce"),
        ] {
            let plan = database.plan(statement).await.unwrap();
            assert!(plan.contains(index) && !plan.contains("TEMP B-TREE"), "{statement}: {plan}");
        }
    }
}
