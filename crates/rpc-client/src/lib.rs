//! Calls to another service, through guards that keep its troubles from becoming ours.
//!
//! Outermost first: overall deadline → retry with a budget → circuit breaker → attempt timeout → channel. The deadline is
//! outside, so that no number of retries outlasts it; the breaker is inside the retry, so that it sees every attempt and a retry
//! is refused like a first call. The guards work on typed messages: below that level a request cannot be cloned, and
//! `tower::retry` would silently never retry.

#![warn(missing_docs)]

pub mod attempt_timeout;
pub mod balance;
pub mod breaker;
pub mod config;
pub mod deadline;
pub mod retry;
#[cfg(test)]
mod tests;

use std::{error::Error as _, time::Duration};

use eticket_base::telemetry::TraceContext;
use eticket_proto::headers;
use futures::future::BoxFuture;
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt;
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneSyncService};
use tracing::Instrument;

use attempt_timeout::AttemptTimeoutLayer;
use breaker::BreakerLayer;
use deadline::DeadlineLayer;
use retry::RetryLayer;

pub use config::UpstreamConfig;

/// A message on its way out.
#[derive(Debug, Clone)]
pub struct Outgoing<M> {
    /// What is asked.
    pub message: M,
    /// When whoever asked gives up; each guard may bring it forward.
    pub deadline: Option<Instant>,
    /// The trace that the call belongs to.
    pub trace: TraceContext,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The caller's own deadline ended.
    #[error("the caller's deadline ended")]
    CallerDeadline,
    /// The time that this service gives the other one is over.
    #[error("no answer within the time given")]
    Deadline,
    /// One attempt took too long.
    #[error("an attempt took too long")]
    AttemptTimeout,
    /// The breaker let nothing through.
    #[error("the breaker is open")]
    BreakerOpen {
        /// When it will try again.
        retry_after: Duration,
    },
    /// The other service, or the way to it, says so.
    #[error("{}: {}", .0.code(), .0.message())]
    Status(#[source] Status),
}

/// What the other service asks for about a retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pushback {
    After(Duration),
    Never,
}

impl CallError {
    /// Whether the other service failed, rather than answered: what a breaker counts. A refusal is an answer.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        match self {
            Self::Deadline | Self::AttemptTimeout => true,
            Self::CallerDeadline | Self::BreakerOpen { .. } => false,
            Self::Status(status) => {
                matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) || is_broken_transport(status)
            }
        }
    }

    /// The other service's own refusal; `None` if it gave no answer.
    #[must_use]
    pub fn refusal(&self) -> Option<&Status> {
        match self {
            Self::Status(status) if !self.is_failure() => Some(status),
            _ => None,
        }
    }

    /// When it is worth trying again, as far as anybody has said.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match (self, self.pushback()) {
            (Self::BreakerOpen { retry_after }, _) => Some(*retry_after),
            (_, Some(Pushback::After(delay))) => Some(delay),
            _ => None,
        }
    }

    /// `RetryInfo`, else `grpc-retry-pushback-ms`. The latter is `-1` where the delay does not fit into the deadline of the attempt,
    /// but the deadline of the whole call is longer than that. As gRFC A6 says, a value that is no number asks for no retry, as a
    /// negative one does.
    fn pushback(&self) -> Option<Pushback> {
        let Self::Status(status) = self else { return None };
        if let Some(delay) = status.get_details_retry_info().and_then(|info| info.retry_delay) {
            return Some(Pushback::After(delay));
        }
        let value = status.metadata().get(headers::RETRY_PUSHBACK)?;
        let milliseconds = value.to_str().ok().and_then(|text| text.parse::<u64>().ok());
        Some(milliseconds.map_or(Pushback::Never, |delay| Pushback::After(Duration::from_millis(delay))))
    }
}

/// Whether the connection failed: a peer that dies is UNKNOWN to tonic, sometimes CANCELLED or INTERNAL. A status that came over
/// the wire has no source.
fn is_broken_transport(status: &Status) -> bool {
    match status.code() {
        Code::Cancelled => true,
        Code::Unknown | Code::Internal => status.source().is_some(),
        _ => false,
    }
}

/// Calls one method of another service. Clones share guards and connections.
pub struct Client<M, R> {
    upstream: &'static str,
    stack: BoxCloneSyncService<Outgoing<M>, R, CallError>,
}

impl<M, R> Clone for Client<M, R> {
    fn clone(&self) -> Self {
        Self { upstream: self.upstream, stack: self.stack.clone() }
    }
}

impl<M, R> std::fmt::Debug for Client<M, R> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Client").field("upstream", &self.upstream).finish_non_exhaustive()
    }
}

impl<M: Clone + Send + Sync + 'static, R: Send + 'static> Client<M, R> {
    /// Puts the guards around `call`, which makes one attempt. `upstream` names the other service in logs and metrics. The method
    /// must be safe to repeat.
    pub fn new<F, Fut>(upstream: &'static str, config: &UpstreamConfig, call: F) -> Self
    where
        F: Fn(Request<M>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Response<R>, Status>> + Send + 'static,
    {
        let attempt = service_fn(move |outgoing: Outgoing<M>| -> BoxFuture<'static, Result<R, CallError>> {
            let attempt = call(into_request(outgoing));
            Box::pin(async move { attempt.await.map(Response::into_inner).map_err(CallError::Status) })
        });
        let stack = AttemptTimeoutLayer::new(config.attempt_timeout()).layer(attempt);
        let stack = BreakerLayer::new(upstream, &config.breaker).layer(stack);
        let stack = RetryLayer::new(upstream, config.retries).layer(stack);
        let stack = DeadlineLayer::new(config.deadline()).layer(stack);
        Self { upstream, stack: BoxCloneSyncService::new(stack) }
    }

    /// Asks, and waits for the answer no longer than the configured deadline and `deadline`, the caller's own. Dropped, it
    /// leaves nothing behind.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(&self, message: M, deadline: Option<Instant>, trace: TraceContext) -> Result<R, CallError> {
        let span = tracing::debug_span!("call", upstream = self.upstream);
        let start = Instant::now();
        let outcome = self.stack.clone().oneshot(Outgoing { message, deadline, trace }).instrument(span).await;
        let label = match &outcome {
            Ok(_) => "answered",
            Err(error) if error.refusal().is_some() => "refused",
            Err(CallError::BreakerOpen { .. }) => "breaker open",
            Err(CallError::CallerDeadline) => "caller's deadline",
            Err(_) => "failed",
        };
        metrics::histogram!("eticket_client_seconds", "upstream" => self.upstream, "outcome" => label)
            .record(start.elapsed().as_secs_f64());
        outcome
    }
}

/// Only `grpc-timeout` tells the other service how long an answer is wanted; tonic's `Endpoint::timeout` does not send it.
fn into_request<M>(outgoing: Outgoing<M>) -> Request<M> {
    let mut request = Request::new(outgoing.message);
    if let Some(deadline) = outgoing.deadline {
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    }
    outgoing.trace.write_to(request.metadata_mut().as_mut());
    request
}
