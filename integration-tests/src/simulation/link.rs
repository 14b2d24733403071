//! The bus as one process reaches it: over a network that loses, doubles, holds up and turns round, and that goes on carrying what
//! a process has sent after the process is dead.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use eticket_chassis::bus::{
    Bus, Consumer, Delivery, Error, Message, Reader, Requests, StreamState,
    memory::{Memory, Stream},
};
use eticket_proto::headers;
use tokio::sync::oneshot;

use super::{
    pulse::Pulse,
    scheduler::{Scheduler, locked},
    wrong::{Network, Wrong},
};

/// Messages of a batch: few, so that more can happen between two.
const PAGE: usize = 6;

/// What is common to all links.
#[derive(Clone)]
pub(super) struct Wire {
    pub(super) scheduler: Scheduler,
    pub(super) stream: Stream,
    /// Times in a thousand that something is lost, doubled or held up.
    pub(super) losses: u64,
    /// Messages that are under way.
    pub(super) under_way: Arc<AtomicU64>,
    pub(super) network: Arc<Network>,
    pub(super) wrong: Option<Wrong>,
}

/// See the module.
pub(super) struct Link {
    name: String,
    wire: Wire,
    memory: Memory,
    pulse: Pulse,
    /// Subjects and revisions that it has sent.
    pub(super) published: Mutex<Vec<(String, i64)>>,
}

fn published(message: &Message) -> Option<(String, i64)> {
    let revision = message.header(headers::ID)?.rsplit('/').next()?.parse().ok()?;
    Some((message.subject.clone(), revision))
}

fn out(what: &str) -> Error {
    Error::Unavailable(what.to_owned())
}

impl Link {
    pub(super) fn new(name: String, wire: Wire, pulse: Pulse) -> Self {
        let memory = wire.stream.connect();
        Self { name, wire, memory, pulse, published: Mutex::default() }
    }

    /// A question and its answer.
    async fn travel(&self) -> Result<(), Error> {
        self.wire.scheduler.pause().await;
        if !self.pulse.beat() {
            return Err(out("the process is dead"));
        }
        self.wire.reached()
    }
}

impl Wire {
    fn reached(&self) -> Result<(), Error> {
        if self.scheduler.bus_is_out() {
            return Err(out("the bus is out"));
        }
        if self.scheduler.mishap(self.losses / 4) { Err(out("it is lost on the way")) } else { Ok(()) }
    }
}

/// Carries a message to the stream, whoever waits for it; one whose sender has died comes late.
async fn carry(wire: Wire, name: String, pulse: Pulse, message: Message, stored: oneshot::Sender<u64>) {
    let scheduler = &wire.scheduler;
    scheduler.pause().await;
    if Network::is_in_a_hurry(wire.wrong) {
        scheduler.sleep(0..=300).await;
    }
    if !pulse.is_alive() {
        scheduler.count("a message outlived its sender");
        scheduler.sleep(0..=3_000).await;
    }
    let subject = Network::subject(wire.wrong, message.subject);
    let message = Message { subject, ..message };
    let (what, id) = (message.subject.clone(), message.header(headers::ID).unwrap_or_default().to_owned());
    if wire.network.carries(wire.wrong, &message) {
        let sequence = wire.stream.append(message);
        scheduler.log(&name, &format!("{what} {id} is stored at {sequence}"));
        // Who has died does not hear of it.
        let _ = stored.send(sequence);
    } else {
        scheduler.log(&name, &format!("{what} {id} is swallowed"));
        let _ = stored.send(0);
    }
    wire.under_way.fetch_sub(1, Ordering::Relaxed);
}

#[async_trait]
impl Bus for Link {
    async fn state(&self) -> Result<StreamState, Error> {
        self.travel().await?;
        let state = self.memory.state().await?;
        Ok(StreamState { identity: Wrong::identity(self.wire.wrong, &self.name, state.identity), ..state })
    }

    async fn publish(&self, message: Message) -> Result<u64, Error> {
        self.travel().await?;
        let published = published(&message);
        let (stored, answer) = oneshot::channel();
        self.wire.under_way.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(carry(self.wire.clone(), self.name.clone(), self.pulse.clone(), message, stored));
        if !self.pulse.beat() {
            return Err(out("the process is dead"));
        }
        if Network::is_in_a_hurry(self.wire.wrong) {
            return Ok(0);
        }
        let sequence = answer.await.map_err(|_| out("the message went nowhere"))?;
        locked(&self.published).extend(published);
        if self.wire.scheduler.mishap(self.wire.losses) {
            self.wire.scheduler.count("an acknowledgement of the bus was lost");
            return Err(out("the acknowledgement is lost"));
        }
        Ok(sequence)
    }

