//! Storage of ledgers and reservations in SQLite.

use async_trait::async_trait;
use eticket_proto::ids::{ReservationId, TicketId};
use eticket_store::{
    Error, Idempotency, Record,
    sqlite::{Store, Tables, json_rows, record, time},
};
use serde_json::json;
use sqlx::{Row, SqliteConnection, migrate::Migrator, sqlite::SqliteRow};

use crate::{
    application::{Filter, Keys, ReservationRows, ReservationStore},
    domain::{Ledger, Reservation, Status},
};

pub static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// Reads and writes the rows of a commit.
pub struct ReservationTables;

const SELECT_RESERVATIONS: &str = "select * from reservation where reservation_id in (select value from json_each(?1))
    union select r.* from reservation r join ledger l on r.reservation_id = l.active_reservation_id
    where l.ticket_id in (select value from json_each(?2))";
const SELECT_LEDGERS: &str = "select * from ledger where ticket_id in (select value from json_each(?1))";
const UPSERT_LEDGERS: &str = "insert into ledger (ticket_id, revision, active_reservation_id, closed)
    select value ->> 0, value ->> 1, value ->> 2, value ->> 3 from json_each(?1) where true
    on conflict (ticket_id) do update set revision = excluded.revision,
        active_reservation_id = excluded.active_reservation_id, closed = excluded.closed";
// Ended reservations are written before new ones: if a batch cancels and reserves a ticket again, the unique index on
// the active reservation must never see two.
const UPSERT_RESERVATIONS: &str = "insert into reservation
        (reservation_id, ticket_id, user_id, user_grade, status, revision, reserve_time, update_time)
    select value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7
    from json_each(?1) where true order by value ->> 4 = 'RESERVED'
    on conflict (reservation_id) do update set status = excluded.status, revision = excluded.revision,
        update_time = excluded.update_time";

#[async_trait]
impl Tables for ReservationTables {
    type Keys = Keys;
    type Rows = ReservationRows;

    async fn read_in_tx(connection: &mut SqliteConnection, keys: &Keys) -> Result<ReservationRows, Error> {
        let mut rows = ReservationRows::default();
        let mut tickets: Vec<TicketId> = keys.tickets.union(&keys.active_of).cloned().collect();
        if !keys.reservations.is_empty() || !keys.active_of.is_empty() {
            let ids = json_rows(keys.reservations.iter().map(|id| json!(id.to_string())));
            let active_of = json_rows(keys.active_of.iter().map(|id| json!(id.as_str())));
            let query = sqlx::query(SELECT_RESERVATIONS).bind(ids).bind(active_of);
            for row in query.fetch_all(&mut *connection).await? {
                let reservation = reservation(&row)?;
                tickets.push(reservation.ticket.clone());
                rows.reservations.insert_read(reservation.id, reservation);
            }
        }
        let ids = json_rows(tickets.iter().map(|id| json!(id.as_str())));
        for row in sqlx::query(SELECT_LEDGERS).bind(ids).fetch_all(connection).await? {
            let ledger = ledger(&row)?;
            rows.ledgers.insert_read(ledger.ticket.clone(), ledger);
        }
        Ok(rows)
    }

