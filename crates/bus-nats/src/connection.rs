//! The connection to the NATS servers, which is established and kept in the background, and requests over it.
//!
//! Anything that cannot be sent now fails at once. A message that waited for the next connection would be stored after
//! messages that other processes have published meanwhile.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use async_nats::{
    Client, ConnectOptions, Event, HeaderMap, Request, RequestErrorKind, ServerAddr, ServerError, Subject,
    connection::State as Link,
};
use bytes::Bytes;
use eticket_base::{
    config::nats_address::{Address, Login},
    config::{regular_file, text_file},
    error::chain,
};
use eticket_bus::Error;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::Bounds;

/// First delay between attempts to establish the first connection.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(2);
/// The client changes to another server after two pings without a response.
const PING: Duration = Duration::from_secs(2);

/// Where and how to connect.
pub(super) struct Target {
    pub(super) address: Address,
    /// `bus.url` with masked passwords.
    pub(super) shown: String,
    pub(super) credentials: Option<PathBuf>,
    pub(super) ca_file: Option<PathBuf>,
}

/// The state of the connection.
#[derive(Debug, Default)]
struct State {
    /// Number of connections so far.
    number: u64,
    connected: bool,
    closed: bool,
    /// Why there is no connection.
    problem: Option<String>,
    /// A permissions violation that the server has reported on this connection.
    forbidden: Option<String>,
}

/// Why a request has no result.
#[derive(Debug)]
pub(super) enum Failure {
    /// The request was not sent.
    Bus(Error),
    /// The request was sent, and its outcome is unknown.
    Unanswered(Error),
    /// No server subscribes to the subject of the request.
    NoResponders,
    /// JetStream returned an error.
    Refused(Refusal),
}

/// An error of JetStream.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Refusal {
    #[serde(rename = "err_code", default)]
    pub(super) code: u64,
    #[serde(default)]
    pub(super) description: String,
}

#[derive(Deserialize)]
struct ApiError {
    error: Option<Refusal>,
}

/// The connection to the NATS servers.
pub(super) struct Connection {
    target: Target,
    pub(super) bounds: Bounds,
    client: OnceLock<Client>,
    state: watch::Sender<State>,
    /// Until this time, requests wait for the first connection.
    first_deadline: Instant,
}

impl Connection {
    pub(super) fn new(target: Target, bounds: Bounds) -> Self {
        let first_deadline = Instant::now() + bounds.first_connection;
        Self { target, bounds, client: OnceLock::new(), state: watch::Sender::default(), first_deadline }
    }

    /// `bus.url` with masked passwords.
    pub(super) fn shown(&self) -> &str {
        &self.target.shown
    }

    /// Connects, with unlimited retries; afterwards the client reconnects by itself.
    pub(super) async fn connect(self: Arc<Self>, stopping: CancellationToken) {
        let mut pause = RETRY_FIRST;
        loop {
            let outcome = tokio::select! {
                outcome = Self::try_connect(&self) => outcome,
                () = stopping.cancelled() => return,
            };
            match outcome {
                Ok(client) => {
                    // This task is the only one that sets it.
                    let _ = self.client.set(client);
                    self.state.send_modify(|_| ());
                    return;
                }
                Err(problem) => self.set_problem(problem),
            }
            tokio::select! {
                () = sleep(pause) => pause = (pause * 2).min(RETRY_LONGEST),
                () = stopping.cancelled() => return,
            }
        }
    }

    async fn try_connect(this: &Arc<Self>) -> Result<Client, String> {
        let Target { address, credentials, ca_file, .. } = &this.target;
        let mut options = ConnectOptions::new().name("eticket").ping_interval(PING).require_tls(address.tls);
        options = match &address.login {
            Some(Login::Token(token)) => options.token(token.clone()),
            Some(Login::User { name, password }) => options.user_and_password(name.clone(), password.clone()),
            None => options,
        };
        if let Some(path) = credentials {
            let refuse = |problem: String| format!("bus.credentials = {}: {problem}", path.display());
            let bytes = read(path).await.map_err(|error| refuse(error.to_string()))?;
            let text = text_file::decode(bytes).map_err(refuse)?;
            options = options.credentials(&text).map_err(|error| refuse(error.to_string()))?;
        }
        if let Some(path) = ca_file {
            check_authority(path).await.map_err(|problem| format!("bus.ca_file = {}: {problem}", path.display()))?;
            options = options.add_root_certificates(path.clone());
        }
        let state = Arc::downgrade(this);
        let options = options.connection_timeout(this.bounds.request).event_callback(move |event| {
            let this = Weak::upgrade(&state);
            async move {
                if let Some(this) = this {
                    this.on_event(event);
                }
            }
        });
        let servers = address.servers.iter().map(|server| server.parse::<ServerAddr>()).collect::<Result<Vec<_>, _>>();
        let servers = servers.map_err(|error| error.to_string())?;
        options.connect(servers).await.map_err(|error| chain(&error))
    }

