//! The connections to all addresses of a service: one per address, kept open, used in turn.
//!
//! tonic's channel is not used: it sends each call through a queue and a task, returns a stale connection error to the
//! next call, and loses a call if the connection closes meanwhile. Here an unsent call takes the next connection. This
//! is safe for every method and makes restarts of replicas invisible. A replica that reports that it is not ready is
//! called only if no other can be.

mod endpoint;
mod origin;
mod readiness;

use std::{
    error::Error,
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use eticket_base::{error::chain, tasks::Tasks, windows::Windows};
use eticket_tls::Connector;
use futures::{
    StreamExt,
    future::{BoxFuture, join_all},
    stream::FuturesUnordered,
};
use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use tokio::{
    sync::watch,
    time::{Duration, sleep, timeout},
};
use tonic::Status;
use tower::Service;

use crate::addresses::{self, Address, Targets};
use endpoint::{CONNECT_TIMEOUT, Endpoint};
use origin::absolute;

pub use endpoint::Unreachable;
pub use readiness::One;

/// Interval of reconnects to addresses without a connection, and of readiness checks of the others.
const KEEP_UP_INTERVAL: Duration = Duration::from_secs(1);
/// Number of closing connections that a call tries before it fails.
const MOST_CONNECTIONS_TRIED: usize = 4;

/// The body of requests over a pool. The pool's own calls have tonic's body.
pub trait RequestBody:
    Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + From<tonic::body::Body> + Send + Unpin + 'static
{
}

impl<B> RequestBody for B where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + From<tonic::body::Body> + Send + Unpin + 'static
{
}

/// A pool as the channel of a service's own calls.
pub type Channel = Pool<tonic::body::Body>;

type Endpoints<B> = Arc<[Arc<Endpoint<B>>]>;
type Picked<B> = (Arc<Endpoint<B>>, SendRequest<B>);

/// Why a call got no response.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The names have had no address since the start.
    #[error("no address is known")]
    NoAddress,
    /// No address accepts connections.
    #[error(transparent)]
    Unreachable(Unreachable),
    /// The connection broke after it had accepted the request. The service may have processed it.
    #[error("the connection broke")]
    Broken(#[source] hyper::Error),
}

/// All connections to one service. Clones share them.
pub struct Pool<B> {
    endpoints: watch::Receiver<Endpoints<B>>,
    turn: Arc<AtomicUsize>,
    windows: Windows,
    tasks: Tasks,
}

impl<B> Clone for Pool<B> {
    fn clone(&self) -> Self {
        let (endpoints, turn) = (self.endpoints.clone(), self.turn.clone());
        Self { endpoints, turn, windows: self.windows, tasks: self.tasks.clone() }
    }
}

impl<B> fmt::Debug for Pool<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl<B: RequestBody> Pool<B> {
    /// Connects to all addresses of `targets` and follows their changes. `upstream` names the service in logs. The other
    /// parameters are those of [`new`](Self::new).
    ///
    /// Must be called within a runtime.
    #[must_use]
    pub fn connect(
        upstream: &'static str,
        targets: &Targets,
        tls: Option<Connector>,
        windows: Windows,
        tasks: &Tasks,
    ) -> Self {
        Self::new(addresses::follow(upstream, targets, tasks), tls, windows, tasks)
    }

    /// Connects to `addresses` and follows their changes. `windows` must have room for all calls at a time: callers that
    /// do not read must not block others. Without `tls` the connections are plain text; after a change of its files
    /// every connection is opened anew. The tasks of the pool end with `tasks`.
    ///
    /// Must be called within a runtime.
    #[must_use]
    pub fn new(
        mut addresses: watch::Receiver<Vec<Address>>,
        mut tls: Option<Connector>,
        windows: Windows,
        tasks: &Tasks,
    ) -> Self {
        let (sender, endpoints) = watch::channel::<Endpoints<B>>(Arc::new([]));
        let (stopping, own) = (tasks.stopping(), tasks.clone());
        tasks.spawn("upstream connections", async move {
            let keeping_up = async {
                loop {
                    let known = addresses.borrow_and_update().clone();
                    let renewed = tls.as_mut().is_some_and(Connector::has_changed);
                    sender.send_if_modified(|endpoints| replace(endpoints, known, tls.as_ref(), renewed));
                    let endpoints = sender.borrow().clone();
                    join_all(endpoints.iter().map(|endpoint| keep_up(endpoint, windows, &own))).await;
                    tokio::select! {
                        Ok(()) = addresses.changed() => {}
                        () = sleep(KEEP_UP_INTERVAL) => {}
                    }
                }
            };
            stopping.run_until_cancelled(keeping_up).await;
        });
        Self { endpoints, turn: Arc::default(), windows, tasks: tasks.clone() }
    }

    /// Sends a request over the next connection in turn. Dropping the future resets the stream, so that the service
    /// stops working for a caller that has gone.
    ///
    /// # Errors
    /// If no connection can be opened, or if the connection breaks after it accepted the request and before the
    /// response headers arrive.
    pub async fn send(&self, mut request: Request<B>) -> Result<Response<Incoming>, PoolError> {
        let mut tried = 0;
        loop {
            let (endpoint, mut connection) = self.pick().await?;
            *request.uri_mut() = absolute(std::mem::take(request.uri_mut()), &endpoint.origin);
            tried += 1;
            match connection.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if tried < MOST_CONNECTIONS_TRIED => request = unsent,
                    _ => return Err(PoolError::Broken(error.into_error())),
                },
            }
        }
    }

    async fn pick(&self) -> Result<Picked<B>, PoolError> {
        let endpoints = self.endpoints().await?;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = || (0..endpoints.len()).map(|step| &endpoints[(turn.wrapping_add(step)) % endpoints.len()]);
        let live = |endpoint: &Arc<Endpoint<B>>| Some((endpoint.clone(), endpoint.live()?));
        if let Some(picked) = in_turn().filter(|endpoint| !endpoint.is_unready()).find_map(live) {
            return Ok(picked);
        }
        // Reconnecting to an endpoint whose connection has just reached its maximum age is better than calling one that
        // is not ready.
        let (unready, hopeful): (Vec<_>, Vec<_>) = endpoints.iter().partition(|endpoint| endpoint.is_unready());
        let mut connected = self.connect_any(&hopeful).await;
        if let Some(Ok((endpoint, _))) = &connected
            && endpoint.is_unready()
        {
            connected = None;
        }
        match (connected, in_turn().find_map(live)) {
            (Some(Ok(picked)), _) | (_, Some(picked)) => Ok(picked),
            (connected, None) => {
                let last = self.connect_any(&unready).await.or(connected).ok_or(PoolError::NoAddress)?;
                last.map_err(PoolError::Unreachable)
            }
        }
    }

    /// Returns the first connection to a ready endpoint, else any connection; `None` without endpoints.
    async fn connect_any(&self, endpoints: &[&Arc<Endpoint<B>>]) -> Option<Result<Picked<B>, Unreachable>> {
        let mut connecting: FuturesUnordered<_> = endpoints
            .iter()
            .map(|endpoint| async move {
                endpoint.connect(self.windows, &self.tasks).await.map(|connection| (Arc::clone(endpoint), connection))
            })
            .collect();
        let mut best = None;
        while let Some(outcome) = connecting.next().await {
            match outcome {
                Ok((endpoint, connection)) if !endpoint.is_unready() => return Some(Ok((endpoint, connection))),
                Err(_) if best.is_some() => {}
                outcome => best = Some(outcome),
            }
        }
        best
    }

    /// Returns every endpoint, ready or not, for calls that each of them must get.
    ///
    /// # Errors
    /// If no address is known.
    pub async fn members(&self) -> Result<Vec<Member<B>>, PoolError> {
        let endpoints = self.endpoints().await?;
        let member = |endpoint: &Arc<Endpoint<B>>| Member(endpoint.clone(), self.windows, self.tasks.clone());
        Ok(endpoints.iter().map(member).collect())
    }

    /// Returns the endpoints. Right after the start it waits until the first name is resolved.
    async fn endpoints(&self) -> Result<Endpoints<B>, PoolError> {
        let endpoints = self.endpoints.borrow().clone();
        if !endpoints.is_empty() {
            return Ok(endpoints);
        }
        let mut watched = self.endpoints.clone();
        let known = timeout(CONNECT_TIMEOUT, watched.wait_for(|endpoints| !endpoints.is_empty())).await;
        known.ok().and_then(Result::ok).map(|endpoints| endpoints.clone()).ok_or(PoolError::NoAddress)
    }
}

