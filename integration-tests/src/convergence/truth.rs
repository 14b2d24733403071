//! The model of one ticket, and the checks of the services against it.
//!
//! Every acknowledged command is a cause. The causes that a state reflects are derived from the messages that its owner
//! received, instead of from the revisions in the state: so `settled` and the tokens are checked by another rule than
//! the one under test.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Datelike, TimeDelta, Utc, Weekday};
use eticket_bus::Message;
use eticket_proto::{
    event::{PriceEvent, ReservationEvent, TicketEvent},
    headers,
    ids::{ReservationId, TicketId, UserGrade},
    time::from_proto,
    token::Consistency,
};
use prost::Message as _;

use super::world::Service;

/// A command, or a closing that follows from one, numbered in the order in which the test observed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    Edit(u32),
    Schedule(u32),
    Withdrawal(u32),
    /// A reservation, cancellation or closing.
    Ledger(u32),
}

type Causes = BTreeSet<Cause>;

/// The start and the end of a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    pub start: DateTime<Utc>,
    pub end: DateTime<Utc>,
}

/// The holder of a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    pub id: ReservationId,
    pub grade: UserGrade,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Reserved,
    Cancelled,
    Rejected,
}

struct LedgerState {
    cause: Cause,
    active: Option<Hold>,
    closed: bool,
}

/// Which saga has ended when a token's wait returns.
enum Saga {
    Ledger(Cause),
    Edit { edit: Cause, schedule: Cause },
    Withdrawal(Cause),
}

/// The newest message about a part of the view's row that the view has read.
#[derive(Clone)]
struct Seen {
    revision: i64,
    causes: Causes,
}

/// The model of one ticket; see the module documentation.
pub struct Truth {
    pub id: TicketId,
    /// The etag that an admin last received.
    pub etag: String,
    /// The state of each reservation, and the revision that caused it.
    pub reservations: BTreeMap<ReservationId, (Fate, i64)>,
    causes_recorded: u32,
    /// By schedule revision, starting at 1.
    schedules: Vec<(Cause, Times)>,
    /// By ledger revision, starting at 1.
    ledger: Vec<LedgerState>,
    /// The withdrawal and its ticket revision.
    withdrawal: Option<(Cause, i64)>,
    sagas: Vec<(Consistency, Saga)>,
    /// The causes that each owner's row reflects: ticket, reservation, pricing.
    rows: [Causes; 3],
    /// By event id.
    published: HashMap<String, Causes>,
    view: [Option<Seen>; 3],
}

impl Truth {
    pub fn new(id: TicketId) -> Self {
        Self {
            id,
            etag: String::new(),
            reservations: BTreeMap::new(),
            causes_recorded: 0,
            schedules: Vec::new(),
            ledger: Vec::new(),
            withdrawal: None,
            sagas: Vec::new(),
            rows: Default::default(),
            published: HashMap::new(),
            view: Default::default(),
        }
    }

    fn number(&mut self) -> u32 {
        self.causes_recorded += 1;
        self.causes_recorded
    }

    /// Returns the current schedule; `None` before the registration.
    pub fn times(&self) -> Option<Times> {
        self.schedules.last().map(|(_, times)| *times)
    }

    pub fn is_withdrawn(&self) -> bool {
        self.withdrawal.is_some()
    }

    pub fn is_closed(&self) -> bool {
        self.ledger.last().is_some_and(|state| state.closed)
    }

    pub fn holder(&self) -> Option<Hold> {
        self.ledger.last().and_then(|state| state.active)
    }

    pub fn ledger_revision(&self) -> i64 {
        i64::try_from(self.ledger.len()).unwrap_or(i64::MAX)
    }

