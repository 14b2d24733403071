//! Storage of ledgers and reservations in PostgreSQL.

use async_trait::async_trait;
use eticket_proto::ids::{ReservationId, TicketId};
use eticket_store::{
    Error, Idempotency, Record,
    postgres::{Store, Tables, record},
};
use sqlx::{PgConnection, Row, migrate::Migrator, postgres::PgRow};
use uuid::Uuid;

use crate::{
    application::{Filter, Keys, ReservationRows, ReservationStore},
    domain::{Ledger, Reservation, Status},
};

pub static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// Reads and writes the rows of a commit.
pub struct ReservationTables;

/// Names every column, so that a column added by a newer version does not matter.
macro_rules! select_reservation {
    ($rest:literal) => {
        concat!(
            "select reservation_id, ticket_id, user_id, user_grade, status, revision, reserve_time, update_time
                from reservation ",
            $rest
        )
    };
}

// The ticket of a reservation never changes, so the ledgers to lock can be read without a lock.
const TICKETS_OF: &str = "select distinct ticket_id from reservation where reservation_id = any($1)";
// Uses the primary key, as the updates do.
const LOCK_LEDGERS: &str = "select ticket_id, revision, active_reservation_id, closed from ledger
    where ticket_id = any($1) order by ticket_id for update";
// The lock on a ledger also protects its reservations: they are read only while it is held.
const SELECT_RESERVATIONS: &str = select_reservation!("where reservation_id = any($1)");
const UPDATE_LEDGERS: &str = "update ledger set revision = new.revision,
        active_reservation_id = new.active_reservation_id, closed = new.closed
    from unnest($1::text[], $2::bigint[], $3::uuid[], $4::boolean[])
        as new (ticket_id, revision, active_reservation_id, closed)
    where ledger.ticket_id = new.ticket_id";
const INSERT_LEDGERS: &str = "insert into ledger (ticket_id, revision, active_reservation_id, closed)
    select new.* from unnest($1::text[], $2::bigint[], $3::uuid[], $4::boolean[])
        as new (ticket_id, revision, active_reservation_id, closed)
    order by ticket_id";
const UPDATE_RESERVATIONS: &str = "update reservation set status = new.status, revision = new.revision,
        update_time = new.update_time
    from unnest($1::uuid[], $2::text[], $3::bigint[], $4::timestamptz[])
        as new (reservation_id, status, revision, update_time)
    where reservation.reservation_id = new.reservation_id";
const INSERT_RESERVATIONS: &str = "insert into reservation
        (reservation_id, status, revision, update_time, ticket_id, user_id, user_grade, reserve_time)
    select new.* from unnest($1::uuid[], $2::text[], $3::bigint[], $4::timestamptz[], $5::text[], $6::text[], $7::text[],
            $8::timestamptz[])
        as new (reservation_id, status, revision, update_time, ticket_id, user_id, user_grade, reserve_time)
    order by reservation_id";

#[async_trait]
impl Tables for ReservationTables {
    type Keys = Keys;
    type Rows = ReservationRows;

    async fn lock_in_tx(connection: &mut PgConnection, keys: &Keys) -> Result<ReservationRows, Error> {
        let mut rows = ReservationRows::default();
        let mut tickets: Vec<String> = keys.tickets.union(&keys.active_of).map(ToString::to_string).collect();
        let mut reservations: Vec<Uuid> = keys.reservations.iter().map(ReservationId::as_uuid).collect();
        if !reservations.is_empty() {
            let of = sqlx::query_scalar(TICKETS_OF).bind(&reservations).fetch_all(&mut *connection).await?;
            tickets.extend(of);
        }
        if !tickets.is_empty() {
            for row in sqlx::query(LOCK_LEDGERS).bind(tickets).fetch_all(&mut *connection).await? {
                let ledger = ledger(&row)?;
                if keys.active_of.contains(&ledger.ticket) {
                    reservations.extend(ledger.active.map(|active| active.as_uuid()));
                }
                rows.ledgers.insert_read(ledger.ticket.clone(), ledger);
            }
        }
        if !reservations.is_empty() {
            for row in sqlx::query(SELECT_RESERVATIONS).bind(reservations).fetch_all(connection).await? {
                let reservation = reservation(&row)?;
                rows.reservations.insert_read(reservation.id, reservation);
            }
        }
        Ok(rows)
    }

