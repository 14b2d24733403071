//! Consumers as the server keeps them: made, compared, remade where they cannot go on.

use std::time::Duration;

use eticket_bus::Error;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    connection::Failure,
    stream::{STREAM, Stream, StreamInfo, differences},
};

/// Messages out at once of one durable consumer, for all who share it.
pub(super) const MAX_ACK_PENDING: u64 = 8192;

/// A consumer as the server tells of it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ConsumerInfo {
    config: Value,
    pub(super) delivered: Reached,
    ack_floor: Reached,
    pub(super) num_ack_pending: u64,
    pub(super) num_pending: u64,
}

/// How far a consumer has come.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Reached {
    /// Deliveries, each attempt counted.
    pub(super) consumer_seq: u64,
    pub(super) stream_seq: u64,
}

impl ConsumerInfo {
    /// It has delivered what the stream does not have: the stream has lost its tail, and would be skipped up to here.
    fn is_ahead_of(&self, stream: &StreamInfo) -> bool {
        self.delivered.stream_seq.max(self.ack_floor.stream_seq) > stream.last_sequence()
    }
}

/// What all who share a durable consumer have in common.
#[derive(Debug, Clone)]
pub(super) struct Durable {
    /// As the service calls it, and as the server does.
    pub(super) label: String,
    pub(super) name: String,
    filters: Vec<String>,
    ack_wait: Duration,
}

impl Durable {
    /// The stream's creation is in the name: what a process still says about messages of a stream that is gone, it must not be
    /// able to say about those that have their numbers in the next one.
    pub(super) fn name_on(stream: &StreamInfo, name: &str) -> String {
        format!("{name}-{}", stream.created.format("%Y%m%dT%H%M%S%9f"))
    }

    pub(super) fn new(stream: &StreamInfo, name: &str, filters: &[&str], ack_wait: Duration) -> Self {
        let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
        Self { label: name.to_owned(), name: Self::name_on(stream, name), filters, ack_wait }
    }

    fn asked(&self) -> Value {
        json!({
            "durable_name": self.name,
            "filter_subjects": self.filters,
            "ack_policy": "explicit",
            "ack_wait": u64::try_from(self.ack_wait.as_nanos()).unwrap_or(u64::MAX),
            "max_ack_pending": MAX_ACK_PENDING,
            // How often a message may fail is decided by who reads it.
            "max_deliver": -1,
            "replay_policy": "instant",
            "deliver_policy": "all",
            "headers_only": false,
            "max_batch": 0,
            "max_expires": 0,
        })
    }

    /// What of it the server lets nobody change, and what filters add lies also below the position.
    fn asked_for_good(&self) -> Value {
        let mut asked = self.asked();
        if let Some(settings) = asked.as_object_mut() {
            settings.retain(|key, _| ["filter_subjects", "ack_policy", "replay_policy"].contains(&key.as_str()));
        }
        asked
    }

    /// Sees to it that the consumer is there and as it must be.
    pub(super) async fn find_or_make(&self, stream: &Stream) -> Result<(), Error> {
        let Some(known) = self.healthy(stream).await? else {
            return self.make(stream, &self.asked()).await;
        };
        let mut asked = self.asked();
        if let [difference, ..] = &differences(&self.asked_for_good(), &known.config)[..] {
            tracing::info!(consumer = self.name, difference, "made anew, from the start of the stream");
            delete(stream, &self.name).await?;
            return self.make(stream, &asked).await;
        }
        // Where it began does not matter any more.
        for key in ["deliver_policy", "opt_start_seq"] {
            asked[key] = known.config.get(key).cloned().unwrap_or(Value::Null);
        }
        match differences(&asked, &known.config)[..] {
            [] => Ok(()),
            _ => self.make(stream, &asked).await,
        }
    }

    /// The consumer, if there is one that can go on.
    async fn healthy(&self, stream: &Stream) -> Result<Option<ConsumerInfo>, Error> {
        let Some(known) = info(stream, &self.name).await? else { return Ok(None) };
        if !is_ahead(stream, &known).await? {
            return Ok(Some(known));
        }
        tracing::warn!(consumer = self.name, "it is ahead of the stream: made anew, from the start of the stream");
        delete(stream, &self.name).await?;
        Ok(None)
    }

    async fn make(&self, stream: &Stream, asked: &Value) -> Result<(), Error> {
        create(stream, &self.name, asked).await
    }

