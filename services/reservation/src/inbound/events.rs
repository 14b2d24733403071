//! Decodes ticket events. Only withdrawals change ledgers.

use eticket_bus::Message;
use eticket_proto::{event::TicketEvent, subjects};
use eticket_service::event::Event;
use prost::Message as _;

use crate::application::TicketChange;

impl Event for TicketChange {
    const FILTERS: &'static [&'static str] = &[subjects::TICKETS];

    fn decode(message: &Message) -> Result<Self, String> {
        let event = TicketEvent::decode(message.body.clone()).map_err(|error| error.to_string())?;
        let ticket = event.ticket.ok_or("ticket: expected a ticket, got none")?;
        let id = ticket.ticket_id.parse().map_err(|error| format!("ticket_id: {error}"))?;
        Ok(Self { ticket: id, revision: ticket.revision, withdrawn: event.withdrawn })
    }

    fn aggregate(&self) -> (String, i64) {
        (self.ticket.to_string(), self.revision)
    }
}
