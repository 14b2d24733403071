//! Conversion between rows of the view and columns.

use std::{fmt::Display, sync::LazyLock};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use eticket_proto::ids::TicketId;
use eticket_store::{
    Error,
    sqlite::{Tables, json_rows, time},
};
use serde_json::{Value, json};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{
    application::{
        Keys, Position, StreamRows, ViewRows,
        listing::{price_key, update_key},
    },
    domain::{Discount, LedgerPart, Money, PricePart, Reservation, ReservationStatus, TicketPart, View},
};

/// The tables of the view, as a commit reads and writes them.
pub(super) struct ViewTables;

pub(super) const SELECT_VIEWS: &str = "select * from view where ticket_id in (select value from json_each(?1))";
pub(super) const SELECT_RESERVATIONS: &str =
    "select reservation_id, ticket_id as of_ticket_id, user_id, grade, status, reason, revision,
    reserve_time, update_time as reservation_update_time from reservation
    where reservation_id in (select value from json_each(?1))";
pub(super) const SELECT_POSITION: &str = "select identity, sequence, anchor from position";

// Rows are read under the lock and written completely, so a whole row can be replaced.
static REPLACE_VIEWS: LazyLock<String> = LazyLock::new(|| replace("view", &VIEW.map(|(name, _)| name)));
static REPLACE_RESERVATIONS: LazyLock<String> =
    LazyLock::new(|| replace("reservation", &RESERVATION.map(|(name, _)| name)));
const REPLACE_POSITION: &str =
    "insert or replace into position (id, identity, sequence, anchor) values (1, ?1, ?2, ?3)";
pub(super) const SELECT_CAUGHT_UP: &str = "select id from caught_up";
const KEEP_CAUGHT_UP: &str = "insert or ignore into caught_up (id) values (1)";
const FORGET_SEQUENCES: &str = "update view set sequence = 0";

#[async_trait]
impl Tables for ViewTables {
    type Keys = Keys;
    type Rows = ViewRows;

    async fn read_in_tx(connection: &mut SqliteConnection, keys: &Keys) -> Result<ViewRows, Error> {
        let mut rows = ViewRows::default();
        if !keys.tickets.is_empty() {
            let ids = json_rows(keys.tickets.iter().map(|id| json!(id.as_str())));
            for row in sqlx::query(SELECT_VIEWS).bind(ids).fetch_all(&mut *connection).await? {
                let (id, view) = view_with_id(&row)?;
                rows.views.insert_read(id, view);
            }
        }
        if !keys.reservations.is_empty() {
            let ids = json_rows(keys.reservations.iter().map(|id| json!(id.to_string())));
            for row in sqlx::query(SELECT_RESERVATIONS).bind(ids).fetch_all(&mut *connection).await? {
                let reservation = reservation(&row)?;
                rows.reservations.insert_read(reservation.reservation_id, reservation);
            }
        }
        let row = sqlx::query(SELECT_POSITION).fetch_optional(connection).await?;
        rows.position = row.as_ref().map(position).transpose()?;
        Ok(rows)
    }

    async fn write_in_tx(connection: &mut SqliteConnection, rows: &ViewRows) -> Result<(), Error> {
        if rows.forget_sequences {
            sqlx::query(FORGET_SEQUENCES).execute(&mut *connection).await?;
        }
        let views: Vec<Value> =
            rows.views.changed().map(|(id, view)| VIEW.map(|(_, value)| value(id, view)).into()).collect();
        if !views.is_empty() {
            sqlx::query(REPLACE_VIEWS.as_str()).bind(json_rows(views)).execute(&mut *connection).await?;
        }
        let reservations: Vec<Value> =
            rows.reservations.changed().map(|(_, row)| RESERVATION.map(|(_, value)| value(row)).into()).collect();
        if !reservations.is_empty() {
            sqlx::query(REPLACE_RESERVATIONS.as_str()).bind(json_rows(reservations)).execute(&mut *connection).await?;
        }
        if let Some(Position { epoch, sequence, fingerprint }) = &rows.moved_to {
            let sequence = i64::try_from(*sequence).map_err(Error::data)?;
            sqlx::query(REPLACE_POSITION)
                .bind(epoch)
                .bind(sequence)
                .bind(fingerprint)
                .execute(&mut *connection)
                .await?;
        }
        if rows.has_caught_up {
            sqlx::query(KEEP_CAUGHT_UP).execute(connection).await?;
        }
        Ok(())
    }
}

