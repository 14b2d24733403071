//! Sends the rows of the outbox to the bus, and deletes each row after the bus has acknowledged it.
//!
//! Each process sends the rows that it has committed. Those of one subject are sent in the order of their revisions, one
//! at a time; different subjects are sent in parallel. The processes of a service do not wait for each other, so older
//! states of an aggregate may follow its newest one; readers decide by the revision. What must hold is that the newest
//! one is among the messages that the stream keeps of the subject, so few older ones may follow: a claim has only the
//! newest rows of a subject, and a row whose publication failed is sent again only if the stream does not have its state
//! or a newer one. If a relay ends between publishing and deleting a row, the row is sent again later.
//!
//! If the bus acknowledges messages before they are durable, a row stays in the outbox until its message surely is
//! (`durable.rs`).

mod durable;
mod seen;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eticket_base::telemetry::{Span, SpanKind};
use eticket_bus::{self as bus, Bus, MESSAGES_PER_SUBJECT, Message};
use eticket_proto::headers;
use eticket_rpc_server::health::Health;
use eticket_store::{Error, OutboxRow, OutboxStore, Sent, WaitingRow};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::{
    durable::{Held, Receipt},
    seen::{Advice, Seen},
};
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
    /// Rows whose publication or deletion was begun and failed. They may be on the stream.
    doubtful: Mutex<BTreeSet<i64>>,
    held: Mutex<Held>,
    seen: Mutex<Seen>,
}

