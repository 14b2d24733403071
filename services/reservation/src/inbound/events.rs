//! Ticket events: only a withdrawal concerns the ledgers.

use async_trait::async_trait;
use eticket_bus::Message;
use eticket_proto::{event::TicketEvent, subjects};
use eticket_service::{
    batch,
    consumer::{EventHandler, Incoming},
};
use eticket_store::Parked;
use prost::Message as _;

use crate::application::{Reservations, TicketChange};

/// What it listens to.
pub const FILTERS: &[&str] = &[subjects::TICKETS];

pub struct Events {
    pub reservations: Reservations,
}

#[async_trait]
impl EventHandler for Events {
    type Event = TicketChange;

    fn decode(&self, message: &Message) -> Result<TicketChange, String> {
        let event = TicketEvent::decode(message.body.clone()).map_err(|error| error.to_string())?;
        let ticket = event.ticket.ok_or("ticket: expected one, got none")?;
        let id = ticket.ticket_id.parse().map_err(|error| format!("ticket_id: {error}"))?;
        Ok(TicketChange { ticket: id, revision: ticket.revision, withdrawn: event.withdrawn })
    }

    fn aggregate(&self, event: &TicketChange) -> (String, i64) {
        (event.ticket.to_string(), event.revision)
    }

    async fn handle(&self, events: Vec<Incoming<TicketChange>>) -> Vec<Result<(), batch::Error>> {
        self.reservations.handle(events).await
    }

    async fn park(&self, parked: Parked) -> Result<(), batch::Error> {
        self.reservations.park(parked).await
    }

    async fn missing(&self, events: &[TicketChange]) -> Result<Vec<bool>, batch::Error> {
        self.reservations.missing(events).await
    }

    async fn count(&self) -> Result<u64, batch::Error> {
        self.reservations.count().await
    }

    async fn republish(&self, progress: &(dyn Fn(u64) + Send + Sync)) -> Result<u64, batch::Error> {
        self.reservations.republish(progress).await
    }
}
