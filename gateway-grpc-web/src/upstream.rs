//! The services behind the gateway: their connections, and the errors for calls that get no response.

pub(crate) mod outgoing;

use std::{
    error::Error,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use eticket_base::error::chain;
use eticket_proto::error::ErrorReason;
use eticket_rpc_client::pool::{self, PoolError};
use eticket_rpc_server::error::ApiError;
use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tonic::Status;
use tower::Service;

use self::outgoing::Outgoing;
use crate::routes::Backend;

/// The connections to a service.
pub(crate) type Pool = pool::Pool<Outgoing>;
/// One address of a service.
pub(crate) type Member = pool::Member<Outgoing>;

/// One service behind the gateway.
#[derive(Debug)]
pub(crate) struct Upstream {
    backend: Backend,
    pool: Pool,
    /// The last known state, so that changes are logged instead of every call.
    reachable: AtomicBool,
}

/// Why an upstream has not responded with gRPC.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Connection(#[from] PoolError),
    #[error("the response is HTTP {0} instead of gRPC")]
    NotGrpc(StatusCode),
}

impl Upstream {
    pub(crate) fn new(backend: Backend, pool: Pool) -> Self {
        Self { backend, pool, reachable: AtomicBool::new(true) }
    }

    /// Forwards a call. Dropping the future resets the stream, so that the service stops working for a caller that has
    /// disconnected.
    ///
    /// # Errors
    /// If the upstream does not respond with gRPC. A gRPC error status is a response.
    pub(crate) async fn call(&self, request: Request<Outgoing>) -> Result<Response<Incoming>, Failure> {
        let response = self.pool.send(request).await?;
        let content_type = response.headers().get(header::CONTENT_TYPE);
        if response.status() != StatusCode::OK
            || !content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
        {
            return Err(Failure::NotGrpc(response.status()));
        }
        if !self.reachable.load(Ordering::Relaxed) && !self.reachable.swap(true, Ordering::Relaxed) {
            tracing::info!(upstream = self.backend.name(), "upstream is available again");
        }
        Ok(response)
    }

    /// Returns every address of the upstream, ready or not.
    ///
    /// # Errors
    /// If no address is known.
    pub(crate) async fn members(&self) -> Result<Vec<Member>, PoolError> {
        self.pool.members().await
    }

    /// Returns the status for a failure of the upstream, before or during the response.
    pub(crate) fn unavailable(&self, error: Option<&(dyn Error + 'static)>) -> ApiError {
        let name = self.backend.name();
        if self.reachable.swap(false, Ordering::Relaxed) {
            let error = error.map_or_else(|| "the response ended without a status".to_owned(), chain);
            tracing::warn!(upstream = name, %error, "upstream is not available");
        }
        let text = format!("the gateway cannot reach the {name} service; try again shortly");
        ApiError::new(ErrorReason::UpstreamUnavailable).message(text).with("upstream", name)
    }
}

impl Failure {
    /// Returns the status of a failure that the caller has caused: the metadata of the call exceeded the upstream's
    /// limits.
    pub(crate) fn refusal(&self) -> Option<Status> {
        matches!(self, Self::NotGrpc(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE))
            .then(|| Status::resource_exhausted("the metadata of the call is too large; send less of it"))
    }
}

/// An upstream as a client service of generated code, for the gateway's own calls.
#[derive(Debug, Clone)]
pub(crate) struct OwnCalls(pub(crate) Arc<Upstream>);

impl Service<Request<tonic::body::Body>> for OwnCalls {
    type Response = Response<Incoming>;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, Failure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let upstream = self.0.clone();
        Box::pin(async move { upstream.call(request.map(Outgoing::Own)).await })
    }
}
