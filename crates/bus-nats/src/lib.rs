//! The bus in NATS JetStream, for services that run apart.
//!
//! It speaks JetStream's own interface over the connection, not the client's objects for it: what the server returns is compared
//! with what was asked setting by setting, requests for messages outlive the call that waits, and each wait has a bound.
//! A user of the server needs the rights to publish to `eticket.v1.>`, `$JS.API.>` and `$JS.ACK.>`, and to subscribe to `_INBOX.>`;
//! for the comparison with the owners also to publish and subscribe to `eticket.audit.v1.*`, and to publish to `_INBOX.>`.

#![warn(missing_docs)]

mod connection;
mod consumer;
mod durable;
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
use eticket_bus::{Bus, Consumer, Error, Message, Reader, Requests, StreamState};
use serde_json::json;

use self::{
    connection::{Connection, Failure, Target},
    consumer::NatsConsumer,
    durable::Durable,
    message::{Stored, headers_of},
    reader::NatsReader,
    requests::NatsRequests,
    stream::{STREAM, Stream},
};

/// How long is waited for what.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Who asks before the process has connected for the first time waits at most so long.
    pub first_connection: Duration,
    /// A question, or a message to be stored, without an answer.
    pub request: Duration,
    /// Between looks at a consumer: whether it and its stream are still there, and whether it stalls.
    pub look: Duration,
    /// A consumer that has messages and delivers none for so long is made anew.
    pub stall: Duration,
    /// A message that is not acknowledged for so long is delivered again.
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

/// See the module.
pub struct Nats {
    stream: Arc<Stream>,
    tasks: Tasks,
}

impl Nats {
    /// Begins to connect, and answers at once: the bus may come later than the process.
    ///
    /// # Errors
    /// If `bus.url` names no servers.
    pub fn open(config: &BusConfig) -> Result<Self, config::Error> {
        Self::open_with(config, Bounds::default())
    }

    /// The same with other bounds.
    ///
    /// # Errors
    /// As [`Self::open`].
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
        Ok(Self { stream: Arc::new(Stream::new(connection, config.replicas)), tasks })
    }
}

fn count_stall(consumer: &str) {
    metrics::counter!("eticket_bus_stalls_total", "consumer" => consumer.to_owned()).increment(1);
}

#[async_trait]
impl Bus for Nats {
    async fn state(&self) -> Result<StreamState, Error> {
        Ok(self.stream.look().await?.state())
    }

    async fn publish(&self, message: Message) -> Result<u64, Error> {
        let headers = headers_of(&message).ok_or_else(|| {
            Error::Unavailable(format!("a message of {} has a header that NATS cannot carry", message.subject))
        })?;
        self.stream.publish(&message.subject, headers, message.body).await
    }

    async fn attach(&self, name: &str, filters: &[&str]) -> Result<Box<dyn Consumer>, Error> {
        Ok(Box::new(NatsConsumer::attach(self.stream.clone(), self.tasks.clone(), name, filters).await?))
    }

    async fn restart(&self, name: &str) -> Result<(), Error> {
        // Who is attached, or attaches next, makes it anew, at the start.
        let name = Durable::name_on(&self.stream.look().await?, name);
        durable::delete(&self.stream, &name).await
    }

    async fn read(&self, after: u64) -> Result<Box<dyn Reader>, Error> {
        Ok(Box::new(NatsReader::open(self.stream.clone(), self.tasks.clone(), after).await?))
    }

    async fn message_at(&self, sequence: u64) -> Result<Option<Message>, Error> {
        #[derive(serde::Deserialize)]
        struct Found {
            message: Stored,
        }
        if sequence == 0 {
            return Ok(None);
        }
        // Of the stream's leader: another server's copy may lag, and what it does not have yet would count as lost.
        match self.stream.api::<Found>(&format!("STREAM.MSG.GET.{STREAM}"), &json!({ "seq": sequence })).await {
            Ok(found) => Ok(found.message.into_message()),
            Err(Failure::Refused(refusal)) if refusal.is_no_message() || refusal.is_stream_not_found() => Ok(None),
            Err(failure) => Err(self.stream.explain(failure)),
        }
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
