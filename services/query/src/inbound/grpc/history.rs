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
use eticket_rpc_server::{auth::Caller, error::ApiError};
use prost::Message as _;

use crate::application::history::{Before, HistoryError};

/// Prefix of the types of events.
const TYPE: &str = "eticket.event.v1.";

/// Returns an event as the contract shows it. An event that this version cannot decode has only its headers.
///
/// Users see the ids and grades only of their own reservations. A reservation of another user has its status and times.
pub(super) fn entry(delivery: &Delivery, caller: &Caller) -> TicketHistoryEntry {
    let message = &*delivery.message;
    let (revision, mut state) = state(message).unwrap_or_default();
    match &mut state {
        Some(State::Ticket(ticket)) if !caller.is_admin() => ticket.reservation_id.clear(),
        Some(State::Reservation(reservation)) if !caller.may_see(&reservation.user_id) => {
            reservation.reservation_id.clear();
            reservation.user_id.clear();
            reservation.user_grade = 0;
        }
        _ => {}
    }
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

/// Decodes the state of a message. The subject determines the type of the body.
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
/// `INVALID_PAGE_TOKEN` if the key is not valid.
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

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::SystemTime};

    use eticket_auth::Claims;
    use eticket_base::credentials::Credentials;
    use eticket_proto::{event::ReservationEvent, reservation::Reservation, ticket::Ticket};

    use super::*;

    fn caller(user: &str) -> Caller {
        let claims = Claims::new(user, &["user"], None, SystemTime::now());
        Caller::with_token(Arc::new(claims), Credentials::new(String::new()))
    }

    fn delivery(subject: &str, body: &impl prost::Message) -> Delivery {
        let message = Message { subject: subject.to_owned(), body: body.encode_to_vec().into(), ..Message::default() };
        Delivery { sequence: 1, attempts: 1, message: Arc::new(message) }
    }

    #[test]
    fn a_history_shows_users_only_their_own_reservations() {
        let reservation =
            Reservation { reservation_id: "r".into(), user_id: "kim".into(), user_grade: 3, ..Default::default() };
        let event = ReservationEvent { reservation: Some(reservation), ..Default::default() };
        let placed = delivery("eticket.v1.reservation.t.r", &event);
        let ticket = Ticket { reservation_id: "r".into(), ..Default::default() };
        let held = delivery("eticket.v1.ticket.t", &TicketEvent { ticket: Some(ticket), withdrawn: false });
        let seen = |caller: &Caller| match (entry(&placed, caller).state, entry(&held, caller).state) {
            (Some(State::Reservation(reservation)), Some(State::Ticket(ticket))) => {
                (reservation.reservation_id, reservation.user_id, reservation.user_grade, ticket.reservation_id)
            }
            other => panic!("{other:?}"),
        };
        let all = |id: &str| ("r".to_owned(), "kim".to_owned(), 3, id.to_owned());
        assert_eq!(seen(&Caller::admin()), all("r"));
        assert_eq!(seen(&caller("kim")), all(""));
        let hidden = (String::new(), String::new(), 0, String::new());
        assert_eq!(seen(&caller("lee")), hidden);
        assert_eq!(seen(&Caller::default()), hidden);
    }
}
