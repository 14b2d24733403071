//! The connections to all addresses of an upstream: one per address, kept open, used in turn.
//!
//! tonic's channel is not used: it sends each call through a queue and a task, returns a stale connection error to the
//! next call, and loses a call if the connection closes meanwhile. Here an unsent call takes the next connection. This
//! is safe for every method and makes restarts of replicas invisible. A replica that reports that it is not ready is
//! called only if no other can be.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use eticket_base::tasks::Tasks;
use eticket_rpc_client::balance::Address;
use eticket_rpc_server::server::Windows;
use eticket_tls::Connector;
use futures::{StreamExt, future::join_all, stream::FuturesUnordered};
use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use tokio::{
    sync::watch,
    time::{Duration, sleep, timeout},
};

use super::{
    endpoint::{CONNECT_TIMEOUT, Endpoint, Unreachable},
    outgoing::{Outgoing, absolute},
    readiness::One,
};

/// Interval of reconnects to addresses without a connection, and of readiness checks of the others.
const KEEP_UP_INTERVAL: Duration = Duration::from_secs(1);
/// Number of closing connections that a call tries before it fails.
const MOST_CONNECTIONS_TRIED: usize = 4;

type Endpoints = Arc<[Arc<Endpoint>]>;
type Picked = (Arc<Endpoint>, SendRequest<Outgoing>);

/// Why a call got no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PoolError {
    #[error("no address is known")]
    NoAddress,
    #[error(transparent)]
    Unreachable(Unreachable),
    #[error("the connection broke")]
    Broken(#[source] hyper::Error),
}

/// All connections to one upstream.
#[derive(Debug)]
pub(crate) struct Pool {
    endpoints: watch::Receiver<Endpoints>,
    turn: AtomicUsize,
    windows: Windows,
    tasks: Tasks,
}

impl Pool {
    /// Follows `addresses`; its tasks end with `tasks`. `windows` must have room for all calls that the gateway admits:
    /// callers that do not read must not block others. Without `tls` the connections are plain text.
    pub(crate) fn new(
        mut addresses: watch::Receiver<Vec<Address>>,
        tls: Option<Connector>,
        windows: Windows,
        tasks: &Tasks,
    ) -> Self {
        let (sender, endpoints) = watch::channel::<Endpoints>(Arc::new([]));
        let (stopping, own) = (tasks.stopping(), tasks.clone());
        tasks.spawn("upstream connections", async move {
            let keeping_up = async {
                loop {
                    let known = addresses.borrow_and_update().clone();
                    sender.send_if_modified(|endpoints| follow(endpoints, known, tls.as_ref()));
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
        Self { endpoints, turn: AtomicUsize::new(0), windows, tasks: tasks.clone() }
    }

    /// Sends a request over the next connection in turn.
    ///
    /// # Errors
    /// If no connection can be opened, or if the connection breaks after it accepted the request and before the
    /// response headers arrive.
    pub(crate) async fn send(&self, mut request: Request<Outgoing>) -> Result<Response<Incoming>, PoolError> {
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

    async fn pick(&self) -> Result<Picked, PoolError> {
        let endpoints = self.endpoints().await?;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = || (0..endpoints.len()).map(|step| &endpoints[(turn.wrapping_add(step)) % endpoints.len()]);
        let live = |endpoint: &Arc<Endpoint>| Some((endpoint.clone(), endpoint.live()?));
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
    async fn connect_any(&self, endpoints: &[&Arc<Endpoint>]) -> Option<Result<Picked, Unreachable>> {
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
    pub(crate) async fn members(&self) -> Result<Vec<Member>, PoolError> {
        let endpoints = self.endpoints().await?;
        let member = |endpoint: &Arc<Endpoint>| Member(endpoint.clone(), self.windows, self.tasks.clone());
        Ok(endpoints.iter().map(member).collect())
    }

    /// Returns the endpoints. Right after the start it waits until the first name is resolved.
    async fn endpoints(&self) -> Result<Endpoints, PoolError> {
        let endpoints = self.endpoints.borrow().clone();
        if !endpoints.is_empty() {
            return Ok(endpoints);
        }
        let mut watched = self.endpoints.clone();
        let known = timeout(CONNECT_TIMEOUT, watched.wait_for(|endpoints| !endpoints.is_empty())).await;
        known.ok().and_then(Result::ok).map(|endpoints| endpoints.clone()).ok_or(PoolError::NoAddress)
    }
}

/// One address of an upstream.
#[derive(Debug)]
pub(crate) struct Member(Arc<Endpoint>, Windows, Tasks);

impl Member {
    /// Returns the address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address.socket
    }

    /// Returns the connection to this address, and opens it if there is none.
    pub(crate) async fn connect(&self) -> Result<One, Unreachable> {
        let Self(endpoint, windows, tasks) = self;
        let connection = match endpoint.live() {
            Some(connection) => connection,
            None => endpoint.connect(*windows, tasks).await?,
        };
        Ok(One { connection, origin: endpoint.origin.clone() })
    }
}

async fn keep_up(endpoint: &Endpoint, windows: Windows, tasks: &Tasks) {
    match endpoint.live() {
        Some(_) => endpoint.refresh_readiness().await,
        // Calls that find no other connection report the error.
        None => drop(endpoint.connect(windows, tasks).await),
    }
}

/// Replaces the endpoints; an address that stays keeps its connection. Returns whether anything changed.
fn follow(endpoints: &mut Endpoints, known: Vec<Address>, tls: Option<&Connector>) -> bool {
    if endpoints.iter().map(|endpoint| &endpoint.address).eq(&known) {
        return false;
    }
    let kept = |address: &Address| endpoints.iter().find(|endpoint| endpoint.address == *address).cloned();
    let new = |address| Endpoint::try_new(address, tls.cloned()).map(Arc::new);
    let next = known.into_iter().filter_map(|address| kept(&address).or_else(|| new(address)));
    *endpoints = next.collect();
    true
}
