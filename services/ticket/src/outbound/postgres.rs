//! Storage of tickets in PostgreSQL.

use std::collections::BTreeSet;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use eticket_proto::ids::TicketId;
use eticket_store::{
    Error,
    postgres::{Store, Tables},
};
use sqlx::{
    PgConnection, Row,
    migrate::Migrator,
    postgres::{PgQueryResult, PgRow},
};
use uuid::Uuid;

use crate::{
    application::{TicketRows, TicketStore},
    domain::{Schedule, Status, Ticket, Title},
};

pub static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// Reads and writes the rows of a commit.
pub struct TicketTables;

/// Names every column, so that a column added by a newer version does not matter.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "select ticket_id, title, start_time, end_time, withdrawn, holder, reservation_revision, announced, edits,
                schedule_revision, revision, create_time, update_time from ticket ",
            $rest
        )
    };
}

// Uses the primary key, as the updates do.
const LOCK_BY_IDS: &str = select!("where ticket_id = any($1) order by ticket_id for update");
const INSERT: &str =
    "insert into ticket (ticket_id, title, start_time, end_time, withdrawn, holder, reservation_revision,
        announced, edits, schedule_revision, revision, create_time, update_time)
    select new.* from unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::boolean[], $6::uuid[],
        $7::bigint[], $8::boolean[], $9::bigint[], $10::bigint[], $11::bigint[], $12::timestamptz[], $13::timestamptz[])
        as new (ticket_id, title, start_time, end_time, withdrawn, holder, reservation_revision,
            announced, edits, schedule_revision, revision, create_time, update_time)
    order by ticket_id";
// The creation time never changes, but both statements share one list of columns.
const UPDATE: &str = "update ticket set title = new.title, start_time = new.start_time, end_time = new.end_time,
        withdrawn = new.withdrawn, holder = new.holder, reservation_revision = new.reservation_revision,
        announced = new.announced, edits = new.edits, schedule_revision = new.schedule_revision,
        revision = new.revision, create_time = new.create_time, update_time = new.update_time
    from unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::boolean[], $6::uuid[],
        $7::bigint[], $8::boolean[], $9::bigint[], $10::bigint[], $11::bigint[], $12::timestamptz[], $13::timestamptz[])
        as new (ticket_id, title, start_time, end_time, withdrawn, holder, reservation_revision,
            announced, edits, schedule_revision, revision, create_time, update_time)
    where ticket.ticket_id = new.ticket_id";

#[async_trait]
impl Tables for TicketTables {
    type Keys = BTreeSet<TicketId>;
    type Rows = TicketRows;

    async fn lock_in_tx(connection: &mut PgConnection, keys: &BTreeSet<TicketId>) -> Result<TicketRows, Error> {
        let mut rows = TicketRows::default();
        if keys.is_empty() {
            return Ok(rows);
        }
        let ids: Vec<&str> = keys.iter().map(TicketId::as_str).collect();
        for row in sqlx::query(LOCK_BY_IDS).bind(ids).fetch_all(connection).await? {
            let ticket = ticket(&row)?;
            rows.insert_read(ticket.id.clone(), ticket);
        }
        Ok(rows)
    }

    async fn write_in_tx(connection: &mut PgConnection, rows: &TicketRows) -> Result<(), Error> {
        let (updated, made) = (rows.updated().map(|(_, row)| row).collect(), rows.made().map(|(_, row)| row).collect());
        write(connection, UPDATE, updated).await?;
        write(connection, INSERT, made).await?;
        Ok(())
    }
}

async fn write(connection: &mut PgConnection, statement: &'static str, tickets: Vec<&Ticket>) -> sqlx::Result<()> {
    if tickets.is_empty() {
        return Ok(());
    }
    let rows = || tickets.iter();
    let query = sqlx::query(statement)
        .bind(rows().map(|row| row.id.as_str()).collect::<Vec<_>>())
        .bind(rows().map(|row| row.title.as_str()).collect::<Vec<_>>())
        .bind(rows().map(|row| row.schedule.start()).collect::<Vec<_>>())
        .bind(rows().map(|row| row.schedule.end()).collect::<Vec<_>>())
        .bind(rows().map(|row| row.withdrawn).collect::<Vec<_>>())
        .bind(rows().map(|row| row.holder.map(|holder| holder.as_uuid())).collect::<Vec<_>>())
        .bind(rows().map(|row| row.reservation_revision).collect::<Vec<_>>())
        .bind(rows().map(|row| row.announced).collect::<Vec<_>>())
        .bind(rows().map(|row| row.edits).collect::<Vec<_>>())
        .bind(rows().map(|row| row.schedule_revision).collect::<Vec<_>>())
        .bind(rows().map(|row| row.revision).collect::<Vec<_>>())
        .bind(rows().map(|row| row.create_time).collect::<Vec<_>>())
        .bind(rows().map(|row| row.update_time).collect::<Vec<_>>());
    query.execute(connection).await.map(|_: PgQueryResult| ())
}

