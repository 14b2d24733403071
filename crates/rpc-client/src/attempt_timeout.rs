//! Ends an attempt that takes too long, so that time is left for another one.
//!
//! This is the innermost layer, inside the breaker: the breaker counts a timed-out attempt as a failure.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::time::{Instant, timeout_at};
use tonic::Code;
use tower::{Layer, Service};

use super::{CallError, Outgoing};

/// Adds a timeout to each attempt.
#[derive(Debug, Clone, Copy)]
pub struct AttemptTimeoutLayer {
    limit: Duration,
}

impl AttemptTimeoutLayer {
    /// Sets the limit, which counts from the start of the attempt.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { limit }
    }
}

impl<S> Layer<S> for AttemptTimeoutLayer {
    type Service = AttemptTimeout<S>;

    fn layer(&self, inner: S) -> AttemptTimeout<S> {
        AttemptTimeout { inner, limit: self.limit }
    }
}

/// See the module documentation.
#[derive(Debug, Clone)]
pub struct AttemptTimeout<S> {
    inner: S,
    limit: Duration,
}

impl<S, M> Service<Outgoing<M>> for AttemptTimeout<S>
where
    S: Service<Outgoing<M>, Error = CallError>,
    S::Future: Send + 'static,
    S::Response: Send + 'static,
{
    type Response = S::Response;
    type Error = CallError;
    type Future = BoxFuture<'static, Result<S::Response, CallError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut outgoing: Outgoing<M>) -> Self::Future {
        let own = Instant::now() + self.limit;
        let until = outgoing.deadline.map_or(own, |deadline| deadline.min(own));
        // The upstream gets the deadline too, so that it stops work that nobody needs.
        outgoing.deadline = Some(until);
        let attempt = self.inner.call(outgoing);
        Box::pin(async move {
            match timeout_at(until, attempt).await {
                // The upstream, or tonic's channel, has the same deadline and was the first to report it.
                Ok(Err(CallError::Status(status))) if status.code() == Code::DeadlineExceeded => {
                    Err(CallError::AttemptTimeout)
                }
                Ok(Err(CallError::Status(status))) if status.code() == Code::Cancelled && until <= Instant::now() => {
                    Err(CallError::AttemptTimeout)
                }
                Ok(outcome) => outcome,
                Err(_) => Err(CallError::AttemptTimeout),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use eticket_base::telemetry::TraceContext;
    use tonic::Status;
    use tower::{ServiceExt, service_fn};

    use super::*;

    const LIMIT: Duration = Duration::from_millis(100);

    async fn run(
        deadline: Option<Duration>,
        takes: Duration,
        answer: Result<(), Code>,
    ) -> (Result<Duration, CallError>, Duration) {
        let start = Instant::now();
        let service = service_fn(move |outgoing: Outgoing<()>| async move {
            tokio::time::sleep(takes).await;
            answer.map_err(|code| CallError::Status(Status::new(code, "no")))?;
            Ok(outgoing.deadline.expect("a deadline") - start)
        });
        let deadline = deadline.map(|deadline| start + deadline);
        let outgoing = Outgoing { message: (), deadline, trace: TraceContext::new_root(), credentials: None };
        let outcome = AttemptTimeoutLayer::new(LIMIT).layer(service).oneshot(outgoing).await;
        (outcome, start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_ends_at_its_timeout_which_is_sent_to_the_upstream() {
        assert_eq!(run(None, Duration::ZERO, Ok(())).await.0.expect("an answer"), LIMIT);
        assert_eq!(run(Some(LIMIT / 4), Duration::ZERO, Ok(())).await.0.expect("an answer"), LIMIT / 4);
        let (outcome, took) = run(Some(LIMIT * 9), LIMIT * 5, Ok(())).await;
        assert!(matches!(outcome, Err(CallError::AttemptTimeout)), "{outcome:?}");
        assert_eq!(took, LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_is_the_same_error_on_either_side() {
        for code in [Code::DeadlineExceeded, Code::Cancelled] {
            let (outcome, _) = run(None, LIMIT, Err(code)).await;
            assert!(matches!(outcome, Err(CallError::AttemptTimeout)), "{outcome:?}");
        }
        let (outcome, _) = run(None, Duration::ZERO, Err(Code::Cancelled)).await;
        assert!(
            matches!(outcome, Err(CallError::Status(_))),
            "before the limit it is a status of the upstream: {outcome:?}"
        );
        let (outcome, _) = run(None, Duration::ZERO, Err(Code::NotFound)).await;
        assert!(matches!(outcome, Err(CallError::Status(_))), "{outcome:?}");
    }
}
