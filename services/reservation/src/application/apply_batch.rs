//! Applies a batch of writes in order, each on top of the preceding ones.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use eticket_base::{clock::SharedClock, telemetry::TraceContext};
use eticket_proto::ids::ReservationId;
use eticket_service::{batch::Writer, consumer::Incoming};
use eticket_store::{self as store, CommitExt, EncodedResponse, Work};
use uuid::Uuid;

use super::{Keys, Messages, Outcome, ReservationRows, ReservationStore, TicketChange, WriteCommand};
use crate::domain::{self, Check, Ledger, NewReservation, Refusal, Reservation};

/// The store's single writer.
pub struct ReservationWriter {
    pub store: Arc<dyn ReservationStore>,
    pub messages: Messages,
    pub clock: SharedClock,
}

#[async_trait]
impl Writer<WriteCommand, Outcome> for ReservationWriter {
    async fn write(&self, batch: &[WriteCommand]) -> Result<Vec<Outcome>, store::Error> {
        let (keys, requests) = keys(batch);
        let apply_batch = |work: &mut Work<ReservationRows>| {
            batch.iter().map(|write| apply(work, write, self.messages, self.clock.now())).collect()
        };
        self.store.commit_with(&keys, &requests, apply_batch).await
    }
}

fn keys(batch: &[WriteCommand]) -> (Keys, Vec<Uuid>) {
    let (mut keys, mut requests) = (Keys::default(), Vec::new());
    for write in batch {
        match write {
            WriteCommand::Reserve { new, idempotency, .. } => {
                keys.tickets.insert(new.ticket.clone());
                requests.extend(idempotency.map(|idempotency| idempotency.request_id));
            }
            WriteCommand::Cancel { id, idempotency, .. } => {
                keys.reservations.insert(*id);
                requests.extend(idempotency.map(|idempotency| idempotency.request_id));
            }
            WriteCommand::Close(incoming) => {
                keys.active_of.insert(incoming.event.ticket.clone());
            }
            WriteCommand::RepublishReservation(id) => {
                keys.reservations.insert(*id);
            }
            WriteCommand::RepublishClosed(ticket) => {
                keys.tickets.insert(ticket.clone());
            }
            WriteCommand::Park(_) | WriteCommand::Unpark(_) => {}
        }
    }
    (keys, requests)
}

fn apply(work: &mut Work<ReservationRows>, write: &WriteCommand, messages: Messages, now: DateTime<Utc>) -> Outcome {
    match write {
        WriteCommand::Reserve { new, check, idempotency, trace } => work.run(*idempotency, |work| {
            let made = reserve(work, new, *check, now)?;
            work.publish((messages.event)(&made, now, trace));
            Ok((messages.reserved)(&made))
        }),
        WriteCommand::Cancel { id, idempotency, trace } => work.run(*idempotency, |work| {
            let cancelled = cancel(work, *id, now)?;
            work.publish((messages.event)(&cancelled, now, trace));
            Ok((messages.cancelled)(&cancelled))
        }),
        WriteCommand::Close(incoming) => {
            close(work, incoming, messages, now);
            Ok(EncodedResponse::default())
        }
        WriteCommand::Park(parked) => {
            work.park(parked.clone());
            Ok(EncodedResponse::default())
        }
        WriteCommand::Unpark(event_id) => {
            work.unpark(event_id.clone());
            Ok(EncodedResponse::default())
        }
        // Always add a new outbox row: an existing row of the same revision may already be published and about to be
        // deleted.
        WriteCommand::RepublishReservation(id) => {
            if let Some(reservation) = work.rows.reservations.get(id) {
                let event = (messages.event)(reservation, now, &TraceContext::new_root());
                work.publish(event);
            }
            Ok(EncodedResponse::default())
        }
        WriteCommand::RepublishClosed(ticket) => {
            if let Some(ledger) = work.rows.ledgers.get(ticket).filter(|ledger| ledger.closed) {
                let event = (messages.closed)(ledger, now, &TraceContext::new_root());
                work.publish(event);
            }
            Ok(EncodedResponse::default())
        }
    }
}

fn reserve(
    work: &mut Work<ReservationRows>,
    new: &NewReservation,
    check: Check,
    now: DateTime<Utc>,
) -> Result<Reservation, Refusal> {
    let ledger = work.rows.ledgers.get(&new.ticket).cloned().unwrap_or_else(|| Ledger::new(new.ticket.clone()));
    let (ledger, made) = domain::reserve(&ledger, new.clone(), check, now)?;
    put(work, ledger, Some(made.clone()));
    Ok(made)
}

fn cancel(work: &mut Work<ReservationRows>, id: ReservationId, now: DateTime<Utc>) -> Result<Reservation, Refusal> {
    let reservation = work.rows.reservations.get(&id).ok_or(Refusal::ReservationNotFound)?;
    let ledger = work.rows.ledgers.get(&reservation.ticket).ok_or(Refusal::ReservationNotFound)?;
    let (ledger, cancelled) = domain::cancel(ledger, reservation, now)?;
    put(work, ledger, Some(cancelled.clone()));
    Ok(cancelled)
}

/// Applies the withdrawal of a ticket. Creates the ledger if there is none, so that the ticket can never be reserved.
fn close(work: &mut Work<ReservationRows>, incoming: &Incoming<TicketChange>, messages: Messages, now: DateTime<Utc>) {
    if incoming.was_parked {
        work.unpark(incoming.event_id.clone());
    }
    let ticket = &incoming.event.ticket;
    let ledger = work.rows.ledgers.get(ticket).cloned().unwrap_or_else(|| Ledger::new(ticket.clone()));
    let active = ledger.active.and_then(|id| work.rows.reservations.get(&id));
    let Some((ledger, rejected)) = domain::close(&ledger, active, now) else { return };
    let trace = &incoming.trace;
    work.publish(match &rejected {
        Some(rejected) => (messages.event)(rejected, now, trace),
        None => (messages.closed)(&ledger, now, trace),
    });
    put(work, ledger, rejected);
}

fn put(work: &mut Work<ReservationRows>, ledger: Ledger, reservation: Option<Reservation>) {
    work.rows.ledgers.put(ledger.ticket.clone(), ledger);
    if let Some(reservation) = reservation {
        work.rows.reservations.put(reservation.id, reservation);
    }
}
