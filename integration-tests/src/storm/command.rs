//! The commands of a client, and the recorded results.

use std::time::Instant;

use chrono::TimeDelta;
use eticket_proto::{
    reservation::{CancelReservationRequest, ReserveTicketRequest, UserGrade},
    ticket::{RegisterTicketRequest, UpdateTicketRequest, WithdrawTicketRequest},
    time::to_proto,
};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::{Api, api::reason, calendar::Slot, raw::Raw};

#[derive(Debug, Clone)]
pub enum Order {
    Register {
        ticket: String,
        slot: Slot,
    },
    /// Moves the end of the ticket to a later time.
    Update {
        ticket: String,
        slot: Slot,
        minutes: i64,
    },
    Withdraw {
        ticket: String,
    },
    Reserve {
        ticket: String,
        user: String,
        grade: UserGrade,
    },
    Cancel {
        ticket: String,
        reservation: String,
    },
}

impl Order {
    pub fn ticket(&self) -> &str {
        match self {
            Self::Register { ticket, .. }
            | Self::Update { ticket, .. }
            | Self::Withdraw { ticket }
            | Self::Reserve { ticket, .. }
            | Self::Cancel { ticket, .. } => ticket,
        }
    }

    async fn send(&self, api: &Api, request_id: &str) -> Result<Raw, Status> {
        let (order, request_id) = (self.clone(), request_id.to_owned());
        match order {
            Self::Register { ticket: ticket_id, slot } => {
                let (start_time, end_time) = (Some(to_proto(slot.start)), Some(to_proto(slot.end)));
                let title = format!("Ticket {ticket_id}");
                let request = RegisterTicketRequest { ticket_id, title, start_time, end_time, request_id };
                api.call("eticket.ticket.v1.TicketService/RegisterTicket", request).await
            }
            Self::Update { ticket: ticket_id, slot, minutes } => {
                let end_time = Some(to_proto(slot.end + TimeDelta::minutes(minutes)));
                let request = UpdateTicketRequest { ticket_id, end_time, request_id, ..Default::default() };
                api.call("eticket.ticket.v1.TicketService/UpdateTicket", request).await
            }
            Self::Withdraw { ticket: ticket_id } => {
                let request = WithdrawTicketRequest { ticket_id, request_id, ..Default::default() };
                api.call("eticket.ticket.v1.TicketService/WithdrawTicket", request).await
            }
            Self::Reserve { ticket: ticket_id, user: user_id, grade } => {
                let request = ReserveTicketRequest { ticket_id, user_id, user_grade: grade.into(), request_id };
                api.call("eticket.reservation.v1.ReservationService/ReserveTicket", request).await
            }
            Self::Cancel { reservation: reservation_id, .. } => {
                let request = CancelReservationRequest { reservation_id, request_id };
                api.call("eticket.reservation.v1.ReservationService/CancelReservation", request).await
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// No response: the command may be done or not.
    Unknown,
    Answered(Raw),
    /// The reason.
    Refused(String),
}

/// A command with its `request_id` and its single outcome over all attempts.
#[derive(Debug)]
pub struct Command {
    pub order: Order,
    request_id: String,
    /// When the first attempt was sent.
    pub began: Instant,
    /// When the outcome was known.
    pub ended: Option<Instant>,
    pub outcome: Outcome,
    /// Rejections of single attempts: sent, received, reason.
    pub refusals: Vec<(Instant, Instant, String)>,
}

impl Command {
    pub fn new(order: Order) -> Self {
        let request_id = Uuid::new_v4().to_string();
        Self { order, request_id, began: Instant::now(), ended: None, outcome: Outcome::Unknown, refusals: Vec::new() }
    }

    /// Sends the command, or sends it again.
    ///
    /// # Errors
    /// If the outcome is still unknown; the command must be sent again.
    ///
    /// # Panics
    /// If the outcome differs from an earlier one.
    pub async fn ask(&mut self, api: &Api) -> Result<(), Status> {
        let asked = Instant::now();
        let outcome = outcome(self.order.send(api, &self.request_id).await)?;
        self.learn(outcome, asked);
        Ok(())
    }

    /// Sends two attempts concurrently, like an impatient client.
    ///
    /// # Errors
    /// Like [`Self::ask`].
    ///
    /// # Panics
    /// If the outcome differs from an earlier one.
    pub async fn ask_twice(&mut self, api: &Api) -> Result<(), Status> {
        let asked = Instant::now();
        let send = || self.order.send(api, &self.request_id);
        let (first, second) = tokio::join!(send(), send());
        let mut unknown = None;
        let mut outcomes = Vec::new();
        for outcome in [outcome(first), outcome(second)] {
            match outcome {
                Ok(outcome) => outcomes.push(outcome),
                Err(status) => unknown = Some(status),
            }
        }
        // One attempt may be rejected because of another reservation before the other attempt succeeds; so a rejection
        // alone does not decide.
        outcomes.sort_by_key(|outcome| matches!(outcome, Outcome::Answered(_)));
        let answered = matches!(outcomes.last(), Some(Outcome::Answered(_)));
        for outcome in outcomes {
            match (&self.order, &outcome) {
                (Order::Reserve { .. }, Outcome::Refused(reason)) if answered || unknown.is_some() => {
                    self.refusals.push((asked, Instant::now(), reason.clone()));
                }
                _ => self.learn(outcome, asked),
            }
        }
        match unknown {
            Some(status) if self.ended.is_none() => Err(status),
            _ => Ok(()),
        }
    }

    fn learn(&mut self, outcome: Outcome, asked: Instant) {
        if let Outcome::Refused(reason) = &outcome {
            self.refusals.push((asked, Instant::now(), reason.clone()));
        }
        match (&self.outcome, &outcome) {
            (Outcome::Unknown, _) => (self.outcome, self.ended) = (outcome, Some(Instant::now())),
            // A rejection leaves no record, so a later rejection may have another reason.
            (Outcome::Refused(_), Outcome::Refused(_)) => {}
            (first, again) => assert_eq!(first, again, "one request has one answer: {:?}", self.order),
        }
    }
}

/// Returns the outcome that a response proves.
///
/// # Errors
/// If it proves nothing.
fn outcome(answer: Result<Raw, Status>) -> Result<Outcome, Status> {
    match answer {
        Ok(answer) => Ok(Outcome::Answered(answer)),
        // The outcome after a deadline is unknown.
        Err(status)
            if is_server_fault(&status) && ![Code::Unavailable, Code::DeadlineExceeded].contains(&status.code()) =>
        {
            let refusals = [Code::FailedPrecondition, Code::NotFound, Code::AlreadyExists];
            assert!(refusals.contains(&status.code()), "no command of the storm deserves this: {status:?}");
            Ok(Outcome::Refused(reason(&status)))
        }
        Err(status) => Err(status),
    }
}

/// Returns whether the server sent the status, as opposed to a broken connection.
pub fn is_server_fault(status: &Status) -> bool {
    status.get_details_error_info().is_some()
}
