//! Messages of the stream as what they say about a ticket. The subject says whose state is in the body; the type of the event is
//! for people.

use chrono::{DateTime, Utc};
use eticket_chassis::bus::{Message, matches};
use eticket_proto::{
    event::{PriceEvent, ReservationEvent, TicketEvent},
    ids::{TicketId, UserGrade},
    pricing, reservation, subjects, ticket,
    time::from_proto,
    r#type::Money,
};
use prost::Message as _;
use prost_types::Timestamp;

use crate::{
    application::Decode,
    domain::{self, Event, LedgerPart, PricePart, Reservation, ReservationStatus, TicketPart},
};

/// Protobuf, as the contract has it.
pub struct Protobuf;

impl Decode for Protobuf {
    fn decode(&self, message: &Message) -> Result<(TicketId, Event), String> {
        let (subject, body) = (message.subject.as_str(), message.body.clone());
        if matches(subjects::TICKETS, subject) {
            of_ticket(TicketEvent::decode(body).map_err(malformed)?)
        } else if matches(subjects::RESERVATIONS, subject) {
            of_reservation(ReservationEvent::decode(body).map_err(malformed)?)
        } else if matches(subjects::PRICES, subject) {
            of_price(PriceEvent::decode(body).map_err(malformed)?)
        } else {
            Err("subject: expected that of a ticket, a reservation or a price".to_owned())
        }
    }
}

fn malformed(error: prost::DecodeError) -> String {
    format!("body: {error}")
}

fn of_ticket(event: TicketEvent) -> Result<(TicketId, Event), String> {
    let ticket: ticket::Ticket = event.ticket.ok_or("ticket: expected one, got none")?;
    let holder = Some(ticket.reservation_id.as_str()).filter(|id| !id.is_empty());
    let part = TicketPart {
        revision: at_least_one("ticket.revision", ticket.revision)?,
        schedule_revision: at_least_one("ticket.schedule_revision", ticket.schedule_revision)?,
        reservation_revision: ticket.reservation_revision,
        start: time("ticket.start_time", ticket.start_time)?,
        end: time("ticket.end_time", ticket.end_time)?,
        withdrawn: event.withdrawn,
        holder: holder.map(|id| id.parse().map_err(|error| wrong("ticket.reservation_id", error))).transpose()?,
        update_time: time("ticket.update_time", ticket.update_time)?,
        title: ticket.title,
    };
    Ok((ticket_id("ticket.ticket_id", &ticket.ticket_id)?, Event::Ticket(part)))
}

fn of_reservation(event: ReservationEvent) -> Result<(TicketId, Event), String> {
    let active = Some(event.active_reservation_id.as_str()).filter(|id| !id.is_empty());
    let part = LedgerPart {
        revision: at_least_one("ledger_revision", event.ledger_revision)?,
        active: active.map(|id| id.parse().map_err(|error| wrong("active_reservation_id", error))).transpose()?,
        closed: event.closed,
    };
    let ticket = ticket_id("ticket_id", &event.ticket_id)?;
    let reservation = event.reservation.map(reservation).transpose()?;
    if reservation.as_ref().is_some_and(|reservation| reservation.ticket_id != ticket) {
        return Err("reservation.ticket_id: expected the event's own ticket_id".to_owned());
    }
    Ok((ticket, Event::Ledger(part, reservation)))
}

fn reservation(message: reservation::Reservation) -> Result<Reservation, String> {
    let status = match message.status() {
        reservation::ReservationStatus::Reserved => ReservationStatus::Reserved,
        reservation::ReservationStatus::Cancelled => ReservationStatus::Cancelled,
        reservation::ReservationStatus::Rejected => ReservationStatus::Rejected,
        reservation::ReservationStatus::Unspecified => return Err("reservation.status: expected one".to_owned()),
    };
    Ok(Reservation {
        reservation_id: message.reservation_id.parse().map_err(|error| wrong("reservation.reservation_id", error))?,
        ticket_id: ticket_id("reservation.ticket_id", &message.ticket_id)?,
        user_id: message.user_id.parse().map_err(|error| wrong("reservation.user_id", error))?,
        user_grade: UserGrade::from_proto(message.user_grade).ok_or("reservation.user_grade: expected one")?,
        status,
        status_reason: message.status_reason,
        revision: at_least_one("reservation.revision", message.revision)?,
        reserve_time: time("reservation.reserve_time", message.reserve_time)?,
        update_time: time("reservation.update_time", message.update_time)?,
    })
}

fn of_price(event: PriceEvent) -> Result<(TicketId, Event), String> {
    let price: pricing::Price = event.price.ok_or("price: expected one, got none")?;
    let discount = |discount: pricing::Discount| {
        let amount = money("price.discounts.amount", discount.amount)?;
        Ok(domain::Discount { rule_id: discount.rule_id, description: discount.description, amount })
    };
    let part = PricePart {
        revision: at_least_one("price.revision", price.revision)?,
        schedule_revision: price.schedule_revision,
        reservation_revision: price.reservation_revision,
        base_price: money("price.base_price", price.base_price)?,
        discounted_price: money("price.discounted_price", price.discounted_price)?,
        discounts: price.discounts.into_iter().map(discount).collect::<Result<_, String>>()?,
        update_time: time("price.update_time", price.update_time)?,
    };
    Ok((ticket_id("price.ticket_id", &price.ticket_id)?, Event::Price(part)))
}

fn wrong(field: &str, error: impl std::fmt::Display) -> String {
    format!("{field}: {error}")
}

fn ticket_id(field: &str, text: &str) -> Result<TicketId, String> {
    text.parse().map_err(|error| wrong(field, error))
}

fn at_least_one(field: &str, revision: i64) -> Result<i64, String> {
    if revision >= 1 { Ok(revision) } else { Err(format!("{field}: expected at least 1, got {revision}")) }
}

fn time(field: &str, time: Option<Timestamp>) -> Result<DateTime<Utc>, String> {
    time.as_ref().and_then(from_proto).ok_or_else(|| format!("{field}: expected a time in the years 1 to 9999"))
}

fn money(field: &str, money: Option<Money>) -> Result<domain::Money, String> {
    let Money { currency_code, units, nanos } = money.ok_or_else(|| format!("{field}: expected one, got none"))?;
    Ok(domain::Money { currency_code, units, nanos })
}
