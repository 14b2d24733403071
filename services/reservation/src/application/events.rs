//! Events between reservations and other services: publishes the states of reservations and closed ledgers, and applies
//! the withdrawals of tickets to ledgers.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use eticket_base::telemetry::TraceContext;
use eticket_proto::{ids::TicketId, subjects};
use eticket_service::{
    audit::{Owner, State},
    batch,
    consumer::{EventHandler, Incoming},
};
use eticket_store::Parked;

use super::{Filter, Messages, Reservations, TicketChange, WriteCommand, unavailable};
use crate::domain::Reservation;

/// Prefixes of the state keys. All reservations sort before all closed ledgers.
const RESERVATION: &str = "reservation/";
const CLOSED: &str = "closed/";

/// The states that the reservation service owns: reservations and closed ledgers.
pub struct ReservationStates {
    reservations: Reservations,
    messages: Messages,
}

impl ReservationStates {
    pub fn new(reservations: Reservations, messages: Messages) -> Self {
        Self { reservations, messages }
    }

    async fn reservation_states(&self, after: &str, most: usize) -> Result<Vec<State>, batch::Error> {
        let (now, trace) = (self.reservations.now(), TraceContext::new_root());
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let page = self.reservations.store.page(&Filter::default(), after, most).await.map_err(unavailable)?;
        let state = |reservation: &Reservation| State {
            key: format!("{RESERVATION}{}", reservation.id),
            message: (self.messages.event)(reservation, now, &trace).message,
        };
        Ok(page.iter().map(state).collect())
    }

    async fn closed_ledger_states(&self, after: &str, most: usize) -> Result<Vec<State>, batch::Error> {
        let (now, trace, store) = (self.reservations.now(), TraceContext::new_root(), &self.reservations.store);
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let ids = store.closed_ledgers(after, most).await.map_err(unavailable)?;
        let ledgers = store.ledgers_of(&ids).await.map_err(unavailable)?;
        let ledgers: BTreeMap<TicketId, _> =
            ledgers.into_iter().map(|ledger| (ledger.ticket.clone(), ledger)).collect();
        // Keep the sort order of the store: the next page continues after the last key.
        let state = |id: &TicketId| {
            let message = (self.messages.closed)(ledgers.get(id)?, now, &trace).message;
            Some(State { key: format!("{CLOSED}{id}"), message })
        };
        Ok(ids.iter().filter_map(state).collect())
    }
}

#[async_trait]
impl Owner for ReservationStates {
    async fn count(&self) -> Result<u64, batch::Error> {
        self.reservations.store.count().await.map(i64::unsigned_abs).map_err(unavailable)
    }

    async fn states(&self, after: &str, most: usize) -> Result<Vec<State>, batch::Error> {
        if let Some(ticket) = after.strip_prefix(CLOSED) {
            return self.closed_ledger_states(ticket, most).await;
        }
        let mut states = self.reservation_states(after.strip_prefix(RESERVATION).unwrap_or_default(), most).await?;
        if states.len() < most {
            states.extend(self.closed_ledger_states("", most - states.len()).await?);
        }
        Ok(states)
    }

    async fn republish(&self, subjects: &[String]) -> Result<u64, batch::Error> {
        let write = |subject: &String| match subjects::reservation_of(subject)? {
            (_, Some(id)) => Some(WriteCommand::RepublishReservation(id)),
            (ticket, None) => Some(WriteCommand::RepublishClosed(ticket)),
        };
        let commands: Vec<WriteCommand> = subjects.iter().filter_map(write).collect();
        let count = commands.len() as u64;
        futures::future::try_join_all(commands.into_iter().map(|write| self.reservations.submit(write))).await?;
        Ok(count)
    }
}

#[async_trait]
impl EventHandler for Reservations {
    type Event = TicketChange;

    /// Only withdrawals change a ledger. Other events need no write, except to unpark an event.
    async fn handle(&self, events: Vec<Incoming<TicketChange>>) -> Vec<Result<(), batch::Error>> {
        let outcomes = events.into_iter().map(|incoming| async {
            if incoming.event.withdrawn {
                self.submit(WriteCommand::Close(incoming)).await
            } else if incoming.was_parked {
                self.submit(WriteCommand::Unpark(incoming.event_id)).await
            } else {
                Ok(())
            }
        });
        futures::future::join_all(outcomes).await
    }

    async fn park(&self, parked: Parked) -> Result<(), batch::Error> {
        self.submit(WriteCommand::Park(parked)).await
    }

    /// A withdrawal is missing as long as the ledger of its ticket is not closed.
    async fn missing(&self, changes: &[TicketChange]) -> Result<Vec<bool>, batch::Error> {
        let withdrawn: Vec<TicketId> =
            changes.iter().filter(|change| change.withdrawn).map(|change| change.ticket.clone()).collect();
        if withdrawn.is_empty() {
            return Ok(vec![false; changes.len()]);
        }
        let ledgers = self.store.ledgers_of(&withdrawn).await.map_err(unavailable)?;
        let closed: BTreeSet<TicketId> =
            ledgers.into_iter().filter(|ledger| ledger.closed).map(|ledger| ledger.ticket).collect();
        Ok(changes.iter().map(|change| change.withdrawn && !closed.contains(&change.ticket)).collect())
    }
}