    /// Records an acknowledged registration or update with its token.
    pub fn edited(&mut self, times: Times, token: Consistency) -> Result<()> {
        let (edit, schedule) = (Cause::Edit(self.number()), Cause::Schedule(self.number()));
        if self.times() != Some(times) {
            self.schedules.push((schedule, times));
            self.rows[0].insert(schedule);
        }
        self.rows[0].insert(edit);
        let schedule_revision = self.schedules.len() as i64;
        ensure!(
            matches!(&token, Consistency::Ticket { ticket, schedule_revision: stated, withdrawn: false, .. }
                if *ticket == self.id && *stated == schedule_revision),
            "schedule revision {schedule_revision} was acknowledged with {token:?}"
        );
        let (schedule, _) = *self.schedules.last().context("there is a schedule by now")?;
        self.sagas.push((token, Saga::Edit { edit, schedule }));
        Ok(())
    }

    pub fn withdrawn(&mut self, token: Consistency) -> Result<()> {
        let Consistency::Ticket { revision, withdrawn: true, .. } = token else {
            anyhow::bail!("a withdrawal was acknowledged with {token:?}")
        };
        let cause = Cause::Withdrawal(self.number());
        self.withdrawal = Some((cause, revision));
        self.rows[0].insert(cause);
        self.sagas.push((token, Saga::Withdrawal(cause)));
        Ok(())
    }

    pub fn reserved(&mut self, hold: Hold, token: Consistency) -> Result<()> {
        ensure!(self.holder().is_none(), "two hold the ticket: {:?} and {hold:?}", self.holder());
        ensure!(!self.is_closed(), "reserved though the ledger is closed");
        let known = self.reservations.insert(hold.id, (Fate::Reserved, self.ledger_revision() + 1));
        ensure!(known.is_none(), "{hold:?} was made twice");
        self.ledger_moved(Some(hold), token)
    }

    pub fn cancelled(&mut self, id: ReservationId, token: Consistency) -> Result<()> {
        ensure!(self.holder().is_some_and(|hold| hold.id == id), "{id} was cancelled, held is {:?}", self.holder());
        self.reservations.insert(id, (Fate::Cancelled, self.ledger_revision() + 1));
        self.ledger_moved(None, token)
    }

    fn ledger_moved(&mut self, active: Option<Hold>, token: Consistency) -> Result<()> {
        let cause = Cause::Ledger(self.number());
        self.ledger.push(LedgerState { cause, active, closed: false });
        self.rows[1].insert(cause);
        let expected = Consistency::Reservation { ticket: self.id.clone(), revision: self.ledger_revision() };
        ensure!(token == expected, "{expected:?} was acknowledged with {token:?}");
        self.sagas.push((token, Saga::Ledger(cause)));
        Ok(())
    }

    /// Records that a service has applied a message.
    pub fn delivered(&mut self, to: Service, message: &Message) -> Result<()> {
        let causes = self.causes_of(message)?;
        match (to, owner(message)) {
            (Service::Ticket, _) => self.rows[0].extend(causes),
            (Service::Pricing, Service::Reservation) => {
                self.rows[2].extend(causes.iter().filter(|cause| matches!(cause, Cause::Ledger(_))));
            }
            (Service::Pricing, _) => {
                self.rows[2].extend(causes.iter().filter(|cause| matches!(cause, Cause::Schedule(_))));
            }
            (Service::Reservation, _) => {
                let withdrawal = causes.into_iter().find(|cause| matches!(cause, Cause::Withdrawal(_)));
                if let Some(withdrawal) = withdrawal.filter(|_| !self.is_closed()) {
                    self.close(withdrawal);
                }
            }
        }
        Ok(())
    }

    fn close(&mut self, withdrawal: Cause) {
        let held = self.holder();
        let cause = Cause::Ledger(self.number());
        self.rows[1].extend([withdrawal, cause]);
        self.ledger.push(LedgerState { cause, active: None, closed: true });
        if let Some(hold) = held {
            self.reservations.insert(hold.id, (Fate::Rejected, self.ledger_revision()));
        }
    }

