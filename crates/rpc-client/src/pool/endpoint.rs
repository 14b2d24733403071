//! One address of a service, and the HTTP/2 connection to it.

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

use eticket_base::{tasks::Tasks, windows::Windows};
use eticket_tls::Connector;
use http::uri::Scheme;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Mutex,
    time::timeout,
};

use super::{RequestBody, origin::Origin, readiness};
use crate::addresses::Address;

/// Limit for establishing a connection.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Interval of keep-alive pings on a connection, and the limit for the response. Their sum is below the 10 s within
/// which a change of health must be visible.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3));

/// The connection to an address failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no connection to {address}")]
pub struct Unreachable {
    address: SocketAddr,
    #[source]
    cause: Arc<dyn Error + Send + Sync>,
}

/// One address of a service.
pub(super) struct Endpoint<B> {
    pub(super) address: Address,
    pub(super) origin: Origin,
    /// `None` for plain text.
    tls: Option<Connector>,
    connection: RwLock<Option<SendRequest<B>>>,
    /// Locked while a task connects; concurrent callers wait and share the result.
    connecting: Mutex<Option<Unreachable>>,
    attempts: AtomicU64,
    /// The endpoint reported that it is not ready.
    is_unready: AtomicBool,
}

impl<B: RequestBody> Endpoint<B> {
    /// Returns `None` if the authority is invalid, which cannot happen for one that was parsed from a URL.
    pub(super) fn try_new(address: Address, tls: Option<Connector>) -> Option<Self> {
        let scheme = if tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        let origin = Origin { scheme, authority: address.authority.parse().ok()? };
        let (connection, connecting, attempts) = (RwLock::default(), Mutex::default(), AtomicU64::default());
        Some(Self { address, origin, tls, connection, connecting, attempts, is_unready: AtomicBool::new(false) })
    }

    /// Returns the connection if it is open and accepts calls.
    pub(super) fn live(&self) -> Option<SendRequest<B>> {
        let connection = self.connection.read().unwrap_or_else(PoisonError::into_inner);
        connection.as_ref().filter(|connection| !connection.is_closed()).cloned()
    }

    /// Returns whether the endpoint was not ready at the last check.
    pub(super) fn is_unready(&self) -> bool {
        self.is_unready.load(Ordering::Relaxed)
    }

    /// Checks the readiness again if the endpoint is connected.
    pub(super) async fn refresh_readiness(&self) {
        if let Some(connection) = self.live() {
            self.refresh_readiness_over(connection).await;
        }
    }

    async fn refresh_readiness_over(&self, connection: SendRequest<B>) {
        let is_unready = readiness::is_unready(connection, self.origin.clone()).await;
        if self.is_unready.swap(is_unready, Ordering::Relaxed) != is_unready {
            tracing::info!(address = %self.address.socket, ready = !is_unready, "readiness changed");
        }
    }

    /// Returns the connection, and opens it if there is none. Concurrent callers share one attempt.
    pub(super) async fn connect(&self, windows: Windows, tasks: &Tasks) -> Result<SendRequest<B>, Unreachable> {
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
                // The readiness must be known before the first call: the replica may have just started.
                self.refresh_readiness_over(connection.clone()).await;
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

    async fn make(&self, windows: Windows, tasks: &Tasks) -> Result<SendRequest<B>, Box<dyn Error + Send + Sync>> {
        if let Some(dialer) = &self.address.in_process {
            return self.start(dialer.connect()?, windows, tasks).await;
        }
        let stream = TcpStream::connect(self.address.socket).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return self.start(stream, windows, tasks).await };
        let stream = tls.connect(self.origin.authority.host(), stream).await?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err("the server does not offer HTTP/2 (ALPN h2)".into());
        }
        self.start(stream, windows, tasks).await
    }

    async fn start(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        windows: Windows,
        tasks: &Tasks,
    ) -> Result<SendRequest<B>, Box<dyn Error + Send + Sync>> {
        let mut builder = Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new());
        builder.keep_alive_interval(KEEP_ALIVE.0).keep_alive_timeout(KEEP_ALIVE.1).keep_alive_while_idle(true);
        builder.initial_stream_window_size(windows.stream).initial_connection_window_size(windows.connection);
        // The service sets the number of concurrent calls; until its settings arrive, none is held back here.
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
