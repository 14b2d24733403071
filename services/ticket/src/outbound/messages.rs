//! Tickets as bytes: of events for the stream, and of answers.
//!
//! The three commands answer alike (`ticket`, `consistency_token`), so one encoding serves them all.

use chrono::{DateTime, Utc};
use eticket_base::telemetry::TraceContext;
use eticket_proto::{event::TicketEvent, subjects, ticket::RegisterTicketResponse, token::Consistency};
use eticket_service::relay::Envelope;
use eticket_store::OutboxRow;
use prost::Message;

use crate::{
    application::{Happened, Messages},
    convert::to_message,
    domain::Ticket,
};

/// Protobuf, as the contract has it.
pub const PROTOBUF: Messages = Messages { event, answer };

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

fn answer(ticket: &Ticket, now: DateTime<Utc>) -> Vec<u8> {
    let token = Consistency::Ticket {
        ticket: ticket.id.clone(),
        revision: ticket.revision,
        schedule_revision: ticket.schedule_revision,
        withdrawn: ticket.withdrawn,
    };
    let answer = RegisterTicketResponse { ticket: Some(to_message(ticket, now)), consistency_token: token.encode() };
    answer.encode_to_vec()
}