    /// Records an event in its owner's outbox: a new event reflects the causes of its owner's row.
    pub fn noted(&mut self, message: &Message) -> Result<()> {
        let id = event_id(message)?;
        if self.published.contains_key(id) {
            return Ok(());
        }
        let causes = match owner(message) {
            Service::Ticket => self.rows[0].clone(),
            Service::Reservation => self.rows[1].clone(),
            // For a batch with a schedule and a holder, the price is computed twice, in any order.
            Service::Pricing => {
                let event = price_event(message)?;
                let schedules = self.schedules.iter().take(event.schedule_revision as usize).map(|(cause, _)| *cause);
                let ledgers = self.ledger.iter().take(event.reservation_revision as usize).map(|state| state.cause);
                let claimed: Causes = schedules.chain(ledgers).collect();
                claimed.intersection(&self.rows[2]).copied().collect()
            }
        };
        self.published.insert(id.to_owned(), causes);
        Ok(())
    }

    /// Checks that the body of an event is the state at its revision.
    pub fn verify(&self, message: &Message) -> Result<()> {
        let causes = self.causes_of(message)?;
        match owner(message) {
            Service::Ticket => {
                let event = TicketEvent::decode(message.body.clone())?;
                let ticket = event.ticket.context("a ticket")?;
                let times = Times {
                    start: ticket.start_time.as_ref().and_then(from_proto).context("a start")?,
                    end: ticket.end_time.as_ref().and_then(from_proto).context("an end")?,
                };
                ensure!(self.schedule(ticket.schedule_revision)? == times, "another schedule: {ticket:?}");
                let withdrawn = self.withdrawal.is_some_and(|(_, revision)| ticket.revision >= revision);
                ensure!(event.withdrawn == withdrawn, "withdrawn is {withdrawn}: {ticket:?}");
                let hold = self.hold(ticket.reservation_revision, &causes)?;
                ensure!(ticket.reservation_id == text(hold), "held by {hold:?}: {ticket:?}");
            }
            Service::Reservation => {
                let event = ReservationEvent::decode(message.body.clone())?;
                let hold = self.hold(event.ledger_revision, &causes)?;
                ensure!(event.active_reservation_id == text(hold), "held by {hold:?}: {event:?}");
                let closed = self.ledger[event.ledger_revision as usize - 1].closed;
                ensure!(event.closed == closed, "closed is {closed}: {event:?}");
            }
            Service::Pricing => {
                let price = price_event(message)?;
                let hold = self.hold(price.reservation_revision, &causes)?;
                let start = self.schedule(price.schedule_revision)?.start;
                let expected = won(start, hold.map(|hold| hold.grade));
                let units = price.discounted_price.as_ref().map(|money| money.units);
                ensure!(units == Some(expected), "{expected} won for {start} and {hold:?}: {price:?}");
            }
        }
        Ok(())
    }

    fn schedule(&self, revision: i64) -> Result<Times> {
        let index = usize::try_from(revision - 1)?;
        self.schedules.get(index).map(|(_, times)| *times).with_context(|| format!("no schedule revision {revision}"))
    }

    /// Returns the holder at a ledger revision, which must be among the causes that the sender knows.
    fn hold(&self, revision: i64, known: &Causes) -> Result<Option<Hold>> {
        let Some(index) = usize::try_from(revision)?.checked_sub(1) else { return Ok(None) };
        let state = self.ledger.get(index).with_context(|| format!("there is no ledger revision {revision}"))?;
        ensure!(known.contains(&state.cause), "ledger revision {revision} is used before its message was delivered");
        Ok(state.active)
    }

    fn causes_of(&self, message: &Message) -> Result<Causes> {
        let id = event_id(message)?;
        self.published.get(id).cloned().with_context(|| format!("{id} was published without an effect"))
    }

