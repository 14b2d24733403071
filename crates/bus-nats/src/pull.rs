//! Pull requests for the messages of a consumer, one at a time.
//!
//! A request survives a cancelled call: the next call returns the messages that have arrived meanwhile.

use std::time::Duration;

use async_nats::{Message, StatusCode, Subscriber};
use eticket_bus::Error;
use futures::StreamExt;
use serde_json::json;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{connection::Connection, stream::STREAM};

/// A request expires after this time, and another follows.
const EXPIRES: Duration = Duration::from_secs(30);
/// Delay before a request that no server has accepted is sent again.
pub(super) const AGAIN: Duration = Duration::from_millis(50);

/// An event of a consumer.
#[derive(Debug)]
pub(super) enum Event {
    Message(Box<Message>),
    /// The request has ended; messages need another one.
    Over,
    /// Heartbeats are missing.
    Silent,
    /// No server has accepted the request: the consumer does not exist, or its leader is changing.
    NoResponders,
    /// The consumer does not exist any more; the text is from the server.
    Gone(String),
}

/// The pull requests of one consumer.
pub(super) struct Pull {
    subscriber: Subscriber,
    inbox: String,
    question: String,
    heartbeat: Duration,
    /// Number of the newest request.
    number: u64,
    /// Number of messages that the newest request can still deliver.
    outstanding: usize,
    heard: Instant,
}

impl Pull {
    /// Subscribes to the messages of a consumer, without requesting any.
    pub(super) async fn new(connection: &Connection, consumer: &str) -> Result<Self, Error> {
        let client = connection.client().await?;
        let inbox = client.new_inbox();
        let subscriber = client.subscribe(format!("{inbox}.*")).await;
        let subscriber = subscriber.map_err(|error| Error::Unavailable(error.to_string()))?;
        let question = format!("$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{consumer}");
        let heartbeat = connection.bounds.look;
        Ok(Self { subscriber, inbox, question, heartbeat, number: 0, outstanding: 0, heard: Instant::now() })
    }

    /// Requests messages, unless a request is active.
    pub(super) async fn ask(&mut self, connection: &Connection, most: usize) -> Result<(), Error> {
        if self.outstanding > 0 {
            return Ok(());
        }
        let nanoseconds = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let (expires, heartbeat) = (nanoseconds(EXPIRES), nanoseconds(self.heartbeat));
        let payload = json!({ "batch": most, "expires": expires, "idle_heartbeat": heartbeat });
        self.number += 1;
        let reply = format!("{}.{}", self.inbox, self.number);
        connection.send(self.question.clone().into(), Some(reply.into()), payload.to_string().into()).await?;
        (self.outstanding, self.heard) = (most, Instant::now());
        Ok(())
    }

    /// Waits for the next event. Cancel safe: no message is lost.
    pub(super) async fn next(&mut self) -> Event {
        loop {
            // One heartbeat may be lost or late.
            let silent = self.heard + self.heartbeat * 5 / 2;
            let message = tokio::select! {
                biased;
                message = self.subscriber.next() => message,
                () = sleep_until(silent), if self.outstanding > 0 => {
                    self.outstanding = 0;
                    return Event::Silent;
                }
            };
            let Some(message) = message else {
                self.outstanding = 0;
                return Event::Gone("the connection is closed".to_owned());
            };
            self.heard = Instant::now();
            if let Some(event) = self.classify(message) {
                return event;
            }
        }
    }

    fn classify(&mut self, message: Message) -> Option<Event> {
        let Some(status) = message.status.filter(|status| *status != StatusCode::OK) else {
            self.outstanding = self.outstanding.saturating_sub(1);
            return Some(Event::Message(Box::new(message)));
        };
        let of_this_request = message.subject.rsplit('.').next().and_then(|number| number.parse().ok());
        if status == StatusCode::IDLE_HEARTBEAT || of_this_request != Some(self.number) {
            return None;
        }
        self.outstanding = 0;
        let description = message.description.unwrap_or_default();
        match status {
            StatusCode::TIMEOUT | StatusCode::NOT_FOUND => Some(Event::Over),
            // Another server leads the consumer now.
            _ if description == "Leadership Change" || description == "Batch Completed" => Some(Event::Over),
            StatusCode::NO_RESPONDERS => Some(Event::NoResponders),
            status => Some(Event::Gone(format!("{description} ({status})"))),
        }
    }

    /// Unsubscribes, and passes each message that has arrived or still arrives to `each`.
    pub(super) async fn finish(mut self, bound: Duration, mut each: impl FnMut(Message)) {
        let until = Instant::now() + bound;
        if !matches!(timeout_at(until, self.subscriber.drain()).await, Ok(Ok(()))) {
            return;
        }
        while let Ok(Some(message)) = timeout_at(until, self.subscriber.next()).await {
            if message.status.is_none_or(|status| status == StatusCode::OK) {
                each(message);
            }
        }
    }
}