    async fn write_in_tx(connection: &mut PgConnection, rows: &ReservationRows) -> Result<(), Error> {
        let only = |(_, row)| row;
        write_ledgers(connection, UPDATE_LEDGERS, rows.ledgers.updated().map(only).collect()).await?;
        write_ledgers(connection, INSERT_LEDGERS, rows.ledgers.made().map(|(_, row)| row).collect()).await?;
        // Update ended reservations before inserting new ones: if a batch cancels and reserves a ticket again, the
        // unique index on the active reservation must never see two.
        update_reservations(connection, rows.reservations.updated().map(|(_, row)| row).collect()).await?;
        insert_reservations(connection, rows.reservations.made().map(|(_, row)| row).collect()).await
    }
}

async fn write_ledgers(
    connection: &mut PgConnection,
    statement: &'static str,
    ledgers: Vec<&Ledger>,
) -> Result<(), Error> {
    if ledgers.is_empty() {
        return Ok(());
    }
    let rows = || ledgers.iter();
    let query = sqlx::query(statement)
        .bind(rows().map(|row| row.ticket.as_str()).collect::<Vec<_>>())
        .bind(rows().map(|row| row.revision).collect::<Vec<_>>())
        .bind(rows().map(|row| row.active.map(|active| active.as_uuid())).collect::<Vec<_>>())
        .bind(rows().map(|row| row.closed).collect::<Vec<_>>());
    query.execute(connection).await?;
    Ok(())
}

async fn update_reservations(connection: &mut PgConnection, reservations: Vec<&Reservation>) -> Result<(), Error> {
    if reservations.is_empty() {
        return Ok(());
    }
    let rows = || reservations.iter();
    let query = sqlx::query(UPDATE_RESERVATIONS)
        .bind(rows().map(|row| row.id.as_uuid()).collect::<Vec<_>>())
        .bind(rows().map(|row| status_name(row.status)).collect::<Vec<_>>())
        .bind(rows().map(|row| row.revision).collect::<Vec<_>>())
        .bind(rows().map(|row| row.update_time).collect::<Vec<_>>());
    query.execute(connection).await?;
    Ok(())
}

