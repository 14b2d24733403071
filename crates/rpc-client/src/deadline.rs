//! Ends a call at the configured limit or at the caller's deadline, whichever is first.
//!
//! This is the outermost layer: the limit covers all attempts and the pauses between them.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::time::{Instant, timeout_at};
use tower::{Layer, Service};

use super::{CallError, Outgoing};

/// Adds the limit of a whole call.
#[derive(Debug, Clone, Copy)]
pub struct DeadlineLayer {
    limit: Duration,
}

impl DeadlineLayer {
    /// Sets the limit, which counts from the start of the call.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { limit }
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner, limit: self.limit }
    }
}

/// See the module documentation.
#[derive(Debug, Clone)]
pub struct Deadline<S> {
    inner: S,
    limit: Duration,
}

impl<S, M> Service<Outgoing<M>> for Deadline<S>
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
        let callers = outgoing.deadline;
        let until = callers.map_or(own, |callers| callers.min(own));
        if until <= Instant::now() {
            return Box::pin(std::future::ready(Err(CallError::CallerDeadline)));
        }
        outgoing.deadline = Some(until);
        let call = self.inner.call(outgoing);
        Box::pin(async move {
            let callers_has_ended = || callers.is_some_and(|callers| callers <= Instant::now());
            match timeout_at(until, call).await {
                // The last attempt ends at the same moment and may report the deadline first.
                Ok(Err(error)) if error.is_failure() && callers_has_ended() => Err(CallError::CallerDeadline),
                Ok(outcome) => outcome,
                Err(_) if callers_has_ended() => Err(CallError::CallerDeadline),
                Err(_) => Err(CallError::Deadline),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use eticket_base::telemetry::TraceContext;
    use tower::{ServiceExt, service_fn};

    use super::*;

    const LIMIT: Duration = Duration::from_millis(100);

    /// Calls a fake upstream that responds after `takes` with the deadline it received; also returns how long the call
    /// took.
    async fn run(callers: Option<Duration>, takes: Duration) -> (Result<Duration, CallError>, Duration) {
        let start = Instant::now();
        let slow = service_fn(move |outgoing: Outgoing<()>| async move {
            tokio::time::sleep(takes).await;
            Ok(outgoing.deadline.expect("a deadline") - start)
        });
        let deadline = callers.map(|callers| start + callers);
        let outgoing = Outgoing { message: (), deadline, trace: TraceContext::new_root(), credentials: None };
        let outcome = DeadlineLayer::new(LIMIT).layer(slow).oneshot(outgoing).await;
        (outcome, start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_deadline_applies() {
        let quick = Duration::from_millis(1);
        assert_eq!(run(None, quick).await.0.expect("an answer"), LIMIT);
        assert_eq!(run(Some(LIMIT * 2), quick).await.0.expect("an answer"), LIMIT);
        assert_eq!(run(Some(LIMIT / 2), quick).await.0.expect("an answer"), LIMIT / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_ends_at_its_own_deadline() {
        for callers in [None, Some(LIMIT * 2)] {
            let (outcome, took) = run(callers, Duration::from_secs(3_600)).await;
            assert!(matches!(outcome, Err(CallError::Deadline)), "{outcome:?}");
            assert_eq!(took, LIMIT);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_callers_deadline_is_reported_if_it_ends_first() {
        let (outcome, took) = run(Some(LIMIT / 2), Duration::from_secs(3_600)).await;
        assert!(matches!(outcome, Err(CallError::CallerDeadline)), "{outcome:?}");
        assert_eq!(took, LIMIT / 2);
        let (outcome, took) = run(Some(Duration::ZERO), Duration::ZERO).await;
        assert!(matches!(outcome, Err(CallError::CallerDeadline)), "no call is sent after the deadline: {outcome:?}");
        assert_eq!(took, Duration::ZERO);
    }
}
