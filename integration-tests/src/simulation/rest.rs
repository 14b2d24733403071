//! The end of a run: faults have ceased, all processes run, every command gets its response, and everything must agree.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use eticket_proto::{
    headers,
    ids::{ReservationId, TicketId},
    reservation::ReservationStatus,
};
use eticket_query::{
    application::{ViewStore, Watched},
    domain::{self, View, Wait},
    outbound::memory::MemoryViews,
};
use eticket_store::ParkedStore;
use tokio::{task::JoinHandle, time::Instant};

use super::{
    history::{Past, Verdict},
    judge,
    plan::Repair,
    replicas::Fleet,
    scheduler::locked,
    service::Service,
    watchers::Watcher,
    wrong::Wrong,
};

/// Limit for reaching agreement; a wait beyond it would never succeed.
const PATIENCE: Duration = Duration::from_secs(240);
/// Longer than the redelivery of a lost message takes.
const QUIET: Duration = Duration::from_secs(35);

/// Waits until everything agrees, and then a while longer, because late messages must not change anything.
pub(super) async fn come_to_rest(fleet: &Fleet, clients: Vec<JoinHandle<()>>, watchers: Vec<Watcher>) -> Verdict {
    let limit = Instant::now() + PATIENCE;
    for client in clients {
        if fleet.scheduler.has_failed() {
            return Ok(());
        }
        let answered = tokio::time::timeout_at(limit, client).await;
        answered.map_err(|_| "a command gets no answer")?.map_err(|error| format!("a client ended: {error}"))?;
    }
    loop {
        match agreement(fleet, &watchers).await {
            _ if fleet.scheduler.has_failed() => return Ok(()),
            Ok(()) => break,
            Err(what) if Instant::now() > limit => return Err(format!("no rest: {what}")),
            Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
    fleet.scheduler.log("rest", "all agree");
    count(fleet);
    tokio::time::sleep(QUIET).await;
    agreement(fleet, &watchers).await.map_err(|what| format!("it agreed, and then: {what}"))
}

fn count(fleet: &Fleet) {
    let history = locked(&fleet.history);
    for past in history.tickets.values() {
        let rejected = past.reservations.values().any(|(status, _, _)| *status == ReservationStatus::Rejected);
        let closed = past.ledger.last().is_some_and(|(_, ledger)| ledger.closed);
        match (closed, rejected) {
            (true, true) => fleet.scheduler.count("a reservation was rejected"),
            (true, false) => fleet.scheduler.count("the ledger of an unheld ticket was closed"),
            (false, _) => {}
        }
    }
}

async fn agreement(fleet: &Fleet, watchers: &[Watcher]) -> Verdict {
    let under_way = fleet.transport.under_way.load(Ordering::Relaxed);
    if under_way > 0 {
        return Err(format!("{under_way} messages are under way"));
    }
    for service in Service::ALL {
        let (waiting, parked) = fleet.housekeeping(service);
        books_are_closed(waiting, &*parked).await.map_err(|what| format!("{service:?}: {what}"))?;
    }
    let views = [fleet.shown(0), fleet.shown(1)];
    let tickets: Vec<TicketId> = locked(&fleet.history).tickets.keys().cloned().collect();
    for ticket in tickets {
        owners_agree(fleet, &ticket).map_err(|what| format!("{ticket}: {what}"))?;
        for (number, view) in views.iter().enumerate() {
            let shown = shown(view, &ticket).await?;
            let at = |what| format!("{ticket} at query-{number}: {what}");
            view_agrees(fleet, &ticket, &shown).map_err(at)?;
            reservations_agree(fleet, &ticket, view).await.map_err(at)?;
            watchers_agree(watchers, &ticket, &shown).map_err(at)?;
        }
    }
    // The comparison does not repair messages that every view has already; a reader from the start runs a comparison
    // itself.
    if fleet.plan.repair != Repair::Compare {
        stream_agrees(fleet)?;
    }
    each_request_had_one_effect(fleet)
}

async fn books_are_closed(waiting: usize, parked: &dyn ParkedStore) -> Verdict {
    if waiting > 0 {
        return Err(format!("{waiting} rows wait in the outbox"));
    }
    let parked = parked.parked("", 1).await.map_err(|error| error.to_string())?;
    if parked.is_empty() { Ok(()) } else { Err(format!("parked: {parked:?}")) }
}

fn owners_agree(fleet: &Fleet, ticket: &TicketId) -> Verdict {
    let history = locked(&fleet.history);
    let none = Past::default();
    let past = history.lookup(ticket).unwrap_or(&none);
    let (Some((_, owned)), Some((_, price))) = (past.tickets.last(), past.prices.last()) else {
        return Err("no ticket, or no price".to_owned());
    };
    let revision = past.ledger.len() as i64;
    let closed = past.ledger.last().is_some_and(|(_, ledger)| ledger.closed);
    if owned.reservation_revision != revision {
        return Err(format!("the ledger has revision {revision}, but {owned:?}"));
    }
    if owned.withdrawn != closed {
        return Err(format!("closed is {closed}, but {owned:?}"));
    }
    if (price.schedule_revision, price.reservation_revision) != (owned.schedule_revision, revision) {
        return Err(format!("{price:?}, but {owned:?}"));
    }
    let held = past.reservations.iter().filter(|(_, (status, _, _))| *status == ReservationStatus::Reserved);
    let held: Vec<String> = held.map(|(id, _)| id.to_string()).collect();
    let active = past.ledger.last().map(|(_, ledger)| ledger.active.clone()).unwrap_or_default();
    let expected: Vec<String> = Some(active).filter(|id| !id.is_empty()).into_iter().collect();
    if held == expected { Ok(()) } else { Err(format!("{expected:?} holds it, but reserved are {held:?}")) }
}

async fn shown(views: &MemoryViews, ticket: &TicketId) -> Result<View, String> {
    let found = views.view(ticket).await.map_err(|error| error.to_string())?;
    found.ok_or_else(|| format!("{ticket} is not shown"))
}

fn view_agrees(fleet: &Fleet, ticket: &TicketId, view: &View) -> Verdict {
    let history = locked(&fleet.history);
    judge::view(&history, ticket, view, fleet.wrong)?;
    let past = history.lookup(ticket).ok_or("nothing is known of it")?;
    let shown = (
        view.ticket.as_ref().map_or(0, |part| part.revision),
        view.ledger.revision,
        view.price.as_ref().map_or(0, |part| part.revision),
    );
    let owned = (past.tickets.len() as i64, past.ledger.len() as i64, past.prices.len() as i64);
    if shown != owned {
        return Err(format!("shown are revisions {shown:?} of {owned:?}"));
    }
    if !Wrong::settled(fleet.wrong, view) {
        return Err(format!("not settled: {:?}", domain::missing(view)));
    }
    if view.unsettled_since.is_some() {
        return Err(format!("settled, and unsettled since {:?}", view.unsettled_since));
    }
    let waiting = past.tokens.iter().find(|token| !Wrong::answers(fleet.wrong, view, token, Wait::Settled));
    waiting.map_or(Ok(()), |token| Err(format!("{token:?} is not answered")))
}

async fn reservations_agree(fleet: &Fleet, ticket: &TicketId, views: &MemoryViews) -> Verdict {
    let owned: BTreeMap<ReservationId, (ReservationStatus, i64)> = {
        let history = locked(&fleet.history);
        let past = history.lookup(ticket).ok_or("nothing is known of it")?;
        past.reservations.iter().map(|(id, (status, revision, _))| (*id, (*status, *revision))).collect()
    };
    let ids: Vec<ReservationId> = owned.keys().copied().collect();
    let rows = views.reservations_of(&ids).await.map_err(|error| error.to_string())?;
    let shown: BTreeMap<ReservationId, (ReservationStatus, i64)> =
        rows.into_iter().map(|row| (row.reservation_id, (status(row.status), row.revision))).collect();
    if shown == owned { Ok(()) } else { Err(format!("reservations are {owned:?}, shown are {shown:?}")) }
}

fn status(shown: domain::ReservationStatus) -> ReservationStatus {
    match shown {
        domain::ReservationStatus::Reserved => ReservationStatus::Reserved,
        domain::ReservationStatus::Cancelled => ReservationStatus::Cancelled,
        domain::ReservationStatus::Rejected => ReservationStatus::Rejected,
    }
}

/// Checks that a watcher ends with the newest state, whatever it has received before.
fn watchers_agree(watchers: &[Watcher], ticket: &TicketId, view: &View) -> Verdict {
    for (number, watcher) in watchers.iter().enumerate() {
        let is_watched = match &watcher.watched {
            Watched::All => true,
            Watched::These(tickets) => tickets.contains(ticket),
        };
        let seen = locked(&watcher.seen);
        let row = seen.rows.get(ticket);
        let is_newest = row.is_some_and(|row| {
            (&row.ticket, &row.ledger, &row.price, &row.newest)
                == (&view.ticket, &view.ledger, &view.price, &view.newest)
        });
        if is_watched && !is_newest {
            return Err(format!("watcher-{number} ends with {row:?}, shown is {view:?}"));
        }
    }
    Ok(())
}

/// Checks that the stream has the newest state of every aggregate, so that a reader from the start gets all of them.
fn stream_agrees(fleet: &Fleet) -> Verdict {
    let mut newest: BTreeMap<String, i64> = BTreeMap::new();
    for (_, message) in fleet.transport.stream.messages() {
        let id = message.header(headers::ID).unwrap_or_default();
        let (aggregate, revision) = id.rsplit_once('/').ok_or_else(|| format!("an event with the id {id}"))?;
        let revision: i64 = revision.parse().map_err(|_| format!("an event with the id {id}"))?;
        let known = newest.entry(aggregate.to_owned()).or_default();
        *known = revision.max(*known);
    }
    let history = locked(&fleet.history);
    let mut owned: Vec<(String, i64)> = Vec::new();
    for (ticket, past) in &history.tickets {
        owned.push((format!("ticket/{ticket}"), past.tickets.len() as i64));
        owned.push((format!("pricing/{ticket}"), past.prices.len() as i64));
        let reservations = past.reservations.iter();
        owned.extend(reservations.map(|(id, (_, revision, _))| (format!("reservation/{ticket}/{id}"), *revision)));
    }
    let missing = owned.iter().find(|(aggregate, revision)| newest.get(aggregate) != Some(revision));
    missing.map_or(Ok(()), |(aggregate, revision)| {
        Err(format!("{aggregate} is at {revision}, on the stream at {:?}", newest.get(aggregate)))
    })
}

fn each_request_had_one_effect(fleet: &Fleet) -> Verdict {
    let history = locked(&fleet.history);
    for (ticket, ids) in &history.requests {
        let Some(past) = history.lookup(ticket) else { continue };
        let made: Vec<&ReservationId> = ids.iter().filter(|id| past.reservations.contains_key(*id)).collect();
        if made.len() > 1 {
            return Err(format!("one request has made {made:?}"));
        }
    }
    Ok(())
}