async fn insert_reservations(connection: &mut PgConnection, reservations: Vec<&Reservation>) -> Result<(), Error> {
    if reservations.is_empty() {
        return Ok(());
    }
    let rows = || reservations.iter();
    let query = sqlx::query(INSERT_RESERVATIONS)
        .bind(rows().map(|row| row.id.as_uuid()).collect::<Vec<_>>())
        .bind(rows().map(|row| status_name(row.status)).collect::<Vec<_>>())
        .bind(rows().map(|row| row.revision).collect::<Vec<_>>())
        .bind(rows().map(|row| row.update_time).collect::<Vec<_>>())
        .bind(rows().map(|row| row.ticket.as_str()).collect::<Vec<_>>())
        .bind(rows().map(|row| row.user.as_str()).collect::<Vec<_>>())
        .bind(rows().map(|row| row.grade.name()).collect::<Vec<_>>())
        .bind(rows().map(|row| row.reserve_time).collect::<Vec<_>>());
    query.execute(connection).await?;
    Ok(())
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

fn ledger(row: &PgRow) -> Result<Ledger, Error> {
    Ok(Ledger {
        ticket: row.try_get::<&str, _>("ticket_id")?.parse().map_err(Error::data)?,
        revision: row.try_get("revision")?,
        active: row.try_get::<Option<Uuid>, _>("active_reservation_id")?.map(Into::into),
        closed: row.try_get("closed")?,
    })
}

fn reservation(row: &PgRow) -> Result<Reservation, Error> {
    Ok(Reservation {
        id: row.try_get::<Uuid, _>("reservation_id")?.into(),
        ticket: row.try_get::<&str, _>("ticket_id")?.parse().map_err(Error::data)?,
        user: row.try_get::<&str, _>("user_id")?.parse().map_err(Error::data)?,
        grade: row.try_get::<&str, _>("user_grade")?.parse().map_err(Error::data)?,
        status: status(row.try_get("status")?)?,
        revision: row.try_get("revision")?,
        reserve_time: row.try_get("reserve_time")?,
        update_time: row.try_get("update_time")?,
    })
}

// A single statement reads a single snapshot. It uses both primary keys.
const SELECT_SNAPSHOT: &str = "select ledger.ticket_id, ledger.revision, ledger.active_reservation_id, ledger.closed,
        record.request_id, record.hash, record.answer, record.response_type from (select 1) one
    left join ledger on ledger.ticket_id = $1 left join record on record.request_id = $2";
// The indexes are the primary key, `reservation_by_user`, `reservation_by_ticket` and `reservation_by_status`, in this
// order. Each filter starts with the first column of its index; further conditions are checked on the rows that the
// index returns.
const PAGE_ALL: &str = select_reservation!("where reservation_id > $1 order by reservation_id limit $2");
const PAGE_BY_USER: &str = select_reservation!(
    "where user_id = $3 and ($4::text is null or ticket_id = $4) and ($5::text is null or status = $5)
        and reservation_id > $1 order by reservation_id limit $2"
);
const PAGE_BY_TICKET: &str = select_reservation!(
    "where ticket_id = $3 and ($4::text is null or status = $4) and reservation_id > $1
        order by reservation_id limit $2"
);
const PAGE_BY_STATUS: &str =
    select_reservation!("where status = $3 and reservation_id > $1 order by reservation_id limit $2");

#[async_trait]
impl ReservationStore for Store<ReservationTables> {
    async fn read_snapshot(
        &self,
        idempotency: Option<Idempotency>,
        ticket: &TicketId,
    ) -> Result<(Option<Record>, Option<Ledger>), Error> {
        let request_id = idempotency.map(|idempotency| idempotency.request_id);
        let row = self.database.fetch_one(sqlx::query(SELECT_SNAPSHOT).bind(ticket.as_str()).bind(request_id)).await?;
        let known: Option<&str> = row.try_get("ticket_id")?;
        let ledger = known.map(|_| ledger(&row)).transpose()?;
        let recorded: Option<Uuid> = row.try_get("request_id")?;
        let record = recorded.map(|_| record(&row)).transpose()?;
        Ok((record, ledger))
    }

    async fn reservation(&self, id: ReservationId) -> Result<Option<Reservation>, Error> {
        const SELECT: &str = select_reservation!("where reservation_id = $1");
        let row = self.database.fetch_optional(sqlx::query(SELECT).bind(id.as_uuid())).await?;
        row.as_ref().map(reservation).transpose()
    }

    async fn page(&self, filter: &Filter, after: &str, most: i64) -> Result<Vec<Reservation>, Error> {
        let statement = match filter {
            Filter { user: Some(_), .. } => PAGE_BY_USER,
            Filter { ticket: Some(_), .. } => PAGE_BY_TICKET,
            Filter { status: Some(_), .. } => PAGE_BY_STATUS,
            Filter { user: None, ticket: None, status: None } => PAGE_ALL,
        };
        // An empty `after` means the start; the nil id sorts before every other id.
        let after = if after.is_empty() { Uuid::nil() } else { after.parse().map_err(Error::data)? };
        let (user, ticket) = (filter.user.as_deref(), filter.ticket.as_ref().map(TicketId::as_str));
        let mut query = sqlx::query(statement).bind(after).bind(most);
        if user.is_some() {
            query = query.bind(user);
        }
        if user.is_some() || ticket.is_some() {
            query = query.bind(ticket);
        }
        if statement != PAGE_ALL {
            query = query.bind(filter.status.map(status_name));
        }
        self.database.fetch_all(query).await?.iter().map(reservation).collect()
    }

    async fn ledgers_of(&self, tickets: &[TicketId]) -> Result<Vec<Ledger>, Error> {
        const SELECT: &str =
            "select ticket_id, revision, active_reservation_id, closed from ledger where ticket_id = any($1)";
        let ids: Vec<&str> = tickets.iter().map(TicketId::as_str).collect();
        self.database.fetch_all(sqlx::query(SELECT).bind(ids)).await?.iter().map(ledger).collect()
    }

    async fn closed_ledgers(&self, after: &str, most: i64) -> Result<Vec<TicketId>, Error> {
        // Uses `ledger_closed`.
        const SELECT: &str = "select ticket_id from ledger where closed and ticket_id > $1 order by ticket_id limit $2";
        let rows = self.database.fetch_all(sqlx::query(SELECT).bind(after).bind(most)).await?;
        rows.iter().map(|row| row.try_get::<&str, _>(0)?.parse().map_err(Error::data)).collect()
    }

    async fn count(&self) -> Result<i64, Error> {
        const COUNT: &str = "select (select count(*) from reservation) + (select count(*) from ledger where closed)";
        Ok(self.database.fetch_one(sqlx::query(COUNT)).await?.try_get(0)?)
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

    async fn store(server: &Postgres) -> Arc<Store<ReservationTables>> {
        let options = postgres::options(&server.url("postgres")).expect("a URL");
        let opened = Database::open(&options, "reservation", &MIGRATIONS, Arc::new(SystemClock)).await;
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
