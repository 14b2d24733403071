//! Durable consumers of the embedded bus: messages in flight, messages to redeliver, and the acknowledged position.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use eticket_bus::{Consumer, Delivery, Error, matches};
use tokio::{sync::watch, time::Instant};

use super::{Shared, Stored, closed, locked, log};

/// An unacknowledged message is delivered again after this time.
const ACK_WAIT: Duration = Duration::from_secs(30);

/// A message that was delivered and is not acknowledged.
struct InFlight {
    attempts: u32,
    owner: u64,
    until: Instant,
}

/// A message to be delivered again.
struct Redelivery {
    attempts: u32,
    due: Instant,
}

/// The state that the members of a durable consumer share.
pub(super) struct Progress {
    filters: Vec<String>,
    /// Everything up to here has been delivered at least once or does not match the filters.
    cursor: u64,
    in_flight: BTreeMap<u64, InFlight>,
    again: BTreeMap<u64, Redelivery>,
    /// Whether the position has changed since it was last written to the file.
    unwritten: bool,
    written_floor: u64,
}

impl Progress {
    pub(super) fn new(filters: Vec<String>, floor: u64) -> Self {
        let (in_flight, again) = (BTreeMap::new(), BTreeMap::new());
        Self { filters, cursor: floor, in_flight, again, unwritten: false, written_floor: floor }
    }

    pub(super) fn set_filters(&mut self, filters: Vec<String>) {
        if self.filters != filters {
            self.filters = filters;
            self.restart();
        }
        // A new consumer is also written, with position 0.
        self.unwritten = true;
    }

    pub(super) fn restart(&mut self) {
        self.cursor = 0;
        self.in_flight.clear();
        self.again.clear();
        self.unwritten = true;
    }

    /// Returns the filters, the sequence after which nothing is delivered yet, and the number of messages up to it that
    /// are not acknowledged.
    pub(super) fn unfinished(&self) -> (Vec<String>, u64, u64) {
        let delivered = self.in_flight.len() + self.again.len();
        (self.filters.clone(), self.cursor, u64::try_from(delivered).unwrap_or(u64::MAX))
    }

    /// Everything up to here has been acknowledged.
    fn floor(&self) -> u64 {
        let open = self.in_flight.keys().next().into_iter().chain(self.again.keys().next()).min();
        open.map_or(self.cursor, |first| first.saturating_sub(1).min(self.cursor))
    }

    /// Returns the position if it is not in the file yet, and marks it as written.
    pub(super) fn take_unwritten(&mut self, name: &str) -> Option<log::Position> {
        let floor = self.floor();
        if !self.unwritten && floor == self.written_floor {
            return None;
        }
        (self.unwritten, self.written_floor) = (false, floor);
        Some(log::Position { name: name.to_owned(), filters: self.filters.clone(), floor })
    }

    /// Marks the position as unwritten after a failed write.
    pub(super) fn mark_unwritten(&mut self) {
        self.unwritten = true;
    }

    /// Returns the messages due for redelivery, and the time when the next one is due.
    fn due(&mut self, now: Instant, most: usize) -> (Vec<u64>, Option<Instant>) {
        let late: Vec<u64> =
            self.in_flight.iter().filter(|(_, out)| out.until <= now).map(|(sequence, _)| *sequence).collect();
        for sequence in late {
            self.give_back(sequence, now);
        }
        let due = self.again.iter().filter(|(_, again)| again.due <= now).map(|(sequence, _)| *sequence).take(most);
        let due = due.collect();
        let next = self.again.values().map(|again| again.due).chain(self.in_flight.values().map(|out| out.until)).min();
        (due, next)
    }

    fn give_back(&mut self, sequence: u64, due: Instant) {
        if let Some(out) = self.in_flight.remove(&sequence) {
            self.again.insert(sequence, Redelivery { attempts: out.attempts, due });
        }
    }

    fn deliver(&mut self, sequence: u64, attempts: u32, owner: u64, now: Instant) {
        self.in_flight.insert(sequence, InFlight { attempts, owner, until: now + ACK_WAIT });
    }
}

