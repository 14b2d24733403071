//! Events between tickets and other services: publishes ticket states for other services, and applies the reservation
//! changes that tickets depend on.

use std::collections::BTreeMap;

use async_trait::async_trait;
use eticket_base::telemetry::TraceContext;
use eticket_proto::{ids::TicketId, subjects};
use eticket_service::{
    audit::{Owner, State},
    batch,
    consumer::{EventHandler, Incoming},
};
use eticket_store::Parked;

use super::{Messages, ReservationChange, Tickets, WriteCommand, by_status, unavailable};
use crate::domain;

/// The states that the ticket service owns.
pub struct TicketStates {
    tickets: Tickets,
    messages: Messages,
}

impl TicketStates {
    pub fn new(tickets: Tickets, messages: Messages) -> Self {
        Self { tickets, messages }
    }
}

#[async_trait]
impl Owner for TicketStates {
    async fn count(&self) -> Result<u64, batch::Error> {
        self.tickets.store.count().await.map(i64::unsigned_abs).map_err(unavailable)
    }

    async fn states(&self, after: &str, most: usize) -> Result<Vec<State>, batch::Error> {
        let (now, trace) = (self.tickets.now(), TraceContext::new_root());
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let page = self.tickets.store.page(None, now, after, most).await.map_err(unavailable)?;
        let state = |ticket: domain::Ticket| {
            let row = (self.messages.event)(&ticket, by_status(&ticket, now), now, &trace);
            State { key: ticket.id.to_string(), message: row.message }
        };
        Ok(page.into_iter().map(state).collect())
    }

    async fn republish(&self, subjects: &[String]) -> Result<u64, batch::Error> {
        let ids: Vec<TicketId> = subjects.iter().filter_map(|subject| subjects::ticket_of(subject)).collect();
        let count = ids.len() as u64;
        futures::future::try_join_all(ids.into_iter().map(|id| self.tickets.submit(WriteCommand::Republish(id))))
            .await?;
        Ok(count)
    }
}

#[async_trait]
impl EventHandler for Tickets {
    type Event = ReservationChange;

    async fn handle(&self, events: Vec<Incoming<ReservationChange>>) -> Vec<Result<(), batch::Error>> {
        let commands = events.into_iter().map(|event| self.submit(WriteCommand::Event(event)));
        futures::future::join_all(commands).await
    }

    async fn park(&self, parked: Parked) -> Result<(), batch::Error> {
        self.submit(WriteCommand::Park(parked)).await
    }

    /// A change of an unknown ticket does not count as missing: it would only be parked.
    async fn missing(&self, changes: &[ReservationChange]) -> Result<Vec<bool>, batch::Error> {
        let ids: Vec<TicketId> = changes.iter().map(|change| change.ticket.clone()).collect();
        let known = self.store.tickets_of(&ids).await.map_err(unavailable)?;
        let known: BTreeMap<_, _> = known.into_iter().map(|it| (it.id, it.reservation_revision)).collect();
        let is_newer = |change: &ReservationChange| known.get(&change.ticket).is_some_and(|it| *it < change.revision);
        Ok(changes.iter().map(is_newer).collect())
    }
}
