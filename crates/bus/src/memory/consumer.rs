//! Durable consumers of the in-memory bus.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Attachment, State, Stream, delivery};
use crate::{Consumer, Delivery, Error, Message, matches};

/// An unacknowledged message is delivered again after this time.
pub const ACK_WAIT: Duration = Duration::from_secs(30);

/// A message that was delivered and is not acknowledged.
struct InFlight {
    attempts: u32,
    /// The member that has it; `None` while it waits for redelivery.
    owner: Option<u64>,
    /// Time of the next delivery.
    due: Instant,
}

/// The state that the members of a durable consumer share.
#[derive(Default)]
pub(super) struct Durable {
    filters: Vec<String>,
    /// Everything up to here has been delivered at least once or does not match the filters.
    cursor: u64,
    open: BTreeMap<u64, InFlight>,
}

impl Durable {
    pub(super) fn set_filters(&mut self, filters: &[&str]) {
        // New filters may match messages below the cursor, so start again.
        if self.filters != filters {
            self.filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
            self.restart();
        }
    }

    pub(super) fn restart(&mut self) {
        self.cursor = 0;
        self.open.clear();
    }

    pub(super) fn is_beyond(&self, last_sequence: u64) -> bool {
        self.cursor > last_sequence
    }

    pub(super) fn lag(&self, messages: &BTreeMap<u64, Arc<Message>>) -> u64 {
        let open = self.open.keys().filter(|sequence| messages.contains_key(sequence)).count();
        let wanted = |message: &Message| self.filters.iter().any(|filter| matches(filter, &message.subject));
        let waiting = messages.range(self.cursor + 1..).filter(|(_, message)| wanted(message)).count();
        u64::try_from(open + waiting).unwrap_or(u64::MAX)
    }

    /// Returns messages due for redelivery, then new ones. A message that has left the stream is dropped: its subject
    /// has newer ones.
    fn take(&mut self, messages: &BTreeMap<u64, Arc<Message>>, owner: u64, most: usize) -> Vec<Delivery> {
        let now = Instant::now();
        let until = now + ACK_WAIT;
        let mut taken = Vec::new();
        self.open.retain(|sequence, open| {
            let Some(message) = messages.get(sequence) else { return false };
            if open.due <= now && taken.len() < most {
                *open = InFlight { attempts: open.attempts + 1, owner: Some(owner), due: until };
                taken.push(delivery(*sequence, open.attempts, message));
            }
            true
        });
        for (sequence, message) in messages.range(self.cursor + 1..) {
            if taken.len() == most {
                break;
            }
            self.cursor = *sequence;
            if self.filters.iter().any(|filter| matches(filter, &message.subject)) {
                self.open.insert(*sequence, InFlight { attempts: 1, owner: Some(owner), due: until });
                taken.push(delivery(*sequence, 1, message));
            }
        }
        taken
    }

    fn next_due(&self) -> Option<Instant> {
        self.open.values().map(|open| open.due).min()
    }

    fn give_back(&mut self, sequence: u64, due: Instant) {
        if let Some(open) = self.open.get_mut(&sequence) {
            (open.owner, open.due) = (None, due);
        }
    }
}

pub(super) struct MemoryConsumer {
    stream: Stream,
    name: String,
    attachment: Attachment,
    id: u64,
}

impl MemoryConsumer {
    pub(super) fn new(stream: Stream, name: String, attachment: Attachment) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(0);
        Self { stream, name, attachment, id: IDS.fetch_add(1, Ordering::Relaxed) }
    }

    fn with<R>(&self, act: impl FnOnce(&mut Durable, &BTreeMap<u64, Arc<Message>>) -> R) -> Result<R, Error> {
        let mut state = self.stream.state();
        self.attachment.check(&state)?;
        let State { consumers, messages, .. } = &mut *state;
        let consumer = consumers.get_mut(&self.name);
        let consumer = consumer.ok_or_else(|| Error::Unavailable("the consumer was deleted".to_owned()))?;
        Ok(act(consumer, messages))
    }
}

#[async_trait]
impl Consumer for MemoryConsumer {
    async fn next(&mut self, most: usize) -> Result<Vec<Delivery>, Error> {
        loop {
            let shared = self.stream.0.clone();
            let changed = shared.changes.notified();
            let taken = self.with(|consumer, messages| consumer.take(messages, self.id, most))?;
            if !taken.is_empty() {
                return Ok(taken);
            }
            let next_due = self.with(|consumer, _| consumer.next_due())?;
            let next_due = next_due.unwrap_or_else(|| Instant::now() + ACK_WAIT);
            tokio::select! {
                biased;
                () = changed => {}
                () = tokio::time::sleep_until(next_due) => {}
            }
        }
    }

    async fn ack(&mut self, sequences: &[u64]) -> Result<(), Error> {
        self.with(|consumer, _| consumer.open.retain(|sequence, _| !sequences.contains(sequence)))
    }

    async fn retry(&mut self, sequence: u64, after: Duration) -> Result<(), Error> {
        self.with(|consumer, _| consumer.give_back(sequence, Instant::now() + after))
    }
}

impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        let now = Instant::now();
        // After a change of the stream there is nothing to give back.
        let _ = self.with(|consumer, _| {
            let mine = consumer.open.values_mut().filter(|open| open.owner == Some(self.id));
            mine.for_each(|open| (open.owner, open.due) = (None, now));
        });
        // Wakes other members of the consumer, which can receive the messages now.
        self.stream.changed();
    }
}
