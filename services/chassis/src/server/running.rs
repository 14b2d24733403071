//! A server that serves, and how it stops.

use std::{fmt, net::SocketAddr, time::Duration};

use futures::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout_at};

use super::connections::Signals;
use crate::{config::ShutdownConfig, health::Health, tasks::Tasks};

/// Of the time there is for stopping, calls under way may take this share; the rest belongs to the service's own hooks.
const SHARE_OF_CALLS: f64 = 0.6;

/// A step of a service's stop.
pub type Hook = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;

/// A server that serves until it is stopped. Dropped it goes on serving.
pub struct Running {
    name: &'static str,
    address: SocketAddr,
    health: Option<Health>,
    drain_delay: Duration,
    hard_cap: Duration,
    signals: Signals,
    tasks: Tasks,
    hooks: Vec<Hook>,
}

impl fmt::Debug for Running {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Running")
            .field("name", &self.name)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Running {
    pub(super) fn new(
        name: &'static str,
        address: SocketAddr,
        health: Option<Health>,
        shutdown: &ShutdownConfig,
        signals: Signals,
        tasks: Tasks,
    ) -> Self {
        let (drain_delay, hard_cap) = (shutdown.drain_delay(), shutdown.hard_cap());
        Self { name, address, health, drain_delay, hard_cap, signals, tasks, hooks: Vec::new() }
    }

    /// The name that it was given.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Where it listens, the port known also where it was 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it says of itself, if it says anything.
    #[must_use]
    pub fn health(&self) -> Option<&Health> {
        self.health.as_ref()
    }

    /// Adds a step to the stop: after the calls, and after the steps added before. A step is cut when the hard cap is reached.
    #[must_use]
    pub fn then<F>(mut self, step: impl FnOnce() -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.hooks.push(Box::new(move || Box::pin(step())));
        self
    }

    /// Stops within the configured hard cap.
    pub async fn stop(self) {
        let until = Instant::now() + self.hard_cap;
        self.stop_until(until).await;
    }

    /// Says that it is not ready any more, and answers how long it should then go on serving. [`Running::stop_until`] does the
    /// same unless this was called: where several servers stop, they wait together.
    pub(crate) fn announce_stop(&mut self) -> Duration {
        if let Some(health) = &self.health {
            health.set_draining();
        }
        std::mem::take(&mut self.drain_delay)
    }

    /// Stops in the order that the head of `server` gives. What has not ended at `until` is cut; answers whether nothing was.
    pub async fn stop_until(mut self, until: Instant) -> bool {
        let began = Instant::now();
        let delay = self.announce_stop();
        sleep(delay.min(until.saturating_duration_since(began))).await;
        self.signals.draining.cancel();
        let share = until.saturating_duration_since(Instant::now()).mul_f64(SHARE_OF_CALLS);
        let mut complete = timeout_at(Instant::now() + share, self.tasks.finish()).await.is_ok();
        if !complete {
            tracing::warn!(service = self.name, "calls that did not finish in time are cut");
            self.signals.kill.cancel();
            // Cut calls end as soon as they are polled; one that blocks its thread is left behind.
            let share = until.saturating_duration_since(Instant::now()).mul_f64(SHARE_OF_CALLS);
            timeout_at(Instant::now() + share, self.tasks.finish()).await.ok();
        }
        for (index, hook) in self.hooks.into_iter().enumerate() {
            if timeout_at(until, hook()).await.is_err() {
                tracing::warn!(service = self.name, step = index, "a step of the stop did not finish in time");
                complete = false;
            }
        }
        tracing::info!(service = self.name, ms = began.elapsed().as_secs_f64() * 1_000.0, complete, "stopped");
        complete
    }
}
