//! The stream: created if it is missing, and refused if its settings are wrong.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, SecondsFormat, Utc};
use eticket_bus::{Error, Message, StreamState};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

use super::{
    connection::{Connection, Failure, Refusal},
    message::headers_of,
};

pub(super) const STREAM: &str = "ETICKET";
pub(super) const SUBJECTS: &str = "eticket.v1.>";
/// Older servers silently ignore all but one filter of a consumer.
const OLDEST_SERVER: (u64, u64) = (2, 10);
/// Concurrent publishers share one failed check of the stream for this time.
const FAILURE_SHARED_FOR: Duration = Duration::from_millis(500);

/// How long the creation of a stream is retried. After nats-server (2.12) has responded to the deletion of a stream, it
/// still removes a folder, and the creation of the next stream fails until then.
const CREATE_RETRY: Duration = Duration::from_millis(500);
const CREATE_PAUSE: Duration = Duration::from_millis(25);

/// JetStream's error codes.
mod codes {
    pub(super) const INSUFFICIENT_RESOURCES: [u64; 6] = [10002, 10023, 10028, 10047, 10077, 10122];
    /// The server cannot write the metadata of a stream or consumer.
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

/// The stream as reported by the server.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct StreamInfo {
    config: Value,
    pub(super) created: DateTime<Utc>,
    state: Extent,
}

#[derive(Debug, Clone, Deserialize)]
struct Extent {
    #[serde(default)]
    first_seq: u64,
    last_seq: u64,
}

impl StreamInfo {
    pub(super) fn last_sequence(&self) -> u64 {
        self.state.last_seq
    }

    /// The sequence of the oldest message; 0 if there is none.
    pub(super) fn first_sequence(&self) -> u64 {
        self.state.first_seq
    }

    pub(super) fn state(&self) -> StreamState {
        let epoch = self.created.to_rfc3339_opts(SecondsFormat::Nanos, true);
        StreamState { epoch, last_sequence: self.state.last_seq }
    }
}

/// The stream, and what is known about it on the current connection.
pub(super) struct Stream {
    pub(super) connection: Arc<Connection>,
    replicas: u8,
    checked: Mutex<Checked>,
    /// The connection whose server cannot protect the stream; protection is not tried again on it.
    unprotected_on: AtomicU64,
}

#[derive(Default)]
struct Checked {
    /// The connection on which the stream was last seen with the right settings.
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

