//! Encoding of reservations as event bodies and as responses.

use chrono::{DateTime, Utc};
use eticket_base::telemetry::TraceContext;
use eticket_proto::{
    event::ReservationEvent,
    reservation::{CancelReservationResponse, ReserveTicketResponse},
    subjects,
    token::Consistency,
};
use eticket_service::{relay::Envelope, responses};
use eticket_store::{EncodedResponse, OutboxRow};
use prost::Message;

use crate::{
    application::Messages,
    convert::to_message,
    domain::{Ledger, Reservation, Status},
};

/// Encoders that use the Protobuf messages of the contract.
pub const PROTOBUF: Messages = Messages { event, closed, reserved, cancelled };

fn event(reservation: &Reservation, now: DateTime<Utc>, trace: &TraceContext) -> OutboxRow {
    let event_type = match reservation.status {
        Status::Reserved => "ReservationPlaced",
        Status::Cancelled => "ReservationCancelled",
        Status::Rejected => "ReservationRejected",
    };
    // The ledger at the revision of this reservation: RESERVED means that the reservation holds it, REJECTED that it is
    // closed.
    let held = reservation.status == Status::Reserved;
    let body = ReservationEvent {
        reservation: Some(to_message(reservation)),
        ticket_id: reservation.ticket.to_string(),
        ledger_revision: reservation.revision,
        active_reservation_id: if held { reservation.id.to_string() } else { String::new() },
        closed: reservation.status == Status::Rejected,
    };
    let envelope = Envelope {
        owner: "reservation",
        aggregate: format!("{}/{}", reservation.ticket, reservation.id),
        ticket_id: reservation.ticket.as_str(),
        subject: subjects::reservation(&reservation.ticket, reservation.id),
        event_type,
        revision: reservation.revision,
        time: now,
        trace,
        body: body.encode_to_vec(),
    };
    envelope.into_row()
}

fn closed(ledger: &Ledger, now: DateTime<Utc>, trace: &TraceContext) -> OutboxRow {
    let body = ReservationEvent {
        reservation: None,
        ticket_id: ledger.ticket.to_string(),
        ledger_revision: ledger.revision,
        active_reservation_id: String::new(),
        closed: true,
    };
    let envelope = Envelope {
        owner: "reservation",
        aggregate: format!("{}/closed", ledger.ticket),
        ticket_id: ledger.ticket.as_str(),
        subject: subjects::reservations_closed(&ledger.ticket),
        event_type: "ReservationsClosed",
        revision: ledger.revision,
        time: now,
        trace,
        body: body.encode_to_vec(),
    };
    envelope.into_row()
}

fn reserved(reservation: &Reservation) -> EncodedResponse {
    let consistency_token = consistency_token(reservation);
    responses::encode(&ReserveTicketResponse { reservation: Some(to_message(reservation)), consistency_token })
}

fn cancelled(reservation: &Reservation) -> EncodedResponse {
    let consistency_token = consistency_token(reservation);
    responses::encode(&CancelReservationResponse { reservation: Some(to_message(reservation)), consistency_token })
}

fn consistency_token(reservation: &Reservation) -> String {
    let token = Consistency::Reservation { ticket: reservation.ticket.clone(), revision: reservation.revision };
    token.encode()
}
