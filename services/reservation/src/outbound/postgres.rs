//! Storage of ledgers and reservations in PostgreSQL.

use std::{collections::HashMap, sync::LazyLock};

use async_trait::async_trait;
use eticket_proto::ids::{ReservationId, TicketId};
use eticket_store::{
    Error, Idempotency, Record,
    postgres::{Changes, Column, Database, Joined, Store, Table, Tables, each, record},
};
use sqlx::{PgConnection, Row, migrate::Migrator, postgres::PgRow};
use uuid::Uuid;

use crate::{
    application::{Filter, Keys, ReservationRows, ReservationStore},
    domain::{Ledger, Reservation, Status},
};

pub static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// What a reservation needs before the availability check: the record of the request and the ledger of the ticket.
type Snapshot = (Option<Record>, Option<Ledger>);

/// Reads and writes the rows of a commit.
#[derive(Default)]
pub struct ReservationTables {
    snapshots: Joined<(TicketId, Option<Uuid>), Snapshot>,
}

static LEDGERS: LazyLock<Table<TicketId, Ledger>> = LazyLock::new(|| {
    Table::new(
        "ledger",
        [
            Column::fixed("ticket_id", "text", |query, rows| each(query, rows, |id, _| id.as_str())),
            Column::changing("revision", "bigint", |query, rows| each(query, rows, |_, row| row.revision)),
            Column::changing("active_reservation_id", "uuid", |query, rows| {
                each(query, rows, |_, row| row.active.map(|active| active.as_uuid()))
            }),
            Column::changing("closed", "boolean", |query, rows| each(query, rows, |_, row| row.closed)),
        ],
    )
});
static RESERVATIONS: LazyLock<Table<ReservationId, Reservation>> = LazyLock::new(|| {
    Table::new(
        "reservation",
        [
            Column::fixed("reservation_id", "uuid", |query, rows| each(query, rows, |id, _| id.as_uuid())),
            Column::fixed("ticket_id", "text", |query, rows| each(query, rows, |_, row| row.ticket.as_str())),
            Column::fixed("user_id", "text", |query, rows| each(query, rows, |_, row| row.user.as_str())),
            Column::fixed("user_grade", "text", |query, rows| each(query, rows, |_, row| row.grade.name())),
            Column::changing("status", "text", |query, rows| each(query, rows, |_, row| status_name(row.status))),
            Column::changing("revision", "bigint", |query, rows| each(query, rows, |_, row| row.revision)),
            Column::fixed("reserve_time", "timestamptz", |query, rows| each(query, rows, |_, row| row.reserve_time)),
            Column::changing("update_time", "timestamptz", |query, rows| each(query, rows, |_, row| row.update_time)),
        ],
    )
});

// The ticket of a reservation never changes, so the ledgers to lock can be read without a lock.
const TICKETS_OF: &str = "select distinct ticket_id from reservation where reservation_id = any($1)";
// Uses the primary key, as the updates do.
static LOCK_LEDGERS: LazyLock<String> =
    LazyLock::new(|| LEDGERS.select("where ticket_id = any($1) order by ticket_id for update"));