    async fn write_in_tx(connection: &mut SqliteConnection, rows: &ReservationRows) -> Result<(), Error> {
        let ledgers = rows.ledgers.changed().map(|(id, ledger)| {
            let active = ledger.active.map(|active| active.to_string());
            json!([id.as_str(), ledger.revision, active, i64::from(ledger.closed)])
        });
        let ledgers: Vec<_> = ledgers.collect();
        if !ledgers.is_empty() {
            sqlx::query(UPSERT_LEDGERS).bind(json_rows(ledgers)).execute(&mut *connection).await?;
        }
        let reservations = rows.reservations.changed().map(|(id, reservation)| {
            json!([
                id.to_string(),
                reservation.ticket.as_str(),
                reservation.user.as_str(),
                reservation.grade.name(),
                status_name(reservation.status),
                reservation.revision,
                reservation.reserve_time.timestamp_micros(),
                reservation.update_time.timestamp_micros(),
            ])
        });
        let reservations: Vec<_> = reservations.collect();
        if !reservations.is_empty() {
            sqlx::query(UPSERT_RESERVATIONS).bind(json_rows(reservations)).execute(connection).await?;
        }
        Ok(())
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

fn ledger(row: &SqliteRow) -> Result<Ledger, Error> {
    let active: Option<&str> = row.try_get("active_reservation_id")?;
    Ok(Ledger {
        ticket: row.try_get::<&str, _>("ticket_id")?.parse().map_err(Error::data)?,
        revision: row.try_get("revision")?,
        active: active.map(str::parse).transpose().map_err(Error::data)?,
        closed: row.try_get("closed")?,
    })
}

fn reservation(row: &SqliteRow) -> Result<Reservation, Error> {
    Ok(Reservation {
        id: row.try_get::<&str, _>("reservation_id")?.parse().map_err(Error::data)?,
        ticket: row.try_get::<&str, _>("ticket_id")?.parse().map_err(Error::data)?,
        user: row.try_get::<&str, _>("user_id")?.parse().map_err(Error::data)?,
        grade: row.try_get::<&str, _>("user_grade")?.parse().map_err(Error::data)?,
        status: status(row.try_get("status")?)?,
        revision: row.try_get("revision")?,
        reserve_time: time(row, "reserve_time")?,
        update_time: time(row, "update_time")?,
    })
}

// A single statement reads a single snapshot.
const SELECT_SNAPSHOT: &str = "select l.*, r.request_id, r.hash, r.answer, r.response_type from (select 1)
    left join ledger l on l.ticket_id = ?1 left join record r on r.request_id = ?2";
// Each filter starts with the first column of its index; further conditions are checked on the rows that the index
// returns.
const PAGE_ALL: &str = "select * from reservation where reservation_id > ?4 order by reservation_id limit ?5";
const PAGE_BY_USER: &str = "select * from reservation where user_id = ?1 and (?2 is null or ticket_id = ?2)
    and (?3 is null or status = ?3) and reservation_id > ?4 order by reservation_id limit ?5";
const PAGE_BY_TICKET: &str = "select * from reservation where ticket_id = ?2 and (?3 is null or status = ?3)
    and reservation_id > ?4 order by reservation_id limit ?5";
const PAGE_BY_STATUS: &str =
    "select * from reservation where status = ?3 and reservation_id > ?4 order by reservation_id limit ?5";

#[async_trait]
impl ReservationStore for Store<ReservationTables> {
    async fn read_snapshot(
        &self,
        idempotency: Option<Idempotency>,
        ticket: &TicketId,
    ) -> Result<(Option<Record>, Option<Ledger>), Error> {
        let request_id = idempotency.map(|idempotency| idempotency.request_id);
        let query = sqlx::query(SELECT_SNAPSHOT).bind(ticket.as_str()).bind(request_id.map(|id| id.to_string()));
        let row = query.fetch_one(self.database.readers()).await?;
        let known: Option<&str> = row.try_get("ticket_id")?;
        let ledger = known.map(|_| ledger(&row)).transpose()?;
        let recorded: Option<&str> = row.try_get("request_id")?;
        let record = recorded.map(|_| record(&row)).transpose()?;
        Ok((record, ledger))
    }

    async fn reservation(&self, id: ReservationId) -> Result<Option<Reservation>, Error> {
        const SELECT: &str = "select * from reservation where reservation_id = ?1";
        let row = sqlx::query(SELECT).bind(id.to_string()).fetch_optional(self.database.readers()).await?;
        row.as_ref().map(reservation).transpose()
    }

    async fn page(&self, filter: &Filter, after: &str, most: i64) -> Result<Vec<Reservation>, Error> {
        let statement = match filter {
            Filter { user: Some(_), .. } => PAGE_BY_USER,
            Filter { ticket: Some(_), .. } => PAGE_BY_TICKET,
            Filter { status: Some(_), .. } => PAGE_BY_STATUS,
            Filter { user: None, ticket: None, status: None } => PAGE_ALL,
        };
        let query = sqlx::query(statement)
            .bind(filter.user.as_deref())
            .bind(filter.ticket.as_ref().map(TicketId::as_str))
            .bind(filter.status.map(status_name))
            .bind(after)
            .bind(most);
        query.fetch_all(self.database.readers()).await?.iter().map(reservation).collect()
    }

    async fn ledgers_of(&self, tickets: &[TicketId]) -> Result<Vec<Ledger>, Error> {
        const SELECT: &str = "select * from ledger where ticket_id in (select value from json_each(?1))";
        let ids = json_rows(tickets.iter().map(|id| json!(id.as_str())));
        sqlx::query(SELECT).bind(ids).fetch_all(self.database.readers()).await?.iter().map(ledger).collect()
    }

    async fn closed_ledgers(&self, after: &str, most: i64) -> Result<Vec<TicketId>, Error> {
        // Uses `ledger_closed`.
        const SELECT: &str =
            "select ticket_id from ledger where closed = 1 and ticket_id > ?1 order by ticket_id limit ?2";
        let query = sqlx::query_scalar::<_, String>(SELECT).bind(after).bind(most);
        let ids = query.fetch_all(self.database.readers()).await?;
        ids.iter().map(|id| id.parse().map_err(Error::data)).collect()
    }

    async fn count(&self) -> Result<i64, Error> {
        const COUNT: &str =
            "select (select count(*) from reservation) + (select count(*) from ledger where closed = 1)";
        Ok(sqlx::query_scalar(COUNT).fetch_one(self.database.readers()).await?)
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