    /// Records that the view has read a message.
    pub fn seen_by_view(&mut self, message: &Message) -> Result<()> {
        let revision = event_id(message)?.rsplit('/').next().context("a revision")?.parse()?;
        let causes = self.causes_of(message)?;
        let part = &mut self.view[owner(message) as usize];
        if part.as_ref().is_none_or(|seen| seen.revision < revision) {
            *part = Some(Seen { revision, causes });
        }
        Ok(())
    }

    /// Returns the revisions that the view must show: ticket, ledger, price; 0 for none.
    pub fn seen_revisions(&self) -> [i64; 3] {
        [0, 1, 2].map(|part| self.view[part].as_ref().map_or(0, |seen: &Seen| seen.revision))
    }

    fn parts(&self) -> [Causes; 3] {
        [0, 1, 2].map(|part| self.view[part].as_ref().map(|seen: &Seen| seen.causes.clone()).unwrap_or_default())
    }

    /// Returns whether the messages that the view has read include every reaction to each other.
    pub fn has_all_reactions(&self) -> bool {
        let [ticket, ledger, price] = self.parts();
        let reflected: Causes = ticket.iter().chain(&ledger).chain(&price).copied().collect();
        let all_in = |part: &Causes, concerns: fn(&Cause) -> bool| {
            reflected.iter().filter(|cause| concerns(cause)).all(|cause| part.contains(cause))
        };
        self.view[0].is_some()
            && self.view[2].is_some()
            && all_in(&ticket, |_| true)
            && all_in(&ledger, |cause| matches!(cause, Cause::Ledger(_) | Cause::Withdrawal(_)))
            && all_in(&price, |cause| matches!(cause, Cause::Ledger(_) | Cause::Schedule(_)))
    }

    /// Returns the token of each acknowledged command, and whether waits with it for APPLIED and for SETTLED must
    /// return.
    pub fn tokens(&self) -> Vec<(&Consistency, bool, bool)> {
        let parts = self.parts();
        let [ticket, ledger, price] = &parts;
        let in_all = |cause: &Cause| parts.iter().all(|part| part.contains(cause));
        let judge = |saga: &Saga| match saga {
            Saga::Ledger(cause) => (ledger.contains(cause), in_all(cause)),
            Saga::Edit { edit, schedule } => (ticket.contains(edit), price.contains(schedule)),
            Saga::Withdrawal(cause) => {
                let mut ledgers = ledger.iter().filter(|cause| matches!(cause, Cause::Ledger(_)));
                (ticket.contains(cause), ledger.contains(cause) && ledgers.all(in_all))
            }
        };
        let exists = self.view[0].is_some();
        let tokens = self.sagas.iter().map(|(token, saga)| {
            let (applied, settled) = judge(saga);
            (token, exists && applied, exists && applied && settled)
        });
        tokens.collect()
    }
}

fn text(hold: Option<Hold>) -> String {
    hold.map(|hold| hold.id.to_string()).unwrap_or_default()
}

fn price_event(message: &Message) -> Result<eticket_proto::pricing::Price> {
    PriceEvent::decode(message.body.clone())?.price.context("a price")
}

/// Returns the service whose state an event carries.
pub fn owner(message: &Message) -> Service {
    match message.subject.split('.').nth(2) {
        Some("ticket") => Service::Ticket,
        Some("reservation") => Service::Reservation,
        _ => Service::Pricing,
    }
}

fn event_id(message: &Message) -> Result<&str> {
    message.header(headers::ID).context("an event has an id")
}

/// Returns the price of a ticket by the rules in words: 10,000 won, minus a fifth if it starts on a Wednesday or
/// Thursday in Seoul (UTC+9 all year), minus 1,000 for a VIP.
pub fn won(start: DateTime<Utc>, held_by: Option<UserGrade>) -> i64 {
    let midweek = matches!((start + TimeDelta::hours(9)).weekday(), Weekday::Wed | Weekday::Thu);
    let price = if midweek { 8_000 } else { 10_000 };
    if held_by == Some(UserGrade::Vip) { price - 1_000 } else { price }
}
