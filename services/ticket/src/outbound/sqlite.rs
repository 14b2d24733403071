//! Storage of tickets in SQLite.

use std::{collections::BTreeSet, sync::LazyLock};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use eticket_proto::ids::TicketId;
use eticket_store::{
    Error,
    sqlite::{Column, Store, Table, Tables, id_list, micros, optional_text, query, query_one, time},
};
use rusqlite::{Row, Transaction, params};
use sqlx::migrate::Migrator;

use crate::{
    application::{TicketRows, TicketStore},
    domain::{Schedule, Status, Ticket, Title},
};

pub static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// Reads and writes the rows of a commit.
pub struct TicketTables;

const SELECT: &str = "select * from ticket where ticket_id = ?1";
static TICKETS: LazyLock<Table<TicketId, Ticket>> = LazyLock::new(|| {
    Table::new(
        "ticket",
        [
            Column::fixed("ticket_id", |id, _| id.as_str().into()),
            Column::changing("title", |_, row| row.title.as_str().into()),
            Column::changing("start_time", |_, row| micros(row.schedule.start())),
            Column::changing("end_time", |_, row| micros(row.schedule.end())),
            Column::changing("withdrawn", |_, row| row.withdrawn.into()),
            Column::changing("holder", |_, row| optional_text(row.holder)),
            Column::changing("reservation_revision", |_, row| row.reservation_revision.into()),
            Column::changing("announced", |_, row| row.announced.into()),
            Column::changing("edits", |_, row| row.edits.into()),
            Column::changing("schedule_revision", |_, row| row.schedule_revision.into()),
            Column::changing("revision", |_, row| row.revision.into()),
            Column::fixed("create_time", |_, row| micros(row.create_time)),
            Column::changing("update_time", |_, row| micros(row.update_time)),
        ],
    )
});

impl Tables for TicketTables {
    type Keys = BTreeSet<TicketId>;
    type Rows = TicketRows;

    fn read_in_tx(transaction: &Transaction<'_>, keys: &BTreeSet<TicketId>) -> Result<TicketRows, Error> {
        let mut rows = TicketRows::default();
        for id in keys {
            if let Some(ticket) = query_one(transaction, SELECT, [id.as_str()], ticket)? {
                rows.insert_read(ticket.id.clone(), ticket);
            }
        }
        Ok(rows)
    }

    fn write_in_tx(transaction: &Transaction<'_>, rows: &TicketRows) -> Result<(), Error> {
        TICKETS.write(transaction, rows.changed())
    }
}

fn ticket(row: &Row<'_>) -> Result<Ticket, Error> {
    let title: String = row.get("title")?;
    let holder: Option<String> = row.get("holder")?;
    let schedule = Schedule::new(time(row, "start_time")?, time(row, "end_time")?);
    Ok(Ticket {
        id: ticket_id(row)?,
        title: Title::parse(&title).ok_or_else(|| Error::data("a stored title is not valid"))?,
        schedule: schedule.ok_or_else(|| Error::data("a stored schedule is not valid"))?,
        withdrawn: row.get("withdrawn")?,
        holder: holder.map(|holder| holder.parse()).transpose().map_err(Error::data)?,
        reservation_revision: row.get("reservation_revision")?,
        announced: row.get("announced")?,
        edits: row.get("edits")?,
        schedule_revision: row.get("schedule_revision")?,
        revision: row.get("revision")?,
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
        self.database.look_up(|connection| query_one(connection, SELECT, [id.as_str()], ticket)).await
    }

    async fn tickets_of(&self, ids: &[TicketId]) -> Result<Vec<Ticket>, Error> {
        const SELECT_BY_IDS: &str = "select * from ticket where ticket_id in (select value from json_each(?1))";
        let ids = id_list(ids);
        self.database.scan(|connection| query(connection, SELECT_BY_IDS, [ids], ticket)).await
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
        let (after, now) = (after.to_owned(), now.timestamp_micros());
        let page = self.database.scan(move |connection| match by_clock {
            true => query(connection, statement, params![after, most, now], ticket),
            false => query(connection, statement, params![after, most], ticket),
        });
        page.await
    }

    async fn to_announce(&self, now: DateTime<Utc>, most: i64) -> Result<Vec<TicketId>, Error> {
        let now = now.timestamp_micros();
        self.database.scan(move |connection| query(connection, TO_ANNOUNCE, [now, most], ticket_id)).await
    }

    async fn count(&self) -> Result<i64, Error> {
        self.database.count("select count(*) from ticket").await
    }
}

fn ticket_id(row: &Row<'_>) -> Result<TicketId, Error> {
    row.get::<_, String>("ticket_id")?.parse().map_err(Error::data)
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
