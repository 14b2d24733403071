//! Durable consumers on the server: created, compared with the required settings, and created again if they cannot
//! continue.

use std::time::Duration;

use eticket_bus::Error;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    connection::Failure,
    stream::{STREAM, Stream, StreamInfo, differences},
};

/// Maximum number of unacknowledged messages of a durable consumer, over all members.
pub(super) const MAX_ACK_PENDING: u64 = 8192;

/// A consumer as reported by the server.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ConsumerInfo {
    config: Value,
    pub(super) delivered: Reached,
    ack_floor: Reached,
    pub(super) num_ack_pending: u64,
    pub(super) num_pending: u64,
}

/// A position of a consumer.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Reached {
    /// Number of deliveries, each attempt counted.
    pub(super) consumer_seq: u64,
    pub(super) stream_seq: u64,
}

impl ConsumerInfo {
    /// The number of messages that are not delivered yet, or delivered and not acknowledged.
    pub(super) fn lag(&self) -> u64 {
        self.num_pending + self.num_ack_pending
    }

    /// Whether the consumer has delivered messages that the stream does not have. The stream has lost its end; the
    /// consumer would skip new messages up to its position.
    fn is_ahead_of(&self, stream: &StreamInfo) -> bool {
        self.delivered.stream_seq.max(self.ack_floor.stream_seq) > stream.last_sequence()
    }
}

/// The settings that the members of a durable consumer share.
#[derive(Debug, Clone)]
pub(super) struct Durable {
    /// Its name for the service, and its name on the server.
    pub(super) label: String,
    pub(super) name: String,
    filters: Vec<String>,
    ack_wait: Duration,
}

impl Durable {
    /// The name contains the creation time of the stream, so that late acknowledgements of messages in a deleted stream
    /// cannot apply to messages with the same sequences in the next stream.
    pub(super) fn name_on(stream: &StreamInfo, name: &str) -> String {
        format!("{name}-{}", stream.created.format("%Y%m%dT%H%M%S%9f"))
    }

    pub(super) fn new(stream: &StreamInfo, name: &str, filters: &[&str], ack_wait: Duration) -> Self {
        let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
        Self { label: name.to_owned(), name: Self::name_on(stream, name), filters, ack_wait }
    }

    fn settings(&self) -> Value {
        json!({
            "durable_name": self.name,
            "filter_subjects": self.filters,
            "ack_policy": "explicit",
            "ack_wait": u64::try_from(self.ack_wait.as_nanos()).unwrap_or(u64::MAX),
            "max_ack_pending": MAX_ACK_PENDING,
            // The service decides how often a message may fail.
            "max_deliver": -1,
            "replay_policy": "instant",
            "deliver_policy": "all",
            "headers_only": false,
            "max_batch": 0,
            "max_expires": 0,
        })
    }

    /// The settings whose change requires a new consumer: some cannot be changed on the server, and new filters would
    /// not deliver messages below the position.
    fn fixed_settings(&self) -> Value {
        let mut settings = self.settings();
        if let Some(fields) = settings.as_object_mut() {
            fields.retain(|key, _| ["filter_subjects", "ack_policy", "replay_policy"].contains(&key.as_str()));
        }
        settings
    }

    /// Ensures that the consumer exists with the required settings.
    pub(super) async fn find_or_create(&self, stream: &Stream) -> Result<(), Error> {
        let Some(known) = self.healthy(stream).await? else {
            return self.create(stream, &self.settings()).await;
        };
        let mut settings = self.settings();
        if let [difference, ..] = &differences(&self.fixed_settings(), &known.config)[..] {
            tracing::info!(
                consumer = self.name,
                difference,
                "created the consumer again, from the start of the stream"
            );
            delete(stream, &self.name).await?;
            return self.create(stream, &settings).await;
        }
        // The initial position no longer matters.
        for key in ["deliver_policy", "opt_start_seq"] {
            settings[key] = known.config.get(key).cloned().unwrap_or(Value::Null);
        }
        match differences(&settings, &known.config)[..] {
            [] => Ok(()),
            _ => self.create(stream, &settings).await,
        }
    }

    /// Returns the consumer if it exists and can continue.
    async fn healthy(&self, stream: &Stream) -> Result<Option<ConsumerInfo>, Error> {
        let Some(known) = info(stream, &self.name).await? else { return Ok(None) };
        if !is_ahead(stream, &known).await? {
            return Ok(Some(known));
        }
        tracing::warn!(
            consumer = self.name,
            "the consumer is ahead of the stream; creating it again, from the start of the stream"
        );
        delete(stream, &self.name).await?;
        Ok(None)
    }

    async fn create(&self, stream: &Stream, settings: &Value) -> Result<(), Error> {
        create(stream, &self.name, settings).await
    }

    /// Creates the consumer again at its acknowledged position; everything after it is delivered again.
    pub(super) async fn recreate(&self, stream: &Stream, known: &ConsumerInfo) -> Result<(), Error> {
        let mut settings = self.settings();
        settings["deliver_policy"] = json!("by_start_sequence");
        settings["opt_start_seq"] = json!(known.ack_floor.stream_seq + 1);
        delete(stream, &self.name).await?;
        self.create(stream, &settings).await
    }
}

