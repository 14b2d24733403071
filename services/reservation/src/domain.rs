//! Who holds which ticket, and every way that can change: one pure function a transition, to be read beside the protocol in
//! ARCHITECTURE.md.
//!
//! All that ever happens to one ticket's reservations is totally ordered by its ledger: each transition takes the ledger and gives
//! the next one, a revision higher.

use chrono::{DateTime, Utc};
use eticket_proto::ids::{ReservationId, TicketId, UserGrade, UserId};

/// The ledger of a ticket: the row on which exclusivity is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    pub ticket: TicketId,
    /// Counts over all reservations of the ticket.
    pub revision: i64,
    pub active: Option<ReservationId>,
    /// The ticket is withdrawn: it can never be reserved again.
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
    /// The ledger's, when this reservation last changed.
    pub revision: i64,
    pub reserve_time: DateTime<Utc>,
    pub update_time: DateTime<Utc>,
}

/// What the ticket service said a moment ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    NotFound,
    Withdrawn,
    Expired,
    /// Held, as of this revision of the ticket's reservations.
    Reserved {
        reservation_revision: i64,
        end: DateTime<Utc>,
    },
    Available {
        end: DateTime<Utc>,
    },
}

/// Why a command has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    TicketNotFound,
    TicketWithdrawn,
    TicketExpired,
    TicketAlreadyReserved,
    ReservationNotFound,
    ReservationNotActive,
}

/// Who wants to reserve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewReservation {
    pub id: ReservationId,
    pub ticket: TicketId,
    pub user: UserId,
    pub grade: UserGrade,
}

impl Ledger {
    /// The ledger of a ticket of which nothing has been heard.
    pub fn new(ticket: TicketId) -> Self {
        Self { ticket, revision: 0, active: None, closed: false }
    }

    /// What may be refused before the ticket service is asked, from one snapshot of the own store that shows no record.
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

/// Reserve. EXPIRED and WITHDRAWN are always believed; RESERVED unless the ledger knows more than the ticket has taken in: then the
/// ticket lags, and the ledger decides. The end that the check showed is looked at once more.
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

/// Cancel. Guard: the reservation is RESERVED. Nothing but this store is asked.
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

/// Takes in that a ticket is withdrawn: closes its ledger, and rejects what is active. `None` if it is closed already. The
/// revision rises also where nobody held the ticket: only when the closing is published is the withdrawal over.
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