    /// The required settings: the newest messages of each subject are kept regardless of age and number, and no other
    /// limit removes messages.
    pub(super) fn settings(&self) -> Value {
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

    /// The settings of a new stream.
    fn initial_settings(&self) -> Value {
        with(&self.settings(), &protection())
    }

    /// Returns the stream with verified settings; creates it if it does not exist.
    pub(super) async fn ensure(&self) -> Result<StreamInfo, Error> {
        let number = self.connection.connected().await?;
        let outcome = self.find_or_create().await;
        self.checked.lock().await.note(number, &outcome);
        outcome
    }

    /// Fails if the stream has been created again since `before`.
    pub(super) async fn check_unchanged(&self, before: &StreamInfo) -> Result<(), Error> {
        match self.ensure().await?.created == before.created {
            true => Ok(()),
            false => Err(Error::StreamChanged),
        }
    }

    async fn find_or_create(&self) -> Result<StreamInfo, Error> {
        let version = self.connection.server_version().await?;
        if !is_new_enough(&version) {
            let (major, minor) = OLDEST_SERVER;
            let shown = self.connection.shown();
            let needed = format!("version {major}.{minor} or newer is needed: update the server, or set bus.url");
            let text = format!("{shown} runs nats-server {version}: {needed}");
            return Err(Error::Unavailable(text));
        }
        let info = match self.info().await {
            Err(Failure::Refused(refusal)) if refusal.is_stream_not_found() => self.create().await,
            outcome => outcome,
        };
        let info = info.map_err(|failure| self.explain(failure))?;
        match differences(&self.settings(), &info.config).first() {
            None => self.protect(info).await,
            Some(difference) => {
                let shown = self.connection.shown();
                let help = "change it with `nats stream edit`, or delete the stream: services create and fill it again";
                Err(Error::Unavailable(format!("the stream {STREAM} at {shown} has {difference}: {help}")))
            }
        }
    }

    /// Whether the stream has a message after `sequence`. Asks the leader of the stream: a consumer may run on another
    /// server, which may not have a message yet that the leader has acknowledged.
    pub(super) async fn has_message_after(&self, sequence: u64) -> Result<bool, Error> {
        let request = json!({ "seq": sequence + 1, "next_by_subj": SUBJECTS });
        match self.api::<Value>(&format!("STREAM.MSG.GET.{STREAM}"), &request).await {
            Ok(_) => Ok(true),
            Err(Failure::Refused(refusal)) if refusal.is_no_message() => Ok(false),
            Err(failure) => Err(self.explain(failure)),
        }
    }

    async fn info(&self) -> Result<StreamInfo, Failure> {
        self.api(&format!("STREAM.INFO.{STREAM}"), &json!({})).await
    }

    /// Protects a stream that an older version of eTicket, or a person, created without protection. If the server does
    /// not support the settings or refuses the change, the stream is used anyway: the comparison with the owners
    /// repairs losses.
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
            Ok(_) => "the server does not support deny_purge and deny_delete".to_owned(),
            Err(Failure::Refused(Refusal { code, description })) => format!("{description} ({code})"),
            Err(failure) => return Err(self.explain(failure)),
        };
        self.unprotected_on.store(number, Ordering::Relaxed);
        tracing::warn!(bus = self.connection.shown(), reason, "the stream {STREAM} is not protected from purges");
        Ok(info)
    }

    async fn create(&self) -> Result<StreamInfo, Failure> {
        let begun = Instant::now();
        loop {
            match self.api::<StreamInfo>(&format!("STREAM.CREATE.{STREAM}"), &self.initial_settings()).await {
                Ok(info) => {
                    tracing::info!(bus = self.connection.shown(), created = %info.created, "created stream {STREAM}");
                    return Ok(info);
                }
                // Another process created it first, with other settings.
                Err(Failure::Refused(refusal)) if refusal.code == codes::STREAM_NAME_IN_USE => {
                    return self.info().await;
                }
                Err(Failure::Refused(refusal))
                    if refusal.code == codes::STREAM_CREATE && begun.elapsed() < CREATE_RETRY =>
                {
                    sleep(CREATE_PAUSE).await;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Sends a request to the JSON API of JetStream.
    pub(super) async fn api<T: DeserializeOwned>(&self, question: &str, payload: &Value) -> Result<T, Failure> {
        self.connection.ask(format!("$JS.API.{question}"), None, payload.to_string().into()).await
    }

    /// Ensures that the stream was checked on this connection. Does nothing if it was.
    async fn ready(&self) -> Result<(), Error> {
        let number = self.connection.connected().await?;
        let mut checked = self.checked.lock().await;
        if checked.on == Some(number) {
            return Ok(());
        }
        if let Some((at, error)) = &checked.failed
            && at.elapsed() < FAILURE_SHARED_FOR
        {
            return Err(error.clone());
        }
        let outcome = self.find_or_create().await;
        checked.note(number, &outcome);
        outcome.map(drop)
    }

    /// Appends a message.
    ///
    /// After an attempt with an unknown outcome, nothing is sent until the server has responded to a check. Otherwise
    /// each attempt at a hanging server would store one more message, late.
    pub(super) async fn publish(&self, message: &Message) -> Result<u64, Error> {
        let subject = &message.subject;
        let mut again = true;
        loop {
            self.ready().await?;
            let headers = headers_of(message).ok_or_else(|| {
                Error::Unavailable(format!("a message with the subject {subject} has a header that NATS cannot carry"))
            })?;
            let headers = Some(headers).filter(|headers| !headers.is_empty());
            let outcome = self.connection.ask::<Published>(subject.clone(), headers, message.body.clone()).await;
            let failure = match outcome {
                Ok(published) if published.stream == STREAM => return Ok(published.seq),
                Ok(published) => {
                    let text = format!("the stream {} stored {subject}, which belongs to {STREAM}", published.stream);
                    Failure::Bus(Error::Unavailable(text))
                }
                Err(failure) => failure,
            };
            self.checked.lock().await.on = None;
            // The stream was deleted, so create it again.
            if !matches!(failure, Failure::NoResponders) || !std::mem::take(&mut again) {
                return Err(self.explain(failure));
            }
        }
    }

    /// Converts a failure into an error that says what to do.
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
                    code if codes::INSUFFICIENT_RESOURCES.contains(&code) => {
                        "give the server or the account more storage"
                    }
                    code if codes::STORE_FAILED.contains(&code) => {
                        "check the log of the server, and that its store_dir is writable and not full"
                    }
                    codes::SUBJECTS_OVERLAP => "delete the other stream that has the subjects eticket.v1.>",
                    codes::REPLICAS_WITHOUT_CLUSTER | codes::NO_PEERS => {
                        "bus.replicas needs a cluster with at least as many JetStream servers"
                    }
                    _ => "check the log of the server",
                };
                format!("{shown} reports \"{description}\" ({code}): {help}")
            }
        };
        Error::Unavailable(text)
    }
}

