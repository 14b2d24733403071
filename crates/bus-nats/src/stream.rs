//! The stream: made where it is missing, and refused where it is not as it must be.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::HeaderMap;
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use eticket_bus::{Error, StreamState};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

use super::connection::{Connection, Failure, Refusal};

pub(super) const STREAM: &str = "ETICKET";
pub(super) const SUBJECTS: &str = "eticket.v1.>";
/// Older servers ignore several filters of a consumer without a word.
const OLDEST_SERVER: (u64, u64) = (2, 10);
/// Many who publish at once share one look at a stream that cannot be had.
const FAILURE_HOLDS: Duration = Duration::from_millis(500);

/// How long a stream that the server fails to make is tried again. A server that has answered to the deletion of its last stream still
/// removes a folder (nats-server 2.12), and a stream that is made at that moment fails.
const MAKING: Duration = Duration::from_millis(500);
const MAKING_PAUSE: Duration = Duration::from_millis(25);

/// JetStream's numbers for what it refuses.
mod codes {
    pub(super) const INSUFFICIENT_RESOURCES: [u64; 6] = [10002, 10023, 10028, 10047, 10077, 10122];
    /// What a server says that cannot write what it must remember of a stream or consumer.
    pub(super) const STORE_FAILED: [u64; 3] = [10012, STREAM_CREATE, 10104];
    pub(super) const STREAM_CREATE: u64 = 10049;
    pub(super) const NOT_ENABLED: [u64; 2] = [10039, 10076];
    pub(super) const CONSUMER_NOT_FOUND: u64 = 10014;
    pub(super) const NO_MESSAGE: u64 = 10037;
    pub(super) const STREAM_NAME_IN_USE: u64 = 10058;
    pub(super) const STREAM_NOT_FOUND: u64 = 10059;
    pub(super) const SUBJECTS_OVERLAP: u64 = 10065;
    pub(super) const REPLICAS_WITHOUT_CLUSTER: u64 = 10074;
    pub(super) const NO_PEERS: u64 = 10005;
}

impl Refusal {
    pub(super) fn is_consumer_not_found(&self) -> bool {
        self.code == codes::CONSUMER_NOT_FOUND
    }

    pub(super) fn is_stream_not_found(&self) -> bool {
        self.code == codes::STREAM_NOT_FOUND
    }

    pub(super) fn is_no_message(&self) -> bool {
        self.code == codes::NO_MESSAGE
    }
}

/// The stream as the server tells of it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct StreamInfo {
    config: Value,
    pub(super) created: DateTime<Utc>,
    state: Extent,
}

#[derive(Debug, Clone, Deserialize)]
struct Extent {
    last_seq: u64,
}

impl StreamInfo {
    pub(super) fn last_sequence(&self) -> u64 {
        self.state.last_seq
    }

    pub(super) fn state(&self) -> StreamState {
        let epoch = self.created.to_rfc3339_opts(SecondsFormat::Nanos, true);
        StreamState { epoch, last_sequence: self.state.last_seq }
    }
}

/// The stream on one connection.
pub(super) struct Stream {
    pub(super) connection: Arc<Connection>,
    replicas: u8,
    checked: Mutex<Checked>,
    /// The connection whose server does not protect the stream: it is not asked again.
    unprotected_on: AtomicU64,
}

#[derive(Default)]
struct Checked {
    /// The connection over which the stream was last seen to be right.
    on: Option<u64>,
    failed: Option<(Instant, Error)>,
}

impl Checked {
    fn note(&mut self, number: u64, outcome: &Result<StreamInfo, Error>) {
        *self = match outcome {
            Ok(_) => Self { on: Some(number), failed: None },
            Err(error) => Self { on: None, failed: Some((Instant::now(), error.clone())) },
        };
    }
}

impl Stream {
    pub(super) fn new(connection: Arc<Connection>, replicas: u8) -> Self {
        Self { connection, replicas, checked: Mutex::default(), unprotected_on: AtomicU64::new(0) }
    }

    /// What is asked of the stream. The newest messages of each subject, whatever their age and number: nothing else may take
    /// messages out.
    pub(super) fn asked(&self) -> Value {
        json!({
            "name": STREAM,
            "subjects": [SUBJECTS],
            "storage": "file",
            "retention": "limits",
            "discard": "old",
            "max_msgs_per_subject": eticket_bus::MESSAGES_PER_SUBJECT,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_age": 0,
            "num_replicas": self.replicas,
            "no_ack": false,
            "sealed": false,
        })
    }

    /// What is asked when the stream is made.
    fn asked_at_first(&self) -> Value {
        with(&self.asked(), &protection())
    }

    /// The stream as it is now: right in all that was asked, made if there was none.
    pub(super) async fn look(&self) -> Result<StreamInfo, Error> {
        let number = self.connection.connected().await?;
        let outcome = self.find_or_make().await;
        self.checked.lock().await.note(number, &outcome);
        outcome
    }