    fn set_problem(&self, problem: String) {
        let changed =
            self.state.send_if_modified(|state| state.problem.replace(problem.clone()).as_ref() != Some(&problem));
        if changed {
            let advice = advice(&problem);
            tracing::warn!(bus = self.target.shown, problem, advice, "cannot connect to the bus yet");
        }
    }

    fn on_event(&self, event: Event) {
        match event {
            Event::Connected => {
                tracing::info!(bus = self.target.shown, "connected to the bus");
                self.state.send_modify(|state| {
                    (state.number, state.connected) = (state.number + 1, true);
                    (state.problem, state.forbidden) = (None, None);
                });
            }
            Event::Disconnected => {
                tracing::warn!(bus = self.target.shown, "lost the connection to the bus");
                self.state.send_modify(|state| state.connected = false);
            }
            Event::Closed => self.state.send_modify(|state| (state.connected, state.closed) = (false, true)),
            Event::ServerError(ServerError::Other(text)) if text.to_lowercase().contains("permissions violation") => {
                tracing::warn!(bus = self.target.shown, error = text, "the bus reports missing permissions");
                self.state.send_modify(|state| state.forbidden = Some(text));
            }
            Event::ServerError(error) => self.set_problem(error.to_string()),
            Event::ClientError(error) => self.set_problem(error.to_string()),
            Event::LameDuckMode | Event::Draining | Event::SlowConsumer(_) => {}
        }
    }

    /// Returns the client if it is connected. Shortly after the start of the process, waits for the first connection.
    pub(super) async fn client(&self) -> Result<&Client, Error> {
        let mut changes = self.state.subscribe();
        loop {
            let (was_connected, connected) = {
                let state = changes.borrow_and_update();
                if state.closed {
                    return Err(Error::Unavailable("it is closed".to_owned()));
                }
                (state.number > 0, state.connected)
            };
            let remaining = self.first_deadline.saturating_duration_since(Instant::now());
            match self.client.get() {
                // The client reports the end of a connection before it changes its state, and would send what it
                // accepts in between on the next connection.
                Some(client) if connected && client.connection_state() == Link::Connected => return Ok(client),
                Some(_) if was_connected => return Err(self.not_connected()),
                _ if remaining.is_zero() => return Err(self.not_connected()),
                _ => {}
            }
            // The sender lives as long as `self`.
            let _ = timeout(remaining, changes.changed()).await;
        }
    }

    /// Returns the id of the server process of the current or last connection; empty before the first one.
    pub(super) fn server_id(&self) -> String {
        self.client.get().map(|client| client.server_info().server_id).unwrap_or_default()
    }

    /// Returns the number of the current connection. Facts about the server hold for one connection only: the next may
    /// be to another server.
    pub(super) async fn connected(&self) -> Result<u64, Error> {
        self.client().await?;
        Ok(self.state.borrow().number)
    }

    /// Why there is no connection, and what to do about it.
    pub(super) fn problem(&self) -> (String, &'static str) {
        let problem = self.state.borrow().problem.clone().unwrap_or_else(|| "no answer yet".to_owned());
        let advice = advice(&problem);
        (problem, advice)
    }

    fn not_connected(&self) -> Error {
        let (problem, advice) = self.problem();
        Error::Unavailable(format!("{} cannot be reached, still trying: {problem}: {advice}", self.target.shown))
    }

