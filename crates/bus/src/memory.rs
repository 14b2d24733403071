//! An in-memory bus for tests and simulations. Its content is lost with the process, and tests can cause faults.
//!
//! `Stream` stands for the server, `Memory` for the connection of one process. A stream can be wiped, lose its newest
//! messages and close its connections, faults that are hard to cause in the production adapters.

mod consumer;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{sync::Notify, time::Instant};

pub use self::consumer::ACK_WAIT;
use self::consumer::{Durable, MemoryConsumer};
use super::{
    Bus, Consumer, Delivery, Error, History, MESSAGES_PER_SUBJECT, Message, Reader, Requests, StreamState,
    local::Switchboard,
};

struct State {
    /// Number of streams so far.
    generation: u64,
    /// Number of times that all connections were closed.
    breaks: u64,
    /// Number of times that the server has crashed.
    crashes: u64,
    sync_interval: Duration,
    /// The time of each message that may not be durable.
    unsynced: VecDeque<(u64, Instant)>,
    kept_per_subject: usize,
    faults: Faults,
    last_sequence: u64,
    messages: BTreeMap<u64, Arc<Message>>,
    /// The sequences of each subject, oldest first.
    subjects: BTreeMap<String, VecDeque<u64>>,
    consumers: BTreeMap<String, Durable>,
}

/// What a test has asked to go wrong.
#[derive(Default)]
struct Faults {
    /// Maximum number of messages that a reader receives at a time.
    page: usize,
    /// The next reader or consumer finds a new stream.
    wipes_at_attach: bool,
    /// Number of publications before one that fails.
    accepted: Option<u64>,
    /// The next message is stored, and its publisher receives an error.
    loses_acknowledgement: bool,
}

impl Faults {
    /// Returns whether the current publication fails.
    fn refuse(&mut self) -> bool {
        let refused = self.accepted == Some(0);
        self.accepted = self.accepted.and_then(|accepted| accepted.checked_sub(1));
        refused
    }
}

struct Shared {
    state: Mutex<State>,
    switchboard: Switchboard,
    /// Wakes all waiters after a change, in the order in which they wait, so that a simulation is repeatable.
    changes: Notify,
}

/// The server side of the in-memory bus. Clones refer to the same stream.
#[derive(Clone)]
pub struct Stream(Arc<Shared>);

impl Default for Stream {
    fn default() -> Self {
        let state = State {
            generation: 1,
            breaks: 0,
            crashes: 0,
            sync_interval: Duration::ZERO,
            unsynced: VecDeque::new(),
            kept_per_subject: usize::try_from(MESSAGES_PER_SUBJECT).unwrap_or(usize::MAX),
            faults: Faults { page: usize::MAX, ..Faults::default() },
            last_sequence: 0,
            messages: BTreeMap::new(),
            subjects: BTreeMap::new(),
            consumers: BTreeMap::new(),
        };
        Self(Arc::new(Shared { state: Mutex::new(state), switchboard: Switchboard::default(), changes: Notify::new() }))
    }
}

