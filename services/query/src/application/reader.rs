//! Reads the stream into the view, from the position that the view itself keeps.
//!
//! Rows and position move in one transaction, so that a crash loses or repeats nothing that matters. A position means something
//! only in the stream, and at the message, where it was taken: on each attach both are checked, and where they no longer match
//! reading starts from the start. Revisions make that safe.

use std::{sync::Arc, time::Duration};

use eticket_base::{clock::SharedClock, error::chain};
use eticket_bus::{self as bus, Bus, Delivery, Message};
use eticket_proto::{headers, ids::TicketId};
use eticket_rpc_server::health::Health;
use eticket_service::event;
use eticket_store::{self as store, CommitExt, Parked, Work};
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;

use super::{
    Decode, Keys, Position, ViewRows, ViewStore,
    apply_batch::{self, Read},
    changes::Changes,
};
use crate::domain::View;

/// Messages applied in one transaction.
const BATCH: usize = 256;
/// How long to leave a bus or store alone that does not answer.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a reader that is told of nothing asks whether there is nothing.
const LOOK_AGAIN: Duration = Duration::from_secs(3);
/// A message that fails so often by itself, though the store answers, is parked.
pub const MAX_ATTEMPTS: u32 = 5;

/// Why reading stopped. It goes on by attaching again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Bus(#[from] bus::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The rows are not those that this session has written: they were exchanged, or another reader writes them.
    #[error("the view has another position than this reader")]
    Exchanged,
    /// There are messages that the bus does not deliver.
    #[error("the stream has gone on to {last} and the reader stays at {read}")]
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
    /// Held while a batch is applied: who exchanges the rows holds it meanwhile.
    pub turn: Arc<Mutex<()>>,
    /// Rung when the rows were exchanged: the reader attaches again.
    pub reattach: Arc<Notify>,
    /// Rung when the stream is read to its end and the view has never been complete: what then decides whether it is calls
    /// [`Self::complete`]. Without it the end of the stream is taken for that.
    pub reached_end: Option<Arc<Notify>>,
}

impl Reader {
    /// Reads until asked to stop, which happens after the batch in hand. Attaches again whenever the bus or the store has failed.
    pub async fn run(self, stopping: CancellationToken) {
        let mut in_doubt = false;
        while !stopping.is_cancelled() {
            match self.attached(&stopping, &mut in_doubt).await {
                Ok(()) | Err(Error::Exchanged) => {}
                Err(error) => {
                    if matches!(error, Error::Bus(_) | Error::Stalled { .. }) {
                        in_doubt = true;
                        self.health.set_bus(false);
                    }
                    tracing::warn!(%error, "the view does not follow the stream");
                    tokio::select! {
                        () = tokio::time::sleep(PAUSE) => {}
                        () = stopping.cancelled() => {}
                    }
                }
            }
        }
    }

    /// `in_doubt`: the last session failed. Attaching again does not show that this one can follow the stream, so health `bus`
    /// stays down until a batch is applied or the reader is at the end of the stream. Otherwise it would flap.
    async fn attached(&self, stopping: &CancellationToken, in_doubt: &mut bool) -> Result<(), Error> {
        let mut session = self.attach().await?;
        loop {
            if !*in_doubt {
                self.health.set_bus(true);
            }
            tokio::select! {
                // Not by lot: a simulation shall be repeatable.
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

    /// Finds where to go on.
    ///
    /// # Errors
    /// If the bus or the store does not answer.
    pub async fn attach(&self) -> Result<Session<'_>, Error> {
        let stream = self.bus.state().await?;
        let known = self.store.position().await?;
        let at = match known.clone() {
            Some(position) if position.epoch == stream.epoch => position,
            other => {
                self.start_over(&stream.epoch).await?;
                tracing::info!(epoch = stream.epoch, before = ?other, "met a new stream");
                Position::start(stream.epoch.clone())
            }
        };
        self.changes.attached(&at.epoch);
        let after =
            if at.sequence <= stream.last_sequence && self.matches_fingerprint(&at).await? { at.sequence } else { 0 };
        if after < at.sequence {
            tracing::warn!(sequence = at.sequence, "the stream has another message there, reading it from the start");
        }
        let mut reader = self.bus.read(after).await?;
        // Of a stream that was purged the last sequence is never read.
        let target =
            if after < stream.last_sequence && reader.is_at_end().await? { after } else { stream.last_sequence };
        // Lost since it was looked at, its places would be taken for those of the one before.
        if self.bus.state().await?.epoch != at.epoch {
            return Err(bus::Error::StreamChanged.into());
        }
        let session = Session { of: self, reader, stored: at, read: after, target, lagged_at: None };
        session.caught_up().await?;
        Ok(session)
    }

    async fn start_over(&self, epoch: &str) -> Result<(), store::Error> {
        let _turn = self.turn.lock().await;
        let apply_batch = &mut |work: &mut Work<ViewRows>| {
            work.rows.forget_sequences = true;
            work.rows.moved_to = Some(Position::start(epoch.to_owned()));
        };
        self.store.commit(&Keys::default(), &[], apply_batch).await
    }

    /// Whether the stream still has the message that was read last.
    async fn matches_fingerprint(&self, at: &Position) -> Result<bool, bus::Error> {
        if at.sequence == 0 {
            return Ok(true);
        }
        let message = self.bus.message_at(at.sequence).await?;
        Ok(message.is_some_and(|message| fingerprint(&message, at.sequence) == at.fingerprint))
    }
}

/// A reader that is attached; it can be stepped.
pub struct Session<'a> {
    of: &'a Reader,
    reader: Box<dyn bus::Reader>,
    /// The position as the store has it.
    stored: Position,
    /// The last message that was applied since the attach.
    read: u64,
    /// The stream's end as of the attach.
    target: u64,
    /// Where the reader stood when it was last seen to be behind.
    lagged_at: Option<u64>,
}

impl Session<'_> {
    /// Waits for messages. Cancellation loses nothing.
    ///
    /// # Errors
    /// Those of the bus.
    pub async fn next(&mut self) -> Result<Vec<Delivery>, bus::Error> {
        self.reader.next(BATCH).await
    }

