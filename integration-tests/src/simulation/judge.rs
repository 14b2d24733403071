//! The rules for what a view may show, derived from the commits and independent of the view's own computation.

use eticket_proto::{
    ids::{ReservationId, TicketId},
    token::Consistency,
};
use eticket_query::domain::{View, Wait};

use super::{
    Wrong,
    history::{History, Past, Verdict, at},
};

/// Checks that each part is a state that was committed, and that the row's own properties are correct.
pub(super) fn view(history: &History, ticket: &TicketId, view: &View, wrong: Option<Wrong>) -> Verdict {
    let past = history.lookup(ticket).ok_or_else(|| format!("a row of {ticket}, of which nothing is known"))?;
    parts(past, view).map_err(|what| format!("{what}: {view:?}"))?;
    let (complete, settled) = (has_all_reactions(view), Wrong::settled(wrong, view));
    if settled && !complete {
        return Err(format!("settled is early: {view:?}"));
    }
    if complete && !settled {
        return Err(format!("settled is late: {view:?}"));
    }
    for token in &past.tokens {
        for wait in [Wait::Applied, Wait::Settled] {
            let (expected, answered) = (has_ended(view, token, wait), Wrong::answers(wrong, view, token, wait));
            if expected != answered {
                return Err(format!("{token:?} waits for {wait:?}, answered is {answered}: {view:?}"));
            }
        }
    }
    Ok(())
}

fn id(id: Option<ReservationId>) -> String {
    id.map(|id| id.to_string()).unwrap_or_default()
}

fn parts(past: &Past, view: &View) -> Verdict {
    if let Some(part) = &view.ticket {
        let known = at(&past.tickets, part.revision).ok_or("a ticket that never was")?;
        let shown = (part.start, part.end, part.withdrawn, id(part.holder), part.reservation_revision);
        let was = (known.start, known.end, known.withdrawn, known.holder.clone(), known.reservation_revision);
        if shown != was || part.schedule_revision != known.schedule_revision {
            return Err(format!("the ticket was {known:?}"));
        }
    }
    if view.ledger.revision > 0 {
        let known = at(&past.ledger, view.ledger.revision).ok_or("a ledger that never was")?;
        if (id(view.ledger.active), view.ledger.closed) != (known.active.clone(), known.closed) {
            return Err(format!("the ledger was {known:?}"));
        }
    }
    if let Some(part) = &view.price {
        let known = at(&past.prices, part.revision).ok_or("a price that never was")?;
        let shown = (part.schedule_revision, part.reservation_revision, part.discounted_price.units);
        if shown != (known.schedule_revision, known.reservation_revision, known.units) {
            return Err(format!("the price was {known:?}"));
        }
    }
    Ok(())
}

/// Returns whether every part of the row includes its reactions to the other parts.
fn has_all_reactions(view: &View) -> bool {
    let (Some(ticket), Some(price)) = (&view.ticket, &view.price) else { return false };
    let reservations = [ticket.reservation_revision, view.ledger.revision, price.reservation_revision];
    let schedules = [ticket.schedule_revision, price.schedule_revision];
    let withdrawals = [ticket.withdrawn, view.ledger.closed];
    let newest_reservation = reservations.into_iter().max();
    let newest_schedule = schedules.into_iter().max();
    reservations.into_iter().all(|known| Some(known) == newest_reservation)
        && schedules.into_iter().all(|known| Some(known) == newest_schedule)
        && (!withdrawals.contains(&true) || !withdrawals.contains(&false))
}

/// Returns whether the saga of a token's command has ended, as far as the row shows.
pub(super) fn has_ended(view: &View, token: &Consistency, wait: Wait) -> bool {
    let Some(ticket) = &view.ticket else { return false };
    let price = view.price.as_ref();
    let (applied, settled) = match *token {
        Consistency::Reservation { revision, .. } => (
            view.ledger.revision >= revision,
            ticket.reservation_revision >= revision && price.is_some_and(|it| it.reservation_revision >= revision),
        ),
        Consistency::Ticket { revision, withdrawn: false, schedule_revision, .. } => {
            (ticket.revision >= revision, price.is_some_and(|it| it.schedule_revision >= schedule_revision))
        }
        Consistency::Ticket { revision, withdrawn: true, .. } => {
            let closing = view.ledger.revision;
            let followed =
                ticket.reservation_revision >= closing && price.is_some_and(|it| it.reservation_revision >= closing);
            (ticket.revision >= revision, view.ledger.closed && followed)
        }
    };
    applied && (wait == Wait::Applied || settled)
}
