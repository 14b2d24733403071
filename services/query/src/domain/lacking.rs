//! Describes which parts of a row are behind the condition of a call.

use eticket_proto::token::Consistency;

use super::{TicketPart, View, Wait};

/// A part of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Ticket,
    Reservation,
    Price,
}

/// A part that is behind, with the revision that is waited for and the one that it has applied. Both count the same:
/// changes of the ticket, of its schedule or of its reservations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lacking {
    pub part: Part,
    pub wanted: i64,
    pub seen: i64,
}

/// Returns the parts that are behind, each at most once. It is empty exactly if `answers` returns true.
pub fn lacking(view: &View, token: Option<&Consistency>, wait: Wait) -> Vec<Lacking> {
    let mut found = Found::default();
    let Some(ticket) = &view.ticket else {
        let wanted = match token {
            Some(Consistency::Ticket { revision, .. }) => *revision,
            _ => 1,
        };
        found.require(Part::Ticket, wanted.max(1), 0);
        return found.0;
    };
    match token {
        None if wait == Wait::Settled => settled(&mut found, view, ticket),
        None => {}
        Some(token) => {
            match *token {
                Consistency::Reservation { revision, .. } => {
                    found.require(Part::Reservation, revision, view.ledger.revision);
                }
                Consistency::Ticket { revision, .. } => found.require(Part::Ticket, revision, ticket.revision),
            }
            if wait == Wait::Settled {
                reactions(&mut found, view, ticket, token);
            }
        }
    }
    found.0
}

#[derive(Default)]
struct Found(Vec<Lacking>);

impl Found {
    fn require(&mut self, part: Part, wanted: i64, seen: i64) {
        if seen < wanted && self.0.iter().all(|known| known.part != part) {
            self.0.push(Lacking { part, wanted, seen });
        }
    }

    fn require_applied(&mut self, view: &View, ticket: &TicketPart, revision: i64) {
        self.require(Part::Ticket, revision, ticket.reservation_revision);
        let price = view.price.as_ref().map(|price| price.reservation_revision);
        // A price that is not computed yet has applied nothing, not even the state before the first reservation.
        self.require(Part::Price, revision.max(i64::from(price.is_none())), price.unwrap_or(0));
    }
}

fn settled(found: &mut Found, view: &View, ticket: &TicketPart) {
    let ledger = view.ledger.revision;
    found.require_applied(view, ticket, ledger);
    found.require(Part::Reservation, ticket.reservation_revision, ledger);
    if let Some(price) = &view.price {
        found.require(Part::Reservation, price.reservation_revision, ledger);
        found.require(Part::Price, ticket.schedule_revision, price.schedule_revision);
        found.require(Part::Ticket, price.schedule_revision, ticket.schedule_revision);
    }
    if ticket.withdrawn && !view.ledger.closed {
        found.require(Part::Reservation, ledger + 1, ledger);
    }
    if view.ledger.closed && !ticket.withdrawn {
        found.require(Part::Ticket, ticket.revision + 1, ticket.revision);
    }
}

fn reactions(found: &mut Found, view: &View, ticket: &TicketPart, token: &Consistency) {
    match *token {
        Consistency::Reservation { revision, .. } => found.require_applied(view, ticket, revision),
        Consistency::Ticket { withdrawn: true, .. } => {
            if !view.ledger.closed {
                found.require(Part::Reservation, view.ledger.revision + 1, view.ledger.revision);
            }
            found.require_applied(view, ticket, view.ledger.revision);
        }
        Consistency::Ticket { withdrawn: false, schedule_revision, .. } => {
            let seen = view.price.as_ref().map_or(0, |price| price.schedule_revision);
            found.require(Part::Price, schedule_revision.max(1), seen);
        }
    }
}
