//! Subjects of the stream. Each aggregate has its own subject, so the stream always keeps the newest state of each.

use crate::ids::{ReservationId, TicketId};

/// The stream that carries all events.
pub const STREAM: &str = "ETICKET";
/// All subjects of the stream.
pub const ALL: &str = "eticket.v1.>";
/// All ticket events.
pub const TICKETS: &str = "eticket.v1.ticket.*";
/// All reservation events, including closings of ledgers.
pub const RESERVATIONS: &str = "eticket.v1.reservation.*.*";
/// All price events.
pub const PRICES: &str = "eticket.v1.price.*";

pub fn ticket(ticket: &TicketId) -> String {
    format!("eticket.v1.ticket.{ticket}")
}

pub fn reservation(ticket: &TicketId, reservation: ReservationId) -> String {
    format!("eticket.v1.reservation.{ticket}.{reservation}")
}

/// All reservation events of a ticket, including the closing of its ledger.
pub fn reservations_of(ticket: &TicketId) -> String {
    format!("eticket.v1.reservation.{ticket}.*")
}

/// Returns the ticket that the subject of a ticket event names.
pub fn ticket_of(subject: &str) -> Option<TicketId> {
    subject.strip_prefix("eticket.v1.ticket.")?.parse().ok()
}

/// Returns the ticket that the subject of a price event names.
pub fn price_of(subject: &str) -> Option<TicketId> {
    subject.strip_prefix("eticket.v1.price.")?.parse().ok()
}

/// Returns the ticket and the reservation that the subject of a reservation event names; no reservation for a closing.
pub fn reservation_of(subject: &str) -> Option<(TicketId, Option<ReservationId>)> {
    let (ticket, rest) = subject.strip_prefix("eticket.v1.reservation.")?.split_once('.')?;
    let reservation = if rest == "closed" { None } else { Some(rest.parse().ok()?) };
    Some((ticket.parse().ok()?, reservation))
}

/// The subject for a ledger that was closed while nobody held the ticket.
pub fn reservations_closed(ticket: &TicketId) -> String {
    format!("eticket.v1.reservation.{ticket}.closed")
}

pub fn price(ticket: &TicketId) -> String {
    format!("eticket.v1.price.{ticket}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_name_what_they_were_made_of() {
        let (id, reservation_id): (TicketId, ReservationId) =
            ("t-1".parse().unwrap(), "0199a0e0-0000-7000-8000-000000000001".parse().unwrap());
        assert_eq!(ticket_of(&ticket(&id)), Some(id.clone()));
        assert_eq!(price_of(&price(&id)), Some(id.clone()));
        assert_eq!(reservation_of(&reservation(&id, reservation_id)), Some((id.clone(), Some(reservation_id))));
        assert_eq!(reservation_of(&reservations_closed(&id)), Some((id.clone(), None)));
        assert_eq!(ticket_of(&price(&id)), None);
        assert_eq!(reservation_of("eticket.v1.reservation.t-1.x"), None);
    }
}
