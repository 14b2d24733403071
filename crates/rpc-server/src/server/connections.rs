//! Accepts connections and serves HTTP/1.1 and HTTP/2 on each, whichever the client speaks.
//!
//! A connection ends by itself after an age that is drawn for each, so that new replicas get traffic and not all clients come
//! back at once: it takes no new calls, and its watches end with `SHUTTING_DOWN`. Calls under way keep their deadlines: the
//! connection goes on until the last of them, up to a cap, where what is left ends with `SHUTTING_DOWN`; then it is cut. When the
//! server drains the same happens to all, within its own hard cap; a client without calls that does not acknowledge GOAWAY is cut
//! soon. Everything that a client decides about is bounded: connections, streams, headers, resets, idle time.

use std::{convert::Infallible, future::Future, pin::pin, time::Duration};

use axum::body::Body;
use eticket_base::tasks::Tasks;
use futures::future::Either;
use http::{Extensions, Request, Response, Version};
use hyper::{body::Incoming, rt::Executor, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
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
    http1::{BusyBody, Http1},
    methods,
    windows::Windows,
};

/// What one client may take.
#[derive(Debug, Clone)]
pub struct ConnectionLimits {
    /// Connections at once; more wait in the kernel's queue.
    pub connections: usize,
    /// Streams at once on one connection.
    pub streams: u32,
    /// After this, give or take a fifth, a connection takes no new calls.
    pub max_age: Duration,
    /// How long it then goes on at least, while clients read what ends their watches.
    pub max_age_grace: Duration,
    /// How long it goes on at most, for calls whose deadlines are later than that.
    pub max_age_cap: Duration,
    /// A client that answers no ping for `ping_timeout` is gone.
    pub ping_interval: Duration,
    /// See `ping_interval`.
    pub ping_timeout: Duration,
    /// How long an HTTP/1.1 connection may be without a request.
    pub idle: Duration,
    /// For the headers of an HTTP/1.1 request.
    pub header_read_timeout: Duration,
    /// Bytes of all headers of a request.
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

/// How connections and calls learn of the server's end. In the order in which they are cancelled.
#[derive(Debug, Clone)]
pub(crate) struct Signals {
    /// Waits and streams end, the new ones too.
    pub(crate) ending: CancellationToken,
    /// Take nothing new, finish what there is.
    pub(crate) draining: CancellationToken,
    /// What is left is told that it ends.
    pub(crate) forced_end: ForcedEnd,
    /// Cut what is left.
    pub(crate) kill: CancellationToken,
}

/// A client with no calls on its connection has this long to answer that the connection ends. The answer is due in one round
/// trip; who hangs would hold up every server of the process in its turn.
const GOAWAY_ACK_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs each call of an HTTP/2 connection as a task that the server's stop waits for.
#[derive(Clone)]
struct Calls {
    tasks: Tasks,
    under_way: watch::Sender<usize>,
}

impl Calls {
    fn new(tasks: Tasks) -> Self {
        Self { tasks, under_way: watch::Sender::new(0) }
    }

    fn begin(&self) -> UnderWay {
        self.under_way.send_modify(|count| *count += 1);
        UnderWay(self.under_way.clone())
    }

