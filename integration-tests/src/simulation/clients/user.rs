//! A client that reserves and cancels tickets.

use eticket_base::telemetry::TraceContext;
use eticket_proto::{
    ids::{ReservationId, TicketId, UserGrade},
    reservation::{ReservationStatus, ReserveTicketResponse},
    token::Consistency,
};
use eticket_reservation::{
    application::{Error, Refusal, Request, Reservations},
    domain::{self, NewReservation},
};
use prost::Message as _;

use super::{Client, ticket_id};
use crate::{
    is_replay,
    simulation::{
        history::{Moment, Past, at, at_some_time},
        replicas::Fleet,
        scheduler::locked,
    },
};

pub(super) struct User(Client);

impl User {
    pub(super) fn new(fleet: &Fleet, number: u64) -> Self {
        Self(Client::new(fleet, format!("user-{number}")))
    }

    pub(super) async fn live(self) {
        let Client { fleet, .. } = &self.0;
        while !fleet.scheduler.is_calm() {
            fleet.scheduler.sleep(20..=1_400).await;
            let ticket = ticket_id(fleet.scheduler.number(0..=fleet.plan.tickets - 1));
            let grade = if fleet.scheduler.chance(400) { UserGrade::Vip } else { UserGrade::Silver };
            let Some(id) = self.reserve(&ticket, grade).await else { continue };
            if fleet.scheduler.chance(800) {
                if fleet.scheduler.chance(700) {
                    fleet.scheduler.sleep(0..=1_500).await;
                }
                self.cancel(&ticket, id).await;
            }
        }
    }

    /// Returns the reservation, unless it was rejected.
    async fn reserve(&self, ticket: &TicketId, grade: UserGrade) -> Option<ReservationId> {
        let client = &self.0;
        let (idempotency, mut first) = (client.idempotency(), None);
        let request = locked(&client.fleet.history).requests.len();
        locked(&client.fleet.history).requests.push((ticket.clone(), Vec::new()));
        loop {
            let (began, trace) = (client.moment(), TraceContext::new_root());
            let id = ReservationId::from(client.fleet.scheduler.uuid());
            {
                let mut history = locked(&client.fleet.history);
                history.attempted(&trace.correlation_id, id);
                history.requests[request].1.push(id);
            }
            client.log(&format!("reserves {ticket} as {id}, request {}", idempotency.request_id));
            let wish = NewReservation { id, ticket: ticket.clone(), user: client.name.parse().expect("an id"), grade };
            let call = Request { idempotency: Some(idempotency), trace, deadline: None, credentials: None };
            let call = async |reservations: Reservations| reservations.reserve(wish, call).await;
            match client.attempt(&client.fleet.reservations, call).await {
                Some(Ok(Ok(answer))) => {
                    let (id, token) = self.reserved(request, ticket, &answer.bytes)?;
                    if first.replace(answer.clone()).is_some_and(|first| !is_replay(&first, &answer)) {
                        client.fail("a retry got another answer");
                    }
                    client.acknowledged(ticket, token).await;
                    if !client.asks_again() {
                        return Some(id);
                    }
                }
                Some(Ok(Err(refusal))) if first.is_some() => {
                    client.fail(&format!("a retry of what was done is refused: {refusal:?}"));
                    return None;
                }
                Some(Ok(Err(refusal))) => {
                    self.refused(request, ticket, began, refusal);
                    return None;
                }
                Some(Err(Error::Batch(error))) => client.not_run(&error),
                Some(Err(Error::Check(_))) => client.fleet.scheduler.count("the ticket service could not be asked"),
                Some(Err(Error::Store(_))) | None => {}
            }
            client.back_off().await;
        }
    }

    fn reserved(&self, request: usize, ticket: &TicketId, answer: &[u8]) -> Option<(ReservationId, Consistency)> {
        let client = &self.0;
        let answer = ReserveTicketResponse::decode(answer).expect("an answer");
        let id: ReservationId = answer.reservation.expect("a reservation").reservation_id.parse().expect("an id");
        let token = Consistency::decode(&answer.consistency_token).expect("a token");
        client.log(&format!("has {ticket} by {id}"));
        client.fleet.scheduler.count("a ticket was reserved");
        let history = locked(&client.fleet.history);
        let Consistency::Reservation { revision, .. } = token else { return None };
        let held = history.lookup(ticket).and_then(|past| at(&past.ledger, revision)).map(|state| state.active.clone());
        let is_own = history.requests[request].1.contains(&id);
        drop(history);
        if held != Some(id.to_string()) || !is_own {
            client.fail(&format!("{id} was acknowledged at revision {revision}, but committed was {held:?}"));
            return None;
        }
        Some((id, token))
    }

