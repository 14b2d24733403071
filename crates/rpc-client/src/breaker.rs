//! Stops calls to a service that fails or is slow, so that callers fail fast and the service can recover.
//!
//! The breaker is inside the retry and outside of the attempt timeout, so it counts each attempt. An attempt fails if
//! it gets no response (unreachable, disconnected, timed out) or if it takes too long. A rejection by the upstream is a
//! response. The window is a span of time instead of a number of calls, so that old failures expire even if calls are
//! rare.

mod window;

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use eticket_proto::operations::{BreakerState, BreakerStatus};
use futures::future::BoxFuture;
use tokio::time::Instant;
use tower::{Layer, Service};

use super::{CallError, Outgoing, config::BreakerConfig};
use window::Window;

/// Adds a breaker. All services that one layer creates share it.
#[derive(Debug, Clone)]
pub struct BreakerLayer {
    breaker: Arc<Breaker>,
}

impl BreakerLayer {
    /// Creates a closed breaker with an empty window.
    #[must_use]
    pub fn new(upstream: &'static str, config: &BreakerConfig) -> Self {
        Self { breaker: Arc::new(Breaker::new(upstream, config)) }
    }

    /// Returns the state of the breaker.
    #[must_use]
    pub fn status(&self) -> BreakerStatus {
        let guarded = self.breaker.guarded.lock().unwrap_or_else(PoisonError::into_inner);
        BreakerStatus { upstream: self.breaker.upstream.to_owned(), state: guarded.state.contract().into() }
    }
}

impl<S> Layer<S> for BreakerLayer {
    type Service = BreakerService<S>;

    fn layer(&self, inner: S) -> BreakerService<S> {
        BreakerService { inner, breaker: self.breaker.clone() }
    }
}

/// See the module documentation.
#[derive(Debug, Clone)]
pub struct BreakerService<S> {
    inner: S,
    breaker: Arc<Breaker>,
}

impl<S, M> Service<Outgoing<M>> for BreakerService<S>
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

    fn call(&mut self, outgoing: Outgoing<M>) -> Self::Future {
        let permit = match Breaker::admit(&self.breaker) {
            Ok(permit) => permit,
            Err(retry_after) => return Box::pin(std::future::ready(Err(CallError::BreakerOpen { retry_after }))),
        };
        let call = self.inner.call(outgoing);
        Box::pin(async move {
            let outcome = call.await;
            permit.finish(outcome.as_ref().err().is_some_and(CallError::is_failure));
            outcome
        })
    }
}

#[derive(Debug)]
enum State {
    Closed(Window),
    Open {
        until: Instant,
    },
    /// `admitted` probes are running or have succeeded.
    HalfOpen {
        admitted: u32,
        succeeded: u32,
    },
}

impl State {
    fn contract(&self) -> BreakerState {
        match self {
            Self::Closed(_) => BreakerState::Closed,
            Self::HalfOpen { .. } => BreakerState::HalfOpen,
            Self::Open { .. } => BreakerState::Open,
        }
    }
}

#[derive(Debug)]
struct Guarded {
    state: State,
    /// Increases with each change of state; results of calls that began in an earlier state are ignored.
    generation: u64,
}

#[derive(Debug)]
struct Breaker {
    upstream: &'static str,
    slot: Duration,
    min_calls: u32,
    failure_ratio: f64,
    slow_call: Duration,
    open: Duration,
    half_open_calls: u32,
    epoch: Instant,
    guarded: Mutex<Guarded>,
}

impl Breaker {
    fn new(upstream: &'static str, config: &BreakerConfig) -> Self {
        metrics::gauge!("eticket_breaker_state", "upstream" => upstream).set(0.0);
        Self {
            upstream,
            slot: Duration::from_millis(config.window_ms.max(1)) / window::SLOTS,
            min_calls: config.min_calls,
            failure_ratio: config.failure_ratio,
            slow_call: Duration::from_millis(config.slow_call_ms),
            open: Duration::from_millis(config.open_ms),
            half_open_calls: config.half_open_calls.max(1),
            epoch: Instant::now(),
            guarded: Mutex::new(Guarded { state: State::Closed(Window::default()), generation: 0 }),
        }
    }

