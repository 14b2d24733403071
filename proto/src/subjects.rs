//! Subjects of the stream: one aggregate a subject, so that the newest state of each is always kept.

use crate::ids::{ReservationId, TicketId};

/// The stream that carries all events.
pub const STREAM: &str = "ETICKET";
/// All subjects of the stream.
pub const ALL: &str = "eticket.v1.>";
/// All ticket events.
pub const TICKETS: &str = "eticket.v1.ticket.*";
/// All reservation events, closings of ledgers among them.
pub const RESERVATIONS: &str = "eticket.v1.reservation.*.*";
/// All price events.
pub const PRICES: &str = "eticket.v1.price.*";

pub fn ticket(ticket: &TicketId) -> String {
    format!("eticket.v1.ticket.{ticket}")
}

pub fn reservation(ticket: &TicketId, reservation: ReservationId) -> String {
    format!("eticket.v1.reservation.{ticket}.{reservation}")
}

/// For a ledger that was closed while nobody held the ticket.
pub fn reservations_closed(ticket: &TicketId) -> String {
    format!("eticket.v1.reservation.{ticket}.closed")
}

pub fn price(ticket: &TicketId) -> String {
    format!("eticket.v1.price.{ticket}")
}
