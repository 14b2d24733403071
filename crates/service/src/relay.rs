//! Sends the rows of the outbox to the bus, and deletes each row after the bus has acknowledged it.
//!
//! The rows of one subject are sent in the order of their revisions, one at a time; different subjects are sent in
//! parallel. The newest message of a subject is therefore its newest state. If a relay ends between publishing and
//! deleting a row, the row is sent again later; readers drop it by its revision.

use std::{sync::Arc, time::Duration};

use eticket_base::telemetry::{Span, SpanKind};
use eticket_bus::{self as bus, Bus, Message};
use eticket_proto::headers;
use eticket_rpc_server::health::Health;
use eticket_store::{Error, OutboxRow, OutboxStore, WaitingRow};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::event;

/// Maximum number of subjects in one claim.
const SUBJECTS: usize = 256;
/// Interval at which the outbox is read without a wake-up, for rows left by another process or by an earlier run.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Outcome of one round of the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The outbox is empty.
    Idle,
    /// This number of rows was sent and deleted.
    Sent(usize),
    /// The bus or the store is unavailable. The remaining rows stay in the outbox.
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
    /// Creates a relay. `wake` is notified after each commit that adds rows to the outbox.
    pub fn new(
        service: &'static str,
        bus: Arc<dyn Bus>,
        store: Arc<dyn OutboxStore>,
        wake: Arc<Notify>,
        health: Health,
    ) -> Self {
        Self { service, bus, store, wake, health }
    }

    /// Relays until `stopping` is cancelled, then sends the remaining rows unless the bus fails.
    pub async fn run(self, stopping: CancellationToken) {
        loop {
            let outcome = self.run_once().await;
            match outcome {
                Outcome::Sent(_) => continue,
                Outcome::Idle if stopping.is_cancelled() => return,
                Outcome::Failed if stopping.is_cancelled() => {
                    tracing::warn!(
                        service = self.service,
                        "stopping with unpublished rows in the outbox, because the bus fails"
                    );
                    return;
                }
                Outcome::Idle | Outcome::Failed => {}
            }
            tokio::select! {
                biased;
                () = stopping.cancelled() => {}
                // After a failure, wait the whole interval even if new rows are committed.
                () = self.wake.notified(), if outcome == Outcome::Idle => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// Claims rows, sends them, and deletes those that the bus acknowledged.
    pub async fn run_once(&self) -> Outcome {
        match self.round().await {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::warn!(service = self.service, error = %error, "cannot read the outbox or delete its rows");
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
        // One log line for all subjects: they fail for the same reason.
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

    /// Sends the rows of one subject. Returns the ids that the bus acknowledged, and the error if some are missing.
    async fn send_in_order(&self, rows: Vec<WaitingRow>) -> (Vec<i64>, Option<bus::Error>) {
        let mut sent = Vec::with_capacity(rows.len());
        for row in rows {
            // Read the ids from the message only if the log line is written.
            let logged = tracing::enabled!(tracing::Level::DEBUG)
                .then(|| (event::id(&row.message, 0), event::trace(&row.message)));
            let mut message = row.message;
            // A new id for each attempt, not for each row: a row whose acknowledgement was lost is sent again. If the
            // stream has lost its tail in between, the second message may get the sequence of the first, and a reader
            // that has read the first must detect the difference.
            message.set_header(headers::PUBLICATION_ID, &Uuid::new_v4().to_string());
            let mut span = self.producer_span(&mut message);
            if let Err(error) = self.bus.publish(message).await {
                span.fail("the event was not published");
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

    /// Begins the span of a publication, if the trace of the command is exported. The event then carries the context of
    /// this span, so that its readers appear below it.
    fn producer_span(&self, message: &mut Message) -> Span {
        if !event::is_sampled(message) {
            return Span::default();
        }
        let trace = event::trace(message).at(self.service);
        let span = event::span(SpanKind::Producer, message, &trace);
        if span.is_recorded() {
            message.set_header(headers::TRACE_PARENT, &trace.traceparent);
        }
        span
    }
}

/// An outbox message in the CloudEvents binding, with the fields that the events of all services have in common.
pub struct Envelope<'a> {
    /// `ticket`, `reservation` or `pricing`.
    pub owner: &'a str,
    /// Identifies the aggregate within its owner, as `<ticket_id>` or `<ticket_id>/<reservation_id>`.
    pub aggregate: String,
    /// The ticket that the event belongs to.
    pub ticket_id: &'a str,
    /// Subject of the aggregate in the stream.
    pub subject: String,
    /// Type of the change, such as `TicketRegistered`.
    pub event_type: &'a str,
    /// Revision of the aggregate.
    pub revision: i64,
    /// Time at which the state was written.
    pub time: chrono::DateTime<chrono::Utc>,
    /// Trace of the command that caused the event.
    pub trace: &'a eticket_base::telemetry::TraceContext,
    /// The encoded state.
    pub body: Vec<u8>,
}

impl Envelope<'_> {
    /// Returns the outbox row that the commit writes.
    pub fn into_row(self) -> OutboxRow {
        use eticket_proto::headers as h;
        let headers = [
            (h::SPEC_VERSION, "1.0".to_owned()),
            (h::ID, format!("{}/{}/{}", self.owner, self.aggregate, self.revision)),
            (h::TYPE, format!("eticket.event.v1.{}", self.event_type)),
            (h::SOURCE, format!("/eticket/{}", self.owner)),
            (h::TIME, self.time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)),
            (h::SUBJECT, self.ticket_id.to_owned()),
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