    /// Admits a call, or returns the delay after which a retry makes sense.
    fn admit(this: &Arc<Self>) -> Result<Permit, Duration> {
        let mut guarded = this.guarded.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let State::Open { until } = guarded.state {
            if now < until {
                metrics::counter!("eticket_breaker_refusals_total", "upstream" => this.upstream).increment(1);
                return Err(until - now);
            }
            this.change(&mut guarded, State::HalfOpen { admitted: 0, succeeded: 0 });
        }
        if let State::HalfOpen { admitted, .. } = &mut guarded.state {
            if *admitted >= this.half_open_calls {
                metrics::counter!("eticket_breaker_refusals_total", "upstream" => this.upstream).increment(1);
                // By then the probes have responded, or they are slow and the breaker is open again.
                return Err(this.slow_call);
            }
            *admitted += 1;
        }
        Ok(Permit { breaker: this.clone(), generation: guarded.generation, start: now, finished: false })
    }

    /// Records the end of a call; `failed` is `None` if the outcome is unknown.
    fn record(&self, generation: u64, failed: Option<bool>) {
        let mut guarded = self.guarded.lock().unwrap_or_else(PoisonError::into_inner);
        if guarded.generation != generation {
            return;
        }
        let now = Instant::now();
        let open = || State::Open { until: now + self.open };
        let next = match (&mut guarded.state, failed) {
            (State::Closed(window), Some(failed)) => {
                window.add(self.tick(now), failed);
                let (calls, failures) = window.totals(self.tick(now));
                let many = f64::from(failures) >= self.failure_ratio * f64::from(calls);
                (failures > 0 && calls >= self.min_calls && many).then(open)
            }
            (State::HalfOpen { .. }, Some(true)) => Some(open()),
            (State::HalfOpen { succeeded, .. }, Some(false)) => {
                *succeeded += 1;
                (*succeeded >= self.half_open_calls).then(|| State::Closed(Window::default()))
            }
            // A cancelled probe frees its slot; otherwise a few cancelled probes would keep the breaker half open
            // forever.
            (State::HalfOpen { admitted, .. }, None) => {
                *admitted = admitted.saturating_sub(1);
                None
            }
            (State::Closed(_), None) | (State::Open { .. }, _) => None,
        };
        if let Some(next) = next {
            self.change(&mut guarded, next);
        }
    }

    fn tick(&self, now: Instant) -> u64 {
        let ticks = now.duration_since(self.epoch).as_nanos() / self.slot.as_nanos().max(1);
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    fn change(&self, guarded: &mut Guarded, next: State) {
        let (name, number) = match &next {
            State::Closed(_) => ("closed", 0.0),
            State::HalfOpen { .. } => ("half open", 1.0),
            State::Open { .. } => ("open", 2.0),
        };
        metrics::gauge!("eticket_breaker_state", "upstream" => self.upstream).set(number);
        metrics::counter!("eticket_breaker_changes_total", "upstream" => self.upstream, "to" => name).increment(1);
        if matches!(next, State::Open { .. }) {
            tracing::warn!(upstream = self.upstream, open_ms = self.open.as_millis(), "breaker open");
        } else {
            tracing::info!(upstream = self.upstream, state = name, "breaker changed");
        }
        guarded.state = next;
        guarded.generation += 1;
    }
}

/// An admitted call. Dropped without `finish`, it counts as cancelled by its caller.
#[derive(Debug)]
struct Permit {
    breaker: Arc<Breaker>,
    generation: u64,
    start: Instant,
    finished: bool,
}

impl Permit {
    fn finish(mut self, failed: bool) {
        self.finished = true;
        self.breaker.record(self.generation, Some(failed || self.is_slow()));
    }

    fn is_slow(&self) -> bool {
        self.start.elapsed() >= self.breaker.slow_call
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.finished {
            // A caller may cancel before the attempt timeout; a call that was slow by then still counts as slow.
            self.breaker.record(self.generation, self.is_slow().then_some(true));
        }
    }
}

#[cfg(test)]
mod tests;