/// The pool as the channel of a generated client. Errors are UNAVAILABLE and have a source, unlike a status that was
/// received over the wire.
impl<B: RequestBody> Service<Request<tonic::body::Body>> for Pool<B> {
    type Response = Response<Incoming>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Incoming>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let pool = self.clone();
        Box::pin(async move {
            pool.send(request.map(B::from)).await.map_err(|error| {
                let mut status = Status::unavailable(chain(&error));
                status.set_source(Arc::new(error));
                status
            })
        })
    }
}

/// One address of a service.
pub struct Member<B>(Arc<Endpoint<B>>, Windows, Tasks);

impl<B: RequestBody> Member<B> {
    /// Returns the address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.address.socket
    }

    /// Returns the connection to this address, and opens it if there is none.
    ///
    /// # Errors
    /// If the connection cannot be opened.
    pub async fn connect(&self) -> Result<One<B>, Unreachable> {
        let Self(endpoint, windows, tasks) = self;
        let connection = match endpoint.live() {
            Some(connection) => connection,
            None => endpoint.connect(*windows, tasks).await?,
        };
        Ok(One { connection, origin: endpoint.origin.clone() })
    }
}

async fn keep_up<B: RequestBody>(endpoint: &Endpoint<B>, windows: Windows, tasks: &Tasks) {
    match endpoint.live() {
        Some(_) => endpoint.refresh_readiness().await,
        // Calls that find no other connection report the error.
        None => drop(endpoint.connect(windows, tasks).await),
    }
}

/// Replaces the endpoints; an address that stays keeps its connection, unless the TLS files were renewed. Calls on a
/// replaced connection finish. Returns whether anything changed.
fn replace<B: RequestBody>(
    endpoints: &mut Endpoints<B>,
    known: Vec<Address>,
    tls: Option<&Connector>,
    renewed: bool,
) -> bool {
    if !renewed && endpoints.iter().map(|endpoint| &endpoint.address).eq(&known) {
        return false;
    }
    let same = |address: &Address| endpoints.iter().find(|endpoint| endpoint.address == *address).cloned();
    let kept = |address: &Address| same(address).filter(|_| !renewed);
    let new = |address| Endpoint::try_new(address, tls.cloned()).map(Arc::new);
    let next = known.into_iter().filter_map(|address| kept(&address).or_else(|| new(address)));
    *endpoints = next.collect();
    true
}
