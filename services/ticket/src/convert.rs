//! Conversion of tickets to the messages of the contract, shared by the inbound and outbound adapters.

use chrono::{DateTime, Utc};
use eticket_proto::{
    ticket::{self as pb, TicketStatus, UnavailableReason},
    time::to_proto,
};

use crate::domain::{Status, Ticket, Unavailable};

/// Returns the message for a ticket, with its status at `now`.
pub fn to_message(ticket: &Ticket, now: DateTime<Utc>) -> pb::Ticket {
    pb::Ticket {
        ticket_id: ticket.id.to_string(),
        title: ticket.title.as_str().to_owned(),
        status: status_to_proto(ticket.status(now)).into(),
        start_time: Some(to_proto(ticket.schedule.start())),
        end_time: Some(to_proto(ticket.schedule.end())),
        reservation_id: ticket.holder.map(|holder| holder.to_string()).unwrap_or_default(),
        revision: ticket.revision,
        schedule_revision: ticket.schedule_revision,
        reservation_revision: ticket.reservation_revision,
        create_time: Some(to_proto(ticket.create_time)),
        update_time: Some(to_proto(ticket.update_time)),
        etag: ticket.etag(),
    }
}

fn status_to_proto(status: Status) -> TicketStatus {
    match status {
        Status::Available => TicketStatus::Available,
        Status::Reserved => TicketStatus::Reserved,
        Status::Expired => TicketStatus::Expired,
        Status::Withdrawn => TicketStatus::Withdrawn,
    }
}

/// Converts the status filter of a list request; `None` for UNSPECIFIED.
///
/// # Errors
/// If the number is not a value of the enum.
pub fn status_filter(number: i32) -> Result<Option<Status>, prost::UnknownEnumValue> {
    Ok(match TicketStatus::try_from(number)? {
        TicketStatus::Unspecified => None,
        TicketStatus::Available => Some(Status::Available),
        TicketStatus::Reserved => Some(Status::Reserved),
        TicketStatus::Expired => Some(Status::Expired),
        TicketStatus::Withdrawn => Some(Status::Withdrawn),
    })
}

pub fn reason_to_proto(reason: Unavailable) -> UnavailableReason {
    match reason {
        Unavailable::Withdrawn => UnavailableReason::Withdrawn,
        Unavailable::Expired => UnavailableReason::Expired,
        Unavailable::Reserved => UnavailableReason::Reserved,
    }
}
