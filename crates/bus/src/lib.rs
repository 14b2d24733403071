//! The bus port: an append-only stream of messages with an epoch and sequences, durable consumers that acknowledge
//! single messages, and ordered readers that keep their own position. The bus also carries requests to a service and
//! their responses, outside of the stream.
//!
//! Messages are delivered at least once and in any order; receivers compare revisions. The stream keeps only the newest
//! messages of each subject and can be lost: when services find a stream with another epoch, they publish their states
//! again.

#![warn(missing_docs)]

#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod local;
#[cfg(any(test, feature = "memory"))]
pub mod memory;

use std::{borrow::Cow, sync::Arc, time::Duration};

use async_trait::async_trait;
pub use bytes::Bytes;
use tokio::sync::oneshot;

/// Number of messages kept per subject; the newest message is always kept.
pub const MESSAGES_PER_SUBJECT: u32 = 32;

/// Errors of bus operations.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The bus cannot be reached or is misconfigured. Temporary: retry later, and do not fail anything else because of
    /// it.
    #[error("the bus cannot be used: {0}")]
    Unavailable(String),
    /// The stream is not the one that was attached to. Attach again.
    #[error("the stream was created again")]
    StreamChanged,
}

/// Name and value of a header. Programs know most names, so that messages need not copy them.
pub type Header = (Cow<'static, str>, String);

/// A message to publish, or as delivered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// The subject; there is one per aggregate.
    pub subject: String,
    /// Names are lower case. The order is not preserved: an adapter may deliver headers sorted by name.
    pub headers: Vec<Header>,
    /// The encoded state.
    pub body: Bytes,
}

impl Message {
    /// Returns the value of a header; the first if there are several.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Replaces the value of a header, or adds the header.
    pub fn set_header(&mut self, name: &'static str, value: String) {
        match self.headers.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => self.headers.push((name.into(), value)),
        }
    }
}

/// A message and its position in the stream.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The position in the stream.
    pub sequence: u64,
    /// 1 at the first delivery. Adapters may count again when a consumer attaches.
    pub attempts: u32,
    /// The published message.
    pub message: Arc<Message>,
}

/// Messages of the past, the newest first.
#[derive(Debug, Clone)]
pub struct History {
    /// The epoch of the stream that the messages belong to.
    pub epoch: String,
    /// The messages. Their `attempts` are 1.
    pub messages: Vec<Delivery>,
}

/// The current state of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamState {
    /// Changes when the stream is created again.
    pub epoch: String,
    /// The sequence of the newest message; 0 if there has been none.
    pub last_sequence: u64,
}

/// A stream of messages that services share.
#[async_trait]
pub trait Bus: Send + Sync {
    /// Returns the epoch and the last sequence of the stream.
    async fn state(&self) -> Result<StreamState, Error>;

    /// Appends a message. Returns its sequence once it is durable, or if there is a [`Bus::sync_interval`], once it is
    /// stored.
    async fn publish(&self, message: Message) -> Result<u64, Error>;

    /// How long a message that is stored may not be durable yet. Zero if `publish` returns only then.
    fn sync_interval(&self) -> Duration {
        Duration::ZERO
    }

    /// Identifies the server process to which the bus was connected last. If it changes, messages that were not durable
    /// may be lost, and their sequences are assigned again.
    fn server_id(&self) -> String {
        String::new()
    }

    /// Attaches to a durable consumer, and creates it if it does not exist. All that attach under one name share its
    /// messages. `filters` are subjects with `*` for one token and `>` for all following tokens.
    async fn attach(&self, name: &str, filters: &[&str]) -> Result<Box<dyn Consumer>, Error>;

    /// Moves a durable consumer back to the start of the stream.
    async fn restart(&self, name: &str) -> Result<(), Error>;

    /// Returns how many messages a durable consumer has not finished: those that it has not delivered yet, and those
    /// that are delivered and not acknowledged. `None` if the consumer does not exist.
    async fn lag(&self, name: &str) -> Result<Option<u64>, Error>;

