//! The bus on NATS JetStream, for services in separate processes.
//!
//! This adapter uses the JSON API of JetStream instead of the client's stream and consumer types: it compares each
//! setting that the server returns with the required one, its pull requests survive a cancelled call, and each wait has
//! a bound.
//! A user of the server needs permission to publish to `eticket.v1.>`, `$JS.API.>` and `$JS.ACK.>`, and to subscribe to
//! `_INBOX.>`; the comparison with the owners also needs publish and subscribe on `eticket.audit.v1.*`, and publish on
//! `_INBOX.>`.

#![warn(missing_docs)]

mod connection;
mod consumer;
mod durable;
mod history;
pub mod inspect;
mod message;
mod pull;
mod reader;
mod requests;
mod stream;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use eticket_base::{
    config::{self, bus::BusConfig, urls},
    tasks::Tasks,
};
use eticket_bus::{Bus, Consumer, Error, History, Message, Reader, Requests, StreamState};
use serde_json::json;

use self::{
    connection::{Connection, Failure, Target},
    consumer::NatsConsumer,
    durable::Durable,
    message::Stored,
    reader::NatsReader,
    requests::NatsRequests,
    stream::{STREAM, Stream},
};

/// Timeouts and intervals.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// How long after the start of the process a call waits for the first connection.
    pub first_connection: Duration,
    /// Timeout of a request, including the storing of a message.
    pub request: Duration,
    /// Interval between checks of a consumer: whether it and its stream exist, and whether it stalls.
    pub look: Duration,
    /// A consumer that has pending messages and delivers none for this time is created again.
    pub stall: Duration,
    /// An unacknowledged message is delivered again after this time.
    pub ack_wait: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            first_connection: Duration::from_secs(2),
            request: Duration::from_secs(5),
            look: Duration::from_secs(2),
            stall: Duration::from_secs(10),
            ack_wait: Duration::from_secs(10),
        }
    }
}

/// The bus on NATS JetStream.
pub struct Nats {
    stream: Arc<Stream>,
    sync_interval: Duration,
    tasks: Tasks,
}

impl Nats {
    /// Starts connecting and returns at once, even if the servers start later than this process.
    ///
    /// # Errors
    /// Fails if `bus.url` is not a list of NATS servers.
    pub fn open(config: &BusConfig) -> Result<Self, config::Error> {
        Self::open_with(config, Bounds::default())
    }

    /// Like [`Self::open`], with other timeouts and intervals.
    ///
    /// # Errors
    /// Like [`Self::open`].
    pub fn open_with(config: &BusConfig, bounds: Bounds) -> Result<Self, config::Error> {
        let target = Target {
            address: config.address()?,
            shown: config.url.as_deref().map(urls::without_password).unwrap_or_default(),
            credentials: config.credentials.clone(),
            ca_file: config.ca_file.clone(),
        };
        let connection = Arc::new(Connection::new(target, bounds));
        let tasks = Tasks::new();
        tasks.spawn("bus-connect", connection.clone().connect(tasks.stopping()));
        let sync_interval = Duration::from_millis(config.sync_interval_ms);
        Ok(Self { stream: Arc::new(Stream::new(connection, config.replicas)), sync_interval, tasks })
    }
}

fn count_stall(consumer: &str) {
    metrics::counter!("eticket_bus_stalls_total", "consumer" => consumer.to_owned()).increment(1);
}

#[async_trait]
impl Bus for Nats {
    async fn state(&self) -> Result<StreamState, Error> {
        Ok(self.stream.ensure().await?.state())
    }

    async fn publish(&self, message: Message) -> Result<u64, Error> {
        self.stream.publish(&message).await
    }

    fn sync_interval(&self) -> Duration {
        self.sync_interval
    }

    fn server_id(&self) -> String {
        self.stream.connection.server_id()
    }

    async fn attach(&self, name: &str, filters: &[&str]) -> Result<Box<dyn Consumer>, Error> {
        Ok(Box::new(NatsConsumer::attach(self.stream.clone(), self.tasks.clone(), name, filters).await?))
    }

    async fn restart(&self, name: &str) -> Result<(), Error> {
        // Members that are attached, or attach next, create it again at the start.
        let name = Durable::name_on(&self.stream.ensure().await?, name);
        durable::delete(&self.stream, &name).await
    }

    async fn read(&self, after: u64) -> Result<Box<dyn Reader>, Error> {
        Ok(Box::new(NatsReader::open(self.stream.clone(), self.tasks.clone(), after).await?))
    }

    async fn lag(&self, name: &str) -> Result<Option<u64>, Error> {
        let name = Durable::name_on(&self.stream.ensure().await?, name);
        Ok(durable::info(&self.stream, &name).await?.map(|info| info.lag()))
    }

    async fn message_at(&self, sequence: u64) -> Result<Option<Message>, Error> {
        #[derive(serde::Deserialize)]
        struct Found {
            message: Stored,
        }
        if sequence == 0 {
            return Ok(None);
        }
        // Asks the leader of the stream: the copy of another server may lag, and a missing message would count as lost.
        match self.stream.api::<Found>(&format!("STREAM.MSG.GET.{STREAM}"), &json!({ "seq": sequence })).await {
            Ok(found) => Ok(found.message.into_message()),
            Err(Failure::Refused(refusal)) if refusal.is_no_message() || refusal.is_stream_not_found() => Ok(None),
            Err(failure) => Err(self.stream.explain(failure)),
        }
    }

    async fn history(&self, filters: &[&str], before: Option<u64>, most: usize) -> Result<History, Error> {
        history::read(&self.stream, filters, before, most).await
    }

    async fn serve(&self, service: &str) -> Result<Box<dyn Requests>, Error> {
        let connection = self.stream.connection.clone();
        Ok(Box::new(NatsRequests::serve(connection, self.tasks.clone(), service).await?))
    }

    async fn request(&self, service: &str, payload: Bytes) -> Result<Option<Bytes>, Error> {
        requests::request(&self.stream.connection, service, payload).await
    }

    async fn close(&self) {
        self.tasks.stop().await;
        self.stream.connection.close().await;
    }
}

#[cfg(test)]
mod tests;