    /// Makes it anew where it stands: everything above what has been dealt with comes again.
    pub(super) async fn remake(&self, stream: &Stream, known: &ConsumerInfo) -> Result<(), Error> {
        let mut asked = self.asked();
        asked["deliver_policy"] = json!("by_start_sequence");
        asked["opt_start_seq"] = json!(known.ack_floor.stream_seq + 1);
        delete(stream, &self.name).await?;
        self.make(stream, &asked).await
    }
}

/// Whether it stands where the stream never was. The two are asked one after the other, and may be led by different servers: only
/// what lasts is true.
pub(super) async fn is_ahead(stream: &Stream, known: &ConsumerInfo) -> Result<bool, Error> {
    for _ in 0..3 {
        if !known.is_ahead_of(&stream.look().await?) {
            return Ok(false);
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(true)
}

/// A consumer; `None` if there is none.
pub(super) async fn info(stream: &Stream, name: &str) -> Result<Option<ConsumerInfo>, Error> {
    match stream.api(&format!("CONSUMER.INFO.{STREAM}.{name}"), &json!({})).await {
        Ok(info) => Ok(Some(info)),
        Err(failure) => none_if_gone(stream, failure),
    }
}

/// Deletes a consumer, if there is one.
pub(super) async fn delete(stream: &Stream, name: &str) -> Result<(), Error> {
    match stream.api::<Value>(&format!("CONSUMER.DELETE.{STREAM}.{name}"), &json!({})).await {
        Ok(_) => Ok(()),
        Err(failure) => none_if_gone::<()>(stream, failure).map(drop),
    }
}

fn none_if_gone<T>(stream: &Stream, failure: Failure) -> Result<Option<T>, Error> {
    match failure {
        Failure::Refused(refusal) if refusal.is_consumer_not_found() || refusal.is_stream_not_found() => Ok(None),
        failure => Err(stream.explain(failure)),
    }
}

/// Makes a consumer, or changes it. What the server says that it is must be what was asked.
pub(super) async fn create(stream: &Stream, name: &str, asked: &Value) -> Result<(), Error> {
    let payload = json!({ "stream_name": STREAM, "config": asked });
    let outcome = stream.api::<ConsumerInfo>(&format!("CONSUMER.CREATE.{STREAM}.{name}"), &payload).await;
    let made = outcome.map_err(|failure| stream.explain(failure))?;
    match differences(asked, &made.config).first() {
        None => Ok(()),
        Some(difference) => {
            let shown = stream.connection.shown();
            Err(Error::Unavailable(format!("{shown} has made the consumer {name} with {difference}: is it too old?")))
        }
    }
}

/// Whether a consumer that owes messages delivers any.
#[derive(Debug, Default)]
pub(super) struct Progress {
    delivered: u64,
    stands_since: Option<Instant>,
}

impl Progress {
    /// A message has come.
    pub(super) fn came(&mut self) {
        self.stands_since = None;
    }

    /// Whether it has stood for too long. `patience` is how long it may; `None` if it owes nothing.
    pub(super) fn is_stalled(&mut self, delivered: u64, patience: Option<Duration>) -> bool {
        let moved = std::mem::replace(&mut self.delivered, delivered) != delivered;
        let Some(patience) = patience.filter(|_| !moved) else {
            self.stands_since = None;
            return false;
        };
        self.stands_since.get_or_insert_with(Instant::now).elapsed() >= patience
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn who_owes_and_delivers_nothing_stalls() {
        let mut progress = Progress::default();
        assert!(!progress.is_stalled(0, Some(PATIENCE)), "seen for the first time");
        advance(PATIENCE / 2).await;
        assert!(!progress.is_stalled(0, Some(PATIENCE)));
        advance(PATIENCE / 2).await;
        assert!(progress.is_stalled(0, Some(PATIENCE)));
        assert!(!progress.is_stalled(1, Some(PATIENCE)), "it delivers, if only to others");
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nothing_was_owed_or_nobody_asked_does_not_count() {
        let mut progress = Progress::default();
        progress.is_stalled(0, Some(PATIENCE));
        advance(PATIENCE * 2).await;
        assert!(!progress.is_stalled(0, None));
        assert!(!progress.is_stalled(0, Some(PATIENCE)), "what it owes is new");
        progress.came();
        // Who has a message works on it, and asks for no more.
        advance(PATIENCE * 2).await;
        assert!(!progress.is_stalled(0, Some(PATIENCE)));
    }

    #[test]
    fn who_has_delivered_what_the_stream_has_not_is_ahead() {
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