/// What became of the rows of a subject.
#[derive(Default)]
struct Progress {
    /// The rows that are on the stream.
    sent: Vec<i64>,
    /// Where the last of them is.
    receipt: Option<Receipt>,
    /// Why the others are not.
    error: Option<bus::Error>,
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
        Self {
            service,
            bus,
            store,
            wake,
            health,
            doubtful: Mutex::default(),
            held: Mutex::default(),
            seen: Mutex::default(),
        }
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
        let mut all_deleted = self.delete_durable().await?;
        let mut claim = self.store.claim_outbox(SUBJECTS).await?;
        let subjects = claim.subjects();
        if subjects.is_empty() {
            return Ok(Outcome::Idle);
        }
        if !subjects.iter().flatten().any(|row| row.was_read) {
            self.seen().clear();
        }
        // Before the publications: the bus may change to another server meanwhile.
        let server = self.bus.server_id();
        let progress = futures::future::join_all(subjects.into_iter().map(|rows| self.send_in_order(rows))).await;
        // One log line for all subjects: they fail for the same reason.
        let error = progress.iter().find_map(|progress| progress.error.as_ref());
        if let Some(error) = error {
            let subjects = progress.iter().filter(|progress| progress.error.is_some()).count();
            tracing::warn!(service = self.service, subjects, error = %error, "events are not sent yet");
        }
        let all_sent = error.is_none();
        self.health.set_sending(all_sent);
        let ids: Vec<i64> = progress.iter().flat_map(|progress| &progress.sent).copied().collect();
        let sent = claim.sent(&ids);
        self.set_doubtful(&sent.ids(), false);
        let receipts = progress.into_iter().filter_map(|progress| progress.receipt).collect();
        // There is none before the first connection.
        let server = if server.is_empty() { self.bus.server_id() } else { server };
        self.held().add(sent, receipts, server);
        metrics::counter!("eticket_outbox_sent_total", "service" => self.service).increment(ids.len() as u64);
        all_deleted &= self.delete_durable().await?;
        Ok(if all_sent && all_deleted { Outcome::Sent(ids.len()) } else { Outcome::Failed })
    }

    /// Deletes the rows whose messages are durable. Returns whether all of them could be deleted.
    async fn delete_durable(&self) -> Result<bool, Error> {
        let mut all_deleted = true;
        while let Some(sent) = self.durable().await {
            let ids = sent.ids();
            self.set_doubtful(&ids, true);
            let left = self.store.delete_sent(sent).await?;
            self.set_doubtful(&ids, false);
            self.set_doubtful(&left, true);
            all_deleted &= left.is_empty();
        }
        Ok(all_deleted)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn doubtful(&self) -> MutexGuard<'_, BTreeSet<i64>> {
        self.doubtful.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_doubtful(&self, ids: &[i64], are_doubtful: bool) {
        let mut doubtful = self.doubtful();
        match are_doubtful {
            true => doubtful.extend(ids),
            false => {
                for id in ids {
                    doubtful.remove(id);
                }
            }
        }
    }

    /// Returns the newest state of a subject on the stream, if its revision is at least this one.
    async fn look(&self, subject: &str, at_least: i64) -> Result<Option<Receipt>, bus::Error> {
        let all = MESSAGES_PER_SUBJECT as usize;
        let kept = self.bus.history(&[subject], None, all).await?.messages;
        let newest = kept.iter().filter_map(|kept| Some((event::revision(&kept.message)?, kept)));
        let newest = newest.max_by_key(|(revision, _)| *revision).filter(|(revision, _)| *revision >= at_least);
        Ok(newest.map(|(revision, kept)| {
            let receipt = Receipt::of_message(kept.sequence, &kept.message);
            self.seen().note(subject, revision, &receipt);
            receipt
        }))
    }

    /// Returns where the stream has a state that makes the publication of a row needless.
    async fn superseding(&self, row: &WaitingRow) -> Result<Option<Receipt>, bus::Error> {
        let subject = &row.message.subject;
        let is_doubtful = !self.doubtful().insert(row.id);
        if is_doubtful {
            return self.look(subject, row.revision).await;
        }
        let advice = self.seen().advice(row);
        match advice {
            Advice::Send => Ok(None),
            Advice::Look => self.look(subject, row.revision + 1).await,
            Advice::Superseded(receipt) => Ok(Some(receipt)),
        }
    }

    /// Sends the rows of one subject.
    async fn send_in_order(&self, rows: Vec<WaitingRow>) -> Progress {
        let mut progress = Progress::default();
        for row in rows {
            let id = row.id;
            match self.send(row).await {
                Ok(receipt) => {
                    progress.sent.push(id);
                    progress.receipt = Some(receipt);
                }
                Err(error) => {
                    progress.error = Some(error);
                    break;
                }
            }
        }
        progress
    }

    /// Sends a row, unless the stream does not need it.
    async fn send(&self, row: WaitingRow) -> Result<Receipt, bus::Error> {
        if let Some(receipt) = self.superseding(&row).await? {
            return Ok(receipt);
        }
        let read = row.was_read.then(|| (row.message.subject.clone(), row.revision));
        // Read the ids from the message only if the log line is written.
        let logged =
            tracing::enabled!(tracing::Level::DEBUG).then(|| (event::id(&row.message, 0), event::trace(&row.message)));
        let mut message = row.message;
        // A new id for each attempt, not for each row: a row whose acknowledgement was lost is sent again. If the
        // stream has lost its tail in between, the second message may get the sequence of the first, and a reader
        // that has read the first must detect the difference.
        let publication_id = Uuid::new_v4().to_string();
        message.set_header(headers::PUBLICATION_ID, publication_id.clone());
        let mut span = self.producer_span(&mut message);
        let published = self.bus.publish(message).await;
        if published.is_err() {
            span.fail("the event was not published");
        }
        let sequence = published?;
        if let Some((event_id, trace)) = logged {
            tracing::debug!(
                service = self.service,
                event_id,
                correlation_id = %trace.correlation_id,
                trace_id = trace.trace_id(),
                "published an event"
            );
        }
        let receipt = Receipt { sequence, publication_id };
        if let Some((subject, revision)) = read {
            self.seen().note(&subject, revision, &receipt);
        }
        Ok(receipt)
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
            message.set_header(headers::TRACE_PARENT, trace.traceparent.clone());
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
        let headers = headers.map(|(name, value)| (name.into(), value)).into();
        OutboxRow {
            revision: self.revision,
            message: Message { subject: self.subject, headers, body: self.body.into() },
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
