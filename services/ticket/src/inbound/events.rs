//! Decodes reservation events, which carry the holder of each ticket.

use eticket_bus::Message;
use eticket_proto::{event::ReservationEvent, subjects};
use eticket_service::event::Event;
use prost::Message as _;

use crate::application::ReservationChange;

impl Event for ReservationChange {
    const FILTERS: &'static [&'static str] = &[subjects::RESERVATIONS];

    fn decode(message: &Message) -> Result<Self, String> {
        let event = ReservationEvent::decode(message.body.clone()).map_err(|error| error.to_string())?;
        let active = match event.active_reservation_id.as_str() {
            "" => None,
            id => Some(id.parse().map_err(|error| format!("active_reservation_id: {error}"))?),
        };
        if event.ledger_revision < 1 {
            return Err(format!("ledger_revision: expected at least 1, got {}", event.ledger_revision));
        }
        let ticket = event.ticket_id.parse().map_err(|error| format!("ticket_id: {error}"))?;
        Ok(Self { ticket, revision: event.ledger_revision, active })
    }

    fn aggregate(&self) -> (String, i64) {
        (self.ticket.to_string(), self.revision)
    }
}
