//! Decides when the reactions to the state of a row, or to the command of a token, are complete.

use eticket_proto::token::Consistency;

use super::View;

/// What a call waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The row has the revision of the token; without a token: the row exists.
    Applied,
    /// All reactions to the command of the token are applied; without a token: the row is settled.
    Settled,
}

/// Returns whether all reactions to the state in the row have arrived. Commands that the row does not reflect yet are
/// not considered.
///
/// The revisions must be equal, not "at least": a ticket part ahead of the ledger part reflects a reservation whose
/// price has not arrived yet. The last condition: a withdrawal is complete only when the reservation service has closed
/// the ledger; until then a reservation may still succeed.
pub fn settled(view: &View) -> bool {
    let (Some(ticket), Some(price)) = (&view.ticket, &view.price) else { return false };
    ticket.reservation_revision == view.ledger.revision
        && view.ledger.revision == price.reservation_revision
        && price.schedule_revision == ticket.schedule_revision
        && ticket.withdrawn == view.ledger.closed
}

/// Returns one entry for each condition of `settled` that does not hold.
pub fn missing(view: &View) -> Vec<String> {
    let ledger = view.ledger.revision;
    let mut missing = Vec::new();
    match &view.ticket {
        None => missing.push("ticket: no event yet".to_owned()),
        Some(ticket) if ticket.reservation_revision < ledger => {
            let applied = ticket.reservation_revision;
            missing.push(format!("ticket: has applied reservation revision {applied} of {ledger}"));
        }
        Some(ticket) if ticket.reservation_revision > ledger => {
            let told = ticket.reservation_revision;
            missing.push(format!("reservation: the ticket has applied revision {told}, the view has {ledger}"));
        }
        Some(_) => {}
    }
    match &view.price {
        None => missing.push("price: no event yet".to_owned()),
        Some(price) if price.reservation_revision < ledger => {
            let applied = price.reservation_revision;
            missing.push(format!("price: has applied reservation revision {applied} of {ledger}"));
        }
        Some(price) if price.reservation_revision > ledger => {
            let told = price.reservation_revision;
            missing.push(format!("reservation: the price has applied revision {told}, the view has {ledger}"));
        }
        Some(_) => {}
    }
    if let (Some(ticket), Some(price)) = (&view.ticket, &view.price) {
        let (of_ticket, of_price) = (ticket.schedule_revision, price.schedule_revision);
        if of_price < of_ticket {
            missing.push(format!("price: has applied schedule revision {of_price} of {of_ticket}"));
        } else if of_price > of_ticket {
            missing
                .push(format!("ticket: the price has applied schedule revision {of_price}, the view has {of_ticket}"));
        }
    }
    match view.ticket.as_ref().map(|ticket| (ticket.withdrawn, view.ledger.closed)) {
        Some((true, false)) => {
            missing.push("reservation: has not closed the ledger of the withdrawn ticket".to_owned())
        }
        Some((false, true)) => missing.push("ticket: the ledger is closed, but the view has no withdrawal".to_owned()),
        Some((true, true) | (false, false)) | None => {}
    }
    missing
}

/// Returns whether the row fulfils the condition of a waiting call. Once true for a token, it stays true after later
/// commands.
///
/// Only the revisions of the token are checked here; the caller must refuse a token of another ticket.
pub fn answers(view: &View, token: Option<&Consistency>, wait: Wait) -> bool {
    // Without a ticket part there is no row to return.
    let Some(ticket) = &view.ticket else { return false };
    let Some(token) = token else {
        return match wait {
            Wait::Applied => true,
            Wait::Settled => settled(view),
        };
    };
    let applied = match *token {
        Consistency::Reservation { revision, .. } => view.ledger.revision >= revision,
        Consistency::Ticket { revision, .. } => ticket.revision >= revision,
    };
    match wait {
        Wait::Applied => applied,
        Wait::Settled => applied && reactions_are_in(view, token),
    }
}

fn reactions_are_in(view: &View, token: &Consistency) -> bool {
    let (Some(ticket), Some(price)) = (&view.ticket, &view.price) else { return false };
    let both_have_taken_in =
        |revision| ticket.reservation_revision >= revision && price.reservation_revision >= revision;
    match *token {
        Consistency::Reservation { revision, .. } => both_have_taken_in(revision),
        Consistency::Ticket { withdrawn: true, .. } => view.ledger.closed && both_have_taken_in(view.ledger.revision),
        Consistency::Ticket { withdrawn: false, schedule_revision, .. } => price.schedule_revision >= schedule_revision,
    }
}
