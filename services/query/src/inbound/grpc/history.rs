//! Converts events of the stream into entries of a history, and its positions into page tokens.

use chrono::DateTime;
use eticket_bus::{Delivery, Message, matches};
use eticket_proto::{
    error::ErrorReason,
    event::{PriceEvent, ReservationEvent, TicketEvent},
    headers,
    query::{TicketHistoryEntry, ticket_history_entry::State},
    subjects,
    time::to_proto,
};
use eticket_rpc_server::error::ApiError;
use prost::Message as _;

use crate::application::history::{Before, HistoryError};

/// Prefix of the types of events.
const TYPE: &str = "eticket.event.v1.";

/// Returns an event as the contract shows it. Of an event that this version cannot decode, the headers are shown.
pub(super) fn entry(delivery: &Delivery) -> TicketHistoryEntry {
    let message = &*delivery.message;
    let (revision, state) = state(message).unwrap_or_default();
    let event_type = message.header(headers::TYPE).unwrap_or_default();
    let time = message.header(headers::TIME).and_then(|time| DateTime::parse_from_rfc3339(time).ok());
    TicketHistoryEntry {
        event_type: event_type.strip_prefix(TYPE).unwrap_or(event_type).to_owned(),
        event_time: time.map(|time| to_proto(time.to_utc())),
        revision,
        correlation_id: message.header(headers::CORRELATION_ID).unwrap_or_default().to_owned(),
        state,
    }
}

/// The subject decides whose state is in the body.
fn state(message: &Message) -> Option<(i64, Option<State>)> {
    let (subject, body) = (message.subject.as_str(), message.body.clone());
    if matches(subjects::TICKETS, subject) {
        let ticket = TicketEvent::decode(body).ok()?.ticket?;
        Some((ticket.revision, Some(State::Ticket(ticket))))
    } else if matches(subjects::RESERVATIONS, subject) {
        let event = ReservationEvent::decode(body).ok()?;
        Some((event.ledger_revision, event.reservation.map(State::Reservation)))
    } else {
        let price = PriceEvent::decode(body).ok()?.price?;
        Some((price.revision, Some(State::Price(price))))
    }
}

/// Returns the key of the page that begins before an event.
pub(super) fn key(epoch: &str, last: &Delivery) -> String {
    format!("{} {epoch}", last.sequence)
}

/// Parses the key of a page.
///
/// # Errors
/// `INVALID_PAGE_TOKEN` if it is none.
pub(super) fn before(key: &str) -> Result<Before, ApiError> {
    let parsed = key
        .split_once(' ')
        .and_then(|(sequence, epoch)| Some(Before { epoch: epoch.to_owned(), sequence: sequence.parse().ok()? }));
    parsed.ok_or_else(|| ApiError::new(ErrorReason::InvalidPageToken))
}

pub(super) fn not_read(error: HistoryError) -> ApiError {
    let reason = match error {
        HistoryError::StreamChanged => return ApiError::new(ErrorReason::InvalidPageToken).message(error.to_string()),
        HistoryError::Bus(_) => ErrorReason::UpstreamUnavailable,
    };
    ApiError::new(reason).message(error.to_string()).with("upstream", "bus")
}