/// Nothing in this project purges the stream or deletes messages. A server allows an update to enable these settings,
/// not to disable them.
pub(super) fn protection() -> Value {
    json!({ "deny_purge": true, "deny_delete": true })
}

/// Merges two sets of settings; `more` takes precedence.
fn with(settings: &Value, more: &Value) -> Value {
    let mut all = settings.as_object().cloned().unwrap_or_default();
    all.extend(more.as_object().cloned().unwrap_or_default());
    Value::Object(all)
}

/// The response to a stored message.
#[derive(Deserialize)]
struct Published {
    stream: String,
    seq: u64,
}

/// Returns the oldest version that can be used, if the server is older.
pub(super) fn too_old(version: &str) -> Option<String> {
    let (major, minor) = OLDEST_SERVER;
    (!is_new_enough(version)).then(|| format!("{major}.{minor}"))
}

/// Whether the server is new enough. An unknown version counts as too old.
fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.trim_start_matches('v').split(['.', '-', '+']).map(str::parse::<u64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= OLDEST_SERVER,
        _ => false,
    }
}

/// Describes the settings that differ from the required ones. The server omits settings with a zero value.
pub(super) fn differences(required: &Value, is: &Value) -> Vec<String> {
    let is_zero = |value: &Value| [json!(null), json!(0), json!(false), json!([]), json!("")].contains(value);
    let keys = required.as_object().into_iter().flatten();
    let different = keys.filter(|(key, required)| match is.get(*key) {
        None => !is_zero(required),
        // More replicas are accepted: an operator may raise them before the configuration does.
        Some(is) if *key == "num_replicas" => is.as_u64() < required.as_u64(),
        Some(is) => is != *required,
    });
    let none = Value::Null;
    different.map(|(key, required)| format!("{key} = {} instead of {required}", is.get(key).unwrap_or(&none))).collect()
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
    fn differences_name_the_setting_its_value_and_the_required_value() {
        let required =
            json!({ "storage": "file", "max_age": 0, "no_ack": false, "num_replicas": 3, "subjects": ["a"] });
        let right = json!({ "storage": "file", "num_replicas": 5, "subjects": ["a"], "more": 1 });
        assert_eq!(differences(&required, &right), [""; 0]);
        let wrong = json!({ "storage": "memory", "max_age": 5, "no_ack": true, "num_replicas": 1 });
        let expected = [
            "max_age = 5 instead of 0",
            "no_ack = true instead of false",
            "num_replicas = 1 instead of 3",
            "storage = \"memory\" instead of \"file\"",
            "subjects = null instead of [\"a\"]",
        ];
        assert_eq!(differences(&required, &wrong), expected);
    }
}
