//! A client that sends commands until it is disconnected.

use std::time::Duration;

use eticket_proto::{
    reservation::{ReservationStatus, ReserveTicketResponse, UserGrade},
    ticket::{TicketStatus, UpdateTicketResponse},
};
use prost::Message;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{
    Arena,
    command::{Command, Order, Outcome, is_server_fault},
};
use crate::Api;

/// Number of consecutive temporary rejections that a client accepts.
const PATIENCE: usize = 200;
/// Pause after a call that did not reach a server.
const PAUSE: Duration = Duration::from_millis(50);

pub struct Client {
    random: StdRng,
    /// Commands with a known result.
    done: Vec<Command>,
    /// The command without a known result, if there is one.
    open: Option<Command>,
    /// Tickets that this client holds, with their reservations.
    held: Vec<(String, String)>,
    /// How many commands of `done` were checked to have survived a kill.
    checked: usize,
}

impl Client {
    pub fn new(seed: u64) -> Self {
        let (done, held) = (Vec::new(), Vec::new());
        Self { random: StdRng::seed_from_u64(seed), done, open: None, held, checked: 0 }
    }

    /// Sends commands until the server is gone.
    pub async fn work(&mut self, api: &Api, arena: &Arena) {
        if self.check_kept(api).await.is_err() {
            return;
        }
        while self.step(api, arena).await.is_ok() {}
    }

    /// Sends commands until `stopping` is cancelled, across failures of the servers.
    pub async fn work_until(&mut self, api: &Api, arena: &Arena, stopping: &CancellationToken) {
        while !stopping.is_cancelled() {
            if self.step(api, arena).await.is_err() {
                // A refused connection fails immediately; yield to other clients.
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Sends the open command and all earlier commands again.
    ///
    /// # Panics
    /// If a command gets no result, or another result than before.
    pub async fn ask_everything_again(&mut self, api: &Api, arena: &Arena) {
        self.check_kept(api).await.expect("the server is running");
        if self.open.is_some() {
            self.step(api, arena).await.expect("the server is running");
        }
        for command in self.done.iter_mut().filter(|command| matches!(command.outcome, Outcome::Answered(_))) {
            patiently(command, api, false).await.expect("the server is running");
        }
    }

    /// Returns whether a command has no known result.
    pub fn is_cut_off(&self) -> bool {
        self.open.is_some()
    }

    pub fn commands(&self) -> &[Command] {
        assert!(self.open.is_none(), "a command is open: {:?}", self.open);
        &self.done
    }

    async fn step(&mut self, api: &Api, arena: &Arena) -> Result<(), Status> {
        if self.open.is_none() && self.random.random_ratio(1, 8) && !self.done.is_empty() {
            let index = self.random.random_range(0..self.done.len());
            let command = &mut self.done[index];
            if matches!(command.outcome, Outcome::Answered(_)) {
                return patiently(command, api, false).await;
            }
        }
        let twice = self.random.random_ratio(1, 6);
        let mut command = self.open.take().unwrap_or_else(|| Command::new(self.choose(arena)));
        let asked = patiently(&mut command, api, twice).await;
        if command.ended.is_none() {
            self.open = Some(command);
            return asked;
        }
        self.learn(&command, arena);
        self.done.push(command);
        arena.answered.send_modify(|count| *count += 1);
        asked
    }

    fn choose(&mut self, arena: &Arena) -> Order {
        let Some(ticket) = arena.ticket(&mut self.random) else {
            return Order::Register { ticket: arena.name("ticket"), slot: arena.slot };
        };
        match self.random.random_range(0..100) {
            0..4 => Order::Withdraw { ticket },
            4..16 => Order::Update { ticket, slot: arena.slot, minutes: self.random.random_range(1..1_000_000) },
            16..50 if !self.held.is_empty() => {
                let (ticket, reservation) = self.held.swap_remove(self.random.random_range(0..self.held.len()));
                Order::Cancel { ticket, reservation }
            }
            _ => {
                let grades = [UserGrade::Silver, UserGrade::Gold, UserGrade::Vip];
                let grade = grades[self.random.random_range(0..grades.len())];
                Order::Reserve { ticket, user: arena.name("user"), grade }
            }
        }
    }

    fn learn(&mut self, command: &Command, arena: &Arena) {
        match (&command.order, &command.outcome) {
            (Order::Register { ticket, .. }, Outcome::Answered(_)) => {
                arena.tickets().insert(ticket.clone());
            }
            (Order::Reserve { ticket, .. }, Outcome::Answered(answer)) => {
                let answer = ReserveTicketResponse::decode(answer.0.as_slice()).expect("an answer");
                let reservation = answer.reservation.expect("an answer has its resource");
                self.held.push((ticket.clone(), reservation.reservation_id));
            }
            (Order::Withdraw { ticket }, _) => {
                arena.tickets().remove(ticket);
            }
            _ => {}
        }
    }

    /// Checks that results from before the kill are still there, before any command is retried.
    async fn check_kept(&mut self, api: &Api) -> Result<(), Status> {
        for command in &self.done[self.checked..] {
            if let Outcome::Answered(answer) = &command.outcome {
                check(&command.order, &answer.0, api).await.map_err(only_gone)?;
            }
        }
        self.checked = self.done.len();
        Ok(())
    }
}

/// Checks that the server still has an answered command.
async fn check(order: &Order, answer: &[u8], api: &Api) -> Result<(), Status> {
    match order {
        Order::Register { ticket, .. } => api.ticket(ticket).await.map(drop),
        Order::Update { ticket, .. } => {
            let answered = UpdateTicketResponse::decode(answer).expect("an answer").ticket.expect("its resource");
            let kept = api.ticket(ticket).await?;
            assert!(kept.schedule_revision >= answered.schedule_revision, "{kept:?} is older than {answered:?}");
            Ok(())
        }
        Order::Withdraw { ticket } => {
            assert_eq!(api.ticket(ticket).await?.status(), TicketStatus::Withdrawn, "{ticket}");
            Ok(())
        }
        Order::Reserve { .. } => {
            let answered = ReserveTicketResponse::decode(answer).expect("an answer").reservation.expect("its resource");
            let kept = api.reservation(&answered.reservation_id).await?;
            assert!(kept.revision >= answered.revision, "{kept:?} is older than {answered:?}");
            Ok(())
        }
        Order::Cancel { reservation, .. } => {
            assert_eq!(api.reservation(reservation).await?.status(), ReservationStatus::Cancelled, "{reservation}");
            Ok(())
        }
    }
}

/// Passes on errors of a lost connection; a running server must allow every read.
fn only_gone(status: Status) -> Status {
    assert!(!is_server_fault(&status), "what was answered cannot be read: {status:?}");
    status
}

/// Retries a command for as long as the server asks for a retry.
async fn patiently(command: &mut Command, api: &Api, twice: bool) -> Result<(), Status> {
    for _ in 0..PATIENCE {
        let asked = if twice { command.ask_twice(api).await } else { command.ask(api).await };
        match asked {
            Err(status) if is_server_fault(&status) && status.code() == Code::DeadlineExceeded => return Err(status),
            Err(status) if is_server_fault(&status) => {
                let retry = status.get_details_retry_info().and_then(|retry| retry.retry_delay);
                let delay = retry.unwrap_or_else(|| panic!("the command failed permanently: {status:?}"));
                tokio::time::sleep(delay.min(Duration::from_millis(500))).await;
            }
            outcome => return outcome,
        }
    }
    panic!("the command did not succeed in {PATIENCE} attempts: {command:?}")
}
