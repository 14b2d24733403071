//! The connections to all addresses of an upstream: one each, kept up, used in turn.
//!
//! Our own and not tonic's channel: that sends each call through a queue and a task of its own, keeps an error of yesterday
//! for the call of today, and loses a call that finds its connection closing. Here a call that has not left takes the next
//! connection: that is safe for every method, and makes restarts of replicas pass unseen.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use eticket_chassis::{client::balance::Address, tasks::Tasks};
use futures::future::{join_all, select_ok};
use http::{Request, Response, Uri, uri::Scheme};
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use tokio::{
    sync::watch,
    time::{Duration, sleep, timeout},
};

use super::{
    member::{CONNECT_TIMEOUT, Member, Unreachable},
    outgoing::Outgoing,
};

/// How often addresses without a connection are tried while calls find others.
const KEEP_UP_INTERVAL: Duration = Duration::from_secs(1);
/// A call that finds one closing connection after the other gives up after so many.
const MOST_CONNECTIONS_TRIED: usize = 4;

type Members = Arc<[Arc<Member>]>;

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
    members: watch::Receiver<Members>,
    turn: AtomicUsize,
    tasks: Tasks,
}

impl Pool {
    /// Follows `addresses`; its tasks end with `tasks`.
    pub(crate) fn new(mut addresses: watch::Receiver<Vec<Address>>, tasks: &Tasks) -> Self {
        let (sender, members) = watch::channel::<Members>(Arc::new([]));
        let (stopping, own) = (tasks.stopping(), tasks.clone());
        tasks.spawn("upstream connections", async move {
            let keep_up = async {
                loop {
                    let known = addresses.borrow_and_update().clone();
                    sender.send_if_modified(|members| follow(members, known));
                    let members = sender.borrow().clone();
                    join_all(
                        members.iter().filter(|member| member.live().is_none()).map(|member| member.connect(&own)),
                    )
                    .await;
                    tokio::select! {
                        Ok(()) = addresses.changed() => {}
                        () = sleep(KEEP_UP_INTERVAL) => {}
                    }
                }
            };
            stopping.run_until_cancelled(keep_up).await;
        });
        Self { members, turn: AtomicUsize::new(0), tasks: tasks.clone() }
    }

    /// Sends a request over the next connection in turn.
    ///
    /// # Errors
    /// If there is no connection to be had, or the one that has taken the request breaks before the answer's headers.
    pub(crate) async fn send(&self, mut request: Request<Outgoing>) -> Result<Response<Incoming>, PoolError> {
        let mut tried = 0;
        loop {
            let (member, mut connection) = self.pick().await?;
            *request.uri_mut() = absolute(std::mem::take(request.uri_mut()), &member);
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

    async fn pick(&self) -> Result<(Arc<Member>, SendRequest<Outgoing>), PoolError> {
        let members = self.members().await?;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = (0..members.len()).map(|step| &members[(turn.wrapping_add(step)) % members.len()]);
        for member in in_turn {
            if let Some(connection) = member.live() {
                return Ok((member.clone(), connection));
            }
        }
        let connecting = members.iter().map(|member| {
            Box::pin(async move { member.connect(&self.tasks).await.map(|connection| (member.clone(), connection)) })
        });
        select_ok(connecting).await.map(|(picked, _)| picked).map_err(PoolError::Unreachable)
    }

    /// The members; right after the start, once the first name is resolved.
    async fn members(&self) -> Result<Members, PoolError> {
        let members = self.members.borrow().clone();
        if !members.is_empty() {
            return Ok(members);
        }
        let mut watched = self.members.clone();
        let known = timeout(CONNECT_TIMEOUT, watched.wait_for(|members| !members.is_empty())).await;
        known.ok().and_then(Result::ok).map(|members| members.clone()).ok_or(PoolError::NoAddress)
    }
}

/// Takes over new addresses; those that stay keep their connections. Answers whether anything changed.
fn follow(members: &mut Members, known: Vec<Address>) -> bool {
    if members.iter().map(|member| &member.address).eq(&known) {
        return false;
    }
    let kept = |address: &Address| members.iter().find(|member| member.address == *address).cloned();
    let next =
        known.into_iter().filter_map(|address| kept(&address).or_else(|| Member::try_new(address).map(Arc::new)));
    *members = next.collect();
    true
}

/// HTTP/2 wants to know whom a request is for.
fn absolute(uri: Uri, member: &Member) -> Uri {
    let mut parts = uri.into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(member.authority.clone());
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    }
    // With all three parts it is one.
    Uri::from_parts(parts).unwrap_or_default()
}
