//! Calls to another service (an upstream), with guards that keep its failures from spreading to the caller.
//!
//! Outermost first: overall deadline → retry with a budget → circuit breaker → attempt timeout → channel. The deadline
//! is outermost, so that retries cannot exceed it. The breaker is inside the retry, so that it counts every attempt and
//! rejects retries like first calls. The guards process typed messages: raw HTTP requests cannot be cloned, and
//! `tower::retry` would silently never retry them.

#![warn(missing_docs)]

pub mod addresses;
pub mod attempt_timeout;
pub mod breaker;
pub mod config;
pub mod deadline;
pub mod pool;
pub mod retry;
#[cfg(test)]
mod tests;

use std::{error::Error as _, time::Duration};

use eticket_base::{
    credentials::Credentials,
    telemetry::{Span, SpanKind, TraceContext},
};
use eticket_proto::headers;
use futures::future::BoxFuture;
use tokio::time::Instant;
use tonic::{
    Code, Request, Response, Status,
    metadata::{AsciiMetadataValue, errors::InvalidMetadataValue},
};
use tonic_types::StatusExt;
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneSyncService};
use tracing::Instrument;

use attempt_timeout::AttemptTimeoutLayer;
use breaker::BreakerLayer;
use deadline::DeadlineLayer;
use retry::RetryLayer;

pub use config::UpstreamConfig;

/// A request message with its context.
#[derive(Debug, Clone)]
pub struct Outgoing<M> {
    /// The request message.
    pub message: M,
    /// The deadline of the caller; each guard may shorten it.
    pub deadline: Option<Instant>,
    /// The trace that the call belongs to.
    pub trace: TraceContext,
    /// The credentials of the caller on whose behalf the call is made.
    pub credentials: Option<Credentials>,
}

/// Why a call has no response.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The caller's own deadline has passed.
    #[error("the caller's deadline ended")]
    CallerDeadline,
    /// The limit of this service for the whole call has passed.
    #[error("no answer within the time given")]
    Deadline,
    /// One attempt took too long.
    #[error("an attempt took too long")]
    AttemptTimeout,
    /// The breaker rejected the call.
    #[error("the breaker is open")]
    BreakerOpen {
        /// The delay after which the breaker admits a probe.
        retry_after: Duration,
    },
    /// The upstream, or the transport, returned this status.
    #[error("{}: {}", .0.code(), .0.message())]
    Status(#[source] Status),
}

/// What the upstream requests about retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pushback {
    After(Duration),
    Never,
}

impl CallError {
    /// Returns whether the upstream failed to respond; the breaker counts these calls. A rejection is a response.
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

    /// Returns the rejection by the upstream; `None` if it did not respond.
    #[must_use]
    pub fn refusal(&self) -> Option<&Status> {
        match self {
            Self::Status(status) if !self.is_failure() => Some(status),
            _ => None,
        }
    }

    /// Returns the delay before a retry that the breaker or the upstream requests, if any.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match (self, self.pushback()) {
            (Self::BreakerOpen { retry_after }, _) => Some(*retry_after),
            (_, Some(Pushback::After(delay))) => Some(delay),
            _ => None,
        }
    }

    /// Reads `RetryInfo`, or else `grpc-retry-pushback-ms`. `RetryInfo` comes first: the header is `-1` if the delay
    /// exceeds the deadline of the attempt, although the deadline of the whole call may be longer. As gRFC A6
    /// specifies, an invalid value means "do not retry", like a negative one.
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

/// Returns whether the connection failed. tonic reports a lost peer as UNKNOWN, sometimes as CANCELLED or INTERNAL; a
/// status that was received over the wire has no source.
fn is_broken_transport(status: &Status) -> bool {
    match status.code() {
        Code::Cancelled => true,
        Code::Unknown | Code::Internal => status.source().is_some(),
        _ => false,
    }
}

/// Calls one method of an upstream. Clones share guards and connections.
pub struct Client<M, R> {
    upstream: &'static str,
    /// The method, for traces.
    method: &'static str,
    stack: BoxCloneSyncService<Outgoing<M>, R, CallError>,
    breaker: BreakerLayer,
}

impl<M, R> Clone for Client<M, R> {
    fn clone(&self) -> Self {
        let (stack, breaker) = (self.stack.clone(), self.breaker.clone());
        Self { upstream: self.upstream, method: self.method, stack, breaker }
    }
}

impl<M, R> std::fmt::Debug for Client<M, R> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Client").field("upstream", &self.upstream).finish_non_exhaustive()
    }
}

impl<M: Clone + Send + Sync + 'static, R: Send + 'static> Client<M, R> {
    /// Wraps `call`, which makes one attempt, in the guards. `upstream` names the upstream in logs and metrics. The
    /// method must be idempotent.
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
        let breaker = BreakerLayer::new(upstream, &config.breaker);
        let stack = breaker.layer(stack);
        let stack = RetryLayer::new(upstream, config.retries).layer(stack);
        let stack = DeadlineLayer::new(config.deadline()).layer(stack);
        Self { upstream, method: upstream, stack: BoxCloneSyncService::new(stack), breaker }
    }

    /// Returns the breaker of the calls.
    #[must_use]
    pub fn breaker(&self) -> BreakerLayer {
        self.breaker.clone()
    }

    /// Names the method in traces, as `eticket.ticket.v1.TicketService/GetTicket`. The default is the upstream.
    #[must_use]
    pub fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    /// Calls the upstream and waits for the response until the configured deadline or `deadline`, the caller's own.
    /// Dropping the future cancels the call.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(
        &self,
        message: M,
        deadline: Option<Instant>,
        trace: TraceContext,
        credentials: Option<Credentials>,
    ) -> Result<R, CallError> {
        let span = tracing::debug_span!("call", upstream = self.upstream);
        let start = Instant::now();
        let trace = trace.child();
        let mut exported = Span::start(SpanKind::Client, &trace, || self.method.into());
        exported.set("rpc.system", "grpc");
        let outcome =
            self.stack.clone().oneshot(Outgoing { message, deadline, trace, credentials }).instrument(span).await;
        let label = match &outcome {
            Ok(_) => "answered",
            Err(error) if error.refusal().is_some() => "refused",
            Err(CallError::BreakerOpen { .. }) => "breaker open",
            Err(CallError::CallerDeadline) => "caller's deadline",
            Err(_) => "failed",
        };
        exported.set("eticket.outcome", label);
        if outcome.as_ref().is_err_and(|error| error.refusal().is_none()) {
            exported.fail(label);
        }
        metrics::histogram!("eticket_client_seconds", "upstream" => self.upstream, "outcome" => label)
            .record(start.elapsed().as_secs_f64());
        outcome
    }
}

/// Returns credentials as the metadata `authorization`, marked so that libraries do not log it.
///
/// # Errors
/// If they contain a character that a header cannot have.
pub fn authorization(credentials: &Credentials) -> Result<AsciiMetadataValue, InvalidMetadataValue> {
    let mut value: AsciiMetadataValue = credentials.authorization().parse()?;
    value.set_sensitive(true);
    Ok(value)
}

/// Converts the message into a request with `grpc-timeout`, which tells the upstream how long the response is needed.
/// tonic's `Endpoint::timeout` does not send it.
fn into_request<M>(outgoing: Outgoing<M>) -> Request<M> {
    let mut request = Request::new(outgoing.message);
    if let Some(deadline) = outgoing.deadline {
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    }
    outgoing.trace.write_to(request.metadata_mut().as_mut());
    if let Some(Ok(authorization)) = outgoing.credentials.as_ref().map(authorization) {
        request.metadata_mut().insert("authorization", authorization);
    }
    request
}