fn ticket(row: &PgRow) -> Result<Ticket, Error> {
    let schedule = Schedule::new(row.try_get("start_time")?, row.try_get("end_time")?);
    Ok(Ticket {
        id: row.try_get::<&str, _>("ticket_id")?.parse().map_err(Error::data)?,
        title: Title::parse(row.try_get("title")?).ok_or_else(|| Error::data("a stored title is not valid"))?,
        schedule: schedule.ok_or_else(|| Error::data("a stored schedule is not valid"))?,
        withdrawn: row.try_get("withdrawn")?,
        holder: row.try_get::<Option<Uuid>, _>("holder")?.map(Into::into),
        reservation_revision: row.try_get("reservation_revision")?,
        announced: row.try_get("announced")?,
        edits: row.try_get("edits")?,
        schedule_revision: row.try_get("schedule_revision")?,
        revision: row.try_get("revision")?,
        create_time: row.try_get("create_time")?,
        update_time: row.try_get("update_time")?,
    })
}

// Each filter repeats the condition of the index that serves it, so that pages need no sorting: the primary key,
// `ticket_withdrawn`, `ticket_reserved`, and `ticket_free` for the last two.
const PAGE_ALL: &str = select!("where ticket_id > $1 order by ticket_id limit $2");
const PAGE_WITHDRAWN: &str = select!("where withdrawn and ticket_id > $1 order by ticket_id limit $2");
const PAGE_RESERVED: &str =
    select!("where not withdrawn and holder is not null and ticket_id > $1 order by ticket_id limit $2");
const PAGE_EXPIRED: &str =
    select!("where not withdrawn and holder is null and end_time <= $3 and ticket_id > $1 order by ticket_id limit $2");
const PAGE_AVAILABLE: &str =
    select!("where not withdrawn and holder is null and end_time > $3 and ticket_id > $1 order by ticket_id limit $2");
// Uses `ticket_to_announce`.
const TO_ANNOUNCE: &str = "select ticket_id from ticket where not withdrawn and holder is null and not announced
    and end_time <= $1 order by end_time limit $2";

#[async_trait]
impl TicketStore for Store<TicketTables> {
    async fn ticket(&self, id: &TicketId) -> Result<Option<Ticket>, Error> {
        const SELECT: &str = select!("where ticket_id = $1");
        let row = self.database.fetch_optional(sqlx::query(SELECT).bind(id.as_str())).await?;
        row.as_ref().map(ticket).transpose()
    }

    async fn tickets_of(&self, ids: &[TicketId]) -> Result<Vec<Ticket>, Error> {
        const SELECT: &str = select!("where ticket_id = any($1)");
        let ids: Vec<&str> = ids.iter().map(TicketId::as_str).collect();
        self.database.fetch_all(sqlx::query(SELECT).bind(ids)).await?.iter().map(ticket).collect()
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
            query = query.bind(now);
        }
        self.database.fetch_all(query).await?.iter().map(ticket).collect()
    }

    async fn to_announce(&self, now: DateTime<Utc>, most: i64) -> Result<Vec<TicketId>, Error> {
        let rows = self.database.fetch_all(sqlx::query(TO_ANNOUNCE).bind(now).bind(most)).await?;
        rows.iter().map(|row| row.try_get::<&str, _>(0)?.parse().map_err(Error::data)).collect()
    }

    async fn count(&self) -> Result<i64, Error> {
        Ok(self.database.fetch_one(sqlx::query("select count(*) from ticket")).await?.try_get(0)?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use eticket_base::clock::SystemClock;
    use eticket_local_servers::postgres::Postgres;
    use eticket_store::postgres::{self, Database};

    use super::*;
    use crate::outbound::contract;

    async fn store(server: &Postgres) -> Arc<Store<TicketTables>> {
        let options = postgres::options(&server.url("postgres")).expect("a URL");
        let opened = Database::open(&options, "ticket", &MIGRATIONS, Arc::new(SystemClock)).await;
        Arc::new(Store::new(opened.expect("a store")))
    }

    #[tokio::test]
    #[ignore = "needs PostgreSQL: cargo xtask test runs it"]
    async fn keeps_the_contract() {
        let server = Postgres::start().expect("a server");
        contract::suite(store(&server).await).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    #[ignore = "needs PostgreSQL: cargo xtask test runs it"]
    async fn replicas_see_the_changes_of_each_other() {
        let server = Postgres::start().expect("a server");
        let wait_until_blocked = || server.wait_until_blocked().expect("a blocked replica");
        contract::replicas(store(&server).await, store(&server).await, &wait_until_blocked).await;
    }
}