    /// Whether the stream is still the one that was found before.
    pub(super) async fn is_still(&self, before: &StreamInfo) -> Result<(), Error> {
        match self.look().await?.created == before.created {
            true => Ok(()),
            false => Err(Error::StreamChanged),
        }
    }

    async fn find_or_make(&self) -> Result<StreamInfo, Error> {
        let version = self.connection.server_version().await?;
        if !is_new_enough(&version) {
            let (major, minor) = OLDEST_SERVER;
            let shown = self.connection.shown();
            let needed = format!("{major}.{minor} or newer is needed: update it, or set bus.url");
            let text = format!("{shown} is nats-server {version}: {needed}");
            return Err(Error::Unavailable(text));
        }
        let info = match self.info().await {
            Err(Failure::Refused(refusal)) if refusal.is_stream_not_found() => self.make().await,
            outcome => outcome,
        };
        let info = info.map_err(|failure| self.explain(failure))?;
        match differences(&self.asked(), &info.config).first() {
            None => self.protect(info).await,
            Some(difference) => {
                let shown = self.connection.shown();
                let help = "change it with `nats stream edit`, or delete the stream: it is made anew, and filled again";
                Err(Error::Unavailable(format!("the stream {STREAM} at {shown} has {difference}: {help}")))
            }
        }
    }

    /// Whether the stream has a message beyond a sequence. The leader of the stream answers: a consumer may run on another server,
    /// which knows nothing yet of a message that the leader has acknowledged.
    pub(super) async fn has_message_after(&self, sequence: u64) -> Result<bool, Error> {
        let asked = json!({ "seq": sequence + 1, "next_by_subj": SUBJECTS });
        match self.api::<Value>(&format!("STREAM.MSG.GET.{STREAM}"), &asked).await {
            Ok(_) => Ok(true),
            Err(Failure::Refused(refusal)) if refusal.is_no_message() => Ok(false),
            Err(failure) => Err(self.explain(failure)),
        }
    }

    async fn info(&self) -> Result<StreamInfo, Failure> {
        self.api(&format!("STREAM.INFO.{STREAM}"), &json!({})).await
    }

    /// Turns the protection on where an older program, or a person, made the stream without it. A server that does not know these
    /// settings, or refuses the change, is used all the same: the comparison with the owners repairs what is lost there.
    async fn protect(&self, info: StreamInfo) -> Result<StreamInfo, Error> {
        let number = self.connection.connected().await?;
        if differences(&protection(), &info.config).is_empty() || self.unprotected_on.load(Ordering::Relaxed) == number
        {
            return Ok(info);
        }
        let config = with(&info.config, &protection());
        let reason = match self.api::<StreamInfo>(&format!("STREAM.UPDATE.{STREAM}"), &config).await {
            Ok(updated) if differences(&protection(), &updated.config).is_empty() => {
                tracing::info!(
                    bus = self.connection.shown(),
                    "protected the stream {STREAM} from purges and deletions"
                );
                return Ok(updated);
            }
            Ok(_) => "the server does not know deny_purge and deny_delete".to_owned(),
            Err(Failure::Refused(Refusal { code, description })) => format!("{description} ({code})"),
            Err(failure) => return Err(self.explain(failure)),
        };
        self.unprotected_on.store(number, Ordering::Relaxed);
        tracing::warn!(bus = self.connection.shown(), reason, "the stream {STREAM} is not protected from purges");
        Ok(info)
    }

