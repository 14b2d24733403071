//! A ticket, and every way it can change: one pure function a transition, to be read beside the protocol in ARCHITECTURE.md.
//!
//! `status` is derived, never stored: the clock decides at the moment of asking.

use chrono::{DateTime, Utc};
use eticket_proto::ids::{ReservationId, TicketId};

/// A ticket's title: 1 to 200 characters, none of them a control character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Title(String);

impl Title {
    /// `None` for a text that is no title.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=200).contains(&text.chars().count()) && !text.chars().any(char::is_control);
        fits.then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// When a ticket is good for. The end is later than the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    start: DateTime<Utc>,
    end: DateTime<Utc>,
}

impl Schedule {
    /// `None` if the end is not later than the start.
    pub fn new(start: DateTime<Utc>, end: DateTime<Utc>) -> Option<Self> {
        (end > start).then_some(Self { start, end })
    }

    pub fn start(&self) -> DateTime<Utc> {
        self.start
    }

    pub fn end(&self) -> DateTime<Utc> {
        self.end
    }
}

/// The row of a ticket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    pub id: TicketId,
    pub title: Title,
    pub schedule: Schedule,
    pub withdrawn: bool,
    pub holder: Option<ReservationId>,
    /// The newest revision of the ticket's reservations that it has taken in.
    pub reservation_revision: i64,
    /// Its expiry has been published.
    pub announced: bool,
    /// Raised by admins' commands only: the etag.
    pub edits: i64,
    pub schedule_revision: i64,
    pub revision: i64,
    pub create_time: DateTime<Utc>,
    pub update_time: DateTime<Utc>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Available,
    Reserved,
    Expired,
    Withdrawn,
}

/// Why a ticket cannot be reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    Withdrawn,
    Expired,
    Reserved,
}

/// Why a command has no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    NotFound,
    AlreadyExists,
    Withdrawn,
    EtagMismatch {
        current: String,
    },
    /// Both are given, and the end is not later than the start.
    EndNotAfterStart,
    /// Only the start is given, and the ticket's end is not later.
    StartNotBeforeEnd {
        end: DateTime<Utc>,
    },
    /// Only the end is given, and it is not later than the ticket's start.
    EndNotAfterItsStart {
        start: DateTime<Utc>,
    },
}

/// What an admin changes; `None` leaves it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    pub title: Option<Title>,
    pub start: Option<DateTime<Utc>>,
    pub end: Option<DateTime<Utc>>,
}

/// Register. Guard: no row.
pub fn register(
    row: Option<&Ticket>,
    id: TicketId,
    title: Title,
    schedule: Schedule,
    now: DateTime<Utc>,
) -> Result<Ticket, Refusal> {
    if row.is_some() {
        return Err(Refusal::AlreadyExists);
    }
    Ok(Ticket {
        id,
        title,
        schedule,
        withdrawn: false,
        holder: None,
        reservation_revision: 0,
        announced: false,
        edits: 1,
        schedule_revision: 1,
        revision: 1,
        create_time: now,
        update_time: now,
    })
}

/// What Update and Withdraw have in common: row; not withdrawn; etag empty or as `edits`.
fn editable<'a>(row: Option<&'a Ticket>, etag: &str) -> Result<&'a Ticket, Refusal> {
    let ticket = row.ok_or(Refusal::NotFound)?;
    if ticket.withdrawn {
        return Err(Refusal::Withdrawn);
    }
    if !etag.is_empty() && etag != ticket.etag() {
        return Err(Refusal::EtagMismatch { current: ticket.etag() });
    }
    Ok(ticket)
}

/// Update. A change of start or end raises the schedule's revision, and the expiry may have to be announced again.
pub fn update(row: Option<&Ticket>, etag: &str, change: Change, now: DateTime<Utc>) -> Result<Ticket, Refusal> {
    let ticket = editable(row, etag)?;
    if change == Change::default() {
        // AIP-134: without a mask the fields that are set are meant. None are, so there is nothing to change and no edit.
        return Ok(ticket.clone());
    }
    let (start, end) = (change.start.unwrap_or(ticket.schedule.start), change.end.unwrap_or(ticket.schedule.end));
    let schedule = Schedule::new(start, end).ok_or(match (change.start, change.end) {
        (Some(_), None) => Refusal::StartNotBeforeEnd { end },
        (None, Some(_)) => Refusal::EndNotAfterItsStart { start },
        _ => Refusal::EndNotAfterStart,
    })?;
    let rescheduled = schedule != ticket.schedule;
    Ok(Ticket {
        title: change.title.unwrap_or_else(|| ticket.title.clone()),
        schedule,
        edits: ticket.edits + 1,
        schedule_revision: ticket.schedule_revision + i64::from(rescheduled),
        announced: ticket.announced && !rescheduled,
        revision: ticket.revision + 1,
        update_time: now,
        ..ticket.clone()
    })
}

/// Withdraw. The holder stays until the rejection of its reservation arrives.
pub fn withdraw(row: Option<&Ticket>, etag: &str, now: DateTime<Utc>) -> Result<Ticket, Refusal> {
    let ticket = editable(row, etag)?;
    Ok(Ticket {
        withdrawn: true,
        edits: ticket.edits + 1,
        revision: ticket.revision + 1,
        update_time: now,
        ..ticket.clone()
    })
}

/// Takes in a reservation event: who holds the ticket as of a revision of its reservations. `None` for a stale one. The event
/// that follows is owed also where nothing visible changes: `settled` rests on it.
pub fn apply_reservation(
    ticket: &Ticket,
    active: Option<ReservationId>,
    reservation_revision: i64,
    now: DateTime<Utc>,
) -> Option<Ticket> {
    (reservation_revision > ticket.reservation_revision).then(|| Ticket {
        holder: active,
        reservation_revision,
        revision: ticket.revision + 1,
        update_time: now,
        ..ticket.clone()
    })
}

/// Sweep. Guard: EXPIRED and not announced. Nothing depends on it.
pub fn sweep(ticket: &Ticket, now: DateTime<Utc>) -> Option<Ticket> {
    (ticket.status(now) == Status::Expired && !ticket.announced).then(|| Ticket {
        announced: true,
        revision: ticket.revision + 1,
        update_time: now,
        ..ticket.clone()
    })
}

impl Ticket {
    /// WITHDRAWN before RESERVED before EXPIRED before AVAILABLE.
    pub fn status(&self, now: DateTime<Utc>) -> Status {
        if self.withdrawn {
            Status::Withdrawn
        } else if self.holder.is_some() {
            Status::Reserved
        } else if now >= self.schedule.end {
            Status::Expired
        } else {
            Status::Available
        }
    }

    /// Check: an end that has passed counts whether or not somebody holds the ticket, or a ticket that lags would hide it.
    pub fn check(&self, now: DateTime<Utc>) -> Result<(), Unavailable> {
        if self.withdrawn {
            Err(Unavailable::Withdrawn)
        } else if now >= self.schedule.end {
            Err(Unavailable::Expired)
        } else if self.holder.is_some() {
            Err(Unavailable::Reserved)
        } else {
            Ok(())
        }
    }

    /// Changes with admins' edits only: what events bring in is no conflict.
    pub fn etag(&self) -> String {
        self.edits.to_string()
    }
}

#[cfg(test)]
mod tests;
