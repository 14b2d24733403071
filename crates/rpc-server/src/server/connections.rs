//! Accepts connections and serves HTTP/1.1 or HTTP/2 on each, depending on the client.
//!
//! Each connection has a random maximum age, so that new replicas receive traffic and clients do not all reconnect at
//! once. At that age a connection accepts no new calls, and its watches end with `SHUTTING_DOWN`. Running calls keep
//! their deadlines: the connection stays open until the last of these deadlines, up to a cap. At the cap the remaining
//! calls end with `SHUTTING_DOWN`; then the connection closes. When the server drains, the same happens to all
//! connections, within the server's hard cap; an idle client that does not acknowledge GOAWAY is disconnected early.
//! Everything that a client controls is bounded: connections, streams, headers, resets, idle time.

use std::{
    convert::Infallible,
    future::Future,
    net::{IpAddr, Ipv4Addr},
    pin::pin,
    time::Duration,
};

use axum::body::Body;
use eticket_base::{in_process, tasks::Tasks, windows::Windows};
use eticket_tls::{Acceptor, ClientCertificate};
use futures::future::Either;
use http::{Extensions, Request, Response, Version};
use hyper::{body::Incoming, rt::Executor, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    io::DuplexStream,
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::{
    drain::{ConnectionDraining, Draining, ForcedEnd},
    grace::Deadlines,
    guard::Guard,
    http1::{BusyBody, Http1, Socket},
    methods, tls,
};

/// Limits for one client.
#[derive(Debug, Clone)]
pub struct ConnectionLimits {
    /// Concurrent connections; further ones wait in the kernel's queue.
    pub connections: usize,
    /// Concurrent streams on one connection.
    pub streams: u32,
    /// Age at which a connection accepts no new calls; the actual age is random, within 20 %.
    pub max_age: Duration,
    /// Minimum time that a connection stays open after `max_age`, so that clients can read the end of their watches.
    pub max_age_grace: Duration,
    /// Maximum time that a connection stays open after `max_age`, for calls with later deadlines.
    pub max_age_cap: Duration,
    /// Interval of pings; a client that does not respond within `ping_timeout` is disconnected.
    pub ping_interval: Duration,
    /// See `ping_interval`.
    pub ping_timeout: Duration,
    /// How long an HTTP/1.1 connection may be idle between requests.
    pub idle: Duration,
    /// How long the headers of an HTTP/1.1 request may take, and the handshake of TLS.
    pub header_read_timeout: Duration,
    /// Limit of the headers of a request, in bytes.
    pub header_bytes: u32,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            streams: 4_096,
            max_age: Duration::from_secs(300),
            max_age_grace: Duration::from_secs(10),
            max_age_cap: Duration::from_secs(3600),
            ping_interval: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            header_read_timeout: Duration::from_secs(10),
            header_bytes: 32 * 1024,
        }
    }
}

/// The address at the other end of the connection, as an extension of each request. Behind a proxy it is the proxy's:
/// headers such as `x-forwarded-for` are not read, because every client can send them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

/// Signals of the server's shutdown to connections and calls, in the order in which they are cancelled.
#[derive(Debug, Clone)]
pub(crate) struct Signals {
    /// Waits and streams end, including new ones.
    pub(crate) ending: CancellationToken,
    /// Connections accept no new calls and finish the running ones.
    pub(crate) draining: CancellationToken,
    /// The remaining calls end with `SHUTTING_DOWN`.
    pub(crate) forced_end: ForcedEnd,
    /// The remaining connections close.
    pub(crate) kill: CancellationToken,
}

/// How long a client without running calls may take to acknowledge GOAWAY. An acknowledgement needs one round trip;
/// without this limit one dead client would delay the shutdown of every server of the process in turn.
const GOAWAY_ACK_TIMEOUT: Duration = Duration::from_secs(2);

/// Spawns each call of an HTTP/2 connection as a task that the shutdown waits for.
#[derive(Clone)]
struct Calls {
    tasks: Tasks,
    under_way: watch::Sender<usize>,
}

impl Calls {
    fn new(tasks: Tasks) -> Self {
        Self { tasks, under_way: watch::Sender::new(0) }
    }

    fn begin(&self) -> RunningCall {
        // The wait below needs to know only of the first call and of the last one.
        self.under_way.send_if_modified(|count| {
            *count += 1;
            *count == 1
        });
        RunningCall(self.under_way.clone())
    }

