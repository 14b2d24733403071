//! Reservation events: who holds each ticket.

use async_trait::async_trait;
use eticket_bus::Message;
use eticket_proto::{event::ReservationEvent, subjects};
use eticket_service::{
    batch,
    consumer::{EventHandler, Incoming},
};
use eticket_store::Parked;
use prost::Message as _;

use crate::application::{ReservationChange, Tickets};

/// What it listens to.
pub const FILTERS: &[&str] = &[subjects::RESERVATIONS];

pub struct Events {
    pub tickets: Tickets,
}

#[async_trait]
impl EventHandler for Events {
    type Event = ReservationChange;

    fn decode(&self, message: &Message) -> Result<ReservationChange, String> {
        let event = ReservationEvent::decode(message.body.clone()).map_err(|error| error.to_string())?;
        let active = match event.active_reservation_id.as_str() {
            "" => None,
            id => Some(id.parse().map_err(|error| format!("active_reservation_id: {error}"))?),
        };
        if event.ledger_revision < 1 {
            return Err(format!("ledger_revision: expected at least 1, got {}", event.ledger_revision));
        }
        let ticket = event.ticket_id.parse().map_err(|error| format!("ticket_id: {error}"))?;
        Ok(ReservationChange { ticket, revision: event.ledger_revision, active })
    }

    fn aggregate(&self, event: &ReservationChange) -> (String, i64) {
        (event.ticket.to_string(), event.revision)
    }

    async fn handle(&self, events: Vec<Incoming<ReservationChange>>) -> Vec<Result<(), batch::Error>> {
        self.tickets.handle(events).await
    }

    async fn park(&self, parked: Parked) -> Result<(), batch::Error> {
        self.tickets.park(parked).await
    }

    async fn missing(&self, events: &[ReservationChange]) -> Result<Vec<bool>, batch::Error> {
        self.tickets.missing(events).await
    }

    async fn count(&self) -> Result<u64, batch::Error> {
        self.tickets.count().await
    }

    async fn republish(&self, progress: &(dyn Fn(u64) + Send + Sync)) -> Result<u64, batch::Error> {
        self.tickets.republish(progress).await
    }
}