    /// Sends a request to JetStream and parses its response.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        subject: impl Into<Subject>,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Result<T, Failure> {
        let subject = subject.into();
        let answer = self.request(subject.clone(), headers, payload).await?;
        if let Ok(ApiError { error: Some(error) }) = serde_json::from_slice(&answer.payload) {
            return Err(Failure::Refused(error));
        }
        match serde_json::from_slice(&answer.payload) {
            Ok(value) => Ok(value),
            Err(_) => Err(Failure::Unanswered(Error::Unavailable(format!(
                "{} sent a response to {subject} that is not from JetStream",
                self.target.shown
            )))),
        }
    }

    /// Sends a request and returns the raw response.
    pub(super) async fn request(
        &self,
        subject: impl Into<Subject>,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Result<async_nats::Message, Failure> {
        let subject = subject.into();
        let client = self.client().await.map_err(Failure::Bus)?;
        let request = Request { headers, ..Request::new().payload(payload).timeout(Some(self.bounds.request)) };
        let answer = tokio::select! {
            answer = client.send_request(subject.clone(), request) => answer,
            () = self.lost() => return Err(Failure::Unanswered(self.not_connected())),
        };
        answer.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => Failure::NoResponders,
            RequestErrorKind::TimedOut => Failure::Unanswered(self.unanswered(&subject)),
            _ => Failure::Bus(Error::Unavailable(format!("{subject} to {}: {}", self.target.shown, chain(&error)))),
        })
    }

    /// Waits until this connection ends; its pending requests get no response.
    async fn lost(&self) {
        let mut state = self.state.subscribe();
        let number = state.borrow().number;
        // The sender lives as long as `self`.
        let _ = state.wait_for(|state| state.number > number || !state.connected).await;
    }

    fn unanswered(&self, subject: &Subject) -> Error {
        let shown = &self.target.shown;
        // The server reports missing permissions separately from the request.
        if let Some(forbidden) = &self.state.borrow().forbidden {
            let help = "allow the user of bus.url to publish to eticket.v1.>, $JS.API.> and $JS.ACK.>, and to \
                        subscribe to _INBOX.>";
            return Error::Unavailable(format!("{shown} denies the request ({forbidden}): {help}"));
        }
        let waited = self.bounds.request;
        Error::Unavailable(format!("{shown} has not answered {subject} in {waited:?}: check the health of the server"))
    }

    /// Sends a message without waiting for a response.
    pub(super) async fn send(&self, subject: Subject, reply: Option<Subject>, payload: Bytes) -> Result<(), Error> {
        let client = self.client().await?;
        let sent = async {
            match reply {
                Some(reply) => client.publish_with_reply(subject, reply, payload).await,
                None => client.publish(subject, payload).await,
            }
        };
        match timeout(self.bounds.request, sent).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Error::Unavailable(format!("{}: {}", self.target.shown, chain(&error)))),
            Err(_) => Err(Error::Unavailable(format!("{} does not accept messages", self.target.shown))),
        }
    }

    /// Returns the version that the server reports.
    pub(super) async fn server_version(&self) -> Result<String, Error> {
        Ok(self.client().await?.server_info().version)
    }

    /// Flushes pending messages and closes the connection.
    pub(super) async fn close(&self) {
        self.state.send_modify(|state| state.closed = true);
        let Some(client) = self.client.get() else { return };
        let end = async {
            if client.connection_state() == Link::Connected {
                client.flush().await.ok();
            }
            client.drain().await.ok();
        };
        if timeout(self.bounds.request, end).await.is_err() {
            tracing::warn!(
                bus = self.target.shown,
                "messages were still unsent when the connection to the bus was closed"
            );
        }
    }
}

/// Reads a file, which is read again for each connection.
async fn read(path: &Path) -> io::Result<Vec<u8>> {
    regular_file::check(&tokio::fs::metadata(path).await?)?;
    tokio::fs::read(path).await
}

/// Checks a CA file. The library would skip a certificate after a byte order mark, and would accept a file without
/// certificates, which then trusts no server.
async fn check_authority(path: &Path) -> Result<(), String> {
    let bytes = read(path).await.map_err(|error| error.to_string())?;
    if text_file::has_mark(&bytes) {
        return Err("it begins with a byte order mark: save it in UTF-8 without one".to_owned());
    }
    match text_file::decode(bytes)?.contains("-----BEGIN CERTIFICATE-----") {
        true => Ok(()),
        false => Err("it has no certificate: expected PEM, with -----BEGIN CERTIFICATE-----".to_owned()),
    }
}

/// Advice for an error of the client library or of [`check_authority`]; a general one for unknown errors.
fn advice(problem: &str) -> &'static str {
    let known = [
        ("authorization violation", "check the user or token in bus.url, or the file of bus.credentials"),
        ("UnknownIssuer", "set bus.ca_file to the CA certificates that signed the certificate of the server"),
        ("InvalidContentType", "the server does not use TLS: enable it there, or use nats:// in bus.url"),
        ("bus.credentials", "correct the file, or set another"),
        ("bus.ca_file", "correct the file, or set another"),
    ];
    let found = known.iter().find(|(words, _)| problem.contains(words));
    found.map_or("start nats-server, or set bus.url", |(_, advice)| advice)
}