impl Stream {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one step, so a panic elsewhere leaves no partial change.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.0.changes.notify_waiters();
    }

    /// Connects a process to this stream.
    #[must_use]
    pub fn connect(&self) -> Memory {
        Memory { stream: self.clone(), closed: AtomicBool::new(false) }
    }

    /// Sets the number of messages to keep per subject from now on.
    pub fn keep_per_subject(&self, most: usize) {
        self.state().kept_per_subject = most;
    }

    /// Sets how long a message may not be durable.
    pub fn sync_after(&self, interval: Duration) {
        self.state().sync_interval = interval;
    }

    /// Crashes the server with the machine: the newest messages are lost, of those that are not durable. `lost` gets
    /// their number and returns how many of them.
    pub fn crash(&self, lost: impl FnOnce(u64) -> u64) {
        let mut state = self.state();
        state.crashes += 1;
        let count = lost(state.unsynced() as u64).min(state.unsynced() as u64);
        state.unsynced.clear();
        drop(state);
        self.lose_last(count);
    }

    /// Sets the number of messages that a reader receives at a time. With 0 the stream delivers nothing.
    pub fn deliver_at_most(&self, most: usize) {
        self.state().faults.page = most;
        self.changed();
    }

    /// Wipes the stream when the next reader or consumer attaches, after it has asked for the state of the stream.
    pub fn wipe_at_attach(&self) {
        self.state().faults.wipes_at_attach = true;
    }

    /// Lets one publication fail, after this number of others.
    pub fn refuse_publication_after(&self, accepted: u64) {
        self.state().faults.accepted = Some(accepted);
    }

    /// Stores the next message, and returns an error to its publisher.
    pub fn lose_next_acknowledgement(&self) {
        self.state().faults.loses_acknowledgement = true;
    }

    fn attaching(&self) {
        if std::mem::take(&mut self.state().faults.wipes_at_attach) {
            self.wipe();
        }
    }

    /// Appends a message and returns its sequence.
    pub fn append(&self, message: Message) -> u64 {
        let sequence = self.state().append(message);
        self.changed();
        sequence
    }

    /// Returns all messages with their sequences, in order.
    #[must_use]
    pub fn messages(&self) -> Vec<(u64, Arc<Message>)> {
        self.state().messages.iter().map(|(sequence, message)| (*sequence, message.clone())).collect()
    }

    /// Returns the last assigned sequence; 0 if there is none.
    #[must_use]
    pub fn last_sequence(&self) -> u64 {
        self.state().last_sequence
    }

    /// Removes all messages. The next stream has another epoch.
    pub fn wipe(&self) {
        let mut state = self.state();
        state.generation += 1;
        state.last_sequence = 0;
        state.unsynced.clear();
        state.messages.clear();
        state.subjects.clear();
        state.consumers.clear();
        drop(state);
        self.changed();
    }

    /// Removes the newest `count` sequences, which will be assigned again; the epoch stays. Simulates a server restored
    /// from an older disk. All connections are closed, and consumers beyond the new end start again.
    pub fn lose_last(&self, count: u64) {
        let mut state = self.state();
        state.breaks += 1;
        state.last_sequence = state.last_sequence.saturating_sub(count);
        let last = state.last_sequence;
        state.unsynced.retain(|(sequence, _)| *sequence <= last);
        state.messages.retain(|sequence, _| *sequence <= last);
        state.subjects.values_mut().for_each(|sequences| sequences.retain(|sequence| *sequence <= last));
        state.consumers.retain(|_, consumer| !consumer.is_beyond(last));
        drop(state);
        self.changed();
    }
}

impl Stream {
    /// Removes the messages for which `lost` returns true, without notice. Their sequences are not assigned again.
    pub fn lose(&self, lost: impl Fn(u64, &Message) -> bool) {
        let mut state = self.state();
        let State { messages, subjects, .. } = &mut *state;
        messages.retain(|sequence, message| !lost(*sequence, message));
        subjects.values_mut().for_each(|sequences| sequences.retain(|sequence| messages.contains_key(sequence)));
    }
}

impl State {
    /// The number of the newest messages that may not be durable.
    fn unsynced(&mut self) -> usize {
        let interval = self.sync_interval;
        while self.unsynced.pop_front_if(|(_, time)| time.elapsed() >= interval).is_some() {}
        self.unsynced.len()
    }

    fn epoch(&self) -> String {
        format!("memory-{}", self.generation)
    }

    fn append(&mut self, message: Message) -> u64 {
        self.last_sequence += 1;
        let sequences = self.subjects.entry(message.subject.clone()).or_default();
        sequences.push_back(self.last_sequence);
        while sequences.len() > self.kept_per_subject
            && let Some(oldest) = sequences.pop_front()
        {
            self.messages.remove(&oldest);
        }
        self.messages.insert(self.last_sequence, Arc::new(message));
        if !self.sync_interval.is_zero() {
            self.unsynced();
            self.unsynced.push_back((self.last_sequence, Instant::now()));
        }
        self.last_sequence
    }
}

/// The stream and connection at the time of attaching, to detect that either has changed.
#[derive(Clone, Copy)]
struct Attachment {
    generation: u64,
    breaks: u64,
}

