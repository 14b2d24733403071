//! The bus port: an append-only stream of messages with an epoch and sequences, durable consumers that acknowledge message by
//! message, and ordered readers that keep their own position. Beside the stream it carries requests to a service and their responses.
//!
//! Delivery is at least once and in any order; who reads goes by revisions. The stream keeps only the newest messages of each
//! subject, and may be lost: services publish their states again when they meet a stream of another epoch.

#![warn(missing_docs)]

#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod local;
#[cfg(any(test, feature = "memory"))]
pub mod memory;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
pub use bytes::Bytes;
use tokio::sync::oneshot;

/// Messages kept of each subject: the newest always among them.
pub const MESSAGES_PER_SUBJECT: u32 = 32;

/// Why the bus did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// It does not answer, or is not as it must be: try again later. Nothing else may depend on it.
    #[error("the bus cannot be used: {0}")]
    Unavailable(String),
    /// The stream is another than the one attached to: attach again.
    #[error("the stream was made anew")]
    StreamChanged,
}

/// A message as it is published and delivered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// Where it belongs: one aggregate a subject.
    pub subject: String,
    /// Names are lower case, and their order means nothing: it may be that of the names when the message comes back.
    pub headers: Vec<(String, String)>,
    /// The state, encoded.
    pub body: Bytes,
}

impl Message {
    /// The value of a header; the first if there are several.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// A message with its place in the stream.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Its place in the stream.
    pub sequence: u64,
    /// 1 for the first time; counted at least since the consumer attached.
    pub attempts: u32,
    /// What was published.
    pub message: Arc<Message>,
}

/// The stream as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamState {
    /// Changes when the stream is made anew.
    pub epoch: String,
    /// Of the newest message; 0 if there never was one.
    pub last_sequence: u64,
}

/// A stream of messages that services share.
#[async_trait]
pub trait Bus: Send + Sync {
    /// Identity and end of the stream.
    async fn state(&self) -> Result<StreamState, Error>;

    /// Appends a message; answers its sequence once it is durable.
    async fn publish(&self, message: Message) -> Result<u64, Error>;

    /// Attaches to a durable consumer, made if there is none; those who attach under one name share its messages. `filters` are
    /// subjects with `*` for one token and `>` for all that follow.
    async fn attach(&self, name: &str, filters: &[&str]) -> Result<Box<dyn Consumer>, Error>;

    /// Puts a durable consumer back to the start of the stream.
    async fn restart(&self, name: &str) -> Result<(), Error>;

    /// Reads all messages above `after` in order, without a durable position.
    async fn read(&self, after: u64) -> Result<Box<dyn Reader>, Error>;

    /// The message at a sequence; `None` if it is gone or not there yet.
    async fn message_at(&self, sequence: u64) -> Result<Option<Message>, Error>;

    /// Takes requests to a service until what is returned is dropped. Of those that serve the same service one gets each request.
    async fn serve(&self, service: &str) -> Result<Box<dyn Requests>, Error>;

    /// Sends a request to one of those that serve a service, and returns its response; `None` if nobody serves it. Requests are not
    /// part of the stream: nothing keeps them, and nobody repeats them.
    ///
    /// # Errors
    /// `Unavailable` if the bus does not answer, or the one that got the request gives no response in a few seconds.
    async fn request(&self, service: &str, payload: Bytes) -> Result<Option<Bytes>, Error>;

    /// Stops taking messages and closes files or connections.
    async fn close(&self);
}

/// Requests to a service, as they come.
#[async_trait]
pub trait Requests: Send + Sync {
    /// Waits for a request. Cancellation loses nothing.
    ///
    /// # Errors
    /// `Unavailable` once there will be no more: serve again.
    async fn next(&mut self) -> Result<Request, Error>;
}

/// A request that waits for its response. If it is dropped the requester gets `Unavailable`, maybe only after its timeout.
#[derive(Debug)]
pub struct Request {
    /// What is asked.
    pub payload: Bytes,
    response: oneshot::Sender<Bytes>,
}

impl Request {
    /// A request, and what receives its response; the receiver fails if the request is dropped without one.
    #[must_use]
    pub fn new(payload: Bytes) -> (Self, oneshot::Receiver<Bytes>) {
        let (response, received) = oneshot::channel();
        (Self { payload, response }, received)
    }

    /// Sends the response: below 1 MiB, which is as much as NATS carries.
    pub fn respond(self, payload: Bytes) {
        // A requester that no longer waits has gone.
        let _ = self.response.send(payload);
    }
}

/// One that shares the messages of a durable consumer. Dropped, what it has not acknowledged is delivered again.
#[async_trait]
pub trait Consumer: Send + Sync {
    /// Waits for at least one message and answers up to `most`. Cancellation loses nothing.
    ///
    /// # Errors
    /// `StreamChanged` if the stream is no longer the one attached to.
    async fn next(&mut self, most: usize) -> Result<Vec<Delivery>, Error>;

    /// These have been dealt with.
    async fn ack(&mut self, sequences: &[u64]) -> Result<(), Error>;

    /// Asks for one again, after a delay.
    async fn retry(&mut self, sequence: u64, after: Duration) -> Result<(), Error>;
}

/// One that reads the stream in order and keeps its position itself.
#[async_trait]
pub trait Reader: Send + Sync {
    /// As [`Consumer::next`], in the order of sequences.
    async fn next(&mut self, most: usize) -> Result<Vec<Delivery>, Error>;

    /// Whether the stream has no message above those that `next` has returned. Its last sequence does not tell: the messages there
    /// may have been purged or deleted.
    async fn is_at_end(&mut self) -> Result<bool, Error>;
}

/// Whether a subject is one that a filter asks for.
pub fn matches(filter: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for wanted in filter.split('.') {
        match (wanted, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (literal, Some(token)) if literal == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn filters_match_by_tokens() {
        for (filter, subject, expected) in [
            ("a.*", "a.b", true),
            ("a.*", "a.b.c", false),
            ("a.*", "a", false),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            ("a.b", "a.b", true),
            ("a.b", "a.bc", false),
        ] {
            assert_eq!(matches(filter, subject), expected, "{filter} {subject}");
        }
    }
}
