//! A bus under the control of a schedule: it selects the messages that a consumer gets, loses acknowledgements, creates
//! the stream again, or removes its newest messages.
//!
//! Lost streams are kept: messages that a service had fetched from a stream before its loss may still be applied.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use eticket_bus::{Bus, Bytes, Consumer, Delivery, Error, History, Message, Reader, Requests, StreamState, matches};

/// A message with its sequence in its stream.
pub type Stored = (u64, Arc<Message>);

#[derive(Default)]
struct Stream {
    messages: BTreeMap<u64, Arc<Message>>,
    last_sequence: u64,
    acknowledged: HashMap<String, HashSet<u64>>,
}

struct State {
    /// The last element is the current stream.
    streams: Vec<Stream>,
    kept_per_subject: usize,
    loses_acknowledgements: bool,
    page: usize,
}

/// Clones share the bus.
#[derive(Clone)]
pub struct TestBus(Arc<Mutex<State>>);

impl Default for TestBus {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State {
            streams: vec![Stream::default()],
            kept_per_subject: usize::MAX,
            loses_acknowledgements: false,
            page: usize::MAX,
        })))
    }
}

fn epoch(generation: usize) -> String {
    format!("stream-{generation}")
}

impl State {
    fn generation(&self) -> usize {
        self.streams.len() - 1
    }

    fn current(&mut self) -> &mut Stream {
        self.streams.last_mut().expect("there always is a stream")
    }
}

impl TestBus {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets how many messages of each subject the stream keeps from now on.
    pub fn keep_per_subject(&self, most: usize) {
        self.state().kept_per_subject = most;
    }

    /// Sets whether acknowledgements are lost.
    pub fn lose_acknowledgements(&self, lost: bool) {
        self.state().loses_acknowledgements = lost;
    }

    /// Sets how many messages a reader gets at a time.
    pub fn set_page(&self, most: usize) {
        self.state().page = most.max(1);
    }

    /// Returns the number of streams that have existed.
    pub fn generation(&self) -> usize {
        self.state().generation()
    }

    /// Returns the last sequence of the current stream.
    pub fn last_sequence(&self) -> u64 {
        self.state().current().last_sequence
    }

    /// Loses all messages; the next stream has another epoch.
    pub fn wipe(&self) {
        self.state().streams.push(Stream::default());
    }

    /// Loses the newest messages and keeps the epoch, like a server that was restored from an older disk.
    pub fn lose_tail(&self, count: u64) {
        let mut state = self.state();
        let stream = state.current();
        stream.last_sequence = stream.last_sequence.saturating_sub(count);
        let last = stream.last_sequence;
        stream.messages.retain(|sequence, _| *sequence <= last);
        for acknowledged in stream.acknowledged.values_mut() {
            acknowledged.retain(|sequence| *sequence <= last);
        }
    }

    /// Returns the messages of a stream that match the filters.
    pub fn messages(&self, generation: usize, filters: &[&str]) -> Vec<Stored> {
        let state = self.state();
        let messages = &state.streams[generation].messages;
        let wanted = |message: &Message| filters.iter().any(|filter| matches(filter, &message.subject));
        let found = messages.iter().filter(|(_, message)| wanted(message));
        found.map(|(sequence, message)| (*sequence, message.clone())).collect()
    }

    /// Returns the messages of a stream that a durable consumer has not acknowledged.
    pub fn unacknowledged(&self, generation: usize, name: &str, filters: &[&str]) -> Vec<Stored> {
        let mut found = self.messages(generation, filters);
        if let Some(acknowledged) = self.state().streams[generation].acknowledged.get(name) {
            found.retain(|(sequence, _)| !acknowledged.contains(sequence));
        }
        found
    }

    /// Appends a message to the current stream.
    pub fn append(&self, message: Arc<Message>) -> u64 {
        let mut state = self.state();
        let kept = state.kept_per_subject;
        let stream = state.current();
        stream.last_sequence += 1;
        let sequence = stream.last_sequence;
        stream.messages.insert(sequence, message.clone());
        let same = stream.messages.iter().filter(|(_, other)| other.subject == message.subject);
        let same: Vec<u64> = same.map(|(sequence, _)| *sequence).collect();
        for oldest in same.iter().take(same.len().saturating_sub(kept)) {
            stream.messages.remove(oldest);
        }
        sequence
    }
}

