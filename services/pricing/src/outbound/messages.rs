//! Encoding of prices as event bodies.

use chrono::{DateTime, Utc};
use eticket_base::telemetry::TraceContext;
use eticket_proto::{event::PriceEvent, ids::TicketId, subjects};
use eticket_service::relay::Envelope;
use eticket_store::OutboxRow;
use prost::Message;

use crate::{application::Messages, convert::row_to_message, domain::Row};

/// Encoder that uses the Protobuf messages of the contract.
pub const PROTOBUF: Messages = Messages { event };

fn event(id: &TicketId, row: &Row, now: DateTime<Utc>, trace: &TraceContext) -> Option<OutboxRow> {
    let price = row_to_message(id, row)?;
    let body = PriceEvent { price: Some(price), policy_version: row.policy_version };
    let envelope = Envelope {
        owner: "pricing",
        aggregate: id.to_string(),
        ticket_id: id.as_str(),
        subject: subjects::price(id),
        event_type: "PriceCalculated",
        revision: row.revision,
        time: now,
        trace,
        body: body.encode_to_vec(),
    };
    Some(envelope.into_row())
}
