//! The side that keeps states of other services: finds missing states and requests them from their owners.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use eticket_bus::{self as bus, Bus, Message};
use eticket_proto::{
    audit::{
        AuditRequest, AuditResponse, CountRequest, ListStatesRequest, ListStatesResponse, RepublishStatesRequest,
        audit_request::Request as Asked, audit_response::Response as Answer,
    },
    headers,
};
use eticket_store::ParkedStore;
use prost::Message as _;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{PAGE, Replica, without_parked};
use crate::{batch, config::AuditConfig, consumer::EventHandler, event::Event};

/// Maximum number of states in one page of a rate-limited comparison.
const SLOW_PAGE: usize = 200;
/// Delay before a state that seems to be missing is checked again in [`Comparer::fill`]. It may still be in transit.
const SETTLE: Duration = Duration::from_millis(200);
/// Interval between checks whether republished states have been applied.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Time allowed for republished states to be applied before they are requested again, up to `ATTEMPTS` times.
const ARRIVAL: Duration = Duration::from_secs(10);
const ATTEMPTS: u32 = 3;

/// Why a comparison ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No response from the owner: it is down, or its version does not support comparisons.
    #[error("no response from the owner {0}")]
    Silent(String),
    /// The bus is unavailable, or the owner takes too long to respond.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// The owner responded with an error.
    #[error("the owner {owner} responded with an error: {reason}")]
    Refused {
        /// Name of the owner.
        owner: String,
        /// Reason given by the owner.
        reason: String,
    },
    /// The service's own store is unavailable.
    #[error(transparent)]
    Store(#[from] batch::Error),
}

/// Compares the states that one service keeps with those of their owners.
#[derive(Clone)]
pub struct Comparer {
    /// Name of the service that compares.
    pub service: &'static str,
    /// Names of the services whose states it keeps.
    pub owners: &'static [&'static str],
    /// Carries the requests to the owners.
    pub bus: Arc<dyn Bus>,
    /// Rate of the comparison and delay before a state counts as missing.
    pub config: AuditConfig,
}

impl Comparer {
    /// Compares repeatedly at the configured rate until `stopping` is cancelled. An owner that fails is skipped for
    /// that round.
    pub async fn run(self, replica: Arc<dyn Replica>, stopping: CancellationToken) {
        if self.config.rows_per_second == 0 {
            return;
        }
        let rounds = async {
            let mut failures = 0;
            loop {
                // Wait longer after failures, so that owners that never respond, for example for lack of permissions,
                // do not fill the log.
                sleep(self.config.confirm_after() * (1 + failures.min(5))).await;
                for owner in self.owners {
                    let outcome = self.pass(&*replica, owner).await;
                    failures = if outcome.is_ok() { 0 } else { failures + 1 };
                    match outcome {
                        Ok(()) => {}
                        Err(error @ (Error::Silent(_) | Error::Bus(_))) => {
                            tracing::debug!(service = self.service, owner, %error, "not compared with its owner");
                        }
                        Err(error) => {
                            tracing::warn!(service = self.service, owner, %error, "not compared with its owner")
                        }
                    }
                }
            }
        };
        stopping.run_until_cancelled(rounds).await;
    }

    /// Compares all states of an owner once, at the configured rate. States that are missing in two checks are
    /// requested again.
    ///
    /// # Errors
    /// If the owner, the bus or the service's own store fails. The caller can try again later.
    pub async fn pass(&self, replica: &dyn Replica, owner: &str) -> Result<(), Error> {
        let rate = self.config.rows_per_second.max(1);
        let most = SLOW_PAGE.min(usize::try_from(rate).unwrap_or(SLOW_PAGE));
        let (mut suspects, mut after) = (Vec::new(), String::new());
        loop {
            let ListStatesResponse { states, next } = self.states(owner, after, most).await?;
            let compared = states.len() as u64;
            self.count("eticket_audit_compared_total", owner, compared);
            suspects.extend(replica.missing(messages(states)).await?);
            if next.is_empty() || suspects.len() >= SLOW_PAGE {
                self.confirm(replica, owner, std::mem::take(&mut suspects)).await?;
            }
            if next.is_empty() {
                self.completed(owner);
                return Ok(());
            }
            after = next;
            sleep(Duration::from_micros(compared.saturating_mul(1_000_000) / rate)).await;
        }
    }

    async fn confirm(&self, replica: &dyn Replica, owner: &str, suspects: Vec<Message>) -> Result<(), Error> {
        if suspects.is_empty() {
            return Ok(());
        }
        sleep(self.config.confirm_after()).await;
        let missing = replica.missing(suspects).await?;
        self.ask_for(owner, &missing).await
    }

    /// Compares all states of an owner at full speed, requests the missing ones, and waits until they are applied.
    /// Returns the number of missing states.
    ///
    /// # Errors
    /// As [`Self::pass`]. Work that was done before the error is kept.
    pub async fn fill(&self, replica: &dyn Replica, owner: &str) -> Result<u64, Error> {
        let (mut found, mut after) = (0, String::new());
        loop {
            let ListStatesResponse { states, next } = self.states(owner, after, PAGE).await?;
            self.count("eticket_audit_compared_total", owner, states.len() as u64);
            let mut missing = replica.missing(messages(states)).await?;
            if !missing.is_empty() {
                sleep(SETTLE).await;
                missing = replica.missing(missing).await?;
            }
            found += missing.len() as u64;
            self.bring(replica, owner, missing).await?;
            if next.is_empty() {
                self.completed(owner);
                return Ok(found);
            }
            after = next;
        }
    }

