//! Encoding of tickets as event bodies and as responses.

use chrono::{DateTime, Utc};
use eticket_base::telemetry::TraceContext;
use eticket_proto::{
    event::TicketEvent,
    subjects,
    ticket::{RegisterTicketResponse, UpdateTicketResponse, WithdrawTicketResponse},
    token::Consistency,
};
use eticket_service::{relay::Envelope, responses};
use eticket_store::{EncodedResponse, OutboxRow};
use prost::Message;

use crate::{
    application::{Happened, Messages},
    convert::to_message,
    domain::Ticket,
};

/// Encoders that use the Protobuf messages of the contract.
pub const PROTOBUF: Messages = Messages { event, registered, updated, withdrawn };

fn event(ticket: &Ticket, happened: Happened, now: DateTime<Utc>, trace: &TraceContext) -> OutboxRow {
    let event_type = match happened {
        Happened::Registered => "TicketRegistered",
        Happened::Updated => "TicketUpdated",
        Happened::Reserved => "TicketReserved",
        Happened::Released => "TicketReleased",
        Happened::Expired => "TicketExpired",
        Happened::Withdrawn => "TicketWithdrawn",
    };
    let body = TicketEvent { ticket: Some(to_message(ticket, now)), withdrawn: ticket.withdrawn };
    let envelope = Envelope {
        owner: "ticket",
        aggregate: ticket.id.to_string(),
        ticket_id: ticket.id.as_str(),
        subject: subjects::ticket(&ticket.id),
        event_type,
        revision: ticket.revision,
        time: now,
        trace,
        body: body.encode_to_vec(),
    };
    envelope.into_row()
}

fn registered(ticket: &Ticket, now: DateTime<Utc>) -> EncodedResponse {
    let ticket_message = Some(to_message(ticket, now));
    responses::encode(&RegisterTicketResponse { ticket: ticket_message, consistency_token: consistency_token(ticket) })
}

fn updated(ticket: &Ticket, now: DateTime<Utc>) -> EncodedResponse {
    let ticket_message = Some(to_message(ticket, now));
    responses::encode(&UpdateTicketResponse { ticket: ticket_message, consistency_token: consistency_token(ticket) })
}

fn withdrawn(ticket: &Ticket, now: DateTime<Utc>) -> EncodedResponse {
    let ticket_message = Some(to_message(ticket, now));
    responses::encode(&WithdrawTicketResponse { ticket: ticket_message, consistency_token: consistency_token(ticket) })
}

fn consistency_token(ticket: &Ticket) -> String {
    let token = Consistency::Ticket {
        ticket: ticket.id.clone(),
        revision: ticket.revision,
        schedule_revision: ticket.schedule_revision,
        withdrawn: ticket.withdrawn,
    };
    token.encode()
}
