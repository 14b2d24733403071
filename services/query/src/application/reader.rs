//! Reads the stream into the view, starting at the position that the view stores.
//!
//! Rows and position are stored in one transaction, so a crash neither loses nor duplicates an effect. A position is
//! valid only in the stream, and at the message, where it was taken. Both are checked on each attach; if they do not
//! match, reading starts from the first message. Revisions make that safe.

use std::{sync::Arc, time::Duration};

use eticket_base::{clock::SharedClock, error::chain, telemetry::Span};
use eticket_bus::{self as bus, Bus, Delivery, Message};
use eticket_proto::{headers, ids::TicketId, token};
use eticket_rpc_server::health::Health;
use eticket_service::event;
use eticket_store::{self as store, CommitExt, Parked, Work};
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;

use super::{
    Decode, Keys, Position, ViewRows, ViewStore, Watched,
    apply_batch::{self, Place, Read},
    changes::{Changes, Trouble},
    watch::ResumePoint,
};
use crate::domain::View;

/// Maximum number of messages in one transaction. With a backlog, a page of an index that several messages change is
/// written once.
pub(crate) const BATCH: usize = 1024;
/// Pause after the bus or the store has failed.
const PAUSE: Duration = Duration::from_secs(1);
/// Interval at which a reader without new messages compares its position with the end of the stream.
const LOOK_AGAIN: Duration = Duration::from_secs(3);
/// Number of failures, while the store is available, after which a message is parked.
pub const MAX_ATTEMPTS: u32 = 5;

/// Why a session ended. The reader then attaches again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Bus(#[from] bus::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The stored rows were not written by this session: they were exchanged, or another reader writes them.
    #[error("the position of the view is not that of this reader")]
    Exchanged,
    /// The stream holds messages that the bus does not deliver.
    #[error("the stream ends at {last}, but the reader stays at {read}")]
    Stalled { read: u64, last: u64 },
}

/// Reads one stream into one store.
#[derive(Clone)]
pub struct Reader {
    pub bus: Arc<dyn Bus>,
    pub store: Arc<dyn ViewStore>,
    pub decode: Arc<dyn Decode>,
    pub changes: Changes,
    pub clock: SharedClock,
    pub health: Health,
    /// Locked while a batch is applied, and while the rows are exchanged.
    pub turn: Arc<Mutex<()>>,
    /// Notified after the rows were exchanged: the reader attaches again.
    pub reattach: Arc<Notify>,
    /// Notified when the reader is at the end of the stream and the view has never been complete. The receiver decides
    /// whether the view is complete and then calls [`Self::complete`]. Without a receiver, the view counts as complete
    /// at the end of the stream.
    pub reached_end: Option<Arc<Notify>>,
}

impl Reader {
    /// Reads until `stopping` is cancelled; a batch that has begun is completed. Attaches again after each failure.
    pub async fn run(self, stopping: CancellationToken) {
        event::register_metrics("query");
        let mut in_doubt = false;
        while !stopping.is_cancelled() {
            match self.attached(&stopping, &mut in_doubt).await {
                Ok(()) | Err(Error::Exchanged) => {}
                Err(error) => {
                    let trouble = match error {
                        Error::Bus(_) => Some(Trouble::Bus),
                        Error::Stalled { .. } => Some(Trouble::Stalled),
                        Error::Store(_) | Error::Exchanged => None,
                    };
                    if trouble.is_some() {
                        in_doubt = true;
                        self.changes.set_trouble(trouble);
                        self.health.set_bus(false);
                    }
                    tracing::warn!(%error, "cannot follow the stream; attaching again");
                    tokio::select! {
                        () = tokio::time::sleep(PAUSE) => {}
                        () = stopping.cancelled() => {}
                    }
                }
            }
        }
    }

    /// `in_doubt`: the last session failed. Attaching again does not prove that this one can follow the stream, so the
    /// health of `bus` stays down until a batch is applied or the reader is at the end of the stream. Otherwise it
    /// would flap.
    async fn attached(&self, stopping: &CancellationToken, in_doubt: &mut bool) -> Result<(), Error> {
        let mut session = self.attach().await?;
        loop {
            if !*in_doubt {
                self.health.set_bus(true);
                self.changes.set_trouble(None);
            }
            tokio::select! {
                // Poll in a fixed order, so that simulations are repeatable.
                biased;
                () = stopping.cancelled() => return Ok(()),
                () = self.reattach.notified() => return Ok(()),
                batch = session.next() => {
                    session.apply(batch?).await?;
                    *in_doubt = false;
                }
                () = tokio::time::sleep(LOOK_AGAIN) => {
                    session.look_again().await?;
                    *in_doubt &= session.lagged_at.is_some();
                }
            }
        }
    }