    async fn attach(&self, name: &str, filters: &[&str]) -> Result<Box<dyn Consumer>, Error> {
        self.travel().await?;
        let inner = self.memory.attach(name, filters).await?;
        Ok(Box::new(Unreliable { name: self.name.clone(), wire: self.wire.clone(), inner, delivered: Vec::new() }))
    }

    async fn restart(&self, name: &str) -> Result<(), Error> {
        self.travel().await?;
        self.wire.scheduler.log(&self.name, "its consumer begins at the start");
        self.memory.restart(name).await
    }

    async fn read(&self, after: u64) -> Result<Box<dyn Reader>, Error> {
        self.travel().await?;
        let after = self.wire.network.sequence_of(self.wire.wrong, &self.name, after);
        let inner = self.memory.read(after).await?;
        self.wire.network.attached(&self.name);
        self.wire.scheduler.log(&self.name, &format!("reads on after {after}"));
        Ok(Box::new(InOrder { name: self.name.clone(), wire: self.wire.clone(), inner }))
    }

    async fn message_at(&self, sequence: u64) -> Result<Option<Message>, Error> {
        self.travel().await?;
        if let Some(message) = self.wire.network.remembered(self.wire.wrong, &self.name, sequence) {
            return Ok(Some(message));
        }
        self.memory.message_at(self.wire.network.sequence_of(self.wire.wrong, &self.name, sequence)).await
    }

    async fn serve(&self, service: &str) -> Result<Box<dyn Requests>, Error> {
        self.travel().await?;
        self.memory.serve(service).await
    }

    async fn request(&self, service: &str, payload: Bytes) -> Result<Option<Bytes>, Error> {
        self.travel().await?;
        let response = self.memory.request(service, payload).await?;
        self.travel().await?;
        Ok(response)
    }

    async fn close(&self) {
        self.memory.close().await;
    }
}

/// Delivers at least once, in any order.
struct Unreliable {
    name: String,
    wire: Wire,
    inner: Box<dyn Consumer>,
    delivered: Vec<Delivery>,
}

#[async_trait]
impl Consumer for Unreliable {
    async fn next(&mut self, _: usize) -> Result<Vec<Delivery>, Error> {
        let Wire { scheduler, losses, .. } = &self.wire;
        let mut batch = Vec::new();
        while batch.is_empty() {
            let most = scheduler.number(1..=PAGE as u64) as usize;
            batch = self.inner.next(most).await?;
            if scheduler.bus_is_out() {
                return Err(out("the bus is out"));
            }
            // What is lost comes again once its acknowledgement is overdue.
            batch.retain(|_| !scheduler.mishap(*losses));
        }
        if scheduler.mishap(losses * 4) {
            scheduler.shuffle(&mut batch);
        }
        if scheduler.mishap(losses * 2)
            && let Some(old) = scheduler.pick(&self.delivered)
        {
            scheduler.count("a message came again, late");
            batch.push(old.clone());
        }
        self.delivered.extend(batch.iter().cloned());
        let sequences: Vec<u64> = batch.iter().map(|delivery| delivery.sequence).collect();
        scheduler.log(&self.name, &format!("gets {sequences:?}"));
        Ok(batch)
    }

    async fn ack(&mut self, sequences: &[u64]) -> Result<(), Error> {
        let Wire { scheduler, losses, .. } = &self.wire;
        scheduler.pause().await;
        if scheduler.bus_is_out() || scheduler.mishap(*losses) {
            scheduler.count("a consumer's acknowledgement was lost");
            return Err(out("the acknowledgement is lost"));
        }
        scheduler.log(&self.name, &format!("acknowledges {sequences:?}"));
        self.inner.ack(sequences).await
    }

    async fn retry(&mut self, sequence: u64, after: std::time::Duration) -> Result<(), Error> {
        self.inner.retry(sequence, after).await
    }
}

/// What a view reads is in order, or it notices.
struct InOrder {
    name: String,
    wire: Wire,
    inner: Box<dyn Reader>,
}

#[async_trait]
impl Reader for InOrder {
    async fn next(&mut self, _: usize) -> Result<Vec<Delivery>, Error> {
        let scheduler = &self.wire.scheduler;
        loop {
            let most = scheduler.number(1..=PAGE as u64) as usize;
            let batch = self.inner.next(most).await?;
            self.wire.reached()?;
            let sequences: Vec<u64> = batch.iter().map(|delivery| delivery.sequence).collect();
            scheduler.log(&self.name, &format!("reads {sequences:?}"));
            let batch = self.wire.network.to_the_view(self.wire.wrong, &self.name, batch);
            if !batch.is_empty() {
                return Ok(batch);
            }
        }
    }

    async fn is_at_end(&mut self) -> Result<bool, Error> {
        self.wire.reached()?;
        self.inner.is_at_end().await
    }
}
