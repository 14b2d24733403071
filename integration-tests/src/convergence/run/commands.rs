//! Commands of clients, with retries and with calls that are paused between check and commit. Each response is checked
//! against the model at that moment: the holder of the ticket, its end, its last edit.

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use eticket_base::{clock::Clock, telemetry::TraceContext};
use eticket_proto::{
    ids::{ReservationId, UserGrade},
    reservation::ReserveTicketResponse,
    ticket::RegisterTicketResponse,
    token::Consistency,
};
use eticket_reservation::{
    application::{self as reservation, Request as Call},
    domain::{NewReservation, Refusal},
};
use eticket_store::{EncodedResponse, Idempotency};
use eticket_ticket::{
    application::{self as ticket, Command},
    domain::{self as ticket_domain, Title},
};
use prost::Message as _;
use tokio::{sync::oneshot, task::JoinHandle};
use uuid::Uuid;

use super::Run;
use crate::{
    convergence::{
        schedule::{Change, Etag, Step},
        truth::{Fate, Hold, Times},
        world::Service,
    },
    is_replay,
};

/// A request, for any number of attempts.
pub(super) struct Request {
    id: Uuid,
    ticket: usize,
    what: What,
    /// The response that every retry must get.
    first_answer: Option<EncodedResponse>,
}

#[derive(Clone)]
enum What {
    Register(Times),
    Update { etag: String, change: ticket_domain::Change },
    Withdraw { etag: String },
    Reserve(UserGrade),
    Cancel(ReservationId),
}

/// A reserve that is paused after its check.
pub(super) struct HeldUp {
    request: usize,
    /// The end of the ticket that the check returned.
    end: Option<DateTime<Utc>>,
    go: oneshot::Sender<()>,
    call: JoinHandle<Result<reservation::Outcome, reservation::Error>>,
}

