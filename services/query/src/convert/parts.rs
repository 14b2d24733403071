//! Converts messages of the owners into parts of the view. An error names the invalid field.

use std::{fmt::Display, str::FromStr};

use chrono::{DateTime, Utc};
use eticket_proto::{
    ids::{TicketId, UserGrade},
    pricing as pricing_pb, reservation as reservation_pb, ticket as ticket_pb,
    time::from_proto,
    r#type::Money as MoneyPb,
};
use prost_types::Timestamp;

use crate::domain::{Discount, Money, PricePart, Reservation, ReservationStatus, TicketPart};

/// Converts the part of a ticket. `withdrawn` is separate because the status only describes the time of the message.
///
/// # Errors
/// The invalid field and the reason.
pub fn ticket(message: ticket_pb::Ticket, withdrawn: bool) -> Result<(TicketId, TicketPart), String> {
    let part = TicketPart {
        revision: at_least_one("ticket.revision", message.revision)?,
        schedule_revision: at_least_one("ticket.schedule_revision", message.schedule_revision)?,
        reservation_revision: message.reservation_revision,
        start: time("ticket.start_time", message.start_time)?,
        end: time("ticket.end_time", message.end_time)?,
        withdrawn,
        holder: optional_id("ticket.reservation_id", &message.reservation_id)?,
        update_time: time("ticket.update_time", message.update_time)?,
        title: message.title,
    };
    Ok((ticket_id("ticket.ticket_id", &message.ticket_id)?, part))
}

/// # Errors
/// The invalid field and the reason.
pub fn reservation(message: reservation_pb::Reservation) -> Result<Reservation, String> {
    let status = match message.status() {
        reservation_pb::ReservationStatus::Reserved => ReservationStatus::Reserved,
        reservation_pb::ReservationStatus::Cancelled => ReservationStatus::Cancelled,
        reservation_pb::ReservationStatus::Rejected => ReservationStatus::Rejected,
        reservation_pb::ReservationStatus::Unspecified => {
            return Err("reservation.status: expected a status".to_owned());
        }
    };
    Ok(Reservation {
        reservation_id: id("reservation.reservation_id", &message.reservation_id)?,
        ticket_id: id("reservation.ticket_id", &message.ticket_id)?,
        user_id: id("reservation.user_id", &message.user_id)?,
        user_grade: UserGrade::from_proto(message.user_grade).ok_or("reservation.user_grade: expected a grade")?,
        status,
        status_reason: message.status_reason,
        revision: at_least_one("reservation.revision", message.revision)?,
        reserve_time: time("reservation.reserve_time", message.reserve_time)?,
        update_time: time("reservation.update_time", message.update_time)?,
    })
}

/// # Errors
/// The invalid field and the reason.
pub fn price(message: pricing_pb::Price) -> Result<(TicketId, PricePart), String> {
    let discount = |discount: pricing_pb::Discount| {
        let amount = money("price.discounts.amount", discount.amount)?;
        Ok(Discount { rule_id: discount.rule_id, description: discount.description, amount })
    };
    let part = PricePart {
        revision: at_least_one("price.revision", message.revision)?,
        schedule_revision: message.schedule_revision,
        reservation_revision: message.reservation_revision,
        base_price: money("price.base_price", message.base_price)?,
        discounted_price: money("price.discounted_price", message.discounted_price)?,
        discounts: message.discounts.into_iter().map(discount).collect::<Result<_, String>>()?,
        update_time: time("price.update_time", message.update_time)?,
    };
    Ok((ticket_id("price.ticket_id", &message.ticket_id)?, part))
}

/// # Errors
/// If the text is not a ticket id.
pub fn ticket_id(field: &str, text: &str) -> Result<TicketId, String> {
    id(field, text)
}

/// # Errors
/// If the text is neither empty nor an id.
pub fn optional_id<T: FromStr<Err: Display>>(field: &str, text: &str) -> Result<Option<T>, String> {
    if text.is_empty() { Ok(None) } else { id(field, text).map(Some) }
}

/// # Errors
/// If the revision is below 1. Revisions start at 1; 0 stands for a missing part.
pub fn at_least_one(field: &str, revision: i64) -> Result<i64, String> {
    if revision >= 1 { Ok(revision) } else { Err(format!("{field}: expected at least 1, got {revision}")) }
}

fn id<T: FromStr<Err: Display>>(field: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{field}: {error}"))
}

fn time(field: &str, time: Option<Timestamp>) -> Result<DateTime<Utc>, String> {
    time.as_ref().and_then(from_proto).ok_or_else(|| format!("{field}: expected a time in the years 1 to 9999"))
}

fn money(field: &str, money: Option<MoneyPb>) -> Result<Money, String> {
    let MoneyPb { currency_code, units, nanos } =
        money.ok_or_else(|| format!("{field}: expected an amount, got none"))?;
    Ok(Money { currency_code, units, nanos })
}