impl Attachment {
    fn to(state: &State) -> Self {
        Self { generation: state.generation, breaks: state.breaks }
    }

    fn check(self, state: &State) -> Result<(), Error> {
        if state.generation != self.generation {
            Err(Error::StreamChanged)
        } else if state.breaks != self.breaks {
            Err(Error::Unavailable("the connection was closed".to_owned()))
        } else {
            Ok(())
        }
    }
}

/// The connection of one process to a [`Stream`].
pub struct Memory {
    stream: Stream,
    closed: AtomicBool,
}

impl Memory {
    fn state(&self) -> Result<MutexGuard<'_, State>, Error> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(Error::Unavailable("it is closed".to_owned()));
        }
        Ok(self.stream.state())
    }
}

#[async_trait]
impl Bus for Memory {
    async fn state(&self) -> Result<StreamState, Error> {
        let state = Self::state(self)?;
        Ok(StreamState { epoch: state.epoch(), last_sequence: state.last_sequence })
    }

    async fn publish(&self, message: Message) -> Result<u64, Error> {
        let mut state = Self::state(self)?;
        if state.faults.refuse() {
            return Err(Error::Unavailable("the publication is refused".to_owned()));
        }
        let sequence = state.append(message);
        let lost = std::mem::take(&mut state.faults.loses_acknowledgement);
        drop(state);
        self.stream.changed();
        if lost { Err(Error::Unavailable("the acknowledgement is lost".to_owned())) } else { Ok(sequence) }
    }

    fn sync_interval(&self) -> Duration {
        self.stream.state().sync_interval
    }

    fn server_id(&self) -> String {
        self.stream.state().crashes.to_string()
    }

    async fn attach(&self, name: &str, filters: &[&str]) -> Result<Box<dyn Consumer>, Error> {
        drop(Self::state(self)?);
        self.stream.attaching();
        let mut state = Self::state(self)?;
        state.consumers.entry(name.to_owned()).or_default().set_filters(filters);
        let attachment = Attachment::to(&state);
        drop(state);
        Ok(Box::new(MemoryConsumer::new(self.stream.clone(), name.to_owned(), attachment)))
    }

    async fn restart(&self, name: &str) -> Result<(), Error> {
        if let Some(consumer) = Self::state(self)?.consumers.get_mut(name) {
            consumer.restart();
        }
        self.stream.changed();
        Ok(())
    }

    async fn lag(&self, name: &str) -> Result<Option<u64>, Error> {
        let state = Self::state(self)?;
        Ok(state.consumers.get(name).map(|consumer| consumer.lag(&state.messages)))
    }

    async fn read(&self, after: u64) -> Result<Box<dyn Reader>, Error> {
        drop(Self::state(self)?);
        self.stream.attaching();
        let attachment = Attachment::to(&*Self::state(self)?);
        Ok(Box::new(MemoryReader { stream: self.stream.clone(), attachment, position: after }))
    }

    async fn message_at(&self, sequence: u64) -> Result<Option<Message>, Error> {
        Ok(Self::state(self)?.messages.get(&sequence).map(|message| (**message).clone()))
    }

    async fn history(&self, filters: &[&str], before: Option<u64>, most: usize) -> Result<History, Error> {
        let state = Self::state(self)?;
        let wanted = |message: &Message| filters.iter().any(|filter| super::matches(filter, &message.subject));
        let older = state.messages.range(..before.unwrap_or(u64::MAX)).rev().filter(|(_, message)| wanted(message));
        let messages = older.take(most).map(|(sequence, message)| delivery(*sequence, 1, message)).collect();
        Ok(History { epoch: state.epoch(), messages })
    }

    async fn serve(&self, service: &str) -> Result<Box<dyn Requests>, Error> {
        drop(Self::state(self)?);
        Ok(self.stream.0.switchboard.serve(service))
    }