    /// Reads all messages after the sequence `after` in order, without a durable position.
    async fn read(&self, after: u64) -> Result<Box<dyn Reader>, Error>;

    /// Returns the message at a sequence; `None` if it was removed or does not exist yet.
    async fn message_at(&self, sequence: u64) -> Result<Option<Message>, Error>;

    /// Returns the newest messages, up to `most`, whose subjects match one of `filters`, the newest first; with `before`,
    /// only those with lower sequences. `filters` are as in [`Bus::attach`]. The stream keeps only the newest messages
    /// of each subject, so a history may have gaps.
    async fn history(&self, filters: &[&str], before: Option<u64>, most: usize) -> Result<History, Error>;

    /// Registers a server of `service`. Each request goes to one server. Dropping the returned value unregisters the
    /// server.
    async fn serve(&self, service: &str) -> Result<Box<dyn Requests>, Error>;

    /// Sends a request to one server of `service` and returns its response; `None` if there is no server. Requests are
    /// not part of the stream: they are neither stored nor repeated.
    ///
    /// # Errors
    /// `Unavailable` if the bus does not respond, or if the server does not respond within a few seconds.
    async fn request(&self, service: &str, payload: Bytes) -> Result<Option<Bytes>, Error>;

    /// Stops accepting messages, and closes files or connections.
    async fn close(&self);
}

/// The requests to one server of a service.
#[async_trait]
pub trait Requests: Send + Sync {
    /// Waits for the next request. Cancel safe: no request is lost.
    ///
    /// # Errors
    /// `Unavailable` if no more requests can arrive. Call [`Bus::serve`] again.
    async fn next(&mut self) -> Result<Request, Error>;
}

/// A request to be answered. If it is dropped, the requester gets `Unavailable`, possibly only after its timeout.
#[derive(Debug)]
pub struct Request {
    /// The encoded request.
    pub payload: Bytes,
    response: oneshot::Sender<Bytes>,
}

impl Request {
    /// Creates a request, and the receiver of its response; the receiver fails if the request is dropped.
    #[must_use]
    pub fn new(payload: Bytes) -> (Self, oneshot::Receiver<Bytes>) {
        let (response, received) = oneshot::channel();
        (Self { payload, response }, received)
    }

    /// Sends the response, which must be smaller than 1 MiB, the limit of NATS.
    pub fn respond(self, payload: Bytes) {
        // The requester may have stopped waiting.
        let _ = self.response.send(payload);
    }
}

/// A member of a durable consumer. When it is dropped, its unacknowledged messages are delivered again.
#[async_trait]
pub trait Consumer: Send + Sync {
    /// Waits for at least one message and returns up to `most`. Cancel safe: no message is lost.
    ///
    /// # Errors
    /// `StreamChanged` if the stream is not the one that was attached to.
    async fn next(&mut self, most: usize) -> Result<Vec<Delivery>, Error>;

    /// Acknowledges messages; they are not delivered again.
    async fn ack(&mut self, sequences: &[u64]) -> Result<(), Error>;

    /// Requests another delivery of a message after a delay.
    async fn retry(&mut self, sequence: u64, after: Duration) -> Result<(), Error>;
}

/// An ordered reader of the stream; the caller keeps the position.
#[async_trait]
pub trait Reader: Send + Sync {
    /// Like [`Consumer::next`], in the order of sequences.
    async fn next(&mut self, most: usize) -> Result<Vec<Delivery>, Error>;

    /// Whether the stream has no message after those that `next` has returned. The last sequence is not enough to
    /// decide that: its message may have been purged or deleted.
    async fn is_at_end(&mut self) -> Result<bool, Error>;
}

/// Checks that the stream still has this epoch. What is attached after the epoch was read may belong to another stream;
/// its sequences would count as those of the old one.
///
/// # Errors
/// `StreamChanged` if the stream has been replaced; or the error of the bus.
pub async fn check_epoch(bus: &dyn Bus, epoch: &str) -> Result<(), Error> {
    if bus.state().await?.epoch == epoch { Ok(()) } else { Err(Error::StreamChanged) }
}

/// Whether a filter matches a subject.
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
