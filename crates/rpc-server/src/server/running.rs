//! A server that serves, and how it stops.

use std::{fmt, net::SocketAddr, time::Duration};

use eticket_base::tasks::Tasks;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout_at};

use super::connections::Signals;
use crate::{config::ShutdownConfig, health::Health};

/// Of the time there is for stopping, calls under way may take this share; the rest belongs to the service's own hooks.
const SHARE_OF_CALLS: f64 = 0.6;

/// A read has this long to be answered once the server drains; what takes longer is a wait.
const GRACE_OF_READS: Duration = Duration::from_secs(1);

/// Calls that are told at last that the server stops have this share of what is left to be heard, before they are cut.
const SHARE_OF_LAST_WORDS: f64 = 0.2;

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
    pub fn announce_stop(&mut self) -> Duration {
        if let Some(health) = &self.health {
            health.set_draining();
        }
        std::mem::take(&mut self.drain_delay)
    }

    /// Ends waits and streams, and those to come, while all else is still served. [`Running::stop_until`] does the same; where
    /// several servers stop in turn, who is called by another one must not be the last to let go.
    pub fn end_waits(&self) {
        self.signals.ending.cancel();
    }

    /// Stops in the order that the head of `server` gives. What has not ended at `until` is cut; answers whether nothing was.
    pub async fn stop_until(mut self, until: Instant) -> bool {
        let began = Instant::now();
        let delay = self.announce_stop();
        sleep(delay.min(until.saturating_duration_since(began))).await;
        self.end_waits();
        self.signals.draining.cancel();
        let mut complete = finish_calls(self.name, &self.tasks, &self.signals, until).await;
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

/// Lets calls finish, tells those that do not, and cuts what is left. Answers whether none had to be told for want of time.
async fn finish_calls(name: &str, tasks: &Tasks, signals: &Signals, until: Instant) -> bool {
    let share = |of: f64| Instant::now() + until.saturating_duration_since(Instant::now()).mul_f64(of);
    let last = share(SHARE_OF_CALLS);
    if timeout_at(last.min(Instant::now() + GRACE_OF_READS), tasks.finish()).await.is_ok() {
        return true;
    }
    signals.forced_end.reads.cancel();
    if timeout_at(last, tasks.finish()).await.is_ok() {
        return true;
    }
    tracing::warn!(service = name, "calls that did not finish in time are ended");
    signals.forced_end.all.cancel();
    if timeout_at(share(SHARE_OF_LAST_WORDS), tasks.finish()).await.is_err() {
        tracing::warn!(service = name, "connections that do not end are cut");
        signals.kill.cancel();
        // Cut calls end as soon as they are polled; one that blocks its thread is left behind.
        timeout_at(share(SHARE_OF_CALLS), tasks.finish()).await.ok();
    }
    false
}