    /// Returns once nothing has been under way for [`GOAWAY_ACK_TIMEOUT`].
    async fn fall_silent(&self) {
        let mut counts = self.under_way.subscribe();
        loop {
            // The sender is ours: it is never gone.
            counts.wait_for(|count| *count == 0).await.ok();
            if timeout(GOAWAY_ACK_TIMEOUT, counts.wait_for(|count| *count != 0)).await.is_err() {
                return;
            }
        }
    }
}

/// Dropped when what is under way has ended.
struct UnderWay(watch::Sender<usize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
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

/// Accepts until the server drains; the listener closes then.
pub(crate) async fn accept<S>(
    listener: TcpListener,
    service: S,
    guard: Guard,
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
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            biased;
            () = signals.draining.cancelled() => return,
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection =
                    serve(stream, tasks.clone(), service.clone(), guard.clone(), limits.clone(), signals.clone());
                tasks.spawn("connection", async move {
                    connection.await;
                    drop(slot);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: without a pause this would spin until some are free.
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn builder(limits: &ConnectionLimits, calls: Calls) -> Builder<Calls> {
    let windows = Windows::for_streams(limits.streams);
    let mut builder = Builder::new(calls);
    builder
        .http1()
        .timer(TokioTimer::new())
        // Both are looked after by `http1`.
        .header_read_timeout(None)
        .half_close(true)
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
        // Callers whose deadlines pass reset many streams at once: a number as small as the default closes the connection on them.
        .max_pending_accept_reset_streams(1024)
        .max_local_error_reset_streams(1024);
    builder
}

async fn serve<S>(stream: TcpStream, tasks: Tasks, service: S, guard: Guard, limits: ConnectionLimits, signals: Signals)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "nodelay could not be set");
    }
    let ends = Ends::from_signals(&signals);
    let extensions = ends.extensions(&signals);
    let calls = Calls::new(tasks);
    let (http1, stream) = Http1::new(stream);
    let (counted, noted) = (calls.clone(), http1.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let mut busy = None;
        if request.version() != Version::HTTP_2 {
            busy = Some(noted.begin(methods::find(request.uri().path()).is_some_and(|method| method.streams)));
            // No task of its own tells when this call ends: such a connection is never taken for one without calls.
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
                Ok(response.map(|inner| Body::new(BusyBody { inner, _busy: busy })))
            })),
        })
    });
    let builder = builder(&limits, calls.clone());
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let age = limits.max_age.mul_f64(rand::random_range(0.8..1.2));
    let mut is_over = pin!(http1.is_over(&limits));
    let ended = tokio::select! {
        end = connection.as_mut() => Some(Some(end)),
        () = is_over.as_mut() => Some(None),
        () = signals.draining.cancelled() => None,
        () = sleep(age) => None,
    };
    let end = if let Some(end) = ended {
        end
    } else {
        // Where the server drains, its hard cap and not the age decides.
        let by_age = !signals.draining.is_cancelled();
        ends.streams.cancel();
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            end = connection => Some(end),
            () = is_over => None,
            () = signals.kill.cancelled() => None,
            () = calls.fall_silent() => None,
            () = ends.last_words(&limits), if by_age => None,
        }
    };
    match end {
        Some(Ok(())) => {}
        // Clients that go away without a word are everyday's business.
        Some(Err(error)) => tracing::debug!(%error, "a connection ended with an error"),
        None => tracing::debug!("a connection was cut"),
    }
}

/// What ends the calls of one connection.
struct Ends {
    streams: CancellationToken,
    forced_end: ForcedEnd,
    deadlines: Deadlines,
}

impl Ends {
    fn from_signals(signals: &Signals) -> Self {
        // Of the connection's own, as all calls of the server would meet at one lock.
        let forced_end = ForcedEnd {
            work: signals.ending.child_token(),
            reads: signals.forced_end.reads.child_token(),
            all: signals.forced_end.all.child_token(),
        };
        Self { streams: signals.ending.child_token(), forced_end, deadlines: Deadlines::default() }
    }

    /// What each request brings to the layers.
    fn extensions(&self, signals: &Signals) -> Extensions {
        let mut extensions = Extensions::new();
        extensions.insert(Draining(signals.ending.clone()));
        extensions.insert(ConnectionDraining(self.streams.clone()));
        extensions.insert(self.forced_end.clone());
        extensions.insert(self.deadlines.clone());
        extensions
    }

    /// Waits until a connection that has reached its age need not go on, and ends what is left with a reason.
    async fn last_words(&self, limits: &ConnectionLimits) {
        outlive(&self.deadlines, limits).await;
        let ForcedEnd { work, reads, all } = &self.forced_end;
        for token in [work, reads, all] {
            token.cancel();
        }
        sleep(GOAWAY_ACK_TIMEOUT).await;
    }
}

/// Waits for the last deadline under way and its answer, within the bounds of the grace.
async fn outlive(deadlines: &Deadlines, limits: &ConnectionLimits) {
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