    /// Attaches to the stream, at the stored position if it is still valid.
    ///
    /// # Errors
    /// If the bus or the store is unavailable.
    pub async fn attach(&self) -> Result<Session<'_>, Error> {
        let stream = self.bus.state().await?;
        let known = self.store.position().await?;
        let at = match known.clone() {
            Some(position) if position.epoch == stream.epoch => position,
            other => {
                self.start_over(&stream.epoch).await?;
                tracing::info!(epoch = stream.epoch, before = ?other, "reading a new stream");
                Position::start(stream.epoch.clone())
            }
        };
        let is_there = at.sequence <= stream.last_sequence && self.matches_fingerprint(&at).await?;
        let at = if is_there { at } else { self.read_from_start(at).await? };
        self.changes.attached(&at.epoch);
        let after = at.sequence;
        let mut reader = self.bus.read(after).await?;
        // After a purge, the last sequence of the stream can no longer be read.
        let target =
            if after < stream.last_sequence && reader.is_at_end().await? { after } else { stream.last_sequence };
        bus::check_epoch(&*self.bus, &at.epoch).await?;
        self.keep_rows_above(&at).await?;
        let session = Session { of: self, reader, stored: at, read: after, target, lagged_at: None };
        session.caught_up().await?;
        Ok(session)
    }

    /// Keeps the rows of the coming commits in memory for watchers, unless the store has rows above the position: a
    /// stream that has lost its tail is then read again, and only the store has all rows.
    async fn keep_rows_above(&self, at: &Position) -> Result<(), store::Error> {
        // All rows may be exchanged only before or after this.
        let _turn = self.turn.lock().await;
        let is_stored = self.store.position().await?.as_ref() == Some(at);
        if is_stored && self.store.changed_above(&Watched::All, at.sequence, 1).await?.rows.is_empty() {
            let (epoch, sequence) = (at.epoch.clone(), at.sequence);
            self.changes.keep_rows_above(ResumePoint { epoch, sequence, mark: 0 });
        }
        Ok(())
    }

    /// The stream has lost its tail, so sequences are assigned again: those of the rows and of watchers mean other
    /// messages.
    async fn read_from_start(&self, at: Position) -> Result<Position, store::Error> {
        tracing::warn!(
            sequence = at.sequence,
            "the stream has another message at the stored position; reading from the start"
        );
        self.start_over(&at.epoch).await?;
        self.changes.forked();
        Ok(Position::start(at.epoch))
    }

    async fn start_over(&self, epoch: &str) -> Result<(), store::Error> {
        let _turn = self.turn.lock().await;
        let apply_batch = &mut |work: &mut Work<ViewRows>| {
            work.rows.forget_sequences = true;
            work.rows.moved_to = Some(Position::start(epoch.to_owned()));
        };
        self.store.commit(&Keys::default(), &[], apply_batch).await
    }

    /// Returns whether the stream still holds the message that was read last.
    async fn matches_fingerprint(&self, at: &Position) -> Result<bool, bus::Error> {
        if at.sequence == 0 {
            return Ok(true);
        }
        let message = self.bus.message_at(at.sequence).await?;
        Ok(message.is_some_and(|message| fingerprint(&message, at.sequence) == at.fingerprint))
    }
}

/// An attached reader, which can be run step by step.
pub struct Session<'a> {
    of: &'a Reader,
    reader: Box<dyn bus::Reader>,
    /// The position in the store.
    stored: Position,
    /// Sequence of the last message that was applied since the attach.
    read: u64,
    /// Last sequence of the stream at the time of the attach.
    target: u64,
    /// Sequence of the reader when it was last found to lag.
    lagged_at: Option<u64>,
}

