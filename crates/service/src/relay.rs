//! Sends what waits in the outbox to the bus, and deletes it once the bus has acknowledged.
//!
//! Each subject's rows go out in the order of revisions, one in flight; subjects go in parallel. That order is what makes the
//! newest message of a subject the newest state. A relay that dies between publishing and deleting leaves one straggler, which
//! readers drop by its revision.

use std::{sync::Arc, time::Duration};

use eticket_bus::{self as bus, Bus, Message};
use eticket_rpc_server::health::Health;
use eticket_store::{Error, OutboxRow, OutboxStore, WaitingRow};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::event;

/// Subjects in one claim.
const SUBJECTS: usize = 256;
/// How often the outbox is looked at without being woken: for rows that another process, or an earlier life, left behind.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What a round of the relay came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing waits.
    Idle,
    /// So many rows were sent and deleted.
    Sent(usize),
    /// The bus or the store does not answer; what waits stays.
    Failed,
}

/// The relay of one service.
pub struct Relay {
    service: &'static str,
    bus: Arc<dyn Bus>,
    store: Arc<dyn OutboxStore>,
    wake: Arc<Notify>,
    health: Health,
}

impl Relay {
    /// `wake` is rung when a commit has left rows in the outbox.
    pub fn new(
        service: &'static str,
        bus: Arc<dyn Bus>,
        store: Arc<dyn OutboxStore>,
        wake: Arc<Notify>,
        health: Health,
    ) -> Self {
        Self { service, bus, store, wake, health }
    }

    /// Relays until asked to stop; then sends what still waits, as long as the bus answers.
    pub async fn run(self, stopping: CancellationToken) {
        loop {
            let outcome = self.run_once().await;
            match outcome {
                Outcome::Sent(_) => continue,
                Outcome::Idle if stopping.is_cancelled() => return,
                Outcome::Failed if stopping.is_cancelled() => {
                    tracing::warn!(service = self.service, "the outbox keeps what the bus did not take");
                    return;
                }
                Outcome::Idle | Outcome::Failed => {}
            }
            tokio::select! {
                biased;
                () = stopping.cancelled() => {}
                // What is out is left alone for a while, however much is committed meanwhile.
                () = self.wake.notified(), if outcome == Outcome::Idle => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// Claims what waits, sends it, deletes what was acknowledged.
    pub async fn run_once(&self) -> Outcome {
        match self.round().await {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::warn!(service = self.service, error = %error, "the outbox cannot be read or cleared");
                Outcome::Failed
            }
        }
    }

    async fn round(&self) -> Result<Outcome, Error> {
        let mut claim = self.store.claim_outbox(SUBJECTS).await?;
        let subjects = claim.subjects();
        if subjects.is_empty() {
            return Ok(Outcome::Idle);
        }
        let sent = futures::future::join_all(subjects.into_iter().map(|rows| self.send_in_order(rows))).await;
        // One line for all: they fail for the same reason.
        let error = sent.iter().find_map(|(_, error)| error.as_ref());
        if let Some(error) = error {
            let subjects = sent.iter().filter(|(_, error)| error.is_some()).count();
            tracing::warn!(service = self.service, subjects, error = %error, "events are not sent yet");
        }
        let all_sent = error.is_none();
        self.health.set_sending(all_sent);
        let ids: Vec<i64> = sent.into_iter().flat_map(|(ids, _)| ids).collect();
        claim.done(&ids).await?;
        metrics::counter!("eticket_outbox_sent_total", "service" => self.service).increment(ids.len() as u64);
        Ok(if all_sent { Outcome::Sent(ids.len()) } else { Outcome::Failed })
    }

    /// Sends the rows of one subject; answers the ids that the bus has acknowledged, and why that is not all of them.
    async fn send_in_order(&self, rows: Vec<WaitingRow>) -> (Vec<i64>, Option<bus::Error>) {
        let mut sent = Vec::with_capacity(rows.len());
        for row in rows {
            // Nothing is read from the message for a line that nobody gets.
            let logged = tracing::enabled!(tracing::Level::DEBUG)
                .then(|| (event::id(&row.message, 0), event::trace(&row.message)));
            if let Err(error) = self.bus.publish(row.message).await {
                return (sent, Some(error));
            }
            if let Some((event_id, trace)) = logged {
                tracing::debug!(
                    service = self.service,
                    event_id,
                    correlation_id = %trace.correlation_id,
                    trace_id = trace.trace_id(),
                    "published an event"
                );
            }
            sent.push(row.id);
        }
        (sent, None)
    }
}

/// A message for the outbox, in the CloudEvents binding: what every event of every service has in common.
pub struct Envelope<'a> {
    /// `ticket`, `reservation` or `pricing`.
    pub owner: &'a str,
    /// Of the aggregate within its owner, as `<ticket_id>` or `<ticket_id>/<reservation_id>`.
    pub aggregate: String,
    /// The ticket that the event speaks of.
    pub ticket_id: &'a str,
    /// Of the aggregate on the stream.
    pub subject: String,
    /// What was done, as `TicketRegistered`.
    pub event_type: &'a str,
    /// Of the aggregate.
    pub revision: i64,
    /// When the state was written.
    pub time: chrono::DateTime<chrono::Utc>,
    /// Of the command that caused it.
    pub trace: &'a eticket_base::telemetry::TraceContext,
    /// The state, encoded.
    pub body: Vec<u8>,
}

impl Envelope<'_> {
    /// The row that the commit writes.
    pub fn into_row(self) -> OutboxRow {
        use eticket_proto::headers as h;
        let headers = [
            (h::SPEC_VERSION, "1.0".to_owned()),
            (h::ID, format!("{}/{}/{}", self.owner, self.aggregate, self.revision)),
            (h::TYPE, format!("eticket.event.v1.{}", self.event_type)),
            (h::SOURCE, format!("/eticket/{}", self.owner)),
            (h::TIME, self.time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)),
            (h::SUBJECT, self.ticket_id.to_owned()),
            (h::PUBLICATION_ID, Uuid::new_v4().to_string()),
            (h::TRACE_PARENT, self.trace.traceparent.clone()),
            (h::CORRELATION_ID, self.trace.correlation_id.clone()),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value)).to_vec();
        OutboxRow {
            revision: self.revision,
            message: Message { subject: self.subject, headers, body: self.body.into() },
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
