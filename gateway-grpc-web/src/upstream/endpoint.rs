//! One address of an upstream, and the HTTP/2 connection to it.

use std::{
    error::Error,
    io,
    net::SocketAddr,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use eticket_base::tasks::Tasks;
use eticket_rpc_client::balance::Address;
use eticket_rpc_server::server::Windows;
use http::uri::Authority;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{net::TcpStream, sync::Mutex, time::timeout};

use super::{outgoing::Outgoing, readiness};

/// How long a connection may take to come about.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// How often a connection is asked whether it is alive, and how long it may take to say so: together below the 10 s within
/// which a change of health has to show.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3));

/// An address did not take a connection.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no connection to {address}")]
pub(crate) struct Unreachable {
    address: SocketAddr,
    #[source]
    cause: Arc<dyn Error + Send + Sync>,
}

/// One address of an upstream.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) address: Address,
    pub(super) authority: Authority,
    connection: RwLock<Option<SendRequest<Outgoing>>>,
    /// Held by who connects: the others wait and take what comes of it.
    connecting: Mutex<Option<Unreachable>>,
    attempts: AtomicU64,
    /// It has said that no calls should come to it.
    refuses: AtomicBool,
}

impl Endpoint {
    /// None if the authority, which was parsed from a URL, is none.
    pub(super) fn try_new(address: Address) -> Option<Self> {
        let authority = address.authority.parse().ok()?;
        let (connection, connecting, attempts) = (RwLock::default(), Mutex::default(), AtomicU64::default());
        Some(Self { address, authority, connection, connecting, attempts, refuses: AtomicBool::new(false) })
    }

    /// The connection, if there is one that takes calls.
    pub(super) fn live(&self) -> Option<SendRequest<Outgoing>> {
        let connection = self.connection.read().unwrap_or_else(PoisonError::into_inner);
        connection.as_ref().filter(|connection| !connection.is_closed()).cloned()
    }

    /// Whether it has said, when last asked, that no calls should come to it.
    pub(super) fn refuses(&self) -> bool {
        self.refuses.load(Ordering::Relaxed)
    }

    /// Asks it again, if it is connected.
    pub(super) async fn ask(&self) {
        if let Some(connection) = self.live() {
            self.ask_over(connection).await;
        }
    }

    async fn ask_over(&self, connection: SendRequest<Outgoing>) {
        let refuses = readiness::is_refused(connection, self.authority.clone()).await;
        if self.refuses.swap(refuses, Ordering::Relaxed) != refuses {
            tracing::info!(address = %self.address.socket, ready = !refuses, "the readiness of an address has changed");
        }
    }

    /// The connection, made now if there is none. Of many who ask at once one connects.
    pub(super) async fn connect(&self, windows: Windows, tasks: &Tasks) -> Result<SendRequest<Outgoing>, Unreachable> {
        let attempts = self.attempts.load(Ordering::Acquire);
        let mut last = self.connecting.lock().await;
        if let Some(live) = self.live() {
            return Ok(live);
        }
        if let Some(failed) = last.clone().filter(|_| self.attempts.load(Ordering::Acquire) != attempts) {
            return Err(failed);
        }
        let made = timeout(CONNECT_TIMEOUT, self.make(windows, tasks)).await.unwrap_or_else(|_| {
            let error = format!("not within {} ms", CONNECT_TIMEOUT.as_millis());
            Err(io::Error::new(io::ErrorKind::TimedOut, error).into())
        });
        self.attempts.fetch_add(1, Ordering::Release);
        match made {
            Ok(connection) => {
                // Before the first call: of a replica that has just started nothing is known.
                self.ask_over(connection.clone()).await;
                *self.connection.write().unwrap_or_else(PoisonError::into_inner) = Some(connection.clone());
                Ok(connection)
            }
            Err(cause) => {
                let failed = Unreachable { address: self.address.socket, cause: cause.into() };
                *last = Some(failed.clone());
                Err(failed)
            }
        }
    }

    async fn make(
        &self,
        windows: Windows,
        tasks: &Tasks,
    ) -> Result<SendRequest<Outgoing>, Box<dyn Error + Send + Sync>> {
        let stream = TcpStream::connect(self.address.socket).await?;
        stream.set_nodelay(true)?;
        let mut builder = Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new());
        builder.keep_alive_interval(KEEP_ALIVE.0).keep_alive_timeout(KEEP_ALIVE.1).keep_alive_while_idle(true);
        builder.initial_stream_window_size(windows.stream).initial_connection_window_size(windows.connection);
        // The service decides how many calls it takes at once; until it has said so, none is kept back here.
        builder.initial_max_send_streams(1024);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        let (stopping, address) = (tasks.stopping(), self.address.socket);
        tasks.spawn("upstream connection", async move {
            if let Some(Err(error)) = stopping.run_until_cancelled(connection).await {
                tracing::debug!(%address, %error, "a connection to an upstream broke");
            }
        });
        Ok(sender)
    }
}
