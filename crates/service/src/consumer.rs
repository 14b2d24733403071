//! Consumes events from the bus: decodes a batch, keeps the newest state of each aggregate, applies it through the
//! writer of the service, and acknowledges the messages.
//!
//! A message is parked in the service's own store if it cannot be decoded, or if it alone fails repeatedly while the
//! store is available. It then no longer blocks other messages. While the store is unavailable, no failure is counted.
//! If the stream has another epoch, the consumer restarts from the first message and the service republishes all its
//! states: the bus is never the only copy.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use eticket_base::{clock::SharedClock, telemetry::TraceContext};
use eticket_bus::{self as bus, Bus, Delivery, Message};
use eticket_rpc_server::health::Health;
use eticket_store::{self as store, ConsumerStore, Parked};
use tokio_util::sync::CancellationToken;

use crate::{
    audit::{self, Owner},
    batch,
    event::{self, Event},
};

/// Maximum number of messages in one batch.
const BATCH: usize = 256;
/// Number of failures, while the store is available, after which a message is parked.
pub const MAX_DELIVER: u32 = 5;
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(5);
/// Pause after the bus or the store has failed.
const PAUSE: Duration = Duration::from_secs(1);
/// Time without messages and without another failure after which a failure counts as over.
const QUIET: Duration = Duration::from_secs(1);

/// An event with the message that carried it.
#[derive(Debug, Clone)]
pub struct Incoming<E> {
    /// The decoded event.
    pub event: E,
    /// The message, needed to park it.
    pub message: Arc<Message>,
    /// Identifies the message among the parked ones.
    pub event_id: String,
    /// The message was parked before and is applied again. On success it is removed from the parked ones.
    pub was_parked: bool,
    /// The step that processes the event, in the trace of the command that caused the event.
    pub trace: TraceContext,
}

impl<E> Incoming<E> {
    /// Returns the message in the form in which it is parked.
    pub fn park(&self, reason: impl Into<String>, attempts: u32, now: chrono::DateTime<chrono::Utc>) -> Parked {
        let message = (*self.message).clone();
        Parked { event_id: self.event_id.clone(), message, reason: reason.into(), attempts, park_time: now }
    }
}

/// Handles the events of other services.
#[async_trait]
pub trait EventHandler: Send + Sync + 'static {
    /// The event that is decoded from a message.
    type Event: Event;

    /// Applies events, in one batch if it has room. Returns the outcome of each event, in the same order.
    async fn handle(&self, events: Vec<Incoming<Self::Event>>) -> Vec<Result<(), batch::Error>>;

    /// Parks a message.
    ///
    /// # Errors
    /// [`batch::Error`] if the message is not parked.
    async fn park(&self, parked: Parked) -> Result<(), batch::Error>;

    /// Returns for each event whether it is newer than the applied state, from one read of the store. An event without
    /// effect is not newer.
    ///
    /// # Errors
    /// If the store is unavailable.
    async fn missing(&self, events: &[Self::Event]) -> Result<Vec<bool>, batch::Error>;
}

/// Why a round of the consumer ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bus is unavailable, or its stream has been replaced.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// The store is unavailable.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The writer failed.
    #[error(transparent)]
    Batch(#[from] batch::Error),
}

/// The consumer of one service.
pub struct Consumer<H> {
    /// Name of the service and of its durable consumer, which all replicas share.
    pub name: &'static str,
    /// Source of the events.
    pub bus: Arc<dyn Bus>,
    /// Stores the epoch of the last known stream, and which events were discarded.
    pub store: Arc<dyn ConsumerStore>,
    /// Applies the events.
    pub handler: Arc<H>,
    /// Provides the states that are republished on a new stream.
    pub owner: Arc<dyn Owner>,
    /// Provides the times at which messages are parked.
    pub clock: SharedClock,
    /// Reports whether events can be consumed.
    pub health: Health,
}

