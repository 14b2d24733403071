//! Messages of a consumer, asked for one request at a time.
//!
//! The request outlives the call that made it: who gives up waiting finds what it brought when they come again.

use std::time::Duration;

use async_nats::{Message, StatusCode, Subscriber};
use eticket_bus::Error;
use futures::StreamExt;
use serde_json::json;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{connection::Connection, stream::STREAM};

/// A request ends after so long; the next one follows.
const EXPIRES: Duration = Duration::from_secs(30);
/// Before a request that nobody has taken is made again.
pub(super) const AGAIN: Duration = Duration::from_millis(50);

/// What came.
#[derive(Debug)]
pub(super) enum Event {
    Message(Box<Message>),
    /// The request has ended: there will be no more without another.
    Over,
    /// Not even a sign of life, for longer than may be.
    Silent,
    /// Nobody has taken the request: the consumer is gone, or another server begins to lead it.
    Nobody,
    /// There is no such consumer any more, in the server's words.
    Gone(String),
}

/// See the module.
pub(super) struct Pull {
    subscriber: Subscriber,
    inbox: String,
    question: String,
    heartbeat: Duration,
    /// Of the newest request.
    number: u64,
    /// What the newest request still brings at most.
    owed: usize,
    heard: Instant,
}

impl Pull {
    /// For messages of this consumer; nothing is asked for yet.
    pub(super) async fn new(connection: &Connection, consumer: &str) -> Result<Self, Error> {
        let client = connection.client().await?;
        let inbox = client.new_inbox();
        let subscriber = client.subscribe(format!("{inbox}.*")).await;
        let subscriber = subscriber.map_err(|error| Error::Unavailable(error.to_string()))?;
        let question = format!("$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{consumer}");
        let heartbeat = connection.bounds.look;
        Ok(Self { subscriber, inbox, question, heartbeat, number: 0, owed: 0, heard: Instant::now() })
    }

    /// Asks for messages, unless some are on their way already.
    pub(super) async fn ask(&mut self, connection: &Connection, most: usize) -> Result<(), Error> {
        if self.owed > 0 {
            return Ok(());
        }
        let nanoseconds = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let (expires, heartbeat) = (nanoseconds(EXPIRES), nanoseconds(self.heartbeat));
        let payload = json!({ "batch": most, "expires": expires, "idle_heartbeat": heartbeat });
        self.number += 1;
        let reply = format!("{}.{}", self.inbox, self.number);
        connection.send(self.question.clone().into(), Some(reply.into()), payload.to_string().into()).await?;
        (self.owed, self.heard) = (most, Instant::now());
        Ok(())
    }

    /// Waits for what comes. Cancellation loses nothing.
    pub(super) async fn next(&mut self) -> Event {
        loop {
            // One heartbeat may be lost or late.
            let silent = self.heard + self.heartbeat * 5 / 2;
            let message = tokio::select! {
                biased;
                message = self.subscriber.next() => message,
                () = sleep_until(silent), if self.owed > 0 => {
                    self.owed = 0;
                    return Event::Silent;
                }
            };
            let Some(message) = message else {
                self.owed = 0;
                return Event::Gone("the connection is closed".to_owned());
            };
            self.heard = Instant::now();
            if let Some(event) = self.understand(message) {
                return event;
            }
        }
    }

    fn understand(&mut self, message: Message) -> Option<Event> {
        let Some(status) = message.status.filter(|status| *status != StatusCode::OK) else {
            self.owed = self.owed.saturating_sub(1);
            return Some(Event::Message(Box::new(message)));
        };
        let of_this_request = message.subject.rsplit('.').next().and_then(|number| number.parse().ok());
        if status == StatusCode::IDLE_HEARTBEAT || of_this_request != Some(self.number) {
            return None;
        }
        self.owed = 0;
        let said = message.description.unwrap_or_default();
        match status {
            StatusCode::TIMEOUT | StatusCode::NOT_FOUND => Some(Event::Over),
            // Another server leads the consumer now.
            _ if said == "Leadership Change" || said == "Batch Completed" => Some(Event::Over),
            StatusCode::NO_RESPONDERS => Some(Event::Nobody),
            status => Some(Event::Gone(format!("{said} ({status})"))),
        }
    }

    /// What has come and nobody has taken yet, and what is under way until the server has heard that nothing is wanted any more.
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