impl Run<'_> {
    pub(super) async fn command(&mut self, step: &Step) -> Result<()> {
        let now = self.world.clock.now();
        match *step {
            Step::Register { ticket, start_hours, end_minutes } => {
                let end = now + TimeDelta::minutes(end_minutes);
                let start = (now + TimeDelta::hours(start_hours)).min(end - TimeDelta::minutes(1));
                self.request(ticket, What::Register(Times { start, end }), false).await
            }
            Step::Update { ticket, change, etag } => {
                let change = match change {
                    Change::Title => ticket_domain::Change { title: Title::parse("another"), ..Default::default() },
                    Change::Start(hours) => {
                        ticket_domain::Change { start: Some(now + TimeDelta::hours(hours)), ..Default::default() }
                    }
                    Change::End(minutes) => {
                        ticket_domain::Change { end: Some(now + TimeDelta::minutes(minutes)), ..Default::default() }
                    }
                };
                let etag = self.etag(ticket, etag);
                self.request(ticket, What::Update { etag, change }, false).await
            }
            Step::Withdraw { ticket, etag } => {
                let etag = self.etag(ticket, etag);
                self.request(ticket, What::Withdraw { etag }, false).await
            }
            Step::Reserve { ticket, vip, held_up } => {
                let grade = if vip { UserGrade::Vip } else { UserGrade::Silver };
                self.request(ticket, What::Reserve(grade), held_up).await
            }
            Step::Cancel { which } => self.cancel(which).await,
            Step::Retry { which, held_up } if !self.requests.is_empty() => {
                self.attempt(which % self.requests.len(), held_up).await
            }
            Step::GoOn { which } if !self.held_up.is_empty() => {
                let held_up = self.held_up.swap_remove(which % self.held_up.len());
                self.go_on(held_up).await
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn let_all_go_on(&mut self) -> Result<()> {
        while let Some(held_up) = self.held_up.pop() {
            self.go_on(held_up).await?;
        }
        Ok(())
    }

    fn etag(&self, ticket: usize, etag: Etag) -> String {
        match etag {
            Etag::None => String::new(),
            Etag::Newest => self.truths[ticket % self.truths.len()].etag.clone(),
            Etag::First => "1".to_owned(),
        }
    }

    /// Usually the holder of the ticket cancels; sometimes a user whose reservation has ended tries to.
    async fn cancel(&mut self, which: usize) -> Result<()> {
        let held = |ticket: usize| self.truths[ticket].holder().map(|hold| (ticket, hold.id));
        let made = |ticket: usize| self.truths[ticket].reservations.keys().next().map(|id| (ticket, *id));
        let tickets = 0..self.truths.len();
        let holder = tickets.clone().cycle().skip(which).take(tickets.len()).find_map(held);
        match holder.or_else(|| tickets.clone().find_map(made)) {
            Some((ticket, id)) => self.request(ticket, What::Cancel(id), false).await,
            None => Ok(()),
        }
    }

    async fn request(&mut self, ticket: usize, what: What, held_up: bool) -> Result<()> {
        let ticket = ticket % self.truths.len();
        self.requests.push(Request { id: Uuid::new_v4(), ticket, what, first_answer: None });
        self.attempt(self.requests.len() - 1, held_up).await
    }

    async fn attempt(&mut self, request: usize, held_up: bool) -> Result<()> {
        let Request { id, ticket, what, .. } = &self.requests[request];
        let (id, ticket) = (self.truths[*ticket].id.clone(), Idempotency { request_id: *id, hash: [1; 32] });
        let idempotency = Some(ticket);
        let trace = TraceContext::new_root();
        let command = match what.clone() {
            What::Register(Times { start, end }) => {
                let schedule = ticket_domain::Schedule::new(start, end).context("a schedule")?;
                Command::Register { id, title: Title::parse("a concert").context("a title")?, schedule }
            }
            What::Update { etag, change } => Command::Update { id, etag, change },
            What::Withdraw { etag } => Command::Withdraw { id, etag },
            What::Reserve(grade) => {
                let user = "user-1".parse().context("an id")?;
                let wish = NewReservation { id: ReservationId::generate(), ticket: id, user, grade };
                let call = Call { idempotency, trace, deadline: None, credentials: None };
                return self.reserve(request, wish, call, held_up).await;
            }
            What::Cancel(reservation) => {
                let call = Call { idempotency, trace, deadline: None, credentials: None };
                let outcome = self.world.reservations.cancel(reservation, call).await?;
                self.cancel_answered(request, reservation, outcome)?;
                return self.note_outbox(Service::Reservation).await;
            }
        };
        let outcome = self.world.tickets.command(command, idempotency, trace, None).await?;
        self.ticket_answered(request, outcome)?;
        self.note_outbox(Service::Ticket).await
    }

    async fn reserve(&mut self, request: usize, wish: NewReservation, call: Call, held_up: bool) -> Result<()> {
        let end = self.truths[self.requests[request].ticket].times().map(|times| times.end);
        let reservations = self.world.reservations.clone();
        if !held_up {
            let outcome = reservations.reserve(wish, call).await?;
            return self.reserve_answered(request, end, outcome).await;
        }
        let (mut arrived, go) = self.world.check.hold_up(&call.trace);
        let mut call = tokio::spawn(async move { reservations.reserve(wish, call).await });
        tokio::select! {
            biased;
            Ok(()) = &mut arrived => {
                self.held_up.push(HeldUp { request, end, go, call });
                Ok(())
            }
            // The call ended without a check.
            outcome = &mut call => self.reserve_answered(request, end, outcome??).await,
        }
    }

    async fn go_on(&mut self, held_up: HeldUp) -> Result<()> {
        let HeldUp { request, end, go, call } = held_up;
        ensure!(go.send(()).is_ok(), "a call that is held up has gone away");
        self.coverage.count("a reserve was held up after its check");
        self.reserve_answered(request, end, call.await??).await
    }

    /// Returns true for a retry of a request that was already answered.
    fn is_answered_again(&mut self, request: usize, outcome: Result<&EncodedResponse, String>) -> Result<bool> {
        let request = &mut self.requests[request];
        match (&request.first_answer, outcome) {
            (Some(first), Ok(answer)) => {
                ensure!(is_replay(first, answer), "a retry got another answer");
                self.coverage.count("a retry got the first answer");
                Ok(true)
            }
            (Some(_), Err(refusal)) => bail!("a retry of what was done was refused: {refusal}"),
            (None, Ok(answer)) => {
                request.first_answer = Some(answer.clone());
                Ok(false)
            }
            (None, Err(_)) => Ok(false),
        }
    }

    fn ticket_answered(&mut self, request: usize, outcome: ticket::Outcome) -> Result<()> {
        if self.is_answered_again(request, outcome.as_ref().map_err(|refusal| format!("{refusal:?}")))? {
            return Ok(());
        }
        let Request { ticket, what, .. } = &self.requests[request];
        let truth = &mut self.truths[*ticket];
        let fresh = |etag: &str| etag.is_empty() || etag == truth.etag;
        let answer = match outcome {
            Ok(answer) => RegisterTicketResponse::decode(answer.bytes.clone())?,
            Err(ticket::Refusal::RequestIdReused) => bail!("a request_id was taken for another's"),
            Err(ticket::Refusal::Domain(refusal)) => {
                let right = match (&refusal, what) {
                    (ticket_domain::Refusal::NotFound, _) => truth.times().is_none(),
                    (ticket_domain::Refusal::AlreadyExists, _) => truth.times().is_some(),
                    (ticket_domain::Refusal::Withdrawn, _) => truth.is_withdrawn(),
                    (
                        ticket_domain::Refusal::EtagMismatch { .. },
                        What::Update { etag, .. } | What::Withdraw { etag },
                    ) => {
                        self.coverage.count("an etag was out of date");
                        !fresh(etag)
                    }
                    (
                        ticket_domain::Refusal::EndNotAfterStart
                        | ticket_domain::Refusal::StartNotBeforeEnd { .. }
                        | ticket_domain::Refusal::EndNotAfterItsStart { .. },
                        What::Update { .. },
                    ) => true,
                    _ => false,
                };
                ensure!(right, "refused with {refusal:?}");
                return Ok(());
            }
        };
        let token = Consistency::decode(&answer.consistency_token).context("a token")?;
        match what {
            What::Register(times) => truth.edited(*times, token)?,
            What::Update { etag, change } => {
                ensure!(fresh(etag), "an edit went through under etag {etag}, it is {}", truth.etag);
                let known = truth.times().context("updated before it was registered")?;
                let times = Times { start: change.start.unwrap_or(known.start), end: change.end.unwrap_or(known.end) };
                truth.edited(times, token)?;
            }
            What::Withdraw { etag } => {
                ensure!(fresh(etag), "a withdrawal went through under etag {etag}, it is {}", truth.etag);
                truth.withdrawn(token)?;
            }
            What::Reserve(_) | What::Cancel(_) => bail!("the ticket service does not answer this"),
        }
        truth.etag = answer.ticket.context("a ticket")?.etag;
        Ok(())
    }

    async fn reserve_answered(
        &mut self,
        request: usize,
        end: Option<DateTime<Utc>>,
        outcome: reservation::Outcome,
    ) -> Result<()> {
        self.judge_reserve(request, end, outcome)?;
        self.note_outbox(Service::Reservation).await
    }

    fn judge_reserve(
        &mut self,
        request: usize,
        end: Option<DateTime<Utc>>,
        outcome: reservation::Outcome,
    ) -> Result<()> {
        if self.is_answered_again(request, outcome.as_ref().map_err(|refusal| format!("{refusal:?}")))? {
            return Ok(());
        }
        let now = self.world.clock.now();
        let Request { ticket, what, .. } = &self.requests[request];
        let truth = &mut self.truths[*ticket];
        match outcome {
            Ok(answer) => {
                let answer = ReserveTicketResponse::decode(answer.bytes.clone())?;
                let What::Reserve(grade) = *what else { bail!("this was no reserve") };
                let id = answer.reservation.context("a reservation")?.reservation_id.parse()?;
                ensure!(end.is_some_and(|end| now < end), "reserved at {now}, past the end {end:?}");
                let token = Consistency::decode(&answer.consistency_token).context("a token")?;
                truth.reserved(Hold { id, grade }, token)
            }
            Err(reservation::Refusal::RequestIdReused) => bail!("a request_id was taken for another's"),
            Err(reservation::Refusal::Domain(refusal)) => {
                let (right, what) = match refusal {
                    Refusal::TicketAlreadyReserved => (truth.holder().is_some(), "refused: the ticket is held"),
                    Refusal::TicketExpired => (end.is_some_and(|end| now >= end), "refused: it has expired"),
                    Refusal::TicketWithdrawn => (truth.is_withdrawn() || truth.is_closed(), "refused: it is withdrawn"),
                    Refusal::TicketNotFound => (end.is_none(), "refused: there is no ticket"),
                    Refusal::ReservationNotFound | Refusal::ReservationNotActive => (false, "refused: no reservation"),
                };
                ensure!(right, "{refusal:?} at {now}, end {end:?}, held by {:?}", truth.holder());
                self.coverage.count(what);
                Ok(())
            }
        }
    }

    fn cancel_answered(
        &mut self,
        request: usize,
        reservation: ReservationId,
        outcome: reservation::Outcome,
    ) -> Result<()> {
        if self.is_answered_again(request, outcome.as_ref().map_err(|refusal| format!("{refusal:?}")))? {
            return Ok(());
        }
        let truth = &mut self.truths[self.requests[request].ticket];
        match outcome {
            Ok(answer) => {
                let answer = ReserveTicketResponse::decode(answer.bytes.clone())?;
                self.coverage.count("a reservation was cancelled");
                truth.cancelled(reservation, Consistency::decode(&answer.consistency_token).context("a token")?)
            }
            Err(reservation::Refusal::Domain(Refusal::ReservationNotActive)) => {
                let fate = truth.reservations.get(&reservation);
                ensure!(fate.is_some_and(|(fate, _)| *fate != Fate::Reserved), "refused though it is {fate:?}");
                Ok(())
            }
            Err(refusal) => bail!("a cancellation was refused with {refusal:?}"),
        }
    }
}
