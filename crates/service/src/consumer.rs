//! Takes events in from the bus: decodes a batch, folds it to the newest state of each aggregate, has it applied through the
//! service's one writer, acknowledges.
//!
//! A message that cannot be decoded, or that alone fails again and again though the store answers, is parked in the service's own
//! store and never blocks the others. While the store does not answer nothing counts as a failure. Meeting a stream of another
//! epoch, the consumer goes back to its start and has the service publish all its states again: the bus is never the only copy.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use eticket_base::{clock::SharedClock, telemetry::TraceContext};
use eticket_bus::{self as bus, Bus, Delivery, Message};
use eticket_rpc_server::health::Health;
use eticket_store::{self as store, Parked, StreamEpochStore};
use tokio_util::sync::CancellationToken;

use crate::{
    audit::{self, Owner},
    batch,
    event::{self, Event},
};

/// Messages taken at a time.
const BATCH: usize = 256;
/// A message that fails so often by itself is parked.
pub const MAX_DELIVER: u32 = 5;
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(5);
/// How long to leave a bus or store alone that does not answer.
const PAUSE: Duration = Duration::from_secs(1);
/// After a failure: so long without another, and nothing to do, and it is over.
const QUIET: Duration = Duration::from_secs(1);

/// An event with the message it came in.
#[derive(Debug, Clone)]
pub struct Incoming<E> {
    /// What the message says.
    pub event: E,
    /// The message, to be parked if need be.
    pub message: Arc<Message>,
    /// Names it among those parked.
    pub event_id: String,
    /// It was parked before and is applied again: success takes it out of those set aside.
    pub was_parked: bool,
}

impl<E> Incoming<E> {
    /// The trace of the command that began it all.
    pub fn trace(&self) -> TraceContext {
        event::trace(&self.message)
    }

    /// The message as it is set aside.
    pub fn park(&self, reason: impl Into<String>, attempts: u32, now: chrono::DateTime<chrono::Utc>) -> Parked {
        let message = (*self.message).clone();
        Parked { event_id: self.event_id.clone(), message, reason: reason.into(), attempts, park_time: now }
    }
}

/// What a service does with the events of other services.
#[async_trait]
pub trait EventHandler: Send + Sync + 'static {
    /// What the service reads out of a message.
    type Event: Event;

    /// Applies events, all in one batch if there is room; returns the outcome of each, in their order.
    async fn handle(&self, events: Vec<Incoming<Self::Event>>) -> Vec<Result<(), batch::Error>>;

    /// Parks a message.
    ///
    /// # Errors
    /// [`batch::Error`] if the message is not parked.
    async fn park(&self, parked: Parked) -> Result<(), batch::Error>;

    /// Returns for each event whether it is newer than what is applied, from one read of the store. An event that would have no
    /// effect is not newer.
    ///
    /// # Errors
    /// If the store does not answer.
    async fn missing(&self, events: &[Self::Event]) -> Result<Vec<bool>, batch::Error>;
}

/// Why a round of a consumer ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bus does not answer, or its stream is another by now.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The writer could not do what it was asked.
    #[error(transparent)]
    Batch(#[from] batch::Error),
}

/// The consumer of one service.
pub struct Consumer<H> {
    /// Of the durable consumer that all replicas share.
    pub name: &'static str,
    /// Where events come from.
    pub bus: Arc<dyn Bus>,
    /// Keeps the epoch of the stream last met.
    pub store: Arc<dyn StreamEpochStore>,
    /// Applies the events.
    pub handler: Arc<H>,
    /// The states that are published again on a new stream.
    pub owner: Arc<dyn Owner>,
    /// For the times at which messages are parked.
    pub clock: SharedClock,
    /// Hears whether events flow.
    pub health: Health,
}