impl Session<'_> {
    /// Waits for messages. It is cancel safe: no message is lost.
    ///
    /// # Errors
    /// If the bus is unavailable, or its stream has been replaced.
    pub async fn next(&mut self) -> Result<Vec<Delivery>, bus::Error> {
        self.reader.next(BATCH).await
    }

    /// Applies a batch and stores the new position, in one transaction.
    ///
    /// # Errors
    /// If the store is unavailable, or its position differs from that of this session. Nothing of the batch is applied
    /// then.
    pub async fn apply(&mut self, batch: Vec<Delivery>) -> Result<(), Error> {
        let _turn = self.of.turn.lock().await;
        // They end with this function, when the rows are committed and watchers are notified.
        let _spans: Vec<_> = batch.iter().filter_map(|delivery| span(&delivery.message)).collect();
        let batch: Vec<Read> = batch.into_iter().map(|delivery| self.of.read(delivery)).collect();
        match self.commit(&batch).await {
            Err(Error::Store(store::Error::Data(_))) => {
                // One message has invalid data; applying each alone finds it.
                for read in batch {
                    self.apply_alone(read).await?;
                }
            }
            outcome => outcome?,
        }
        self.caught_up().await
    }

    async fn apply_alone(&mut self, mut read: Read) -> Result<(), Error> {
        loop {
            match self.commit(std::slice::from_ref(&read)).await {
                Err(Error::Store(error @ store::Error::Data(_))) if read.content.is_ok() => {
                    let (event_id, attempts, reason) = (&read.event_id, read.attempts, chain(&error));
                    tracing::warn!(
                        event_id,
                        attempts,
                        reason,
                        correlation_id = event::correlation_id(&read.message),
                        "applying an event failed"
                    );
                    match attempts {
                        MAX_ATTEMPTS.. => read.content = Err(reason),
                        _ => read.attempts += 1,
                    }
                }
                outcome => return outcome,
            }
        }
    }

    async fn commit(&mut self, batch: &[Read]) -> Result<(), Error> {
        let Some(last) = batch.last() else { return Ok(()) };
        let Position { epoch, .. } = &self.stored;
        let sequence = last.place.sequence;
        let moved_to = Position { epoch: epoch.clone(), sequence, fingerprint: fingerprint(&last.message, sequence) };
        let keys = apply_batch::keys(batch);
        let now = self.of.clock.now();
        let apply_batch = |work: &mut Work<ViewRows>| {
            if work.rows.position.as_ref() != Some(&self.stored) {
                return None;
            }
            apply_batch::fold(work, batch, now);
            work.rows.moved_to = Some(moved_to.clone());
            Some(changed_views(work))
        };
        let changed = match self.of.store.commit_with(&keys, &[], apply_batch).await {
            // The batch may be committed in spite of the error, and is then not read again. Waiters must therefore read
            // the store now.
            Err(error @ store::Error::Unavailable(_)) => {
                self.of.changes.exchanged();
                return Err(error.into());
            }
            outcome => outcome?.ok_or(Error::Exchanged)?,
        };
        (self.stored, self.read) = (moved_to, sequence);
        self.of.changes.committed(changed);
        self.count(batch).await;
        Ok(())
    }

    async fn count(&self, batch: &[Read]) {
        for read in batch {
            if let Err(reason) = &read.content {
                let is_discarded = self.of.store.is_discarded(&read.event_id).await.unwrap_or(false);
                event::note_parked("query", &read.event_id, &read.message, reason, read.attempts, is_discarded);
            }
        }
        metrics::counter!("eticket_events_taken_in_total", "consumer" => "query").increment(batch.len() as u64);
    }

    /// Returns the position in the store.
    pub fn position(&self) -> &Position {
        &self.stored
    }

    /// Returns the last applied sequence, and the last sequence of the stream at the time of the attach.
    pub fn progress(&self) -> (u64, u64) {
        (self.read, self.target)
    }

    async fn caught_up(&self) -> Result<(), Error> {
        if self.read < self.target {
            return Ok(());
        }
        match &self.of.reached_end {
            _ if self.of.changes.has_caught_up() => self.of.health.set_caught_up(true),
            Some(reached_end) => reached_end.notify_one(),
            None => self.of.complete().await?,
        }
        Ok(())
    }

    /// Returns whether no message is left to read.
    ///
    /// # Errors
    /// If the bus is unavailable, or its stream has been replaced.
    pub async fn is_at_end(&mut self) -> Result<bool, bus::Error> {
        self.reader.is_at_end().await
    }

    /// Checks for a stall, in which the bus delivers nothing although the stream holds more messages. The reader has
    /// stalled if two consecutive checks find it behind without progress.
    ///
    /// # Errors
    /// `Stalled`, or that the stream was replaced. The reader must attach again.
    pub async fn look_again(&mut self) -> Result<(), Error> {
        let stream = self.of.bus.state().await?;
        if stream.epoch != self.stored.epoch {
            return Err(bus::Error::StreamChanged.into());
        }
        let (read, last) = (self.read, stream.last_sequence);
        if read == last {
            self.lagged_at = None;
            return Ok(());
        }
        // The last messages may have been purged or deleted. If the stream ends before the last read message, it has
        // lost its tail.
        if read < last && self.reader.is_at_end().await? {
            (self.lagged_at, self.target) = (None, self.target.min(read));
            return self.caught_up().await;
        }
        match self.lagged_at.replace(read) {
            Some(before) if before == read => Err(Error::Stalled { read, last }),
            _ => Ok(()),
        }
    }
}

