//! Retries failed calls: a few times, with jittered pauses, and only while the budget lasts.
//!
//! The retry is inside the deadline and outside of the breaker. All calls share the budget; without it retries would
//! multiply the load of a service that is already failing. Pauses are random within a doubling range, so that callers
//! that failed together do not retry together.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, Sleep, sleep};
use tower::{
    Layer,
    retry::{
        Policy, Retry,
        budget::{Budget, TpsBudget},
    },
};

use super::{CallError, Outgoing, Pushback};

/// Upper bound of the first pause. The bound doubles with each further pause.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
/// Upper bound of all pauses, except those that the upstream requests.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// How long a deposit into the budget is valid.
const BUDGET_WINDOW: Duration = Duration::from_secs(10);
/// Retries per second that are always allowed, for services with few calls.
const BUDGET_PER_SECOND: u32 = 3;
/// Retries that are allowed per successful call, in addition.
const BUDGET_RATIO: f32 = 0.2;

/// Adds retries.
#[derive(Debug, Clone)]
pub struct RetryLayer {
    policy: RetryPolicy,
}

impl RetryLayer {
    /// Allows up to `retries` attempts after the first, from one budget for all calls.
    #[must_use]
    pub fn new(upstream: &'static str, retries: u32) -> Self {
        let budget = Arc::new(TpsBudget::new(BUDGET_WINDOW, BUDGET_PER_SECOND, BUDGET_RATIO));
        Self { policy: RetryPolicy { upstream, left: retries, pause: FIRST_PAUSE, budget } }
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = Retry<RetryPolicy, S>;

    fn layer(&self, inner: S) -> Self::Service {
        Retry::new(self.policy.clone(), inner)
    }
}

/// Cloned for each call: the remaining attempts belong to the call, the budget is shared.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    upstream: &'static str,
    left: u32,
    pause: Duration,
    budget: Arc<TpsBudget>,
}

impl RetryPolicy {
    /// Returns the pause before the next attempt; `None` if no retry makes sense.
    fn pause_before_retry(&mut self, error: &CallError, deadline: Option<Instant>) -> Option<Duration> {
        if self.left == 0 {
            return None;
        }
        let pause = match error.pushback() {
            Some(Pushback::Never) => return None,
            Some(Pushback::After(delay)) => delay,
            None => {
                let pause = self.pause.mul_f64(rand::random::<f64>());
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                pause
            }
        };
        // An early error is better than an expired deadline.
        if deadline.is_some_and(|deadline| Instant::now() + pause >= deadline) {
            return None;
        }
        if !self.budget.withdraw() {
            metrics::counter!("eticket_client_retries_total", "upstream" => self.upstream, "outcome" => "no budget")
                .increment(1);
            return None;
        }
        self.left -= 1;
        Some(pause)
    }
}

impl<M: Clone, R> Policy<Outgoing<M>, R, CallError> for RetryPolicy {
    type Future = Sleep;

    fn retry(&mut self, outgoing: &mut Outgoing<M>, outcome: &mut Result<R, CallError>) -> Option<Sleep> {
        let error = match outcome {
            Err(error) if error.is_failure() => error,
            // The breaker would reject a retry as well.
            Err(CallError::BreakerOpen { .. } | CallError::CallerDeadline) => return None,
            // A rejection is a response too.
            Ok(_) | Err(_) => {
                self.budget.deposit();
                return None;
            }
        };
        let pause = self.pause_before_retry(error, outgoing.deadline)?;
        metrics::counter!("eticket_client_retries_total", "upstream" => self.upstream, "outcome" => "tried")
            .increment(1);
        tracing::debug!(upstream = self.upstream, %error, pause_ms = pause.as_millis(), "trying again");
        Some(sleep(pause))
    }