// The lock on a ledger also protects its reservations: they are read only while it is held.
static SELECT_BY_IDS: LazyLock<String> = LazyLock::new(|| RESERVATIONS.select("where reservation_id = any($1)"));

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
            for row in sqlx::query(LOCK_LEDGERS.as_str()).bind(tickets).fetch_all(&mut *connection).await? {
                let ledger = ledger(&row)?;
                if keys.active_of.contains(&ledger.ticket) {
                    reservations.extend(ledger.active.map(|active| active.as_uuid()));
                }
                rows.ledgers.insert_read(ledger.ticket.clone(), ledger);
            }
        }
        if !reservations.is_empty() {
            for row in sqlx::query(SELECT_BY_IDS.as_str()).bind(reservations).fetch_all(connection).await? {
                let reservation = reservation(&row)?;
                rows.reservations.insert_read(reservation.id, reservation);
            }
        }
        Ok(rows)
    }

    async fn write_in_tx(
        connection: &mut PgConnection,
        rows: &ReservationRows,
        changes: &mut Changes,
    ) -> Result<(), Error> {
        // Update ended reservations before inserting new ones: if a batch cancels and reserves a ticket again, the
        // unique index on the active reservation must never see two.
        if rows.reservations.made().next().is_some() {
            let mut ended = Changes::default();
            RESERVATIONS.update(&mut ended, rows.reservations.updated());
            ended.execute(connection).await?;
            RESERVATIONS.insert(changes, rows.reservations.made());
        } else {
            RESERVATIONS.update(changes, rows.reservations.updated());
        }
        LEDGERS.update(changes, rows.ledgers.updated());
        LEDGERS.insert(changes, rows.ledgers.made());
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
static SELECT_SNAPSHOTS: LazyLock<String> = LazyLock::new(|| {
    let ledgers = "null::uuid as request_id, null::bytea as hash, null::bytea as answer, null::text as response_type";
    format!(
        "select {}, {ledgers} from ledger where ticket_id = any($1)
            union all
            select {}, request_id, hash, answer, response_type from record where request_id = any($2)",
        LEDGERS.names(),
        LEDGERS.nulls()
    )
});

async fn snapshots(database: Database, keys: Vec<(TicketId, Option<Uuid>)>) -> Result<Vec<Snapshot>, Error> {
    let tickets: Vec<&str> = keys.iter().map(|(ticket, _)| ticket.as_str()).collect();
    let requests: Vec<Uuid> = keys.iter().filter_map(|(_, request_id)| *request_id).collect();
    let (mut ledgers, mut records) = (HashMap::new(), HashMap::new());
    for row in database.fetch_all(sqlx::query(SELECT_SNAPSHOTS.as_str()).bind(tickets).bind(requests)).await? {
        match row.try_get::<Option<Uuid>, _>("request_id")? {
            Some(request_id) => records.insert(request_id, record(&row)?).map(drop),
            None => {
                let ledger = ledger(&row)?;
                ledgers.insert(ledger.ticket.clone(), ledger).map(drop)
            }
        };
    }
    let snapshot = |(ticket, request_id): &(TicketId, Option<Uuid>)| {
        let record = request_id.and_then(|request_id| records.get(&request_id).cloned());
        (record, ledgers.get(ticket).cloned())
    };
    Ok(keys.iter().map(snapshot).collect())
}

// The indexes are the primary key, `reservation_by_user`, `reservation_by_ticket` and `reservation_by_status`, in this
// order. Each filter starts with the first column of its index; further conditions are checked on the rows that the
// index returns.
static PAGE_ALL: LazyLock<String> = LazyLock::new(|| page("true"));
static PAGE_BY_USER: LazyLock<String> = LazyLock::new(|| {
    page("user_id = $3 and ($4::text is null or ticket_id = $4) and ($5::text is null or status = $5)")
});
static PAGE_BY_TICKET: LazyLock<String> =
    LazyLock::new(|| page("ticket_id = $3 and ($4::text is null or status = $4)"));
static PAGE_BY_STATUS: LazyLock<String> = LazyLock::new(|| page("status = $3"));
static SELECT: LazyLock<String> = LazyLock::new(|| RESERVATIONS.select("where reservation_id = $1"));
static SELECT_LEDGERS: LazyLock<String> = LazyLock::new(|| LEDGERS.select("where ticket_id = any($1)"));

fn page(condition: &str) -> String {
    RESERVATIONS.select(&format!("where {condition} and reservation_id > $1 order by reservation_id limit $2"))
}

#[async_trait]
impl ReservationStore for Store<ReservationTables> {
    async fn read_snapshot(
        &self,
        idempotency: Option<Idempotency>,
        ticket: &TicketId,
    ) -> Result<(Option<Record>, Option<Ledger>), Error> {
        let key = (ticket.clone(), idempotency.map(|idempotency| idempotency.request_id));
        let database = self.database.clone();
        self.tables.snapshots.read(key, move |keys| snapshots(database.clone(), keys)).await
    }

    async fn reservation(&self, id: ReservationId) -> Result<Option<Reservation>, Error> {
        let row = self.database.fetch_optional(sqlx::query(SELECT.as_str()).bind(id.as_uuid())).await?;
        row.as_ref().map(reservation).transpose()
    }

    async fn page(&self, filter: &Filter, after: &str, most: i64) -> Result<Vec<Reservation>, Error> {
        let statement = match filter {
            Filter { user: Some(_), .. } => &*PAGE_BY_USER,
            Filter { ticket: Some(_), .. } => &*PAGE_BY_TICKET,
            Filter { status: Some(_), .. } => &*PAGE_BY_STATUS,
            Filter { user: None, ticket: None, status: None } => &*PAGE_ALL,
        };
        // An empty `after` means the start; the nil id sorts before every other id.
        let after = if after.is_empty() { Uuid::nil() } else { after.parse().map_err(Error::data)? };
        let (user, ticket) = (filter.user.as_deref(), filter.ticket.as_ref().map(TicketId::as_str));
        let mut query = sqlx::query(statement.as_str()).bind(after).bind(most);
        if user.is_some() {
            query = query.bind(user);
        }
        if user.is_some() || ticket.is_some() {
            query = query.bind(ticket);
        }
        if filter.user.is_some() || filter.ticket.is_some() || filter.status.is_some() {
            query = query.bind(filter.status.map(status_name));
        }
        self.database.fetch_all(query).await?.iter().map(reservation).collect()
    }

    async fn ledgers_of(&self, tickets: &[TicketId]) -> Result<Vec<Ledger>, Error> {
        let ids: Vec<&str> = tickets.iter().map(TicketId::as_str).collect();
        self.database.fetch_all(sqlx::query(SELECT_LEDGERS.as_str()).bind(ids)).await?.iter().map(ledger).collect()
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
    use eticket_store::postgres;

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