impl Reader {
    /// Records that the rows are complete, so that the view serves from now on. The store keeps this, so that the view
    /// also serves after a restart while the bus is unavailable.
    ///
    /// # Errors
    /// If the store is unavailable.
    pub async fn complete(&self) -> Result<(), store::Error> {
        let keep = |work: &mut Work<ViewRows>| work.rows.has_caught_up = true;
        self.store.commit_with(&Keys::default(), &[], keep).await?;
        self.changes.caught_up();
        self.health.set_caught_up(true);
        Ok(())
    }

    /// Applies a parked message again and removes it from the parked ones. A message that still cannot be decoded or
    /// applied stays parked.
    ///
    /// Its sequence has been passed long ago, so the row takes the sequence of the current position. Watchers that
    /// resume from an earlier sequence receive the row, and current watchers are notified to read again. A watcher that
    /// resumes from exactly this sequence receives the row with its next change.
    ///
    /// # Errors
    /// If the store is unavailable.
    pub async fn apply_parked(&self, parked: Parked) -> Result<(), store::Error> {
        let Ok((ticket, event)) = self.decode.decode(&parked.message) else { return Ok(()) };
        let _turn = self.turn.lock().await;
        let now = self.clock.now();
        let apply_batch = |work: &mut Work<ViewRows>| {
            let position = work.rows.position.as_ref();
            let place = position.map_or(Place { sequence: 0, mark: 0 }, |position| Place {
                sequence: position.sequence,
                mark: position.mark(),
            });
            apply_batch::apply_event(&mut work.rows, &ticket, &event, place, now);
            work.unpark(parked.event_id.clone());
            (place.sequence, changed_views(work))
        };
        let keys = apply_batch::keys_of(&ticket, &event);
        let (sequence, changed) = match self.store.commit_with(&keys, &[], apply_batch).await {
            Err(error @ store::Error::Data(_)) => {
                let error = chain(&error);
                tracing::warn!(event_id = parked.event_id, %error, "a parked event failed again and stays parked");
                return Ok(());
            }
            // The row may be committed in spite of the error.
            Err(error @ store::Error::Unavailable(_)) => {
                self.changes.exchanged();
                return Err(error);
            }
            outcome => outcome?,
        };
        // In this order, so that a watcher that goes back to the sequence of the repair finds the row in memory.
        self.changes.committed(changed);
        self.changes.repaired(sequence);
        Ok(())
    }

    fn read(&self, delivery: Delivery) -> Read {
        event::log_received("view", &delivery);
        let Delivery { sequence, message, .. } = delivery;
        let content = self.decode.decode(&message);
        let place = Place { sequence, mark: mark(&fingerprint(&message, sequence)) };
        Read { place, event_id: event::id(&message, sequence), message, attempts: 1, content }
    }
}

/// Begins the span of an event that the view applies, if its trace is exported.
fn span(message: &Message) -> Option<Span> {
    let sampled = event::is_sampled(message).then(|| event::consumer_span("query", message));
    sampled.map(|(_, span)| span).filter(Span::is_recorded)
}

/// Returns the rows that a batch has changed, as they are committed.
fn changed_views(work: &Work<ViewRows>) -> Vec<(TicketId, Arc<View>)> {
    work.rows.views.changed().map(|(id, view)| (id.clone(), Arc::new(view.clone()))).collect()
}

/// Returns a fingerprint that identifies a message at its sequence. The event id is not sufficient: after a stream has
/// lost its tail, the same state may be republished at the same sequence under the same id, after messages that were
/// never read. Each message that a relay sends has its own publication id. Messages of releases before 0.2 do not have
/// it; their trace context is used instead.
pub(super) fn fingerprint(message: &Message, sequence: u64) -> String {
    let publication = message.header(headers::PUBLICATION_ID).or_else(|| message.header(headers::TRACE_PARENT));
    format!("{} {}", event::id(message, sequence), publication.unwrap_or_default()).trim_end().to_owned()
}

/// Returns a short form of a fingerprint, which is never 0.
pub(super) fn mark(fingerprint: &str) -> u32 {
    token::checksum(fingerprint.as_bytes()).max(1)
}
