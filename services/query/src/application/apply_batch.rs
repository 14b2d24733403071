//! Folds a batch of messages into rows, in memory. This is the complete effect of reading on the view.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use eticket_bus::Message;
use eticket_proto::ids::TicketId;
use eticket_store::{Parked, Work};

use super::{Keys, ViewRows};
use crate::domain::{self, Event};

/// Where a message is in the stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) sequence: u64,
    /// See [`View::mark`](domain::View::mark).
    pub(super) mark: u32,
}

/// A message as it was read.
pub(super) struct Read {
    pub(super) place: Place,
    pub(super) event_id: String,
    pub(super) message: Arc<Message>,
    /// Number of attempts to apply the message.
    pub(super) attempts: u32,
    /// The decoded state, or the reason why the message is parked.
    pub(super) content: Result<(TicketId, Event), String>,
}

/// Returns the rows that these messages affect.
pub(super) fn keys(batch: &[Read]) -> Keys {
    let mut keys = Keys::default();
    for (ticket, event) in batch.iter().filter_map(|read| read.content.as_ref().ok()) {
        add(&mut keys, ticket, event);
    }
    keys
}

/// Returns the rows that one message affects.
pub(super) fn keys_of(ticket: &TicketId, event: &Event) -> Keys {
    let mut keys = Keys::default();
    add(&mut keys, ticket, event);
    keys
}

fn add(keys: &mut Keys, ticket: &TicketId, event: &Event) {
    keys.tickets.insert(ticket.clone());
    if let Event::Ledger(_, Some(reservation)) = event {
        keys.reservations.insert(reservation.reservation_id);
    }
}

/// Applies the messages one after another, each to the result of the previous ones. Messages that are stale within the
/// batch are therefore dropped too.
pub(super) fn fold(work: &mut Work<ViewRows>, batch: &[Read], now: DateTime<Utc>) {
    for read in batch {
        match &read.content {
            Ok((ticket, event)) => apply_event(&mut work.rows, ticket, event, read.place, now),
            Err(reason) => work.park(read.park(reason, now)),
        }
    }
}

pub(super) fn apply_event(rows: &mut ViewRows, ticket: &TicketId, event: &Event, place: Place, now: DateTime<Utc>) {
    let new = match rows.views.get(ticket) {
        Some(view) => domain::apply_event(view, event, place.sequence, now),
        None => domain::apply_event(&domain::View::default(), event, place.sequence, now),
    };
    if let Some(view) = new {
        rows.views.put(ticket.clone(), domain::View { mark: place.mark, ..view });
    }
    if let Event::Ledger(_, Some(seen)) = event
        && domain::is_news(rows.reservations.get(&seen.reservation_id), seen)
    {
        rows.reservations.put(seen.reservation_id, seen.clone());
    }
}

impl Read {
    pub(super) fn park(&self, reason: &str, now: DateTime<Utc>) -> Parked {
        let (event_id, message) = (self.event_id.clone(), (*self.message).clone());
        Parked { event_id, message, reason: reason.to_owned(), attempts: self.attempts, park_time: now }
    }
}