pub(super) fn position(row: &SqliteRow) -> Result<Position, Error> {
    Ok(Position { epoch: row.try_get("identity")?, sequence: sequence(row)?, fingerprint: row.try_get("anchor")? })
}

pub(super) fn sequence(row: &SqliteRow) -> Result<u64, Error> {
    u64::try_from(row.try_get::<i64, _>("sequence")?).map_err(Error::data)
}

/// Returns a statement that replaces rows of a table with those of a JSON array of arrays, whose values are in the
/// order of these columns.
fn replace(table: &str, columns: &[&str]) -> String {
    let values: Vec<String> = (0..columns.len()).map(|number| format!("value ->> {number}")).collect();
    format!("insert or replace into {table} ({}) select {} from json_each(?1)", columns.join(", "), values.join(", "))
}

/// A column of the table `view`: its name and its value.
type ViewColumn = (&'static str, fn(&TicketId, &View) -> Value);

/// The columns of the table `view`.
const VIEW: [ViewColumn; 36] = [
    ("ticket_id", |id, _| json!(id.as_str())),
    ("sequence", |_, view| json!(view.sequence)),
    ("unsettled_since", |_, view| json!(view.unsettled_since.map(|time| time.timestamp_micros()))),
    ("update_time", |_, view| json!(update_key(view))),
    ("ticket_revision", |_, view| json!(ticket(view).map_or(0, |ticket| ticket.revision))),
    ("schedule_revision", |_, view| json!(ticket(view).map_or(0, |ticket| ticket.schedule_revision))),
    ("reservation_revision", |_, view| json!(ticket(view).map_or(0, |ticket| ticket.reservation_revision))),
    ("title", |_, view| json!(ticket(view).map_or("", |ticket| &ticket.title))),
    ("start_time", |_, view| json!(micros(ticket(view).map(|ticket| ticket.start)))),
    ("end_time", |_, view| json!(micros(ticket(view).map(|ticket| ticket.end)))),
    ("withdrawn", |_, view| json!(ticket(view).map_or(0, |ticket| i64::from(ticket.withdrawn)))),
    ("holder", |_, view| json!(ticket(view).and_then(|ticket| ticket.holder).map(|holder| holder.to_string()))),
    ("ticket_update_time", |_, view| json!(micros(ticket(view).map(|ticket| ticket.update_time)))),
    ("ledger_revision", |_, view| json!(view.ledger.revision)),
    ("active", |_, view| json!(view.ledger.active.map(|active| active.to_string()))),
    ("closed", |_, view| json!(i64::from(view.ledger.closed))),
    ("holder_user_id", |_, view| json!(view.holder().map(|holder| holder.as_str()))),
    ("newest_id", |_, view| json!(newest_of(view).map(|newest| newest.reservation_id.to_string()))),
    ("newest_user_id", |_, view| json!(newest_of(view).map_or("", |newest| newest.user_id.as_str()))),
    ("newest_grade", |_, view| json!(newest_of(view).map_or("", |newest| newest.user_grade.name()))),
    ("newest_status", |_, view| json!(newest_of(view).map_or(0, |newest| status_number(newest.status)))),
    ("newest_reason", |_, view| json!(newest_of(view).map_or("", |newest| &newest.status_reason))),
    ("newest_revision", |_, view| json!(newest_of(view).map_or(0, |newest| newest.revision))),
    ("newest_reserve_time", |_, view| json!(micros(newest_of(view).map(|newest| newest.reserve_time)))),
    ("newest_update_time", |_, view| json!(micros(newest_of(view).map(|newest| newest.update_time)))),
    ("price_revision", |_, view| json!(price(view).map_or(0, |price| price.revision))),
    ("price_schedule_revision", |_, view| json!(price(view).map_or(0, |price| price.schedule_revision))),
    ("price_reservation_revision", |_, view| json!(price(view).map_or(0, |price| price.reservation_revision))),
    ("base_currency", |_, view| json!(price(view).map_or("", |price| &price.base_price.currency_code))),
    ("base_units", |_, view| json!(price(view).map_or(0, |price| price.base_price.units))),
    ("base_nanos", |_, view| json!(price(view).map_or(0, |price| price.base_price.nanos))),
    ("discounted_currency", |_, view| json!(price(view).map_or("", |price| &price.discounted_price.currency_code))),
    ("discounted_units", |_, view| json!(price_key(view).0)),
    ("discounted_nanos", |_, view| json!(price_key(view).1)),
    ("discounts", |_, view| json!(discounts_column(price(view).map_or(&[], |price| &price.discounts)))),
    ("price_update_time", |_, view| json!(micros(price(view).map(|price| price.update_time)))),
];

/// A column of the table `reservation`: its name and its value.
type ReservationColumn = (&'static str, fn(&Reservation) -> Value);

/// The columns of the table `reservation`.
const RESERVATION: [ReservationColumn; 9] = [
    ("reservation_id", |row| json!(row.reservation_id.to_string())),
    ("ticket_id", |row| json!(row.ticket_id.as_str())),
    ("user_id", |row| json!(row.user_id.as_str())),
    ("grade", |row| json!(row.user_grade.name())),
    ("status", |row| json!(status_number(row.status))),
    ("reason", |row| json!(row.status_reason)),
    ("revision", |row| json!(row.revision)),
    ("reserve_time", |row| json!(row.reserve_time.timestamp_micros())),
    ("update_time", |row| json!(row.update_time.timestamp_micros())),
];

fn ticket(view: &View) -> Option<&TicketPart> {
    view.ticket.as_ref()
}

fn newest_of(view: &View) -> Option<&Reservation> {
    view.newest.as_ref()
}

fn price(view: &View) -> Option<&PricePart> {
    view.price.as_ref()
}

fn micros(time: Option<DateTime<Utc>>) -> i64 {
    time.map_or(0, |time| time.timestamp_micros())
}

pub(super) fn view_with_id(row: &SqliteRow) -> Result<(TicketId, View), Error> {
    Ok((parsed(row, "ticket_id")?, view(row)?))
}

/// Decodes rows and the epoch that was read with them.
pub(super) fn stream_rows(rows: &[SqliteRow]) -> Result<StreamRows, Error> {
    let epoch = rows.first().map(|row| row.try_get("identity")).transpose()?;
    Ok(StreamRows { epoch, rows: rows.iter().map(view_with_id).collect::<Result<_, _>>()? })
}

/// Decodes a row of an outer join. Returns the default if the ticket has no row.
pub(super) fn view_or_none(row: &SqliteRow) -> Result<View, Error> {
    let id: Option<&str> = row.try_get("ticket_id")?;
    if id.is_none() { Ok(View::default()) } else { view(row) }
}

pub(super) fn view(row: &SqliteRow) -> Result<View, Error> {
    let unsettled_since: Option<i64> = row.try_get("unsettled_since")?;
    Ok(View {
        ticket: ticket_part(row)?,
        ledger: LedgerPart {
            revision: row.try_get("ledger_revision")?,
            active: optional(row, "active")?,
            closed: row.try_get("closed")?,
        },
        newest: newest(row)?,
        price: price_part(row)?,
        sequence: sequence(row)?,
        unsettled_since: unsettled_since.map(|_| time(row, "unsettled_since")).transpose()?,
    })
}

fn ticket_part(row: &SqliteRow) -> Result<Option<TicketPart>, Error> {
    let revision = row.try_get("ticket_revision")?;
    if revision == 0 {
        return Ok(None);
    }
    Ok(Some(TicketPart {
        revision,
        schedule_revision: row.try_get("schedule_revision")?,
        reservation_revision: row.try_get("reservation_revision")?,
        title: row.try_get("title")?,
        start: time(row, "start_time")?,
        end: time(row, "end_time")?,
        withdrawn: row.try_get("withdrawn")?,
        holder: optional(row, "holder")?,
        update_time: time(row, "ticket_update_time")?,
    }))
}

fn newest(row: &SqliteRow) -> Result<Option<Reservation>, Error> {
    let Some(reservation_id) = optional(row, "newest_id")? else { return Ok(None) };
    Ok(Some(Reservation {
        reservation_id,
        ticket_id: parsed(row, "ticket_id")?,
        user_id: parsed(row, "newest_user_id")?,
        user_grade: parsed(row, "newest_grade")?,
        status: status(row.try_get("newest_status")?)?,
        status_reason: row.try_get("newest_reason")?,
        revision: row.try_get("newest_revision")?,
        reserve_time: time(row, "newest_reserve_time")?,
        update_time: time(row, "newest_update_time")?,
    }))
}

fn price_part(row: &SqliteRow) -> Result<Option<PricePart>, Error> {
    let revision = row.try_get("price_revision")?;
    if revision == 0 {
        return Ok(None);
    }
    let (base_price, discounted_price) = (
        Money {
            currency_code: row.try_get("base_currency")?,
            units: row.try_get("base_units")?,
            nanos: row.try_get("base_nanos")?,
        },
        Money {
            currency_code: row.try_get("discounted_currency")?,
            units: row.try_get("discounted_units")?,
            nanos: row.try_get("discounted_nanos")?,
        },
    );
    Ok(Some(PricePart {
        revision,
        schedule_revision: row.try_get("price_schedule_revision")?,
        reservation_revision: row.try_get("price_reservation_revision")?,
        base_price,
        discounted_price,
        discounts: discounts(row.try_get("discounts")?)?,
        update_time: time(row, "price_update_time")?,
    }))
}

pub(super) fn reservation(row: &SqliteRow) -> Result<Reservation, Error> {
    Ok(Reservation {
        reservation_id: parsed(row, "reservation_id")?,
        ticket_id: parsed(row, "of_ticket_id")?,
        user_id: parsed(row, "user_id")?,
        user_grade: parsed(row, "grade")?,
        status: status(row.try_get("status")?)?,
        status_reason: row.try_get("reason")?,
        revision: row.try_get("revision")?,
        reserve_time: time(row, "reserve_time")?,
        update_time: time(row, "reservation_update_time")?,
    })
}

fn parsed<T: std::str::FromStr<Err: Display>>(row: &SqliteRow, column: &str) -> Result<T, Error> {
    let text: &str = row.try_get(column)?;
    text.parse().map_err(|error| Error::data(format!("{column}: {error}")))
}

fn optional<T: std::str::FromStr<Err: Display>>(row: &SqliteRow, column: &str) -> Result<Option<T>, Error> {
    let text: Option<&str> = row.try_get(column)?;
    text.map(|text| text.parse().map_err(|error| Error::data(format!("{column}: {error}")))).transpose()
}

fn status_number(status: ReservationStatus) -> i64 {
    match status {
        ReservationStatus::Reserved => 1,
        ReservationStatus::Cancelled => 2,
        ReservationStatus::Rejected => 3,
    }
}

fn status(number: i64) -> Result<ReservationStatus, Error> {
    match number {
        1 => Ok(ReservationStatus::Reserved),
        2 => Ok(ReservationStatus::Cancelled),
        3 => Ok(ReservationStatus::Rejected),
        other => Err(Error::data(format!("no reservation has the status {other}"))),
    }
}

/// Encodes discounts as a JSON array of arrays. No query reads parts of it.
fn discounts_column(discounts: &[Discount]) -> String {
    let columns = discounts.iter().map(|Discount { rule_id, description, amount }| {
        json!([rule_id, description, amount.currency_code, amount.units, amount.nanos])
    });
    json_rows(columns)
}

fn discounts(text: &str) -> Result<Vec<Discount>, Error> {
    if text == "[]" {
        return Ok(Vec::new());
    }
    let rows: Vec<(String, String, String, i64, i32)> = serde_json::from_str(text).map_err(Error::data)?;
    let discount = |(rule_id, description, currency_code, units, nanos)| {
        let amount = Money { currency_code, units, nanos };
        Discount { rule_id, description, amount }
    };
    Ok(rows.into_iter().map(discount).collect())
}
