//! Inspects the server and the stream without changing them.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use eticket_base::{
    config::{self, bus::BusConfig, urls},
    tasks::Tasks,
};
use eticket_bus::Error;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Bounds,
    connection::{Connection, Failure, Target},
    stream::{self, STREAM, Stream},
};

/// Why nothing was seen of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreachable {
    /// What happened.
    pub problem: String,
    /// What to do about it.
    pub advice: String,
}

/// What was seen of the server.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspection {
    /// The version of the server.
    pub version: String,
    /// The oldest version that this program can use, if the server is older.
    pub too_old: Option<String>,
    /// The name of its cluster; `None` for a single server.
    pub cluster: Option<String>,
    /// The limits of the account, or why JetStream does not respond.
    pub account: Result<Account, String>,
    /// The stream; `None` if it does not exist.
    pub stream: Result<Option<StreamInspection>, String>,
}

/// What the account has and uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Account {
    /// Used bytes of file storage.
    #[serde(default)]
    pub storage: u64,
    /// Number of streams.
    #[serde(default)]
    pub streams: i64,
    /// The limits.
    #[serde(default)]
    pub limits: Limits,
}

/// Limits of the account; negative or 0 without one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct Limits {
    /// Most bytes of file storage.
    #[serde(default)]
    pub max_storage: i64,
    /// Most streams.
    #[serde(default)]
    pub max_streams: i64,
}

/// What was seen of the stream.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamInspection {
    /// The required settings that it does not have.
    pub differences: Vec<String>,
    /// Whether it refuses purges and deletions.
    pub protected: bool,
    /// The configured number of replicas.
    pub replicas: u64,
    /// The replicas that do not follow the leader, by the names of their servers.
    pub behind: Vec<String>,
    /// Number of messages.
    pub messages: u64,
    /// Stored bytes.
    pub bytes: u64,
    /// The clock of the server minus the clock of this machine; `None` if the server does not tell its time.
    pub clock_difference: Option<TimeDelta>,
}

#[derive(Deserialize)]
struct Info {
    config: Value,
    state: Extent,
    cluster: Option<Cluster>,
    ts: Option<DateTime<Utc>>,
}

#[derive(Deserialize)]
struct Extent {
    #[serde(default)]
    messages: u64,
    #[serde(default)]
    bytes: u64,
}

#[derive(Deserialize)]
struct Cluster {
    #[serde(default)]
    replicas: Option<Vec<Peer>>,
}

#[derive(Deserialize)]
struct Peer {
    name: String,
    #[serde(default)]
    current: bool,
    #[serde(default)]
    offline: bool,
}

/// Connects, and inspects the server and the stream. The connection and each request have `patience`.
///
/// # Errors
/// If the configuration is not valid, or no server responds.
pub async fn inspect(config: &BusConfig, patience: Duration) -> Result<Inspection, Unreachable> {
    let invalid = |error: config::Error| Unreachable { problem: error.to_string(), advice: "set bus.url".to_owned() };
    let target = Target {
        address: config.address().map_err(invalid)?,
        shown: config.url.as_deref().map(urls::without_password).unwrap_or_default(),
        credentials: config.credentials.clone(),
        ca_file: config.ca_file.clone(),
    };
    let bounds = Bounds { first_connection: patience, request: patience, ..Bounds::default() };
    let connection = Arc::new(Connection::new(target, bounds));
    let tasks = Tasks::new();
    tasks.spawn("bus-connect", connection.clone().connect(tasks.stopping()));
    let stream = Stream::new(connection.clone(), config.replicas);
    let outcome = read(&stream).await;
    // A server that hangs does not end the connection in order.
    let end = async {
        tasks.stop().await;
        connection.close().await;
    };
    tokio::time::timeout(patience / 4, end).await.ok();
    outcome
}

async fn read(stream: &Stream) -> Result<Inspection, Unreachable> {
    let connected = stream.connection.client().await;
    let client = connected.map_err(|_| {
        let (problem, advice) = stream.connection.problem();
        Unreachable { problem, advice: advice.to_owned() }
    })?;
    let server = client.server_info();
    let account = stream.api::<Account>("INFO", &json!({})).await;
    let account = account.map_err(|failure| stream.explain(failure));
    let info = match &account {
        // It would not respond either, and take as long.
        Err(error) => Err(error.clone()),
        Ok(_) => inspect_stream(stream).await,
    };
    Ok(Inspection {
        too_old: stream::too_old(&server.version),
        version: server.version,
        cluster: server.cluster,
        account: account.map_err(|error| error.to_string()),
        stream: info.map_err(|error| error.to_string()),
    })
}

async fn inspect_stream(stream: &Stream) -> Result<Option<StreamInspection>, Error> {
    let before = Utc::now();
    let info: Info = match stream.api(&format!("STREAM.INFO.{STREAM}"), &json!({})).await {
        Ok(info) => info,
        Err(Failure::Refused(refusal)) if refusal.is_stream_not_found() => return Ok(None),
        Err(failure) => return Err(stream.explain(failure)),
    };
    // Half of the round trip is before the server reads its clock.
    let now = before + (Utc::now() - before) / 2;
    let peers = info.cluster.and_then(|cluster| cluster.replicas).unwrap_or_default();
    let behind = peers.into_iter().filter(|peer| peer.offline || !peer.current).map(|peer| peer.name);
    Ok(Some(StreamInspection {
        differences: stream::differences(&stream.settings(), &info.config),
        protected: stream::differences(&stream::protection(), &info.config).is_empty(),
        replicas: info.config.get("num_replicas").and_then(Value::as_u64).unwrap_or(1),
        behind: behind.collect(),
        messages: info.state.messages,
        bytes: info.state.bytes,
        clock_difference: info.ts.map(|theirs| theirs - now),
    }))
}
