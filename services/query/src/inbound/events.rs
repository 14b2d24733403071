//! Decodes messages of the stream. The subject determines the type of the body; the event type is only for display.

use eticket_bus::{Message, matches};
use eticket_proto::{
    event::{PriceEvent, ReservationEvent, TicketEvent},
    ids::TicketId,
    subjects,
};
use prost::Message as _;

use crate::{
    application::Decode,
    convert::parts::{self, at_least_one, optional_id, ticket_id},
    domain::{Event, LedgerPart},
};

/// Decodes Protobuf messages of the contract.
pub struct Protobuf;

impl Decode for Protobuf {
    fn decode(&self, message: &Message) -> Result<(TicketId, Event), String> {
        let (subject, body) = (message.subject.as_str(), message.body.clone());
        if matches(subjects::TICKETS, subject) {
            ticket_event(TicketEvent::decode(body).map_err(malformed)?)
        } else if matches(subjects::RESERVATIONS, subject) {
            reservation_event(ReservationEvent::decode(body).map_err(malformed)?)
        } else if matches(subjects::PRICES, subject) {
            price_event(PriceEvent::decode(body).map_err(malformed)?)
        } else {
            Err("subject: expected that of a ticket, a reservation or a price".to_owned())
        }
    }
}

fn malformed(error: prost::DecodeError) -> String {
    format!("body: {error}")
}

fn ticket_event(event: TicketEvent) -> Result<(TicketId, Event), String> {
    let (id, part) = parts::ticket(event.ticket.ok_or("ticket: expected a ticket, got none")?, event.withdrawn)?;
    Ok((id, Event::Ticket(part)))
}

fn reservation_event(event: ReservationEvent) -> Result<(TicketId, Event), String> {
    let part = LedgerPart {
        revision: at_least_one("ledger_revision", event.ledger_revision)?,
        active: optional_id("active_reservation_id", &event.active_reservation_id)?,
        closed: event.closed,
    };
    let ticket = ticket_id("ticket_id", &event.ticket_id)?;
    let reservation = event.reservation.map(parts::reservation).transpose()?;
    if reservation.as_ref().is_some_and(|reservation| reservation.ticket_id != ticket) {
        return Err("reservation.ticket_id: expected the ticket_id of the event".to_owned());
    }
    Ok((ticket, Event::Ledger(part, reservation)))
}

fn price_event(event: PriceEvent) -> Result<(TicketId, Event), String> {
    let (id, part) = parts::price(event.price.ok_or("price: expected a price, got none")?)?;
    Ok((id, Event::Price(part)))
}
