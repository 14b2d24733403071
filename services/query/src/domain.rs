//! The rules of the view as in the protocol: a row of three parts, each applied by its own revision, and what may be said of it.
//!
//! A row is a function of the newest message of each part: any order and repetition of messages ends in the same row, so a
//! replica that starts from nothing shows what the others show.

mod settled;
#[cfg(test)]
pub(crate) mod tests;

use chrono::{DateTime, Utc};
use eticket_proto::ids::{ReservationId, TicketId, UserGrade, UserId};

pub use settled::{Wait, answers, missing, settled};

/// The ticket as its owner last said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TicketPart {
    pub revision: i64,
    pub schedule_revision: i64,
    /// The newest of the ticket's reservations that the ticket has taken in.
    pub reservation_revision: i64,
    pub title: String,
    pub start: DateTime<Utc>,
    pub end: DateTime<Utc>,
    pub withdrawn: bool,
    pub holder: Option<ReservationId>,
    pub update_time: DateTime<Utc>,
}

/// The ticket's ledger as reservation last said. The default is the ledger of a ticket that nobody has tried to reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LedgerPart {
    pub revision: i64,
    pub active: Option<ReservationId>,
    pub closed: bool,
}

/// The price as its owner last said.
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

/// An amount as it was published; the view never reckons with it.
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

/// A reservation: a row of its own, which goes by its own revision.
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

/// What the view holds of a ticket. It is a view row, listed and found, once it has a ticket part; before that the other parts wait.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    pub ticket: Option<TicketPart>,
    pub ledger: LedgerPart,
    /// The ticket's newest reservation, that with the highest revision, ended or not.
    pub newest: Option<Reservation>,
    pub price: Option<PricePart>,
    /// Of the last message about the row that was not stale; 0 if that was in another stream.
    pub sequence: u64,
    /// Since when, by this replica's clock, the row has not been settled.
    pub unsettled_since: Option<DateTime<Utc>>,
}

/// The state in the body of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Ticket(TicketPart),
    /// The ledger as of its revision, and the reservation that brought it there; none where it was closed while nobody held
    /// the ticket.
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
    /// When the newest of the parts was written by its owner: the same on every replica.
    pub fn update_time(&self) -> Option<DateTime<Utc>> {
        let ticket = self.ticket.as_ref().map(|part| part.update_time);
        let reservation = self.newest.as_ref().map(|reservation| reservation.update_time);
        let price = self.price.as_ref().map(|part| part.update_time);
        [ticket, reservation, price].into_iter().flatten().max()
    }

    /// Who holds the ticket, by the ledger: the one place where that is decided.
    pub fn holder(&self) -> Option<&UserId> {
        let newest = self.newest.as_ref()?;
        (self.ledger.active == Some(newest.reservation_id)).then_some(&newest.user_id)
    }

    fn has(&self, event: &Event) -> Has {
        let revisions = match event {
            Event::Ticket(part) => (part.revision, self.ticket.as_ref().map_or(0, |known| known.revision)),
            Event::Price(part) => (part.revision, self.price.as_ref().map_or(0, |known| known.revision)),
            Event::Ledger(part, None) => (part.revision, self.ledger.revision),
            // It speaks of the reservation too, which may be behind the ledger: a late cancellation still counts.
            Event::Ledger(part, Some(_)) => (part.revision, self.newest.as_ref().map_or(0, |known| known.revision)),
        };
        match revisions.0.cmp(&revisions.1) {
            std::cmp::Ordering::Less => Has::Newer,
            std::cmp::Ordering::Equal => Has::Same,
            std::cmp::Ordering::Greater => Has::Older,
        }
    }
}

/// How what the row holds compares with what a message brings.
enum Has {
    Newer,
    Same,
    Older,
}

/// query ← any event, read at `sequence` of the stream. `None` if it is stale and the row stays.
///
/// One that the row already reflects gives it a new sequence all the same: another replica, that never saw the earlier message,
/// has the row there, and a watcher who resumes must not miss it.
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

/// query ← reservation event, for the row of the reservation itself: whether it is news.
pub fn is_news(known: Option<&Reservation>, seen: &Reservation) -> bool {
    known.is_none_or(|known| seen.revision > known.revision)
}

/// Derived when asked, never stored: the clock alone may change it.
/// Whether a row, and that of the reservation that the event speaks of, are older than the event.
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
