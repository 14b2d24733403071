//! The services behind the gateway: their channels, and what a caller is told when one does not answer.

use std::{
    error::Error,
    future::poll_fn,
    sync::atomic::{AtomicBool, Ordering},
};

use eticket_chassis::error::{ApiError, chain};
use eticket_proto::error::ErrorReason;
use http::{Request, Response, StatusCode, header};
use tonic::{Status, body::Body, transport::Channel};
use tower::Service;

use crate::routes::Owner;

/// One service behind the gateway, with a channel that reconnects by itself.
#[derive(Debug)]
pub(crate) struct Upstream {
    owner: Owner,
    channel: Channel,
    /// As last seen, so that the log tells the change and not every call.
    reachable: AtomicBool,
}

/// Why an upstream has not answered with gRPC.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the connection failed")]
    Connection(#[source] tonic::transport::Error),
    #[error("the answer is not gRPC but HTTP {0}")]
    NotGrpc(StatusCode),
}

impl Upstream {
    pub(crate) fn new(owner: Owner, channel: Channel) -> Self {
        Self { owner, channel, reachable: AtomicBool::new(true) }
    }

    /// For calls of the gateway's own.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Passes a call on. Dropping the future resets the stream, so that the service stops working for a caller that has gone.
    ///
    /// # Errors
    /// If no answer in gRPC arrives. A status is an answer.
    pub(crate) async fn call(&self, request: Request<Body>) -> Result<Response<Body>, Failure> {
        let mut channel = self.channel.clone();
        poll_fn(|context| channel.poll_ready(context)).await.map_err(Failure::Connection)?;
        let response = channel.call(request).await.map_err(Failure::Connection)?;
        let content_type = response.headers().get(header::CONTENT_TYPE);
        if response.status() != StatusCode::OK
            || !content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
        {
            return Err(Failure::NotGrpc(response.status()));
        }
        if !self.reachable.load(Ordering::Relaxed) && !self.reachable.swap(true, Ordering::Relaxed) {
            tracing::info!(upstream = self.owner.name(), "upstream answers again");
        }
        Ok(response)
    }

    /// What callers are told of a failure, before the answer or in the middle of it.
    pub(crate) fn unavailable(&self, error: Option<&(dyn Error + 'static)>) -> ApiError {
        let name = self.owner.name();
        if self.reachable.swap(false, Ordering::Relaxed) {
            let error = error.map_or_else(|| "the answer ended without a status".to_owned(), chain);
            tracing::warn!(upstream = name, %error, "upstream is not available");
        }
        let text = format!("the gateway cannot reach the {name} service; try again shortly");
        ApiError::new(ErrorReason::UpstreamUnavailable).message(text).with("upstream", name)
    }
}

/// Whether an error is a timeout of the channel's own, which reads `grpc-timeout` as well and may be a moment earlier.
pub(crate) fn is_timeout(error: &(dyn Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| (*error).source()).any(|error| error.is::<tonic::TimeoutExpired>())
}

/// Whether an error says that the metadata of the call did not fit into the upstream's limits.
pub(crate) fn refused_metadata(error: &(dyn Error + 'static)) -> Option<Status> {
    let failure = error.downcast_ref::<Failure>()?;
    matches!(failure, Failure::NotGrpc(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE))
        .then(|| Status::resource_exhausted("the metadata of the call is too large; send less of it"))
}