/// Whether the consumer is beyond the end of the stream. The two are queried one after the other, and may have
/// different leaders, so only a lasting result counts.
pub(super) async fn is_ahead(stream: &Stream, known: &ConsumerInfo) -> Result<bool, Error> {
    for _ in 0..3 {
        if !known.is_ahead_of(&stream.ensure().await?) {
            return Ok(false);
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(true)
}

/// Returns a consumer; `None` if it does not exist.
pub(super) async fn info(stream: &Stream, name: &str) -> Result<Option<ConsumerInfo>, Error> {
    match stream.api(&format!("CONSUMER.INFO.{STREAM}.{name}"), &json!({})).await {
        Ok(info) => Ok(Some(info)),
        Err(failure) => none_if_missing(stream, failure),
    }
}

/// Deletes a consumer if it exists.
pub(super) async fn delete(stream: &Stream, name: &str) -> Result<(), Error> {
    match stream.api::<Value>(&format!("CONSUMER.DELETE.{STREAM}.{name}"), &json!({})).await {
        Ok(_) => Ok(()),
        Err(failure) => none_if_missing::<()>(stream, failure).map(drop),
    }
}

fn none_if_missing<T>(stream: &Stream, failure: Failure) -> Result<Option<T>, Error> {
    match failure {
        Failure::Refused(refusal) if refusal.is_consumer_not_found() || refusal.is_stream_not_found() => Ok(None),
        failure => Err(stream.explain(failure)),
    }
}

/// Creates or changes a consumer, and checks that the server reports the requested settings.
pub(super) async fn create(stream: &Stream, name: &str, settings: &Value) -> Result<(), Error> {
    let payload = json!({ "stream_name": STREAM, "config": settings });
    let outcome = stream.api::<ConsumerInfo>(&format!("CONSUMER.CREATE.{STREAM}.{name}"), &payload).await;
    let made = outcome.map_err(|failure| stream.explain(failure))?;
    match differences(settings, &made.config).first() {
        None => Ok(()),
        Some(difference) => {
            let shown = stream.connection.shown();
            Err(Error::Unavailable(format!(
                "{shown} created the consumer {name} with {difference}; its version may be too old"
            )))
        }
    }
}

/// Detects that a consumer with pending messages delivers none.
#[derive(Debug, Default)]
pub(super) struct Progress {
    delivered: u64,
    idle_since: Option<Instant>,
}

impl Progress {
    /// Call it for each received message.
    pub(super) fn received(&mut self) {
        self.idle_since = None;
    }

    /// Whether the consumer has delivered nothing for `limit`; `None` if nothing is pending.
    pub(super) fn is_stalled(&mut self, delivered: u64, limit: Option<Duration>) -> bool {
        let moved = std::mem::replace(&mut self.delivered, delivered) != delivered;
        let Some(limit) = limit.filter(|_| !moved) else {
            self.idle_since = None;
            return false;
        };
        self.idle_since.get_or_insert_with(Instant::now).elapsed() >= limit
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn pending_messages_without_deliveries_are_a_stall() {
        let mut progress = Progress::default();
        assert!(!progress.is_stalled(0, Some(PATIENCE)), "the first check");
        advance(PATIENCE / 2).await;
        assert!(!progress.is_stalled(0, Some(PATIENCE)));
        advance(PATIENCE / 2).await;
        assert!(progress.is_stalled(0, Some(PATIENCE)));
        assert!(!progress.is_stalled(1, Some(PATIENCE)), "it delivers, although to other members");
    }

    #[tokio::test(start_paused = true)]
    async fn time_without_pending_messages_or_requests_does_not_count() {
        let mut progress = Progress::default();
        progress.is_stalled(0, Some(PATIENCE));
        advance(PATIENCE * 2).await;
        assert!(!progress.is_stalled(0, None));
        assert!(!progress.is_stalled(0, Some(PATIENCE)), "the message has just become pending");
        progress.received();
        // A member that works on a message requests no more.
        advance(PATIENCE * 2).await;
        assert!(!progress.is_stalled(0, Some(PATIENCE)));
    }

    #[test]
    fn a_consumer_beyond_the_end_of_the_stream_is_ahead() {
        let info = |delivered: u64, floor: u64| -> ConsumerInfo {
            let reached = |sequence: u64| json!({ "consumer_seq": sequence, "stream_seq": sequence });
            let info = json!({
                "config": {}, "delivered": reached(delivered), "ack_floor": reached(floor), "num_ack_pending": 0, "num_pending": 0,
            });
            serde_json::from_value(info).unwrap()
        };
        let stream = json!({ "config": {}, "created": "2026-11-06T12:03:01.5Z", "state": { "last_seq": 7 } });
        let stream: StreamInfo = serde_json::from_value(stream).unwrap();
        assert!(!info(7, 7).is_ahead_of(&stream));
        assert!(info(8, 7).is_ahead_of(&stream) && info(7, 8).is_ahead_of(&stream));
        assert_eq!(Durable::name_on(&stream, "ticket"), "ticket-20261106T120301500000000");
    }
}