    /// Returns once no call has been running for [`GOAWAY_ACK_TIMEOUT`].
    async fn no_calls_for_timeout(&self) {
        let mut counts = self.under_way.subscribe();
        loop {
            // The wait cannot fail: `self` owns the sender.
            counts.wait_for(|count| *count == 0).await.ok();
            if timeout(GOAWAY_ACK_TIMEOUT, counts.wait_for(|count| *count != 0)).await.is_err() {
                return;
            }
        }
    }
}

/// Dropped when the call has ended.
struct RunningCall(watch::Sender<usize>);

impl Drop for RunningCall {
    fn drop(&mut self) {
        self.0.send_if_modified(|count| {
            *count -= 1;
            *count == 0
        });
    }
}

impl<F> Executor<F> for Calls
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let under_way = self.begin();
        self.tasks.spawn("call", async move {
            future.await;
            drop(under_way);
        });
    }
}

/// What a connection and its requests must pass before the service.
#[derive(Clone)]
pub(crate) struct Entrance {
    /// `None` for plain text.
    pub(crate) tls: Option<Acceptor>,
    pub(crate) guard: Guard,
    /// The server, for metrics.
    pub(crate) name: &'static str,
}

impl Entrance {
    /// Makes a connection ready for HTTP; `None` if its handshake fails.
    async fn admit(&self, accepted: Accepted, limits: &ConnectionLimits) -> Option<Admitted> {
        let stream = match accepted {
            Accepted::Tcp(stream) => stream,
            Accepted::InProcess(stream) => {
                let peer = Some(Peer(Ipv4Addr::LOCALHOST.into()));
                return Some(Admitted { socket: Socket::InProcess(stream), peer, client: None });
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "nodelay could not be set");
        }
        let peer = stream.peer_addr().ok().map(|address| Peer(address.ip().to_canonical()));
        let shaking_hands = tls::handshake(self.tls.as_ref(), self.name, stream, limits.header_read_timeout);
        shaking_hands.await.map(|(socket, client)| Admitted { socket, peer, client })
    }
}

enum Accepted {
    Tcp(TcpStream),
    InProcess(DuplexStream),
}

struct Admitted {
    socket: Socket,
    peer: Option<Peer>,
    client: Option<ClientCertificate>,
}

/// Where connections come from.
pub(crate) struct Listeners {
    pub(crate) tcp: TcpListener,
    pub(crate) in_process: in_process::Listener,
}

impl Listeners {
    async fn accept(&mut self) -> std::io::Result<Accepted> {
        tokio::select! {
            accepted = self.tcp.accept() => accepted.map(|(stream, _)| Accepted::Tcp(stream)),
            Some(stream) = self.in_process.accept() => Ok(Accepted::InProcess(stream)),
        }
    }
}