#[async_trait]
impl Bus for TestBus {
    async fn state(&self) -> Result<StreamState, Error> {
        let mut state = Self::state(self);
        let epoch = epoch(state.generation());
        Ok(StreamState { epoch, last_sequence: state.current().last_sequence })
    }

    async fn publish(&self, message: Message) -> Result<u64, Error> {
        Ok(self.append(Arc::new(message)))
    }

    async fn attach(&self, name: &str, _: &[&str]) -> Result<Box<dyn Consumer>, Error> {
        Ok(Box::new(Attached { bus: self.clone(), name: name.to_owned(), generation: self.generation() }))
    }

    async fn restart(&self, name: &str) -> Result<(), Error> {
        Self::state(self).current().acknowledged.remove(name);
        Ok(())
    }

    async fn lag(&self, _: &str) -> Result<Option<u64>, Error> {
        Err(Error::Unavailable("no schedule reads the lag".to_owned()))
    }

    async fn read(&self, after: u64) -> Result<Box<dyn Reader>, Error> {
        Ok(Box::new(InOrder { bus: self.clone(), generation: self.generation(), after }))
    }

    async fn message_at(&self, sequence: u64) -> Result<Option<Message>, Error> {
        Ok(Self::state(self).current().messages.get(&sequence).map(|message| (**message).clone()))
    }

    async fn history(&self, _: &[&str], _: Option<u64>, _: usize) -> Result<History, Error> {
        Err(Error::Unavailable("no schedule reads the past".to_owned()))
    }

    async fn serve(&self, _: &str) -> Result<Box<dyn Requests>, Error> {
        Err(Error::Unavailable("the comparison is not part of schedules".to_owned()))
    }

    async fn request(&self, _: &str, _: Bytes) -> Result<Option<Bytes>, Error> {
        Ok(None)
    }

    async fn close(&self) {}
}

struct Attached {
    bus: TestBus,
    name: String,
    generation: usize,
}

#[async_trait]
impl Consumer for Attached {
    async fn next(&mut self, _: usize) -> Result<Vec<Delivery>, Error> {
        Err(Error::Unavailable("the schedule hands messages out itself".to_owned()))
    }

    async fn ack(&mut self, sequences: &[u64]) -> Result<(), Error> {
        let mut state = self.bus.state();
        if state.generation() != self.generation {
            return Err(Error::StreamChanged);
        }
        if state.loses_acknowledgements {
            return Err(Error::Unavailable("the acknowledgement was lost".to_owned()));
        }
        state.current().acknowledged.entry(self.name.clone()).or_default().extend(sequences);
        Ok(())
    }

    async fn retry(&mut self, _: u64, _: Duration) -> Result<(), Error> {
        Ok(())
    }
}

struct InOrder {
    bus: TestBus,
    generation: usize,
    after: u64,
}

#[async_trait]
impl Reader for InOrder {
    /// Returns immediately even without messages: the schedule calls it at the right time.
    async fn next(&mut self, most: usize) -> Result<Vec<Delivery>, Error> {
        let mut state = self.bus.state();
        if state.generation() != self.generation {
            return Err(Error::StreamChanged);
        }
        let page = most.min(state.page);
        let above = state.current().messages.range(self.after + 1..).take(page);
        let found: Vec<Delivery> = above.map(|(sequence, message)| delivery((*sequence, message.clone()))).collect();
        self.after = found.last().map_or(self.after, |last| last.sequence);
        Ok(found)
    }

    async fn is_at_end(&mut self) -> Result<bool, Error> {
        Ok(self.bus.state().current().messages.range(self.after + 1..).next().is_none())
    }
}

/// Converts a stored message into a delivery.
pub fn delivery((sequence, message): Stored) -> Delivery {
    Delivery { sequence, attempts: 1, message }
}