    async fn request(&self, service: &str, payload: Bytes) -> Result<Option<Bytes>, Error> {
        drop(Self::state(self)?);
        self.stream.0.switchboard.request(service, payload).await
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}

struct MemoryReader {
    stream: Stream,
    attachment: Attachment,
    position: u64,
}

impl MemoryReader {
    fn take(&mut self, most: usize) -> Result<Vec<Delivery>, Error> {
        let state = self.stream.state();
        self.attachment.check(&state)?;
        let page = state.messages.range(self.position + 1..).take(most.min(state.faults.page));
        let page: Vec<Delivery> = page.map(|(sequence, message)| delivery(*sequence, 1, message)).collect();
        self.position = page.last().map_or(self.position, |last| last.sequence);
        Ok(page)
    }
}

#[async_trait]
impl Reader for MemoryReader {
    async fn next(&mut self, most: usize) -> Result<Vec<Delivery>, Error> {
        loop {
            let shared = self.stream.0.clone();
            let changed = shared.changes.notified();
            let page = self.take(most)?;
            if !page.is_empty() {
                return Ok(page);
            }
            changed.await;
        }
    }

    async fn is_at_end(&mut self) -> Result<bool, Error> {
        let state = self.stream.state();
        self.attachment.check(&state)?;
        Ok(state.messages.range(self.position + 1..).next().is_none())
    }
}

fn delivery(sequence: u64, attempts: u32, message: &Arc<Message>) -> Delivery {
    Delivery { sequence, attempts, message: message.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract;

    fn message(subject: &str, number: u8) -> Message {
        Message { subject: subject.to_owned(), body: vec![number].into(), ..Message::default() }
    }

    #[tokio::test]
    async fn keeps_the_contract() {
        let stream = Stream::default();
        contract::suite(async || Arc::new(stream.connect()) as Arc<dyn Bus>).await;
    }

    #[tokio::test]
    async fn a_wiped_stream_has_another_epoch() {
        let stream = Stream::default();
        let bus = stream.connect();
        stream.append(message("a.1", 1));
        let (mut reader, mut consumer) = (bus.read(0).await.unwrap(), bus.attach("reader", &["a.>"]).await.unwrap());
        let epoch = Bus::state(&bus).await.unwrap().epoch;
        stream.wipe();
        assert_ne!(Bus::state(&bus).await.unwrap().epoch, epoch);
        assert!(matches!(reader.next(1).await, Err(Error::StreamChanged)));
        assert!(matches!(consumer.next(1).await, Err(Error::StreamChanged)));
        assert!(matches!(consumer.ack(&[1]).await, Err(Error::StreamChanged)));
        assert_eq!(stream.append(message("a.1", 2)), 1);
    }

    #[tokio::test]
    async fn lost_messages_leave_gaps() {
        let stream = Stream::default();
        let bus = stream.connect();
        (1..=3).for_each(|number| assert_eq!(stream.append(message("a.1", number)), u64::from(number)));
        stream.lose(|sequence, _| sequence != 2);
        assert_eq!(Bus::state(&bus).await.unwrap().last_sequence, 3);
        let mut reader = bus.read(0).await.unwrap();
        assert_eq!(reader.next(9).await.unwrap()[0].sequence, 2);
        assert!(reader.is_at_end().await.unwrap(), "though the stream has assigned another sequence");
    }

    #[tokio::test]
    async fn sequences_of_lost_last_messages_are_assigned_again() {
        let stream = Stream::default();
        let bus = stream.connect();
        let mut consumer = bus.attach("reader", &["a.>"]).await.unwrap();
        (1..=3).for_each(|number| assert_eq!(stream.append(message("a.1", number)), u64::from(number)));
        assert_eq!(consumer.next(9).await.unwrap().len(), 3);
        consumer.ack(&[1, 2, 3]).await.unwrap();
        stream.lose_last(2);
        assert!(matches!(consumer.next(1).await, Err(Error::Unavailable(_))));
        assert_eq!(stream.append(message("a.1", 9)), 2);
        // The consumer was beyond the new end of the stream, so it starts again.
        let mut consumer = bus.attach("reader", &["a.>"]).await.unwrap();
        let bodies: Vec<u8> = consumer.next(9).await.unwrap().iter().map(|it| it.message.body[0]).collect();
        assert_eq!(bodies, [1, 9]);
    }
}
