//! The rules of the view, as in the protocol. A row has three parts, and each part is updated by its own revision.
//!
//! A row is a function of the newest message of each part: any order and repetition of messages leads to the same row.
//! A replica that starts empty therefore ends with the same rows as the others.

mod lacking;
mod settled;
#[cfg(test)]
pub(crate) mod tests;

use chrono::{DateTime, Utc};
use eticket_proto::ids::{ReservationId, TicketId, UserGrade, UserId};

pub use lacking::{Lacking, Part, lacking};
pub use settled::{Wait, answers, missing, settled};

/// The state of the ticket, as its owner last published it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TicketPart {
    pub revision: i64,
    pub schedule_revision: i64,
    /// Revision of the newest reservation of the ticket that the ticket service has applied.
    pub reservation_revision: i64,
    pub title: String,
    pub start: DateTime<Utc>,
    pub end: DateTime<Utc>,
    pub withdrawn: bool,
    pub holder: Option<ReservationId>,
    pub update_time: DateTime<Utc>,
}

/// The ledger of the ticket, as the reservation service last published it. The default is the ledger of a ticket
/// without any attempt to reserve it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LedgerPart {
    pub revision: i64,
    pub active: Option<ReservationId>,
    pub closed: bool,
}

/// The price, as its owner last published it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PricePart {
    pub revision: i64,
    pub schedule_revision: i64,
    pub reservation_revision: i64,
    pub base_price: Money,
    pub discounted_price: Money,
    pub discounts: Vec<Discount>,
    pub update_time: DateTime<Utc>,
}

/// An amount as it was published. The view never calculates with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Money {
    pub currency_code: String,
    pub units: i64,
    pub nanos: i32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discount {
    pub rule_id: String,
    pub description: String,
    pub amount: Money,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReservationStatus {
    Reserved,
    Cancelled,
    Rejected,
}

/// A reservation. It is stored in a separate row and updated by its revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    pub reservation_id: ReservationId,
    pub ticket_id: TicketId,
    pub user_id: UserId,
    pub user_grade: UserGrade,
    pub status: ReservationStatus,
    pub status_reason: String,
    pub revision: i64,
    pub reserve_time: DateTime<Utc>,
    pub update_time: DateTime<Utc>,
}

/// The data of one ticket. It is listed and found only once it has a ticket part; the other parts may arrive earlier.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    pub ticket: Option<TicketPart>,
    pub ledger: LedgerPart,
    /// The newest reservation of the ticket, by revision, including ended ones.
    pub newest: Option<Reservation>,
    pub price: Option<PricePart>,
    /// Sequence of the last message about the row that was not stale; 0 if that message was in another stream.
    pub sequence: u64,
    /// Identifies that message among others that may get its sequence after the stream has lost its tail; 0 if it is not
    /// known.
    pub mark: u32,
    /// Time, by the clock of this replica, since which the row has been unsettled.
    pub unsettled_since: Option<DateTime<Utc>>,
}

/// The state in the body of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Ticket(TicketPart),
    /// The ledger at its revision, and the reservation that led to that revision. There is no reservation if the ledger
    /// was closed while the ticket had no holder.
    Ledger(LedgerPart, Option<Reservation>),
    Price(PricePart),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TicketStatus {
    Available,
    Reserved,
    Expired,
    Withdrawn,
}

impl View {
    /// Returns the time at which an owner wrote the newest part. It is the same on every replica.
    pub fn update_time(&self) -> Option<DateTime<Utc>> {
        let ticket = self.ticket.as_ref().map(|part| part.update_time);
        let reservation = self.newest.as_ref().map(|reservation| reservation.update_time);
        let price = self.price.as_ref().map(|part| part.update_time);
        [ticket, reservation, price].into_iter().flatten().max()
    }

    /// Returns the current holder according to the ledger. No other function decides this.
    pub fn holder(&self) -> Option<&UserId> {
        let newest = self.newest.as_ref()?;
        (self.ledger.active == Some(newest.reservation_id)).then_some(&newest.user_id)
    }

    fn has(&self, event: &Event) -> Has {
        let revisions = match event {
            Event::Ticket(part) => (part.revision, self.ticket.as_ref().map_or(0, |known| known.revision)),
            Event::Price(part) => (part.revision, self.price.as_ref().map_or(0, |known| known.revision)),
            Event::Ledger(part, None) => (part.revision, self.ledger.revision),
            // The event also carries the reservation, which may be behind the ledger: a late cancellation still counts.
            Event::Ledger(part, Some(_)) => (part.revision, self.newest.as_ref().map_or(0, |known| known.revision)),
        };
        match revisions.0.cmp(&revisions.1) {
            std::cmp::Ordering::Less => Has::Newer,
            std::cmp::Ordering::Equal => Has::Same,
            std::cmp::Ordering::Greater => Has::Older,
        }
    }
}

/// How a part of the row compares with that of an event.
enum Has {
    Newer,
    Same,
    Older,
}

/// query ← any event, read at `sequence` of the stream. Returns `None` if the event is stale, so that the row does not
/// change.
///
/// An event that the row already reflects still sets a new sequence. A replica that never received the earlier message
/// has the row at this sequence, and a watcher that resumes there must not miss it.
pub fn apply_event(view: &View, event: &Event, sequence: u64, now: DateTime<Utc>) -> Option<View> {
    match view.has(event) {
        Has::Newer => return None,
        Has::Same => return Some(View { sequence, ..view.clone() }),
        Has::Older => {}
    }
    let mut view = View { sequence, ..view.clone() };
    match event.clone() {
        Event::Ticket(part) => view.ticket = Some(part),
        Event::Price(part) => view.price = Some(part),
        Event::Ledger(part, reservation) => {
            if part.revision > view.ledger.revision {
                view.ledger = part;
            }
            if reservation.is_some() {
                view.newest = reservation;
            }
        }
    }
    view.unsettled_since = if settled(&view) { None } else { view.unsettled_since.or(Some(now)) };
    Some(view)
}

/// query ← reservation event, for the row of the reservation itself. Returns whether the event is newer than the row.
pub fn is_news(known: Option<&Reservation>, seen: &Reservation) -> bool {
    known.is_none_or(|known| seen.revision > known.revision)
}

/// Returns whether the row of the ticket, or that of the reservation in the event, is older than the event.
pub fn is_missing(view: Option<&View>, reservation: Option<&Reservation>, event: &Event) -> bool {
    match event {
        Event::Ticket(part) => part.revision > view.and_then(|view| view.ticket.as_ref()).map_or(0, |it| it.revision),
        Event::Price(part) => part.revision > view.and_then(|view| view.price.as_ref()).map_or(0, |it| it.revision),
        Event::Ledger(part, seen) => {
            let is_news = seen.as_ref().is_some_and(|seen| is_news(reservation, seen));
            is_news || part.revision > view.map_or(0, |view| view.ledger.revision)
        }
    }
}

/// Returns the status at the time `now`. It is never stored, because it can change with the time alone.
pub fn status(ticket: &TicketPart, now: DateTime<Utc>) -> TicketStatus {
    if ticket.withdrawn {
        TicketStatus::Withdrawn
    } else if ticket.holder.is_some() {
        TicketStatus::Reserved
    } else if now >= ticket.end {
        TicketStatus::Expired
    } else {
        TicketStatus::Available
    }
}