impl<H: EventHandler> Consumer<H> {
    /// Consumes until asked to stop, which happens after the batch in hand. Attaches again whenever the bus has failed.
    pub async fn run(self, stopping: CancellationToken) {
        let mut in_doubt = false;
        while !stopping.is_cancelled() {
            if let Err(error) = self.attached(&stopping, in_doubt).await {
                in_doubt = true;
                self.health.set_bus(false);
                tracing::warn!(consumer = self.name, error = %error, "events are not taken in");
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = stopping.cancelled() => {}
                }
            }
        }
    }

    /// `in_doubt`: to have attached shows nothing, since what comes may fail as before. Else the health would go up and down.
    async fn attached(&self, stopping: &CancellationToken, mut in_doubt: bool) -> Result<(), Error> {
        let mut session = self.attach().await?;
        loop {
            if !in_doubt {
                self.health.set_bus(true);
            }
            let batch = tokio::select! {
                // Not by lot, here and elsewhere: a simulation shall be repeatable.
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

    /// Attaches to the bus. If its stream is another than the one met last, first goes back to the start and republishes.
    ///
    /// # Errors
    /// Whatever does not answer; nothing is lost by trying again.
    pub async fn attach(&self) -> Result<Session<'_, H>, Error> {
        let epoch = self.bus.state().await?.epoch;
        if self.store.stream_epoch().await?.as_ref() != Some(&epoch) {
            self.bus.restart(self.name).await?;
            let count = audit::republish_all(&*self.owner, &|_| ()).await?;
            // Noted last: a crash before it only repeats the republishing.
            self.store.set_stream_epoch(&epoch).await?;
            tracing::info!(consumer = self.name, %epoch, count, "met a new stream and published all states again");
        }
        let consumer = self.bus.attach(self.name, H::Event::FILTERS).await?;
        // Lost since it was looked at, it would be taken for the one whose loss is repaired.
        if self.bus.state().await?.epoch != epoch {
            return Err(bus::Error::StreamChanged.into());
        }
        Ok(Session { of: self, consumer, failures: HashMap::new() })
    }
}

/// A consumer that is attached; it can be stepped.
pub struct Session<'a, H> {
    of: &'a Consumer<H>,
    consumer: Box<dyn bus::Consumer>,
    /// How often each message has failed by itself.
    failures: HashMap<u64, u32>,
}

impl<H: EventHandler> Session<'_, H> {
    /// Waits for messages. Cancellation loses nothing.
    ///
    /// # Errors
    /// Those of the bus.
    pub async fn next(&mut self) -> Result<Vec<Delivery>, bus::Error> {
        self.consumer.next(BATCH).await
    }

    /// Applies a batch, and acknowledges, parks or asks again for each message of it.
    ///
    /// # Errors
    /// If the store or the bus does not answer: what is not acknowledged comes again.
    pub async fn apply(&mut self, batch: Vec<Delivery>) -> Result<(), Error> {
        let mut done = Vec::with_capacity(batch.len());
        // In the order of names: what is done with a batch shall not depend on chance.
        let mut newest: BTreeMap<String, Newest<H::Event>> = BTreeMap::new();
        for delivery in batch {
            event::log_received(self.of.name, &delivery);
            let event_id = event::id(&delivery.message, delivery.sequence);
            match H::Event::decode(&delivery.message) {
                Ok(event) => {
                    let (key, revision) = event.aggregate();
                    let incoming = Incoming { event, message: delivery.message, event_id, was_parked: false };
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
                        // Who calls this pauses before the next round.
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

    /// Counts a failure that lies in the message; the one that fails too often is parked.
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
            "an event cannot be applied yet"
        );
        for sequence in covered {
            self.consumer.retry(sequence, backoff(failures)).await?;
        }
        Ok(())
    }

    async fn park(&self, event_id: String, message: &Message, reason: String, attempts: u32) -> Result<(), Error> {
        tracing::error!(
            consumer = self.of.name,
            event_id,
            reason,
            attempts,
            correlation_id = event::correlation_id(message),
            "an event is parked"
        );
        metrics::counter!("eticket_events_parked_total", "consumer" => self.of.name).increment(1);
        let park_time = self.of.clock.now();
        let parked = Parked { event_id, message: message.clone(), reason, attempts, park_time };
        Ok(self.of.handler.park(parked).await?)
    }
}

/// The newest event of an aggregate in a batch, and the sequences of all that it stands for.
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

/// Applies a parked message again. What fails again stays parked.
///
/// # Errors
/// If the store does not answer.
pub async fn apply_parked<H: EventHandler>(handler: &H, parked: Parked) -> Result<(), batch::Error> {
    let Ok(event) = H::Event::decode(&parked.message) else { return Ok(()) };
    let Parked { event_id, message, .. } = parked;
    let incoming = Incoming { event, message: Arc::new(message), event_id, was_parked: true };
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
