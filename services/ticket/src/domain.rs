//! The ticket and its transitions. Each transition is one pure function; ARCHITECTURE.md describes the protocol.
//!
//! The status is derived from the row and the current time. It is never stored.

use chrono::{DateTime, Utc};
use eticket_proto::ids::{ReservationId, TicketId};

/// The title of a ticket: 1 to 200 characters, without control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Title(String);

impl Title {
    /// Returns `None` if the text is not a valid title.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=200).contains(&text.chars().count()) && !text.chars().any(char::is_control);
        fits.then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The period in which a ticket is valid. The end is always later than the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    start: DateTime<Utc>,
    end: DateTime<Utc>,
}

impl Schedule {
    /// Returns `None` if the end is not later than the start.
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
    /// Newest revision of the ticket's ledger that has been applied.
    pub reservation_revision: i64,
    /// Whether the expiry has been published.
    pub announced: bool,
    /// Raised only by commands of administrators; 1 after the registration. It is the etag.
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

/// Reason why a ticket cannot be reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    Withdrawn,
    Expired,
    Reserved,
}

/// Reason why a command has no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    NotFound,
    AlreadyExists,
    Withdrawn,
    EtagMismatch {
        current: String,
    },
    /// The request sets both times, and the end is not later than the start.
    EndNotAfterStart,
    /// The request sets only the start, and the end of the ticket is not later.
    StartNotBeforeEnd {
        end: DateTime<Utc>,
    },
    /// The request sets only the end, and it is not later than the start of the ticket.
    EndNotAfterItsStart {
        start: DateTime<Utc>,
    },
}

/// The fields that an administrator changes; `None` keeps the current value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    pub title: Option<Title>,
    pub start: Option<DateTime<Utc>>,
    pub end: Option<DateTime<Utc>>,
}

/// Transition Register. Guard: the row does not exist.
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

/// Common guard of Update and Withdraw: the row exists, it is not withdrawn, and the etag is empty or equals `edits`.
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

/// Transition Update. A change of the start or the end increments the schedule revision and clears `announced`, so that
/// the expiry can be announced again.
pub fn update(row: Option<&Ticket>, etag: &str, change: Change, now: DateTime<Utc>) -> Result<Ticket, Refusal> {
    let ticket = editable(row, etag)?;
    if change == Change::default() {
        // AIP-134: a request without a mask updates the fields that are set. None is set here, so this is not an edit.
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

/// Transition Withdraw. The holder remains until the event with the rejection of its reservation is applied.
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

/// Applies a reservation event: the holder of the ticket at one revision of its ledger. Returns `None` for a stale
/// event. Every applied event produces a ticket event, even without a visible change: `settled` depends on it.
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

/// Transition Sweep. Guard: EXPIRED and not announced. No other rule depends on this transition.
pub fn sweep(ticket: &Ticket, now: DateTime<Utc>) -> Option<Ticket> {
    (ticket.status(now) == Status::Expired && !ticket.announced).then(|| Ticket {
        announced: true,
        revision: ticket.revision + 1,
        update_time: now,
        ..ticket.clone()
    })
}

impl Ticket {
    /// Returns the status at `now`. Precedence: WITHDRAWN, RESERVED, EXPIRED, AVAILABLE.
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

    /// Checks whether the ticket can be reserved at `now`. The end is checked before the holder, because the holder may
    /// be out of date and would then hide that the ticket has expired.
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

    /// Returns the etag. Only edits by administrators change it, so events never cause a conflict.
    pub fn etag(&self) -> String {
        self.edits.to_string()
    }
}

#[cfg(test)]
mod tests;