    async fn bring(&self, replica: &dyn Replica, owner: &str, mut missing: Vec<Message>) -> Result<(), Error> {
        for _ in 0..ATTEMPTS {
            if missing.is_empty() {
                return Ok(());
            }
            self.ask_for(owner, &missing).await?;
            let until = Instant::now() + ARRIVAL;
            while !missing.is_empty() && Instant::now() < until {
                sleep(LOOK_AGAIN).await;
                missing = replica.missing(missing).await?;
            }
        }
        if !missing.is_empty() {
            tracing::warn!(
                service = self.service,
                owner,
                count = missing.len(),
                "requested states have not been applied in time"
            );
        }
        Ok(())
    }

    async fn ask_for(&self, owner: &str, missing: &[Message]) -> Result<(), Error> {
        let Some(example) = missing.first() else { return Ok(()) };
        let (count, example) = (missing.len(), &example.subject);
        tracing::warn!(
            service = self.service,
            owner,
            count,
            example,
            "states are missing; requesting them from their owner"
        );
        self.count("eticket_audit_missing_total", owner, count as u64);
        for chunk in missing.chunks(PAGE) {
            let subjects = chunk.iter().map(|message| message.subject.clone()).collect();
            match self.ask(owner, Asked::RepublishStates(RepublishStatesRequest { subjects })).await? {
                Answer::RepublishStates(_) => {}
                other => return Err(unexpected(owner, &other)),
            }
        }
        Ok(())
    }

    /// Returns the number of states that the owner has.
    ///
    /// # Errors
    /// If the owner or the bus does not respond.
    pub async fn count_of(&self, owner: &str) -> Result<u64, Error> {
        match self.ask(owner, Asked::Count(CountRequest {})).await? {
            Answer::Count(response) => Ok(response.count.unsigned_abs()),
            other => Err(unexpected(owner, &other)),
        }
    }

    async fn states(&self, owner: &str, after: String, most: usize) -> Result<ListStatesResponse, Error> {
        let page_size = i32::try_from(most).unwrap_or(i32::MAX);
        match self.ask(owner, Asked::ListStates(ListStatesRequest { after, page_size })).await? {
            Answer::ListStates(response) => Ok(response),
            other => Err(unexpected(owner, &other)),
        }
    }

    async fn ask(&self, owner: &str, asked: Asked) -> Result<Answer, Error> {
        let payload = AuditRequest { request: Some(asked) }.encode_to_vec();
        let Some(response) = self.bus.request(owner, payload.into()).await? else {
            return Err(Error::Silent(owner.to_owned()));
        };
        match AuditResponse::decode(response).ok().and_then(|response| response.response) {
            Some(Answer::Failure(reason)) => Err(Error::Refused { owner: owner.to_owned(), reason }),
            Some(answer) => Ok(answer),
            None => {
                Err(Error::Refused { owner: owner.to_owned(), reason: "the response cannot be decoded".to_owned() })
            }
        }
    }

    fn count(&self, metric: &'static str, owner: &str, by: u64) {
        metrics::counter!(metric, "service" => self.service, "owner" => owner.to_owned()).increment(by);
    }

    fn completed(&self, owner: &str) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let owner = owner.to_owned();
        metrics::gauge!("eticket_audit_completed_timestamp_seconds", "service" => self.service, "owner" => owner)
            .set(now.as_secs_f64());
    }
}

fn unexpected(owner: &str, answer: &Answer) -> Error {
    Error::Refused { owner: owner.to_owned(), reason: format!("unexpected response: {answer:?}") }
}

fn messages(states: Vec<eticket_proto::audit::State>) -> Vec<Message> {
    let message = |state: eticket_proto::audit::State| Message {
        subject: state.subject,
        headers: vec![(headers::ID.into(), state.event_id)],
        body: state.body.into(),
    };
    states.into_iter().map(message).collect()
}

/// The state of a service that handles events with its consumer.
pub struct AppliedEvents<H> {
    /// Compares events with the applied states.
    pub handler: Arc<H>,
    /// Store of the parked messages.
    pub store: Arc<dyn ParkedStore>,
}

#[async_trait]
impl<H: EventHandler> Replica for AppliedEvents<H> {
    async fn missing(&self, states: Vec<Message>) -> Result<Vec<Message>, batch::Error> {
        let decoded = states.into_iter().filter_map(|message| Some((H::Event::decode(&message).ok()?, message)));
        let (events, messages): (Vec<_>, Vec<_>) = decoded.unzip();
        let missing = self.handler.missing(&events).await?;
        let missing = messages.into_iter().zip(missing).filter(|(_, missing)| *missing).map(|(message, _)| message);
        without_parked(&*self.store, missing.collect()).await.map_err(|_| batch::Error::Unavailable)
    }
}
