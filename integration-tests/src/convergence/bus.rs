//! The in-memory bus under the control of a schedule, which selects the messages that a consumer gets and loses
//! acknowledgements.
//!
//! Lost streams are kept: messages that a service had fetched from a stream before its loss may still be applied.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use eticket_bus::{
    Bus, Bytes, Consumer, Delivery, Error, History, Message, Reader, Requests, StreamState, matches,
    memory::{Memory, Stream},
};

/// A message with its sequence in its stream.
pub type Stored = (u64, Arc<Message>);

/// Clones share the bus.
#[derive(Clone)]
pub struct TestBus(Arc<Inner>);

struct Inner {
    stream: Stream,
    connection: Memory,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The messages of each lost stream.
    lost: Vec<Vec<Stored>>,
    /// By the number of the stream and the name of the consumer.
    acknowledged: HashMap<(usize, String), HashSet<u64>>,
    loses_acknowledgements: bool,
}

impl Default for TestBus {
    fn default() -> Self {
        let stream = Stream::default();
        let connection = stream.connect();
        Self(Arc::new(Inner { stream, connection, state: Mutex::default() }))
    }
}

impl TestBus {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the stream that exists now.
    pub fn stream(&self) -> &Stream {
        &self.0.stream
    }

    /// Sets whether acknowledgements are lost.
    pub fn lose_acknowledgements(&self, lost: bool) {
        self.state().loses_acknowledgements = lost;
    }

    /// Returns the number of streams that have been lost, which is the number of the current one.
    pub fn generation(&self) -> usize {
        self.state().lost.len()
    }

    /// Loses all messages; the next stream has another epoch.
    pub fn wipe(&self) {
        let messages = self.0.stream.messages();
        self.state().lost.push(messages);
        self.0.stream.wipe();
    }

    /// Loses the newest messages and keeps the epoch, like a server that was restored from an older disk.
    pub fn lose_tail(&self, count: u64) {
        self.0.stream.lose_last(count);
        let (generation, last) = (self.generation(), self.0.stream.last_sequence());
        for ((of, _), acknowledged) in &mut self.state().acknowledged {
            if *of == generation {
                acknowledged.retain(|sequence| *sequence <= last);
            }
        }
    }

    /// Returns the messages of a stream that match the filters.
    pub fn messages(&self, generation: usize, filters: &[&str]) -> Vec<Stored> {
        let mut found = self.state().lost.get(generation).cloned().unwrap_or_else(|| self.0.stream.messages());
        found.retain(|(_, message)| filters.iter().any(|filter| matches(filter, &message.subject)));
        found
    }

    /// Returns the messages of a stream that a durable consumer has not acknowledged.
    pub fn unacknowledged(&self, generation: usize, name: &str, filters: &[&str]) -> Vec<Stored> {
        let mut found = self.messages(generation, filters);
        if let Some(acknowledged) = self.state().acknowledged.get(&(generation, name.to_owned())) {
            found.retain(|(sequence, _)| !acknowledged.contains(sequence));
        }
        found
    }
}

#[async_trait]
impl Bus for TestBus {
    async fn state(&self) -> Result<StreamState, Error> {
        Bus::state(&self.0.connection).await
    }

    async fn publish(&self, message: Message) -> Result<u64, Error> {
        self.0.connection.publish(message).await
    }

    fn sync_interval(&self) -> Duration {
        self.0.connection.sync_interval()
    }

    fn server_id(&self) -> String {
        self.0.connection.server_id()
    }

    async fn attach(&self, name: &str, _: &[&str]) -> Result<Box<dyn Consumer>, Error> {
        Ok(Box::new(Attached { bus: self.clone(), name: name.to_owned(), generation: self.generation() }))
    }

    async fn restart(&self, name: &str) -> Result<(), Error> {
        let of = (self.generation(), name.to_owned());
        self.state().acknowledged.remove(&of);
        Ok(())
    }

    async fn lag(&self, name: &str) -> Result<Option<u64>, Error> {
        self.0.connection.lag(name).await
    }

    async fn read(&self, after: u64) -> Result<Box<dyn Reader>, Error> {
        self.0.connection.read(after).await
    }

    async fn message_at(&self, sequence: u64) -> Result<Option<Message>, Error> {
        self.0.connection.message_at(sequence).await
    }

    async fn history(&self, filters: &[&str], before: Option<u64>, most: usize) -> Result<History, Error> {
        self.0.connection.history(filters, before, most).await
    }

    async fn serve(&self, service: &str) -> Result<Box<dyn Requests>, Error> {
        self.0.connection.serve(service).await
    }

    async fn request(&self, service: &str, payload: Bytes) -> Result<Option<Bytes>, Error> {
        self.0.connection.request(service, payload).await
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
        if state.lost.len() != self.generation {
            return Err(Error::StreamChanged);
        }
        if state.loses_acknowledgements {
            return Err(Error::Unavailable("the acknowledgement was lost".to_owned()));
        }
        state.acknowledged.entry((self.generation, self.name.clone())).or_default().extend(sequences);
        Ok(())
    }

    async fn retry(&mut self, _: u64, _: Duration) -> Result<(), Error> {
        Ok(())
    }
}

/// Converts a stored message into a delivery.
pub fn delivery((sequence, message): Stored) -> Delivery {
    Delivery { sequence, attempts: 1, message }
}