    fn refused(&self, request: usize, ticket: &TicketId, began: Moment, refusal: Refusal) {
        let client = &self.0;
        client.log(&format!("is refused {ticket}: {refusal:?}"));
        let history = locked(&client.fleet.history);
        let none = Past::default();
        let past = history.lookup(ticket).unwrap_or(&none);
        let (until, now) = (history.moment, client.fleet.scheduler.now());
        let made_before = history.requests[request]
            .1
            .iter()
            .find(|id| past.reservations.get(*id).is_some_and(|(_, _, made)| *made <= began));
        let made_before = made_before.copied();
        let right = match refusal {
            Refusal::Domain(domain::Refusal::TicketAlreadyReserved) => {
                client.fleet.scheduler.count("refused: the ticket is held");
                at_some_time(&past.ledger, began, until, |state| !state.active.is_empty())
            }
            Refusal::Domain(domain::Refusal::TicketExpired) => {
                client.fleet.scheduler.count("refused: it has expired");
                at_some_time(&past.tickets, began, until, |state| state.end <= now)
            }
            Refusal::Domain(domain::Refusal::TicketWithdrawn) => {
                client.fleet.scheduler.count("refused: it is withdrawn");
                at_some_time(&past.tickets, began, until, |state| state.withdrawn)
            }
            Refusal::Domain(domain::Refusal::TicketNotFound) => {
                client.fleet.scheduler.count("refused: there is no ticket");
                past.tickets.first().is_none_or(|(registered, _)| *registered > began)
            }
            Refusal::Domain(_) | Refusal::RequestIdReused => false,
        };
        drop(history);
        if !right {
            client.fail(&format!("{ticket} is refused without reason: {refusal:?}"));
        }
        if let Some(id) = made_before {
            client.fail(&format!("refused with {refusal:?}, though the same request has made {id}"));
        }
    }

    /// Cancels a reservation. No other client cancels it, so only a withdrawal can end it before.
    async fn cancel(&self, ticket: &TicketId, id: ReservationId) {
        let client = &self.0;
        let (idempotency, mut first) = (client.idempotency(), None);
        loop {
            let began = client.moment();
            client.log(&format!("cancels {id}"));
            let call = Request {
                idempotency: Some(idempotency),
                trace: TraceContext::new_root(),
                deadline: None,
                credentials: None,
            };
            let call = async |reservations: Reservations| reservations.cancel(id, call).await;
            match client.attempt(&client.fleet.reservations, call).await {
                Some(Ok(Ok(answer))) => {
                    client.fleet.scheduler.count("a reservation was cancelled");
                    let response = ReserveTicketResponse::decode(answer.bytes.clone()).expect("an answer");
                    let token = Consistency::decode(&response.consistency_token).expect("a token");
                    if first.replace(answer.clone()).is_some_and(|first| !is_replay(&first, &answer)) {
                        client.fail("a retry got another answer");
                    }
                    self.check_cancelled(ticket, id);
                    client.acknowledged(ticket, token).await;
                    if !client.asks_again() {
                        return;
                    }
                }
                Some(Ok(Err(refusal))) => return self.not_cancelled(ticket, id, began, first.is_some(), refusal),
                Some(Err(error)) => client.not_run(&error),
                None => {}
            }
            client.back_off().await;
        }
    }

    fn check_cancelled(&self, ticket: &TicketId, id: ReservationId) {
        let status = {
            let history = locked(&self.0.fleet.history);
            history.lookup(ticket).and_then(|past| past.reservations.get(&id)).map(|(status, _, _)| *status)
        };
        if status != Some(ReservationStatus::Cancelled) {
            self.0.fail(&format!("{id} was acknowledged as cancelled, but is {status:?}"));
        }
    }

    fn not_cancelled(&self, ticket: &TicketId, id: ReservationId, began: Moment, was_done: bool, refusal: Refusal) {
        let client = &self.0;
        client.log(&format!("is refused to cancel {id}: {refusal:?}"));
        let rejected = {
            let history = locked(&client.fleet.history);
            let past = history.lookup(ticket);
            let status =
                past.and_then(|past| past.reservations.get(&id).map(|(status, revision, _)| (status, revision)));
            match status {
                Some((ReservationStatus::Rejected, _)) => true,
                // An earlier attempt that was still running when this one began has cancelled it.
                Some((ReservationStatus::Cancelled, revision)) => past
                    .and_then(|past| past.ledger.get(*revision as usize - 1))
                    .is_some_and(|(cancelled, _)| *cancelled > began),
                _ => false,
            }
        };
        let not_active = Refusal::Domain(domain::Refusal::ReservationNotActive);
        if refusal != not_active || !rejected || was_done {
            client.fail(&format!("{id} cannot be cancelled: {refusal:?}"));
        }
    }
}