impl<H: EventHandler> Consumer<H> {
    /// Consumes until `stopping` is cancelled; a batch that has begun is completed. Attaches again after each failure.
    pub async fn run(self, stopping: CancellationToken) {
        event::register_metrics(self.name);
        let mut in_doubt = false;
        while !stopping.is_cancelled() {
            if let Err(error) = self.attached(&stopping, in_doubt).await {
                in_doubt = true;
                self.health.set_bus(false);
                tracing::warn!(consumer = self.name, error = %error, "cannot consume events; trying again");
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = stopping.cancelled() => {}
                }
            }
        }
    }

    /// `in_doubt`: the last session failed. Attaching again does not prove that events can be applied, so the health
    /// stays down until a batch succeeds or no message arrives for `QUIET`. Otherwise the health would flap.
    async fn attached(&self, stopping: &CancellationToken, mut in_doubt: bool) -> Result<(), Error> {
        let mut session = self.attach().await?;
        loop {
            if !in_doubt {
                self.health.set_bus(true);
            }
            let batch = tokio::select! {
                // Poll in a fixed order, here and elsewhere, so that simulations are repeatable.
                biased;
                () = stopping.cancelled() => return Ok(()),
                batch = session.next() => batch?,
                () = tokio::time::sleep(QUIET), if in_doubt => Vec::new(),
            };
            if !batch.is_empty() {
                session.apply(batch).await?;
            }
            in_doubt = false;
        }
    }

    /// Attaches to the bus. If the epoch of the stream differs from the stored one, first restarts from the first
    /// message and republishes all states.
    ///
    /// # Errors
    /// If the bus or the store is unavailable. It is safe to try again.
    pub async fn attach(&self) -> Result<Session<'_, H>, Error> {
        let epoch = self.bus.state().await?.epoch;
        if self.store.stream_epoch().await?.as_ref() != Some(&epoch) {
            self.bus.restart(self.name).await?;
            let count = audit::republish_all(&*self.owner, &|_| ()).await?;
            // Store the epoch last: a crash before this only repeats the republishing.
            self.store.set_stream_epoch(&epoch).await?;
            tracing::info!(consumer = self.name, %epoch, count, "republished all states on a new stream");
        }
        let consumer = self.bus.attach(self.name, H::Event::FILTERS).await?;
        // Without this check, a stream that has been replaced meanwhile would count as repaired.
        bus::check_epoch(&*self.bus, &epoch).await?;
        Ok(Session { of: self, consumer, failures: HashMap::new() })
    }
}

/// An attached consumer, which can be run step by step.
pub struct Session<'a, H> {
    of: &'a Consumer<H>,
    consumer: Box<dyn bus::Consumer>,
    /// Number of failures of each message, by sequence.
    failures: HashMap<u64, u32>,
}