/// Accepts connections until the server drains; then the listeners close.
pub(crate) async fn accept<S>(
    mut listeners: Listeners,
    service: S,
    entrance: Entrance,
    limits: ConnectionLimits,
    signals: Signals,
    tasks: Tasks,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let slots = std::sync::Arc::new(Semaphore::new(limits.connections));
    loop {
        let next = async {
            let slot = slots.clone().acquire_owned().await;
            (slot, listeners.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            biased;
            () = signals.draining.cancelled() => return,
            next = next => next,
        };
        match accepted {
            Ok(accepted) => {
                let connection =
                    serve(accepted, tasks.clone(), service.clone(), entrance.clone(), limits.clone(), signals.clone());
                tasks.spawn("connection", async move {
                    connection.await;
                    drop(slot);
                });
            }
            Err(error) => {
                // Most likely the process has no free file descriptors: without a pause this loop would spin.
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn builder(limits: &ConnectionLimits, calls: Calls, half_close: bool) -> Builder<Calls> {
    let windows = Windows::for_streams(limits.streams);
    let mut builder = Builder::new(calls);
    builder
        .http1()
        .timer(TokioTimer::new())
        // `http1` enforces both timeouts.
        .header_read_timeout(None)
        .half_close(half_close)
        .max_buf_size(usize::try_from(limits.header_bytes).unwrap_or(usize::MAX).max(8192));
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.ping_interval)
        .keep_alive_timeout(limits.ping_timeout)
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(limits.header_bytes)
        .max_frame_size(16 * 1024)
        .initial_stream_window_size(windows.stream)
        .initial_connection_window_size(windows.connection)
        // When deadlines expire, clients reset many streams at once. The small default would close the connection.
        .max_pending_accept_reset_streams(1024)
        .max_local_error_reset_streams(1024);
    builder
}

async fn serve<S>(
    accepted: Accepted,
    tasks: Tasks,
    service: S,
    entrance: Entrance,
    limits: ConnectionLimits,
    signals: Signals,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let admitted = signals.draining.run_until_cancelled(entrance.admit(accepted, &limits)).await;
    let Some(Some(Admitted { socket, peer, client })) = admitted else { return };
    let guard = entrance.guard;
    let ends = Ends::from_signals(&signals);
    let mut extensions = ends.extensions(&signals);
    if let Some(peer) = peer {
        extensions.insert(peer);
    }
    if let Some(client) = client {
        extensions.insert(client);
    }
    let calls = Calls::new(tasks);
    let (http1, stream) = Http1::new(socket);
    let (counted, noted) = (calls.clone(), http1.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let mut busy = None;
        if request.version() != Version::HTTP_2 {
            busy = Some(noted.begin(methods::find(request.uri().path()).is_some_and(|method| method.streams)));
            // No task marks the end of this call, so the connection never counts as idle.
            counted.under_way.send_modify(|count| *count += 1);
        }
        if let Some(refusal) = guard.refuse(&request) {
            return Either::Left(std::future::ready(Ok(refusal)));
        }
        let mut request = request.map(Body::new);
        request.extensions_mut().extend(extensions.clone());
        // Routers and layers of this server are always ready.
        let answering = service.clone().call(request);
        Either::Right(match busy {
            None => Either::Left(answering),
            Some(busy) => Either::Right(Box::pin(async move {
                let response = answering.await?;
                busy.answers(response.headers());
                Ok(response.map(|inner| Body::new(BusyBody { inner, _busy: busy })))
            })),
        })
    });
    let builder = builder(&limits, calls.clone(), http1.half_close());
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let age = limits.max_age.mul_f64(rand::random_range(0.8..1.2));
    let mut should_close = pin!(http1.should_close(&limits));
    let ended = tokio::select! {
        end = connection.as_mut() => Some(Some(end)),
        () = should_close.as_mut() => Some(None),
        () = signals.draining.cancelled() => None,
        () = sleep(age) => None,
    };
    let end = if let Some(end) = ended {
        end
    } else {
        // While the server drains, its hard cap applies instead of the age.
        let by_age = !signals.draining.is_cancelled();
        ends.streams.cancel();
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            end = connection => Some(end),
            () = should_close => None,
            () = signals.kill.cancelled() => None,
            () = calls.no_calls_for_timeout() => None,
            () = ends.end_after_grace(&limits), if by_age => None,
        }
    };
    match end {
        Some(Ok(())) => {}
        // Clients that disconnect without a message are normal.
        Some(Err(error)) => tracing::debug!(%error, "a connection ended with an error"),
        None => tracing::debug!("a connection was aborted"),
    }
}

/// The signals that end the calls of one connection.
struct Ends {
    streams: CancellationToken,
    forced_end: ForcedEnd,
    deadlines: Deadlines,
}

impl Ends {
    fn from_signals(signals: &Signals) -> Self {
        // Child tokens of the connection: with shared tokens all calls of the server would contend for one lock.
        let forced_end = ForcedEnd {
            work: signals.ending.child_token(),
            reads: signals.forced_end.reads.child_token(),
            all: signals.forced_end.all.child_token(),
        };
        Self { streams: signals.ending.child_token(), forced_end, deadlines: Deadlines::default() }
    }

    /// Returns the extensions that the layers expect in each request.
    fn extensions(&self, signals: &Signals) -> Extensions {
        let mut extensions = Extensions::new();
        extensions.insert(Draining(signals.ending.clone()));
        extensions.insert(ConnectionDraining(self.streams.clone()));
        extensions.insert(self.forced_end.clone());
        extensions.insert(self.deadlines.clone());
        extensions
    }

    /// Waits until a connection that has reached its age may close, then ends the remaining calls with a reason.
    async fn end_after_grace(&self, limits: &ConnectionLimits) {
        wait_for_deadlines(&self.deadlines, limits).await;
        let ForcedEnd { work, reads, all } = &self.forced_end;
        for token in [work, reads, all] {
            token.cancel();
        }
        sleep(GOAWAY_ACK_TIMEOUT).await;
    }
}

/// Waits until the last deadline of the running calls, plus the time for its response, within the grace limits.
async fn wait_for_deadlines(deadlines: &Deadlines, limits: &ConnectionLimits) {
    let now = Instant::now();
    let (least, most) = (now + limits.max_age_grace, now + limits.max_age_cap.max(limits.max_age_grace));
    loop {
        let until = deadlines.last().map_or(least, |last| (last + GOAWAY_ACK_TIMEOUT).clamp(least, most));
        if until <= Instant::now() {
            return;
        }
        sleep_until(until).await;
    }
}