    /// Applies a batch and moves the position, in one transaction.
    ///
    /// # Errors
    /// If the store does not answer, or has another position than this session: nothing of the batch is applied then.
    pub async fn apply(&mut self, batch: Vec<Delivery>) -> Result<(), Error> {
        let _turn = self.of.turn.lock().await;
        let batch: Vec<Read> = batch.into_iter().map(|delivery| self.of.read(delivery)).collect();
        match self.commit(&batch).await {
            Err(Error::Store(store::Error::Data(_))) => {
                // The fault lies in one of them.
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
                        "an event cannot be applied"
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
        let fingerprint = fingerprint(&last.message, last.sequence);
        let moved_to = Position { epoch: epoch.clone(), sequence: last.sequence, fingerprint };
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
            // It may be written all the same, and will not be read again: the waiters of its tickets read the store now.
            Err(error @ store::Error::Unavailable(_)) => {
                self.of.changes.exchanged();
                return Err(error.into());
            }
            outcome => outcome?.ok_or(Error::Exchanged)?,
        };
        (self.stored, self.read) = (moved_to, last.sequence);
        self.of.changes.committed(changed.iter().map(|(id, view)| (id, view)));
        self.count(batch);
        Ok(())
    }

    fn count(&self, batch: &[Read]) {
        let mut parked = 0;
        for read in batch {
            if let Err(reason) = &read.content {
                parked += 1;
                tracing::error!(
                    event_id = read.event_id,
                    reason,
                    correlation_id = event::correlation_id(&read.message),
                    "an event is parked"
                );
            }
        }
        metrics::counter!("eticket_events_taken_in_total", "consumer" => "query").increment(batch.len() as u64);
        metrics::counter!("eticket_events_parked_total", "consumer" => "query").increment(parked);
    }

    /// Where the store stands.
    pub fn position(&self) -> &Position {
        &self.stored
    }

    /// How far it has read, and the stream's end as of the attach.
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

    /// Whether nothing is left to read.
    ///
    /// # Errors
    /// Those of the bus.
    pub async fn is_at_end(&mut self) -> Result<bool, bus::Error> {
        self.reader.is_at_end().await
    }

    /// A bus may deliver nothing though there is something: twice behind without progress between is a stall.
    ///
    /// # Errors
    /// `Stalled`, or that the stream is another by now: to be attached to anew.
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
        // The last messages may have been purged or deleted. A stream that ends before what was read has lost its tail.
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
    /// The rows are all there is: the view serves from now on. That is kept, so that it does after a restart also while the bus is
    /// out.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn complete(&self) -> Result<(), store::Error> {
        let keep = |work: &mut Work<ViewRows>| work.rows.has_caught_up = true;
        self.store.commit_with(&Keys::default(), &[], keep).await?;
        self.changes.caught_up();
        self.health.set_caught_up(true);
        Ok(())
    }

    /// Applies a parked message again, and takes it out of those parked. One that still cannot be read or applied stays.
    ///
    /// Its place in the stream is long read. The row takes the position's sequence, so that who resumes from before it gets the
    /// row, and who watches now is told to look back. Who resumes from exactly here gets it with the row's next change.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn apply_parked(&self, parked: Parked) -> Result<(), store::Error> {
        let Ok((ticket, event)) = self.decode.decode(&parked.message) else { return Ok(()) };
        let _turn = self.turn.lock().await;
        let now = self.clock.now();
        let apply_batch = |work: &mut Work<ViewRows>| {
            let sequence = work.rows.position.as_ref().map_or(0, |position| position.sequence);
            apply_batch::apply_event(&mut work.rows, &ticket, &event, sequence, now);
            work.unpark(parked.event_id.clone());
            (sequence, changed_views(work))
        };
        let keys = apply_batch::keys_of(&ticket, &event);
        let (sequence, changed) = match self.store.commit_with(&keys, &[], apply_batch).await {
            Err(error @ store::Error::Data(_)) => {
                tracing::warn!(event_id = parked.event_id, error = %chain(&error), "an event cannot be applied yet");
                return Ok(());
            }
            outcome => outcome?,
        };
        self.changes.repaired(sequence);
        self.changes.committed(changed.iter().map(|(id, view)| (id, view)));
        Ok(())
    }

    fn read(&self, delivery: Delivery) -> Read {
        event::log_received("view", &delivery);
        let Delivery { sequence, message, .. } = delivery;
        let content = self.decode.decode(&message);
        Read { sequence, event_id: event::id(&message, sequence), message, attempts: 1, content }
    }
}

/// The rows that a batch has changed, as they are committed.
fn changed_views(work: &Work<ViewRows>) -> Vec<(TicketId, View)> {
    work.rows.views.changed().map(|(id, view)| (id.clone(), view.clone())).collect()
}

/// By which a message is known again at its place. The id alone would not do: a stream that lost its tail may have the same state
/// there once more, published again under the same id, and others before it that were never read. The publication id is of one row
/// of an outbox; messages of releases before 0.2 have none, and are told apart by their trace context.
fn fingerprint(message: &Message, sequence: u64) -> String {
    let publication = message.header(headers::PUBLICATION_ID).or_else(|| message.header(headers::TRACE_PARENT));
    format!("{} {}", event::id(message, sequence), publication.unwrap_or_default()).trim_end().to_owned()
}
