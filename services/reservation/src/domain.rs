//! Ledgers, reservations and their transitions. Each transition is one pure function; ARCHITECTURE.md describes the
//! protocol.
//!
//! The ledger of a ticket totally orders all changes of its reservations: each transition takes a ledger and returns
//! the next one, whose revision is higher by one.

use chrono::{DateTime, Utc};
use eticket_proto::ids::{ReservationId, TicketId, UserGrade, UserId};

/// The ledger of a ticket. This row decides which reservation holds the ticket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    pub ticket: TicketId,
    /// Number of changes to all reservations of the ticket.
    pub revision: i64,
    pub active: Option<ReservationId>,
    /// Whether the withdrawal of the ticket was applied. A closed ledger accepts no further reservation.
    pub closed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Reserved,
    Cancelled,
    /// Ended by compensation, because the ticket was withdrawn.
    Rejected,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    pub id: ReservationId,
    pub ticket: TicketId,
    pub user: UserId,
    pub grade: UserGrade,
    pub status: Status,
    /// Revision of the ledger at the last change of this reservation.
    pub revision: i64,
    pub reserve_time: DateTime<Utc>,
    pub update_time: DateTime<Utc>,
}

/// Result of an availability check by the ticket service. It may be out of date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    NotFound,
    Withdrawn,
    Expired,
    /// The ticket is held at this revision of its ledger.
    Reserved {
        reservation_revision: i64,
        end: DateTime<Utc>,
    },
    Available {
        end: DateTime<Utc>,
    },
}

/// Reason why a command has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    TicketNotFound,
    TicketWithdrawn,
    TicketExpired,
    TicketAlreadyReserved,
    ReservationNotFound,
    ReservationNotActive,
}

/// The input of a reservation: the ticket, the user and the new id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewReservation {
    pub id: ReservationId,
    pub ticket: TicketId,
    pub user: UserId,
    pub grade: UserGrade,
}

impl Ledger {
    /// Returns the initial ledger of a ticket: revision 0, open and without a reservation.
    pub fn new(ticket: TicketId) -> Self {
        Self { ticket, revision: 0, active: None, closed: false }
    }

    /// Returns a refusal that needs no check by the ticket service. Before the check, call this only on a ledger from a
    /// snapshot that contains no idempotency record of the request.
    pub fn refuses_at_once(&self) -> Option<Refusal> {
        if self.closed {
            Some(Refusal::TicketWithdrawn)
        } else if self.active.is_some() {
            Some(Refusal::TicketAlreadyReserved)
        } else {
            None
        }
    }
}

/// Transition Reserve. A check result of WITHDRAWN or EXPIRED always refuses. RESERVED refuses unless the revision of
/// the ledger is higher than the one that the ticket has applied: then the ticket is out of date and the ledger
/// decides. The end from the check is compared with `now` again.
pub fn reserve(
    ledger: &Ledger,
    new: NewReservation,
    check: Check,
    now: DateTime<Utc>,
) -> Result<(Ledger, Reservation), Refusal> {
    let end = match check {
        Check::NotFound => return Err(Refusal::TicketNotFound),
        Check::Withdrawn => return Err(Refusal::TicketWithdrawn),
        Check::Expired => return Err(Refusal::TicketExpired),
        Check::Reserved { reservation_revision, .. } if ledger.revision <= reservation_revision => {
            return Err(Refusal::TicketAlreadyReserved);
        }
        Check::Reserved { end, .. } | Check::Available { end } => end,
    };
    if now >= end {
        return Err(Refusal::TicketExpired);
    }
    if let Some(refusal) = ledger.refuses_at_once() {
        return Err(refusal);
    }
    let NewReservation { id, ticket, user, grade } = new;
    let revision = ledger.revision + 1;
    let ledger = Ledger { revision, active: Some(id), ..ledger.clone() };
    let status = Status::Reserved;
    Ok((ledger, Reservation { id, ticket, user, grade, status, revision, reserve_time: now, update_time: now }))
}

/// Transition Cancel. Guard: the reservation is RESERVED. It depends on no other service.
pub fn cancel(
    ledger: &Ledger,
    reservation: &Reservation,
    now: DateTime<Utc>,
) -> Result<(Ledger, Reservation), Refusal> {
    if reservation.status != Status::Reserved {
        return Err(Refusal::ReservationNotActive);
    }
    let ledger = Ledger { revision: ledger.revision + 1, active: None, ..ledger.clone() };
    let cancelled = ended(reservation, Status::Cancelled, ledger.revision, now);
    Ok((ledger, cancelled))
}

/// Applies the withdrawal of a ticket: closes its ledger and rejects the active reservation. Returns `None` if the
/// ledger is already closed. The revision increases even if there is no active reservation: the withdrawal is complete
/// only when the closed ledger is published.
pub fn close(
    ledger: &Ledger,
    active: Option<&Reservation>,
    now: DateTime<Utc>,
) -> Option<(Ledger, Option<Reservation>)> {
    if ledger.closed {
        return None;
    }
    let ledger = Ledger { revision: ledger.revision + 1, active: None, closed: true, ..ledger.clone() };
    let rejected = active.map(|reservation| ended(reservation, Status::Rejected, ledger.revision, now));
    Some((ledger, rejected))
}

fn ended(reservation: &Reservation, status: Status, revision: i64, now: DateTime<Utc>) -> Reservation {
    Reservation { status, revision, update_time: now, ..reservation.clone() }
}

#[cfg(test)]
mod tests;
