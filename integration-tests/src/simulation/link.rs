//! The connection of one process to the bus: a network that loses, duplicates, delays and reorders messages, and that
//! still delivers what a process has sent after the process is dead.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use eticket_bus::{
    Bus, Consumer, Delivery, Error, History, Message, Reader, Requests, StreamState,
    memory::{Memory, Stream},
};
use eticket_proto::headers;
use tokio::sync::oneshot;

use super::{
    kill_switch::KillSwitch,
    scheduler::{Scheduler, locked},
    wrong::{Network, Wrong},
};

/// Messages of a batch: few, so that more can happen between two batches.
const PAGE: usize = 6;

/// The state that all links share.
#[derive(Clone)]
pub(super) struct Transport {
    pub(super) scheduler: Scheduler,
    pub(super) stream: Stream,
    /// Probability, in thousandths, that something is lost, duplicated or delayed.
    pub(super) losses: u64,
    /// The number of messages in flight.
    pub(super) under_way: Arc<AtomicU64>,
    pub(super) network: Arc<Network>,
    pub(super) wrong: Option<Wrong>,
}

/// The link of one process; see the module documentation.
pub(super) struct Link {
    name: String,
    transport: Transport,
    memory: Memory,
    kill_switch: KillSwitch,
    /// Subjects and revisions that the process has sent.
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
    pub(super) fn new(name: String, transport: Transport, kill_switch: KillSwitch) -> Self {
        let memory = transport.stream.connect();
        Self { name, transport, memory, kill_switch, published: Mutex::default() }
    }

    /// Simulates a request and its response.
    async fn travel(&self) -> Result<(), Error> {
        self.transport.scheduler.pause().await;
        if !self.kill_switch.beat() {
            return Err(out("the process is dead"));
        }
        self.transport.reached()
    }
}

impl Transport {
    fn reached(&self) -> Result<(), Error> {
        if self.scheduler.bus_is_out() {
            return Err(out("the bus is out"));
        }
        if self.scheduler.fault(self.losses / 4) { Err(out("it is lost on the way")) } else { Ok(()) }
    }
}

/// Carries a message to the stream independently of its sender; the message of a dead sender arrives late.
async fn carry(
    transport: Transport,
    name: String,
    kill_switch: KillSwitch,
    message: Message,
    stored: oneshot::Sender<u64>,
) {
    let scheduler = &transport.scheduler;
    scheduler.pause().await;
    if Network::skips_acknowledgement(transport.wrong) {
        scheduler.sleep(0..=300).await;
    }
    if !kill_switch.is_alive() {
        scheduler.count("a message outlived its sender");
        scheduler.sleep(0..=3_000).await;
    }
    let subject = Network::subject(transport.wrong, message.subject);
    let message = Message { subject, ..message };
    let (what, id) = (message.subject.clone(), message.header(headers::ID).unwrap_or_default().to_owned());
    if transport.network.carries(transport.wrong, &message) {
        let sequence = transport.stream.append(message);
        scheduler.log(&name, &format!("{what} {id} is stored at {sequence}"));
        // A dead sender does not receive the result.
        let _ = stored.send(sequence);
    } else {
        scheduler.log(&name, &format!("{what} {id} is swallowed"));
        let _ = stored.send(0);
    }
    transport.under_way.fetch_sub(1, Ordering::Relaxed);
}

#[async_trait]
impl Bus for Link {
    async fn state(&self) -> Result<StreamState, Error> {
        self.travel().await?;
        let state = self.memory.state().await?;
        Ok(StreamState { epoch: Wrong::epoch(self.transport.wrong, &self.name, state.epoch), ..state })
    }

    async fn publish(&self, message: Message) -> Result<u64, Error> {
        self.travel().await?;
        let published = published(&message);
        let (stored, answer) = oneshot::channel();
        self.transport.under_way.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(carry(self.transport.clone(), self.name.clone(), self.kill_switch.clone(), message, stored));
        if !self.kill_switch.beat() {
            return Err(out("the process is dead"));
        }
        if Network::skips_acknowledgement(self.transport.wrong) {
            return Ok(0);
        }
        let sequence = answer.await.map_err(|_| out("the message went nowhere"))?;
        locked(&self.published).extend(published);
        if self.transport.scheduler.fault(self.transport.losses) {
            self.transport.scheduler.count("an acknowledgement of the bus was lost");
            return Err(out("the acknowledgement is lost"));
        }
        Ok(sequence)
    }

