//! Storage of ledgers and reservations in SQLite.

use std::{collections::BTreeSet, str::FromStr, sync::LazyLock};

use async_trait::async_trait;
use eticket_proto::ids::{ReservationId, TicketId};
use eticket_store::{
    Error, Idempotency, Record,
    sqlite::{Column, Store, Table, Tables, id_list, micros, optional_text, query, query_one, record, time},
};
use rusqlite::{Row, ToSql, Transaction, params};
use sqlx::migrate::Migrator;

use crate::{
    application::{Filter, Keys, ReservationRows, ReservationStore},
    domain::{Ledger, Reservation, Status},
};

pub static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// Reads and writes the rows of a commit.
pub struct ReservationTables;

const SELECT_RESERVATION: &str = "select * from reservation where reservation_id = ?1";
const SELECT_LEDGER: &str = "select * from ledger where ticket_id = ?1";
static LEDGERS: LazyLock<Table<TicketId, Ledger>> = LazyLock::new(|| {
    Table::new(
        "ledger",
        [
            Column::fixed("ticket_id", |id, _| id.as_str().into()),
            Column::changing("revision", |_, row| row.revision.into()),
            Column::changing("active_reservation_id", |_, row| optional_text(row.active)),
            Column::changing("closed", |_, row| row.closed.into()),
        ],
    )
});
static RESERVATIONS: LazyLock<Table<ReservationId, Reservation>> = LazyLock::new(|| {
    Table::new(
        "reservation",
        [
            Column::fixed("reservation_id", |id, _| id.to_string().into()),
            Column::fixed("ticket_id", |_, row| row.ticket.as_str().into()),
            Column::fixed("user_id", |_, row| row.user.as_str().into()),
            Column::fixed("user_grade", |_, row| row.grade.name().into()),
            Column::changing("status", |_, row| status_name(row.status).into()),
            Column::changing("revision", |_, row| row.revision.into()),
            Column::fixed("reserve_time", |_, row| micros(row.reserve_time)),
            Column::changing("update_time", |_, row| micros(row.update_time)),
        ],
    )
});

impl Tables for ReservationTables {
    type Keys = Keys;
    type Rows = ReservationRows;

    fn read_in_tx(transaction: &Transaction<'_>, keys: &Keys) -> Result<ReservationRows, Error> {
        let mut rows = ReservationRows::default();
        let mut tickets = keys.tickets.union(&keys.active_of).cloned().collect::<BTreeSet<_>>();
        let mut reservations = keys.reservations.clone();
        let read_reservation = |rows: &mut ReservationRows, id: &ReservationId| -> Result<Option<TicketId>, Error> {
            let Some(reservation) = query_one(transaction, SELECT_RESERVATION, [id.to_string()], reservation)? else {
                return Ok(None);
            };
            let ticket = reservation.ticket.clone();
            rows.reservations.insert_read(*id, reservation);
            Ok(Some(ticket))
        };
        for id in &reservations {
            tickets.extend(read_reservation(&mut rows, id)?);
        }
        for ticket in tickets {
            let Some(ledger) = query_one(transaction, SELECT_LEDGER, [ticket.as_str()], ledger)? else { continue };
            if let Some(active) = ledger.active
                && keys.active_of.contains(&ticket)
                && reservations.insert(active)
            {
                read_reservation(&mut rows, &active)?;
            }
            rows.ledgers.insert_read(ticket, ledger);
        }
        Ok(rows)
    }

    fn write_in_tx(transaction: &Transaction<'_>, rows: &ReservationRows) -> Result<(), Error> {
        LEDGERS.write(transaction, rows.ledgers.changed())?;
        // Ended reservations are written before new ones: if a batch cancels and reserves a ticket again, the unique
        // index on the active reservation must never see two.
        let is_active = |row: &Reservation| row.status == Status::Reserved;
        RESERVATIONS.write(transaction, rows.reservations.changed().filter(|(_, row)| !is_active(row)))?;
        RESERVATIONS.write(transaction, rows.reservations.changed().filter(|(_, row)| is_active(row)))
    }
}

fn status_name(status: Status) -> &'static str {
    match status {
        Status::Reserved => "RESERVED",
        Status::Cancelled => "CANCELLED",
        Status::Rejected => "REJECTED",
    }
}

fn status(name: &str) -> Result<Status, Error> {
    [Status::Reserved, Status::Cancelled, Status::Rejected]
        .into_iter()
        .find(|status| status_name(*status) == name)
        .ok_or_else(|| Error::data(format!("a stored status is {name:?}")))
}

fn ledger(row: &Row<'_>) -> Result<Ledger, Error> {
    let active: Option<String> = row.get("active_reservation_id")?;
    Ok(Ledger {
        ticket: parsed(row, "ticket_id")?,
        revision: row.get("revision")?,
        active: active.map(|active| active.parse()).transpose().map_err(Error::data)?,
        closed: row.get("closed")?,
    })
}

fn reservation(row: &Row<'_>) -> Result<Reservation, Error> {
    Ok(Reservation {
        id: parsed(row, "reservation_id")?,
        ticket: parsed(row, "ticket_id")?,
        user: parsed(row, "user_id")?,
        grade: parsed(row, "user_grade")?,
        status: status(&row.get::<_, String>("status")?)?,
        revision: row.get("revision")?,
        reserve_time: time(row, "reserve_time")?,
        update_time: time(row, "update_time")?,
    })
}