    fn clone_request(&mut self, outgoing: &Outgoing<M>) -> Option<Outgoing<M>> {
        Some(outgoing.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use eticket_base::telemetry::TraceContext;
    use eticket_proto::headers;
    use tonic::{Code, Status};
    use tonic_types::{ErrorDetails, StatusExt};
    use tower::{ServiceExt, service_fn};

    use super::*;

    struct Outcome {
        result: Result<u32, CallError>,
        attempts: u32,
        took: Duration,
    }

    /// Calls a fake upstream that returns the errors of `error`, attempt by attempt, and then responds.
    async fn run(
        layer: &RetryLayer,
        time: Option<Duration>,
        error: impl Fn(u32) -> Option<CallError> + Clone,
    ) -> Outcome {
        let attempts = Arc::new(AtomicU32::new(0));
        let counted = attempts.clone();
        let service = service_fn(move |_: Outgoing<()>| {
            let attempt = counted.fetch_add(1, Ordering::SeqCst);
            let answer = error(attempt).map_or(Ok(attempt), Err);
            async move { answer }
        });
        let start = Instant::now();
        let outgoing = Outgoing {
            message: (),
            deadline: time.map(|time| start + time),
            trace: TraceContext::new_root(),
            credentials: None,
        };
        let result = layer.layer(service).oneshot(outgoing).await;
        Outcome { result, attempts: attempts.load(Ordering::SeqCst), took: start.elapsed() }
    }

    fn status(code: Code) -> CallError {
        CallError::Status(Status::new(code, "no"))
    }

    fn pushback(value: &'static str) -> CallError {
        let mut status = Status::unavailable("busy");
        status.metadata_mut().insert(headers::RETRY_PUSHBACK, value.parse().expect("a header"));
        CallError::Status(status)
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_retried_up_to_the_limit() {
        let layer = RetryLayer::new("test", 2);
        let outcome = run(&layer, None, |attempt| (attempt < 2).then(|| status(Code::Unavailable))).await;
        assert_eq!((outcome.result.expect("an answer"), outcome.attempts), (2, 3));
        assert!(outcome.took <= FIRST_PAUSE * 3, "{:?}", outcome.took);
        for error in [|_| Some(status(Code::Unavailable)), |_| Some(CallError::AttemptTimeout)] {
            let outcome = run(&layer, None, error).await;
            assert_eq!((outcome.result.is_err(), outcome.attempts), (true, 3));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_connection_is_retried() {
        let layer = RetryLayer::new("test", 2);
        let broken = |attempt| {
            (attempt == 0).then(|| CallError::Status(Status::from_error(std::io::Error::other("transport").into())))
        };
        assert_eq!(run(&layer, None, broken).await.attempts, 2);
        let outcome = run(&layer, None, |_| Some(status(Code::Unknown))).await;
        assert_eq!(outcome.attempts, 1, "an UNKNOWN that the upstream itself sent is a response");
    }

    #[tokio::test(start_paused = true)]
    async fn rejections_are_never_retried() {
        let layer = RetryLayer::new("test", 2);
        for code in [
            Code::NotFound,
            Code::FailedPrecondition,
            Code::InvalidArgument,
            Code::AlreadyExists,
            Code::Aborted,
            Code::PermissionDenied,
            Code::ResourceExhausted,
            Code::Internal,
            Code::Unimplemented,
        ] {
            let outcome = run(&layer, None, |_| Some(status(code))).await;
            assert_eq!((outcome.attempts, outcome.took), (1, Duration::ZERO), "{code:?}");
        }
        let open = |_| Some(CallError::BreakerOpen { retry_after: Duration::ZERO });
        assert_eq!(run(&layer, None, open).await.attempts, 1);
        assert_eq!(run(&layer, None, |_| Some(CallError::CallerDeadline)).await.attempts, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_upstream_sets_the_pause_or_forbids_a_retry() {
        let layer = RetryLayer::new("test", 2);
        let outcome = run(&layer, None, |attempt| (attempt == 0).then(|| pushback("700"))).await;
        assert_eq!((outcome.attempts, outcome.took.as_millis()), (2, 700));
        for never in ["-1", "soon", "1.5", ""] {
            let outcome = run(&layer, None, |_| Some(pushback(never))).await;
            assert_eq!((outcome.attempts, outcome.took), (1, Duration::ZERO), "{never:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_beyond_the_attempt_may_fit_into_the_whole_call() {
        let layer = RetryLayer::new("test", 2);
        let error = || {
            let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(700)));
            let mut status = Status::with_error_details(Code::Unavailable, "busy", details);
            status.metadata_mut().insert(headers::RETRY_PUSHBACK, "-1".parse().expect("a header"));
            CallError::Status(status)
        };
        assert_eq!(error().retry_after(), Some(Duration::from_millis(700)));
        for (time, attempts) in [(1_200, 2), (600, 1)] {
            let outcome = run(&layer, Some(Duration::from_millis(time)), |_| Some(error())).await;
            assert_eq!(outcome.attempts, attempts, "{time} ms for the call");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_beyond_the_deadline_returns_the_error_immediately() {
        let layer = RetryLayer::new("test", 2);
        let outcome = run(&layer, Some(Duration::from_millis(700)), |_| Some(pushback("700"))).await;
        assert_eq!((outcome.attempts, outcome.took), (1, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn the_budget_bounds_the_retries_of_all_calls() {
        let layer = RetryLayer::new("test", 2);
        let reserve = BUDGET_PER_SECOND * 10;
        let fail_all = async |calls: u32| {
            let mut retries = 0;
            for _ in 0..calls {
                retries += run(&layer, None, |_| Some(status(Code::Unavailable))).await.attempts - 1;
            }
            retries
        };
        assert_eq!(fail_all(100).await, reserve, "100 calls that fail could ask for 200 retries");
        for _ in 0..50 {
            assert_eq!(run(&layer, None, |_| Some(status(Code::NotFound))).await.attempts, 1);
        }
        assert_eq!(fail_all(100).await, 10, "one per five successful calls");
        tokio::time::advance(BUDGET_WINDOW * 2).await;
        assert_eq!(fail_all(100).await, reserve, "the reserve refills over time");
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_differ_and_grow_to_a_bound() {
        let mut pauses = Vec::new();
        for _ in 0..100 {
            let mut policy = RetryLayer::new("test", 10).policy;
            let pause = |policy: &mut RetryPolicy| {
                policy.pause_before_retry(&CallError::AttemptTimeout, None).expect("a retry")
            };
            let first = pause(&mut policy);
            assert!(first <= FIRST_PAUSE);
            for _ in 0..8 {
                assert!(pause(&mut policy) <= LONGEST_PAUSE);
            }
            assert_eq!(policy.pause, LONGEST_PAUSE);
            pauses.push(first);
        }
        pauses.sort();
        pauses.dedup();
        assert!(pauses.len() > 50, "jittered");
    }
}