    fn sync_interval(&self) -> std::time::Duration {
        self.memory.sync_interval()
    }

    fn server_id(&self) -> String {
        self.memory.server_id()
    }

    async fn attach(&self, name: &str, filters: &[&str]) -> Result<Box<dyn Consumer>, Error> {
        self.travel().await?;
        let inner = self.memory.attach(name, filters).await?;
        Ok(Box::new(Unreliable {
            name: self.name.clone(),
            transport: self.transport.clone(),
            inner,
            delivered: Vec::new(),
        }))
    }

    async fn restart(&self, name: &str) -> Result<(), Error> {
        self.travel().await?;
        self.transport.scheduler.log(&self.name, "its consumer begins at the start");
        self.memory.restart(name).await
    }

    async fn lag(&self, name: &str) -> Result<Option<u64>, Error> {
        self.travel().await?;
        self.memory.lag(name).await
    }

    async fn read(&self, after: u64) -> Result<Box<dyn Reader>, Error> {
        self.travel().await?;
        let after = self.transport.network.sequence_of(self.transport.wrong, &self.name, after);
        let inner = self.memory.read(after).await?;
        self.transport.network.attached(&self.name);
        self.transport.scheduler.log(&self.name, &format!("reads on after {after}"));
        Ok(Box::new(InOrder { name: self.name.clone(), transport: self.transport.clone(), inner }))
    }

    async fn message_at(&self, sequence: u64) -> Result<Option<Message>, Error> {
        self.travel().await?;
        if let Some(message) = self.transport.network.remembered(self.transport.wrong, &self.name, sequence) {
            return Ok(Some(message));
        }
        self.memory.message_at(self.transport.network.sequence_of(self.transport.wrong, &self.name, sequence)).await
    }

    async fn history(&self, filters: &[&str], before: Option<u64>, most: usize) -> Result<History, Error> {
        self.travel().await?;
        self.memory.history(filters, before, most).await
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

/// Delivers at least once and in any order.
struct Unreliable {
    name: String,
    transport: Transport,
    inner: Box<dyn Consumer>,
    delivered: Vec<Delivery>,
}

#[async_trait]
impl Consumer for Unreliable {
    async fn next(&mut self, _: usize) -> Result<Vec<Delivery>, Error> {
        let Transport { scheduler, losses, .. } = &self.transport;
        let mut batch = Vec::new();
        while batch.is_empty() {
            let most = scheduler.number(1..=PAGE as u64) as usize;
            batch = self.inner.next(most).await?;
            if scheduler.bus_is_out() {
                return Err(out("the bus is out"));
            }
            // A lost message is delivered again when its acknowledgement is overdue.
            batch.retain(|_| !scheduler.fault(*losses));
        }
        if scheduler.fault(losses * 4) {
            scheduler.shuffle(&mut batch);
        }
        if scheduler.fault(losses * 2)
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
        let Transport { scheduler, losses, .. } = &self.transport;
        scheduler.pause().await;
        if scheduler.bus_is_out() || scheduler.fault(*losses) {
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

/// Delivers in order; the view detects a gap.
struct InOrder {
    name: String,
    transport: Transport,
    inner: Box<dyn Reader>,
}

#[async_trait]
impl Reader for InOrder {
    async fn next(&mut self, _: usize) -> Result<Vec<Delivery>, Error> {
        let scheduler = &self.transport.scheduler;
        loop {
            let most = scheduler.number(1..=PAGE as u64) as usize;
            let batch = self.inner.next(most).await?;
            self.transport.reached()?;
            let sequences: Vec<u64> = batch.iter().map(|delivery| delivery.sequence).collect();
            scheduler.log(&self.name, &format!("reads {sequences:?}"));
            let batch = self.transport.network.to_the_view(self.transport.wrong, &self.name, batch);
            if !batch.is_empty() {
                return Ok(batch);
            }
        }
    }

    async fn is_at_end(&mut self) -> Result<bool, Error> {
        self.transport.reached()?;
        self.inner.is_at_end().await
    }
}