impl<H: EventHandler> Session<'_, H> {
    /// Waits for messages. It is cancel safe: no message is lost.
    ///
    /// # Errors
    /// If the bus is unavailable, or its stream has been replaced.
    pub async fn next(&mut self) -> Result<Vec<Delivery>, bus::Error> {
        self.consumer.next(BATCH).await
    }

    /// Applies a batch, and acknowledges, parks or retries each of its messages.
    ///
    /// # Errors
    /// If the store or the bus is unavailable. Messages that are not acknowledged are delivered again.
    pub async fn apply(&mut self, batch: Vec<Delivery>) -> Result<(), Error> {
        let mut done = Vec::with_capacity(batch.len());
        // Sorted by name, so that the processing of a batch is deterministic.
        let mut newest: BTreeMap<String, Newest<H::Event>> = BTreeMap::new();
        // They end with this function, after the acknowledgement.
        let mut spans = Vec::new();
        for delivery in batch {
            event::log_received(self.of.name, &delivery);
            let event_id = event::id(&delivery.message, delivery.sequence);
            match H::Event::decode(&delivery.message) {
                Ok(event) => {
                    let (key, revision) = event.aggregate();
                    let (trace, span) = event::consumer_span(self.of.name, &delivery.message);
                    spans.extend(span.is_recorded().then_some(span));
                    let incoming = Incoming { event, message: delivery.message, event_id, was_parked: false, trace };
                    fold(&mut newest, key, revision, incoming, delivery.sequence);
                }
                Err(reason) => {
                    self.park(event_id, &delivery.message, reason, delivery.attempts).await?;
                    done.push(delivery.sequence);
                }
            }
        }
        let (mut events, mut sequences) = (Vec::with_capacity(newest.len()), Vec::with_capacity(newest.len()));
        for aggregate in newest.into_values() {
            events.push(aggregate.incoming);
            sequences.push(aggregate.covered);
        }
        let kept: Vec<_> = events.iter().map(|event| (event.event_id.clone(), event.message.clone())).collect();
        let outcomes = self.of.handler.handle(events).await;
        let mut unanswered = None;
        for ((outcome, covered), (event_id, message)) in outcomes.into_iter().zip(sequences).zip(kept) {
            match outcome {
                Ok(()) => done.extend(covered),
                Err(batch::Error::Failed(reason)) => {
                    self.failed(covered, event_id, &message, reason, &mut done).await?
                }
                Err(error) => {
                    unanswered = Some(error);
                    for sequence in covered {
                        // No delay here: the caller pauses before the next round.
                        self.consumer.retry(sequence, Duration::ZERO).await?;
                    }
                }
            }
        }
        for sequence in &done {
            self.failures.remove(sequence);
        }
        metrics::counter!("eticket_events_taken_in_total", "consumer" => self.of.name).increment(done.len() as u64);
        self.consumer.ack(&done).await?;
        unanswered.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Counts a failure caused by the message itself, and parks the message after too many failures.
    async fn failed(
        &mut self,
        covered: Vec<u64>,
        event_id: String,
        message: &Message,
        reason: String,
        done: &mut Vec<u64>,
    ) -> Result<(), Error> {
        let newest = covered.iter().max().copied().unwrap_or_default();
        let failures = self.failures.entry(newest).or_insert(0);
        *failures += 1;
        let failures = *failures;
        if failures >= MAX_DELIVER {
            self.park(event_id, message, reason, failures).await?;
            done.extend(covered);
            return Ok(());
        }
        tracing::warn!(
            consumer = self.of.name,
            event_id,
            failures,
            reason,
            correlation_id = event::correlation_id(message),
            "applying an event failed; trying again later"
        );
        for sequence in covered {
            self.consumer.retry(sequence, backoff(failures)).await?;
        }
        Ok(())
    }

    async fn park(&self, event_id: String, message: &Message, reason: String, attempts: u32) -> Result<(), Error> {
        let is_discarded = self.of.store.is_discarded(&event_id).await?;
        if !event::note_parked(self.of.name, &event_id, message, &reason, attempts, is_discarded) {
            return Ok(());
        }
        let park_time = self.of.clock.now();
        let parked = Parked { event_id, message: message.clone(), reason, attempts, park_time };
        Ok(self.of.handler.park(parked).await?)
    }
}

/// The newest event of an aggregate in a batch, and the sequences of all events that it replaces.
struct Newest<E> {
    revision: i64,
    incoming: Incoming<E>,
    covered: Vec<u64>,
}

fn fold<E>(newest: &mut BTreeMap<String, Newest<E>>, key: String, revision: i64, incoming: Incoming<E>, sequence: u64) {
    match newest.get_mut(&key) {
        None => {
            newest.insert(key, Newest { revision, incoming, covered: vec![sequence] });
        }
        Some(known) => {
            known.covered.push(sequence);
            if revision > known.revision {
                (known.revision, known.incoming) = (revision, incoming);
            }
        }
    }
}

/// Applies a parked message again. If it fails again, it stays parked.
///
/// # Errors
/// If the store is unavailable.
pub async fn apply_parked<H: EventHandler>(handler: &H, parked: Parked) -> Result<(), batch::Error> {
    let Ok(event) = H::Event::decode(&parked.message) else { return Ok(()) };
    let Parked { event_id, message, .. } = parked;
    let trace = event::trace(&message);
    let incoming = Incoming { event, message: Arc::new(message), event_id, was_parked: true, trace };
    match handler.handle(vec![incoming]).await.pop() {
        Some(Err(error)) if !matches!(error, batch::Error::Failed(_)) => Err(error),
        _ => Ok(()),
    }
}

fn backoff(failures: u32) -> Duration {
    RETRY_FIRST.saturating_mul(1 << failures.min(10)).min(RETRY_LONGEST)
}

#[cfg(test)]
pub(crate) mod tests;
