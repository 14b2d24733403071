//! Storage of tickets in PostgreSQL.

use std::{
    collections::{BTreeSet, HashMap},
    sync::LazyLock,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use eticket_proto::ids::TicketId;
use eticket_store::{
    Error,
    postgres::{Changes, Column, Database, Joined, Store, Table, Tables, each},
};
use sqlx::{PgConnection, Row, migrate::Migrator, postgres::PgRow};
use uuid::Uuid;

use crate::{
    application::{TicketRows, TicketStore},
    domain::{Schedule, Status, Ticket, Title},
};

pub static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// Reads and writes the rows of a commit.
#[derive(Default)]
pub struct TicketTables {
    /// Availability checks come in large numbers.
    joined: Joined<TicketId, Option<Ticket>>,
}

static TICKETS: LazyLock<Table<TicketId, Ticket>> = LazyLock::new(|| {
    Table::new(
        "ticket",
        [
            Column::fixed("ticket_id", "text", |query, rows| each(query, rows, |id, _| id.as_str())),
            Column::changing("title", "text", |query, rows| each(query, rows, |_, row| row.title.as_str())),
            Column::changing("start_time", "timestamptz", |query, rows| {
                each(query, rows, |_, row| row.schedule.start())
            }),
            Column::changing("end_time", "timestamptz", |query, rows| each(query, rows, |_, row| row.schedule.end())),
            Column::changing("withdrawn", "boolean", |query, rows| each(query, rows, |_, row| row.withdrawn)),
            Column::changing("holder", "uuid", |query, rows| {
                each(query, rows, |_, row| row.holder.map(|holder| holder.as_uuid()))
            }),
            Column::changing("reservation_revision", "bigint", |query, rows| {
                each(query, rows, |_, row| row.reservation_revision)
            }),
            Column::changing("announced", "boolean", |query, rows| each(query, rows, |_, row| row.announced)),
            Column::changing("edits", "bigint", |query, rows| each(query, rows, |_, row| row.edits)),
            Column::changing("schedule_revision", "bigint", |query, rows| {
                each(query, rows, |_, row| row.schedule_revision)
            }),
            Column::changing("revision", "bigint", |query, rows| each(query, rows, |_, row| row.revision)),
            Column::fixed("create_time", "timestamptz", |query, rows| each(query, rows, |_, row| row.create_time)),
            Column::changing("update_time", "timestamptz", |query, rows| each(query, rows, |_, row| row.update_time)),
        ],
    )
});
// Uses the primary key, as the updates do.
static LOCK_BY_IDS: LazyLock<String> =
    LazyLock::new(|| TICKETS.select("where ticket_id = any($1) order by ticket_id for update"));
static SELECT_BY_IDS: LazyLock<String> = LazyLock::new(|| TICKETS.select("where ticket_id = any($1)"));

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
        for row in sqlx::query(LOCK_BY_IDS.as_str()).bind(ids).fetch_all(connection).await? {
            let ticket = ticket(&row)?;
            rows.insert_read(ticket.id.clone(), ticket);
        }
        Ok(rows)
    }

    async fn write_in_tx(_: &mut PgConnection, rows: &TicketRows, changes: &mut Changes) -> Result<(), Error> {
        TICKETS.update(changes, rows.updated());
        TICKETS.insert(changes, rows.made());
        Ok(())
    }
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
static PAGE_ALL: LazyLock<String> = LazyLock::new(|| page("true"));
static PAGE_WITHDRAWN: LazyLock<String> = LazyLock::new(|| page("withdrawn"));
static PAGE_RESERVED: LazyLock<String> = LazyLock::new(|| page("not withdrawn and holder is not null"));
static PAGE_EXPIRED: LazyLock<String> = LazyLock::new(|| page("not withdrawn and holder is null and end_time <= $3"));
static PAGE_AVAILABLE: LazyLock<String> = LazyLock::new(|| page("not withdrawn and holder is null and end_time > $3"));

fn page(condition: &str) -> String {
    TICKETS.select(&format!("where {condition} and ticket_id > $1 order by ticket_id limit $2"))
}

// Uses `ticket_to_announce`.
const TO_ANNOUNCE: &str = "select ticket_id from ticket where not withdrawn and holder is null and not announced
    and end_time <= $1 order by end_time limit $2";

async fn tickets_of(database: &Database, ids: &[TicketId]) -> Result<Vec<Ticket>, Error> {
    let ids: Vec<&str> = ids.iter().map(TicketId::as_str).collect();
    database.fetch_all(sqlx::query(SELECT_BY_IDS.as_str()).bind(ids)).await?.iter().map(ticket).collect()
}

/// Returns the ticket of each id, in this order.
async fn found_of(database: Database, ids: Vec<TicketId>) -> Result<Vec<Option<Ticket>>, Error> {
    let found = tickets_of(&database, &ids).await?;
    let found: HashMap<TicketId, Ticket> = found.into_iter().map(|ticket| (ticket.id.clone(), ticket)).collect();
    Ok(ids.iter().map(|id| found.get(id).cloned()).collect())
}

#[async_trait]
impl TicketStore for Store<TicketTables> {
    async fn ticket(&self, id: &TicketId) -> Result<Option<Ticket>, Error> {
        let database = self.database.clone();
        self.tables.joined.read(id.clone(), move |ids| found_of(database.clone(), ids)).await
    }

    async fn tickets_of(&self, ids: &[TicketId]) -> Result<Vec<Ticket>, Error> {
        tickets_of(&self.database, ids).await
    }

    async fn page(
        &self,
        status: Option<Status>,
        now: DateTime<Utc>,
        after: &str,
        most: i64,
    ) -> Result<Vec<Ticket>, Error> {
        let (statement, by_clock) = match status {
            None => (&*PAGE_ALL, false),
            Some(Status::Withdrawn) => (&*PAGE_WITHDRAWN, false),
            Some(Status::Reserved) => (&*PAGE_RESERVED, false),
            Some(Status::Expired) => (&*PAGE_EXPIRED, true),
            Some(Status::Available) => (&*PAGE_AVAILABLE, true),
        };
        let mut query = sqlx::query(statement.as_str()).bind(after).bind(most);
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
    use eticket_store::postgres;

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
