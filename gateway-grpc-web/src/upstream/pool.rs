//! The connections to all addresses of an upstream: one each, kept up, used in turn.
//!
//! Our own and not tonic's channel: that sends each call through a queue and a task of its own, keeps an error of yesterday
//! for the call of today, and loses a call that finds its connection closing. Here a call that has not left takes the next
//! connection: that is safe for every method, and makes restarts of replicas pass unseen. Replicas that say that they are not
//! ready are called only where no other can be.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use eticket_base::tasks::Tasks;
use eticket_rpc_client::balance::Address;
use eticket_rpc_server::server::Windows;
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
};

/// How often addresses without a connection are tried while calls find others, and those with one asked for their readiness.
const KEEP_UP_INTERVAL: Duration = Duration::from_secs(1);
/// A call that finds one closing connection after the other gives up after so many.
const MOST_CONNECTIONS_TRIED: usize = 4;

type Endpoints = Arc<[Arc<Endpoint>]>;
type Picked = (Arc<Endpoint>, SendRequest<Outgoing>);

/// Why a call has not been answered.
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
    /// Follows `addresses`; its tasks end with `tasks`. `windows` have room for all calls that the gateway admits: those whose
    /// callers do not read must not stop the others.
    pub(crate) fn new(mut addresses: watch::Receiver<Vec<Address>>, windows: Windows, tasks: &Tasks) -> Self {
        let (sender, endpoints) = watch::channel::<Endpoints>(Arc::new([]));
        let (stopping, own) = (tasks.stopping(), tasks.clone());
        tasks.spawn("upstream connections", async move {
            let keeping_up = async {
                loop {
                    let known = addresses.borrow_and_update().clone();
                    sender.send_if_modified(|endpoints| follow(endpoints, known));
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
    /// If there is no connection to be had, or the one that has taken the request breaks before the answer's headers.
    pub(crate) async fn send(&self, mut request: Request<Outgoing>) -> Result<Response<Incoming>, PoolError> {
        let mut tried = 0;
        loop {
            let (endpoint, mut connection) = self.pick().await?;
            *request.uri_mut() = absolute(std::mem::take(request.uri_mut()), &endpoint.authority);
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
        if let Some(picked) = in_turn().filter(|endpoint| !endpoint.refuses()).find_map(live) {
            return Ok(picked);
        }
        // One whose connection has just reached its age is worth another before one that refuses is called.
        let (refusing, hopeful): (Vec<_>, Vec<_>) = endpoints.iter().partition(|endpoint| endpoint.refuses());
        let mut connected = self.connect_any(&hopeful).await;
        if let Some(Ok((endpoint, _))) = &connected
            && endpoint.refuses()
        {
            connected = None;
        }
        match (connected, in_turn().find_map(live)) {
            (Some(Ok(picked)), _) | (_, Some(picked)) => Ok(picked),
            (connected, None) => {
                let last = self.connect_any(&refusing).await.or(connected).ok_or(PoolError::NoAddress)?;
                last.map_err(PoolError::Unreachable)
            }
        }
    }

    /// The first connection of several to one that does not refuse, else to any; `None` for no address at all.
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
                Ok((endpoint, connection)) if !endpoint.refuses() => return Some(Ok((endpoint, connection))),
                Err(_) if best.is_some() => {}
                outcome => best = Some(outcome),
            }
        }
        best
    }

    /// The endpoints; right after the start, once the first name is resolved.
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

async fn keep_up(endpoint: &Endpoint, windows: Windows, tasks: &Tasks) {
    match endpoint.live() {
        Some(_) => endpoint.ask().await,
        // Why not is told to calls that find no other.
        None => drop(endpoint.connect(windows, tasks).await),
    }
}

/// Takes over new addresses; those that stay keep their connections. Answers whether anything changed.
fn follow(endpoints: &mut Endpoints, known: Vec<Address>) -> bool {
    if endpoints.iter().map(|endpoint| &endpoint.address).eq(&known) {
        return false;
    }
    let kept = |address: &Address| endpoints.iter().find(|endpoint| endpoint.address == *address).cloned();
    let next =
        known.into_iter().filter_map(|address| kept(&address).or_else(|| Endpoint::try_new(address).map(Arc::new)));
    *endpoints = next.collect();
    true
}