    async fn make(&self) -> Result<StreamInfo, Failure> {
        let begun = Instant::now();
        loop {
            match self.api::<StreamInfo>(&format!("STREAM.CREATE.{STREAM}"), &self.asked_at_first()).await {
                Ok(info) => {
                    tracing::info!(bus = self.connection.shown(), created = %info.created, "made the stream {STREAM}");
                    return Ok(info);
                }
                // Somebody was faster, and asked for something else.
                Err(Failure::Refused(refusal)) if refusal.code == codes::STREAM_NAME_IN_USE => {
                    return self.info().await;
                }
                Err(Failure::Refused(refusal)) if refusal.code == codes::STREAM_CREATE && begun.elapsed() < MAKING => {
                    sleep(MAKING_PAUSE).await;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Asks a question of JetStream's interface.
    pub(super) async fn api<T: DeserializeOwned>(&self, question: &str, payload: &Value) -> Result<T, Failure> {
        self.connection.ask(format!("$JS.API.{question}"), None, payload.to_string().into()).await
    }

    /// Sees to it that the stream was right on this connection. Costs nothing while nothing has happened.
    async fn ready(&self) -> Result<(), Error> {
        let number = self.connection.connected().await?;
        let mut checked = self.checked.lock().await;
        if checked.on == Some(number) {
            return Ok(());
        }
        if let Some((at, error)) = &checked.failed
            && at.elapsed() < FAILURE_HOLDS
        {
            return Err(error.clone());
        }
        let outcome = self.find_or_make().await;
        checked.note(number, &outcome);
        outcome.map(drop)
    }

    /// Appends a message.
    ///
    /// After an attempt whose outcome is not known nothing is sent before the server has answered a question: otherwise each
    /// attempt at a server that hangs would become one more message, all of them late.
    pub(super) async fn publish(&self, subject: &str, headers: HeaderMap, body: Bytes) -> Result<u64, Error> {
        let mut again = true;
        loop {
            self.ready().await?;
            let headers = Some(headers.clone()).filter(|headers| !headers.is_empty());
            let outcome = self.connection.ask::<Published>(subject, headers, body.clone()).await;
            let failure = match outcome {
                Ok(published) if published.stream == STREAM => return Ok(published.seq),
                Ok(published) => {
                    let text = format!("the stream {} has taken {subject}, which is of {STREAM}", published.stream);
                    Failure::Bus(Error::Unavailable(text))
                }
                Err(failure) => failure,
            };
            self.checked.lock().await.on = None;
            // The stream was deleted: it is made anew.
            if !matches!(failure, Failure::NoResponders) || !std::mem::take(&mut again) {
                return Err(self.explain(failure));
            }
        }
    }

    /// A failure in words that say what to do.
    pub(super) fn explain(&self, failure: Failure) -> Error {
        let shown = self.connection.shown();
        let text = match failure {
            Failure::Bus(error) | Failure::Unanswered(error) => return error,
            Failure::NoResponders => format!(
                "JetStream is not enabled at {shown}, or has no leader yet: start nats-server with `jetstream {{}}` in its \
                 configuration"
            ),
            Failure::Refused(Refusal { code, description }) => {
                let help = match code {
                    code if codes::NOT_ENABLED.contains(&code) => "enable JetStream for the server and the account",
                    code if codes::INSUFFICIENT_RESOURCES.contains(&code) => "give the server or the account more room",
                    code if codes::STORE_FAILED.contains(&code) => {
                        "look at the server's log, and whether its store_dir can be written and has room"
                    }
                    codes::SUBJECTS_OVERLAP => "another stream has the subjects eticket.v1.>: delete it",
                    codes::REPLICAS_WITHOUT_CLUSTER | codes::NO_PEERS => {
                        "bus.replicas needs as many servers with JetStream in a cluster"
                    }
                    _ => "look at the server's log",
                };
                format!("{shown} says \"{description}\" ({code}): {help}")
            }
        };
        Error::Unavailable(text)
    }
}

/// Nothing in this project purges the stream or deletes messages, and a server allows an update to turn these on, never off.
fn protection() -> Value {
    json!({ "deny_purge": true, "deny_delete": true })
}

/// The settings of both; those of `more` win.
fn with(settings: &Value, more: &Value) -> Value {
    let mut all = settings.as_object().cloned().unwrap_or_default();
    all.extend(more.as_object().cloned().unwrap_or_default());
    Value::Object(all)
}

/// What the server answers once a message is stored.
#[derive(Deserialize)]
struct Published {
    stream: String,
    seq: u64,
}

/// Whether a server of this version does what is asked of it. A version that says nothing is taken for an old one.
fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.trim_start_matches('v').split(['.', '-', '+']).map(str::parse::<u64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= OLDEST_SERVER,
        _ => false,
    }
}

/// What of a configuration is not as it was asked for, in words. What is left out is what says nothing.
pub(super) fn differences(asked: &Value, is: &Value) -> Vec<String> {
    let says_nothing = |value: &Value| [json!(null), json!(0), json!(false), json!([]), json!("")].contains(value);
    let keys = asked.as_object().into_iter().flatten();
    let different = keys.filter(|(key, asked)| match is.get(*key) {
        None => !says_nothing(asked),
        // More copies are no fault: an operator may want them before the configuration does.
        Some(is) if *key == "num_replicas" => is.as_u64() < asked.as_u64(),
        Some(is) => is != *asked,
    });
    let none = Value::Null;
    different.map(|(key, asked)| format!("{key} = {} where {asked} is needed", is.get(key).unwrap_or(&none))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_are_refused() {
        for version in ["2.10.0", "2.10.29", "v2.12.3", "2.11.0-preview.2", "3.0", "2.100.1"] {
            assert!(is_new_enough(version), "{version}");
        }
        for version in ["2.9.10", "2.9.25", "1.99.0", "0.10.0", "", "2", "two.ten"] {
            assert!(!is_new_enough(version), "{version}");
        }
    }

    #[test]
    fn differences_name_the_setting_what_it_is_and_what_is_needed() {
        let asked = json!({ "storage": "file", "max_age": 0, "no_ack": false, "num_replicas": 3, "subjects": ["a"] });
        let right = json!({ "storage": "file", "num_replicas": 5, "subjects": ["a"], "more": 1 });
        assert_eq!(differences(&asked, &right), [""; 0]);
        let wrong = json!({ "storage": "memory", "max_age": 5, "no_ack": true, "num_replicas": 1 });
        let expected = [
            "max_age = 5 where 0 is needed",
            "no_ack = true where false is needed",
            "num_replicas = 1 where 3 is needed",
            "storage = \"memory\" where \"file\" is needed",
            "subjects = null where [\"a\"] is needed",
        ];
        assert_eq!(differences(&asked, &wrong), expected);
    }
}