pub(super) struct EmbeddedConsumer {
    shared: Arc<Shared>,
    progress: Arc<Mutex<Progress>>,
    changes: watch::Receiver<u64>,
    id: u64,
}

impl EmbeddedConsumer {
    pub(super) fn new(shared: Arc<Shared>, progress: Arc<Mutex<Progress>>) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let (changes, id) = (shared.last_sequence.subscribe(), IDS.fetch_add(1, Ordering::Relaxed));
        Self { shared, progress, changes, id }
    }

    /// Returns the messages due for redelivery. A message that has left the stream is dropped: its subject has newer
    /// ones.
    async fn again(&self, due: Vec<u64>) -> Result<Vec<Delivery>, Error> {
        let mut loaded = Vec::with_capacity(due.len());
        for sequence in due {
            loaded.push((sequence, self.shared.message_at(sequence).await?));
        }
        let (mut progress, now) = (locked(&self.progress), Instant::now());
        let mut deliveries = Vec::with_capacity(loaded.len());
        for (sequence, message) in loaded {
            // Another member may have taken it during the read.
            let Some(again) = progress.again.remove(&sequence) else { continue };
            if let Some(message) = message {
                let attempts = again.attempts + 1;
                progress.deliver(sequence, attempts, self.id, now);
                deliveries.push(Delivery { sequence, attempts, message });
            }
        }
        Ok(deliveries)
    }

    /// Selects the matching messages of a page that begins at the cursor; `None` if another member has moved the
    /// cursor.
    fn take(&self, cursor: u64, page: Vec<Stored>, most: usize) -> Option<Vec<Delivery>> {
        let (mut progress, now) = (locked(&self.progress), Instant::now());
        if progress.cursor != cursor {
            return None;
        }
        let mut deliveries = Vec::new();
        for Stored { sequence, message } in page {
            if deliveries.len() == most {
                break;
            }
            progress.cursor = sequence;
            if progress.filters.iter().any(|filter| matches(filter, &message.subject)) {
                progress.deliver(sequence, 1, self.id, now);
                deliveries.push(Delivery { sequence, attempts: 1, message });
            }
        }
        Some(deliveries)
    }
}

#[async_trait]
impl Consumer for EmbeddedConsumer {
    async fn next(&mut self, most: usize) -> Result<Vec<Delivery>, Error> {
        loop {
            self.changes.borrow_and_update();
            let (due, next_due) = locked(&self.progress).due(Instant::now(), most);
            if !due.is_empty() {
                let deliveries = self.again(due).await?;
                if deliveries.is_empty() {
                    continue;
                }
                return Ok(deliveries);
            }
            let cursor = locked(&self.progress).cursor;
            let page = self.shared.messages_after(cursor).await?;
            let at_the_end = page.is_empty();
            match self.take(cursor, page, most) {
                Some(deliveries) if !deliveries.is_empty() => return Ok(deliveries),
                Some(_) if at_the_end => {}
                _ => continue,
            }
            let next_due = next_due.unwrap_or_else(|| Instant::now() + ACK_WAIT);
            tokio::select! {
                changed = self.changes.changed() => changed.map_err(|_| closed())?,
                () = tokio::time::sleep_until(next_due) => {}
            }
        }
    }

    async fn ack(&mut self, sequences: &[u64]) -> Result<(), Error> {
        let mut progress = locked(&self.progress);
        for sequence in sequences {
            progress.in_flight.remove(sequence);
            progress.again.remove(sequence);
        }
        Ok(())
    }

    async fn retry(&mut self, sequence: u64, after: Duration) -> Result<(), Error> {
        locked(&self.progress).give_back(sequence, Instant::now() + after);
        Ok(())
    }
}

impl Drop for EmbeddedConsumer {
    fn drop(&mut self) {
        let (mut progress, now) = (locked(&self.progress), Instant::now());
        let mine: Vec<u64> =
            progress.in_flight.iter().filter(|(_, out)| out.owner == self.id).map(|(sequence, _)| *sequence).collect();
        for sequence in mine {
            progress.give_back(sequence, now);
        }
        drop(progress);
        // Wakes other members of the consumer, which can receive the messages now.
        self.shared.last_sequence.send_modify(|_| ());
    }
}
