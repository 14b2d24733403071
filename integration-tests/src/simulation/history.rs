//! The commits in order, as the simulation observes them: every published state is checked against the previous one and
//! against the states that it reacts to.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use eticket_bus::Message;
use eticket_proto::{
    event::{PriceEvent, ReservationEvent, TicketEvent},
    ids::{ReservationId, TicketId, UserGrade},
    reservation::ReservationStatus,
    time::from_proto,
    token::Consistency,
};
use eticket_store::OutboxRow;
use prost::Message as _;

use super::service::Service;
use crate::convergence::truth::won;

/// Counts commits: the only total order.
pub(super) type Moment = u64;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct TicketState {
    pub(super) title: String,
    pub(super) start: DateTime<Utc>,
    pub(super) end: DateTime<Utc>,
    pub(super) withdrawn: bool,
    pub(super) holder: String,
    pub(super) etag: String,
    pub(super) schedule_revision: i64,
    pub(super) reservation_revision: i64,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct LedgerState {
    /// The reservation that holds the ticket; empty without one.
    pub(super) active: String,
    pub(super) closed: bool,
    grade: Option<UserGrade>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct PriceState {
    pub(super) schedule_revision: i64,
    pub(super) reservation_revision: i64,
    pub(super) units: i64,
}

/// States with the moments of their commits.
type States<S> = Vec<(Moment, S)>;

/// The history of a ticket; states by revision, starting at 1.
#[derive(Debug, Default)]
pub(super) struct Past {
    pub(super) tickets: States<TicketState>,
    pub(super) ledger: States<LedgerState>,
    pub(super) prices: States<PriceState>,
    /// By id: status and revision, and when it was created.
    pub(super) reservations: BTreeMap<ReservationId, (ReservationStatus, i64, Moment)>,
    /// The tokens that clients received.
    pub(super) tokens: Vec<Consistency>,
}

/// The history of all tickets; see the module documentation.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) moment: Moment,
    pub(super) tickets: BTreeMap<TicketId, Past>,
    /// For each request to reserve, its ticket and the reservations that its attempts would create; at most one of them
    /// may exist.
    pub(super) requests: Vec<(TicketId, Vec<ReservationId>)>,
    /// The reservation that an attempt would create, by the correlation id of the attempt.
    attempts: BTreeMap<String, ReservationId>,
    /// The ticket's end that the availability check of a reservation returned.
    checked_ends: BTreeMap<ReservationId, DateTime<Utc>>,
    /// Subjects and revisions of waiting outbox rows.
    waiting: BTreeSet<(String, i64)>,
    /// The traces of messages that were added to an outbox while the same state was already waiting.
    pub(super) put_beside_the_same: BTreeSet<String>,
}

/// An error if a state contradicts the history.
pub(super) type Verdict = Result<(), String>;

fn right(holds: bool, otherwise: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// Adds the state of a revision. A known revision must have the same state; a gap means that a revision was never
/// committed.
fn add<S: PartialEq + std::fmt::Debug>(
    states: &mut States<S>,
    revision: i64,
    state: S,
    moment: Moment,
) -> Result<bool, String> {
    let next = states.len() as i64 + 1;
    if revision == next {
        states.push((moment, state));
        return Ok(true);
    }
    let known = usize::try_from(revision - 1).ok().and_then(|index| states.get(index));
    let (_, known) = known.ok_or_else(|| format!("revision {revision} follows {}", next - 1))?;
    right(*known == state, || format!("revision {revision} was {known:?} and is now {state:?}"))?;
    Ok(false)
}

/// Returns the state at a revision, starting at 1.
pub(super) fn at<S>(states: &States<S>, revision: i64) -> Option<&S> {
    usize::try_from(revision - 1).ok().and_then(|index| states.get(index)).map(|(_, state)| state)
}

/// Returns whether a state between two moments, both included, satisfies the condition.
pub(super) fn at_some_time<S>(states: &States<S>, from: Moment, until: Moment, is_so: impl Fn(&S) -> bool) -> bool {
    let first = states.iter().rposition(|(moment, _)| *moment <= from).unwrap_or(0);
    states.iter().skip(first).filter(|(moment, _)| *moment <= until).any(|(_, state)| is_so(state))
}

impl History {
    pub(super) fn lookup(&self, ticket: &TicketId) -> Option<&Past> {
        self.tickets.get(ticket)
    }

    /// Records the outbox rows of a commit.
    pub(super) fn wrote(&mut self, service: Service, outbox: &[OutboxRow]) -> Verdict {
        if !outbox.is_empty() {
            self.moment += 1;
        }
        for row in outbox {
            if !self.waiting.insert((row.message.subject.clone(), row.revision)) {
                self.put_beside_the_same.extend(row.message.header("traceparent").map(ToOwned::to_owned));
            }
            let verdict = match service {
                Service::Ticket => self.ticket(&row.message),
                Service::Reservation => self.ledger(&row.message),
                Service::Pricing => self.price(&row.message),
                Service::Query => Err("the view publishes something".to_owned()),
            };
            verdict.map_err(|what| format!("{service:?} commits {}: {what}", row.message.subject))?;
        }
        Ok(())
    }

    pub(super) fn sent(&mut self, subject: &str, revision: i64) {
        self.waiting.remove(&(subject.to_owned(), revision));
    }

    /// Records the start of an attempt to reserve.
    pub(super) fn attempted(&mut self, correlation_id: &str, id: ReservationId) {
        self.attempts.insert(correlation_id.to_owned(), id);
    }

    /// Records the ticket's end that the check of this attempt returned.
    pub(super) fn was_checked(&mut self, correlation_id: &str, end: DateTime<Utc>) {
        if let Some(id) = self.attempts.get(correlation_id) {
            self.checked_ends.insert(*id, end);
        }
    }

    fn past(&mut self, ticket: &str) -> Result<&mut Past, String> {
        let id = ticket.parse::<TicketId>().map_err(|error| error.to_string())?;
        Ok(self.tickets.entry(id).or_default())
    }

    fn ticket(&mut self, message: &Message) -> Verdict {
        let event = TicketEvent::decode(message.body.clone()).map_err(|error| error.to_string())?;
        let ticket = event.ticket.ok_or("no ticket")?;
        let moment = self.moment;
        let past = self.past(&ticket.ticket_id)?;
        let state = TicketState {
            title: ticket.title,
            start: ticket.start_time.as_ref().and_then(from_proto).ok_or("no start")?,
            end: ticket.end_time.as_ref().and_then(from_proto).ok_or("no end")?,
            withdrawn: event.withdrawn,
            holder: ticket.reservation_id,
            etag: ticket.etag,
            schedule_revision: ticket.schedule_revision,
            reservation_revision: ticket.reservation_revision,
        };
        let before = at(&past.tickets, ticket.revision - 1).cloned();
        if let Some(before) = &before {
            let moved = (state.start, state.end) != (before.start, before.end);
            let expected = before.schedule_revision + i64::from(moved);
            right(state.schedule_revision == expected, || format!("the schedule's revision: {before:?}, {state:?}"))?;
            right(state.withdrawn || !before.withdrawn, || "a withdrawal is taken back".to_owned())?;
            right(state.reservation_revision >= before.reservation_revision, || {
                format!("it goes back from reservation revision {} to {state:?}", before.reservation_revision)
            })?;
            let is_next = ticket.revision == past.tickets.len() as i64 + 1;
            let is_again =
                is_next && state.title != before.title && past.tickets.iter().any(|(_, it)| it.title == state.title);
            right(!is_again, || format!("one edit has two effects: {state:?}"))?;
            let edited = state.title != before.title || moved || state.withdrawn != before.withdrawn;
            right(edited || state.etag == before.etag, || {
                format!("the etag moves without an edit: {before:?}, {state:?}")
            })?;
        }
        let holder = if state.reservation_revision == 0 {
            String::new()
        } else {
            let ledger = at(&past.ledger, state.reservation_revision);
            ledger.ok_or_else(|| format!("it refers to an unknown ledger: {state:?}"))?.active.clone()
        };
        right(state.holder == holder, || format!("{holder:?} holds it, not {state:?}"))?;
        add(&mut past.tickets, ticket.revision, state, moment).map(drop)
    }

    fn ledger(&mut self, message: &Message) -> Verdict {
        let event = ReservationEvent::decode(message.body.clone()).map_err(|error| error.to_string())?;
        let moment = self.moment;
        let id = event.active_reservation_id.parse::<ReservationId>().ok();
        let checked_end = id.and_then(|id| self.checked_ends.get(&id)).copied();
        let past = self.past(&event.ticket_id)?;
        let revision = event.ledger_revision;
        let grade = event.reservation.as_ref().and_then(|reservation| UserGrade::from_proto(reservation.user_grade));
        let holds = !event.active_reservation_id.is_empty();
        let state =
            LedgerState { active: event.active_reservation_id, closed: event.closed, grade: grade.filter(|_| holds) };
        let is_new = add(&mut past.ledger, revision, state.clone(), moment)?;
        if let (true, Some(before)) = (is_new, at(&past.ledger, revision - 1)) {
            right(!before.closed, || format!("{state:?} after the ledger was closed"))?;
            right(before.active.is_empty() || !holds, || format!("two hold the ticket: {before:?}, {state:?}"))?;
        }
        let Some(reservation) = event.reservation else { return Ok(()) };
        let id: ReservationId = reservation.reservation_id.parse().map_err(|_| "no id")?;
        right(reservation.revision == revision, || format!("recorded at revision {revision}: {reservation:?}"))?;
        if is_new {
            let reserved = reservation.reserve_time.as_ref().and_then(from_proto).ok_or("no time")?;
            if let Some(end) = checked_end {
                right(reserved < end, || format!("reserved at {reserved}, past the end {end} that was checked"))?;
            }
            let status = ReservationStatus::try_from(reservation.status).map_err(|_| "no status")?;
            let made = past.reservations.get(&id).map_or(moment, |(_, _, made)| *made);
            past.reservations.insert(id, (status, revision, made));
        }
        Ok(())
    }

    fn price(&mut self, message: &Message) -> Verdict {
        let event = PriceEvent::decode(message.body.clone()).map_err(|error| error.to_string())?;
        let price = event.price.ok_or("no price")?;
        let moment = self.moment;
        let past = self.past(&price.ticket_id)?;
        let state = PriceState {
            schedule_revision: price.schedule_revision,
            reservation_revision: price.reservation_revision,
            units: price.discounted_price.ok_or("no amount")?.units,
        };
        let schedules = past.tickets.iter().find(|(_, ticket)| ticket.schedule_revision == state.schedule_revision);
        let (_, schedule) = schedules.ok_or_else(|| format!("it refers to an unknown schedule: {state:?}"))?;
        let grade = at(&past.ledger, state.reservation_revision).and_then(|ledger| ledger.grade);
        let expected = won(schedule.start, grade);
        right(state.units == expected, || format!("{expected} won, not {state:?}"))?;
        if let Some(before) = at(&past.prices, price.revision - 1) {
            let goes_back = state.schedule_revision < before.schedule_revision
                || state.reservation_revision < before.reservation_revision;
            right(!goes_back, || format!("it goes back from {before:?} to {state:?}"))?;
        }
        add(&mut past.prices, price.revision, state, moment).map(drop)
    }
}