fn parsed<T: FromStr<Err: Into<Box<dyn std::error::Error + Send + Sync>>>>(
    row: &Row<'_>,
    column: &str,
) -> Result<T, Error> {
    row.get::<_, String>(column)?.parse().map_err(Error::data)
}

// A single statement reads a single snapshot.
const SELECT_SNAPSHOT: &str = "select l.*, r.request_id, r.hash, r.answer, r.response_type from (select 1)
    left join ledger l on l.ticket_id = ?1 left join record r on r.request_id = ?2";
// Each filter starts with the first column of its index; further conditions are checked on the rows that the index
// returns.
const PAGE_ALL: &str = "select * from reservation where reservation_id > :after order by reservation_id limit :most";
const PAGE_BY_USER: &str =
    "select * from reservation where user_id = :user and (:ticket is null or ticket_id = :ticket)
    and (:status is null or status = :status) and reservation_id > :after order by reservation_id limit :most";
const PAGE_BY_TICKET: &str =
    "select * from reservation where ticket_id = :ticket and (:status is null or status = :status)
    and reservation_id > :after order by reservation_id limit :most";
const PAGE_BY_STATUS: &str =
    "select * from reservation where status = :status and reservation_id > :after order by reservation_id limit :most";

#[async_trait]
impl ReservationStore for Store<ReservationTables> {
    async fn read_snapshot(
        &self,
        idempotency: Option<Idempotency>,
        ticket: &TicketId,
    ) -> Result<(Option<Record>, Option<Ledger>), Error> {
        let request_id = idempotency.map(|idempotency| idempotency.request_id.to_string());
        let decode = |row: &Row<'_>| {
            let known: Option<String> = row.get("ticket_id")?;
            let ledger = known.map(|_| ledger(row)).transpose()?;
            let recorded: Option<String> = row.get("request_id")?;
            let record = recorded.map(|_| record(row)).transpose()?;
            Ok((record, ledger))
        };
        let snapshot = self
            .database
            .look_up(|connection| query_one(connection, SELECT_SNAPSHOT, params![ticket.as_str(), request_id], decode));
        Ok(snapshot.await?.unwrap_or_default())
    }

    async fn reservation(&self, id: ReservationId) -> Result<Option<Reservation>, Error> {
        let id = [id.to_string()];
        self.database.look_up(|connection| query_one(connection, SELECT_RESERVATION, id, reservation)).await
    }

    async fn page(&self, filter: &Filter, after: &str, most: i64) -> Result<Vec<Reservation>, Error> {
        let statement = match filter {
            Filter { user: Some(_), .. } => PAGE_BY_USER,
            Filter { ticket: Some(_), .. } => PAGE_BY_TICKET,
            Filter { status: Some(_), .. } => PAGE_BY_STATUS,
            Filter { user: None, ticket: None, status: None } => PAGE_ALL,
        };
        let (filter, after) = (filter.clone(), after.to_owned());
        let page = self.database.scan(move |connection| {
            let (ticket, status) = (filter.ticket.as_ref().map(TicketId::as_str), filter.status.map(status_name));
            // A statement names only those that it uses.
            let named = [
                (":user", &filter.user as &dyn ToSql),
                (":ticket", &ticket),
                (":status", &status),
                (":after", &after),
                (":most", &most),
            ];
            let used: Vec<_> = named.into_iter().filter(|(name, _)| statement.contains(name)).collect();
            query(connection, statement, &used[..], reservation)
        });
        page.await
    }

    async fn ledgers_of(&self, tickets: &[TicketId]) -> Result<Vec<Ledger>, Error> {
        const SELECT: &str = "select * from ledger where ticket_id in (select value from json_each(?1))";
        let ids = [id_list(tickets)];
        self.database.scan(|connection| query(connection, SELECT, ids, ledger)).await
    }

    async fn closed_ledgers(&self, after: &str, most: i64) -> Result<Vec<TicketId>, Error> {
        // Uses `ledger_closed`.
        const SELECT: &str =
            "select ticket_id from ledger where closed = 1 and ticket_id > ?1 order by ticket_id limit ?2";
        let after = after.to_owned();
        let page = self
            .database
            .scan(move |connection| query(connection, SELECT, params![after, most], |row| parsed(row, "ticket_id")));
        page.await
    }

    async fn count(&self) -> Result<i64, Error> {
        const COUNT: &str =
            "select (select count(*) from reservation) + (select count(*) from ledger where closed = 1)";
        self.database.count(COUNT).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use eticket_base::clock::SystemClock;
    use eticket_store::sqlite::{Database, Store};

    use super::*;
    use crate::outbound::contract;

    #[tokio::test]
    async fn keeps_the_contract() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reservation.db");
        let database = Database::open(&path, &MIGRATIONS, Arc::new(SystemClock)).await.unwrap();
        contract::suite(Arc::new(Store::<ReservationTables>::new(database))).await;
    }

    #[tokio::test]
    async fn every_list_has_its_index() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("t.db"), &MIGRATIONS, Arc::new(SystemClock)).await.unwrap();
        for (statement, index) in [
            (PAGE_ALL, "PRIMARY KEY"),
            (PAGE_BY_USER, "reservation_by_user"),
            (PAGE_BY_TICKET, "reservation_by_ticket"),
            (PAGE_BY_STATUS, "reservation_by_status"),
        ] {
            let plan = database.plan(statement).await.unwrap();
            assert!(plan.contains(index) && !plan.contains("TEMP B-TREE"), "{statement}: {plan}");
        }
    }
}
