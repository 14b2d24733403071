//! A running server and its shutdown.

use std::{fmt, net::SocketAddr, time::Duration};

use eticket_base::{in_process::Dialer, tasks::Tasks};
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout_at};

use super::connections::Signals;
use crate::{config::ShutdownConfig, health::Health};

/// Share of the shutdown time that running calls may use; the rest belongs to the hooks of the service.
const SHARE_OF_CALLS: f64 = 0.6;

/// How long a read-only call may take to respond once the server drains; a longer one is treated as a wait.
const GRACE_OF_READS: Duration = Duration::from_secs(1);

/// Share of the remaining time that calls have to deliver `SHUTTING_DOWN` before their connections close.
const SHARE_OF_LAST_WORDS: f64 = 0.2;

/// A step of the service's shutdown.
pub type Hook = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;

/// A running server. Dropping it does not stop it.
pub struct Running {
    name: &'static str,
    address: SocketAddr,
    dialer: Option<Dialer>,
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
        dialer: Option<Dialer>,
        health: Option<Health>,
        shutdown: &ShutdownConfig,
        signals: Signals,
        tasks: Tasks,
    ) -> Self {
        let (drain_delay, hard_cap) = (shutdown.drain_delay(), shutdown.hard_cap());
        Self { name, address, dialer, health, drain_delay, hard_cap, signals, tasks, hooks: Vec::new() }
    }

    /// The name of the server.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The listen address, with the actual port if it was configured as 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connects to the server from within its process. `None` if the server has TLS: its certificates decide who calls.
    #[must_use]
    pub fn dialer(&self) -> Option<&Dialer> {
        self.dialer.as_ref()
    }

    /// The health of the server, if it has one.
    #[must_use]
    pub fn health(&self) -> Option<&Health> {
        self.health.as_ref()
    }

    /// Adds a shutdown step, which runs after the calls have ended and after the steps added before. A step is aborted
    /// at the hard cap.
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

    /// Marks the server as not ready and returns how long it should continue to serve. [`Running::stop_until`] does the
    /// same unless this was called before; a process that stops several servers waits once for all of them.
    pub fn announce_stop(&mut self) -> Duration {
        if let Some(health) = &self.health {
            health.set_draining();
        }
        std::mem::take(&mut self.drain_delay)
    }

    /// Ends waits and streams, including new ones, while all other calls are still served. [`Running::stop_until`] does
    /// the same. When several servers stop in turn, call it on all of them first: a server that others call must not be
    /// the last to end its waits.
    pub fn end_waits(&self) {
        self.signals.ending.cancel();
    }

    /// Stops in the order that the module `server` documents. Everything that has not ended at `until` is aborted;
    /// returns whether nothing was.
    pub async fn stop_until(mut self, until: Instant) -> bool {
        let began = Instant::now();
        let delay = self.announce_stop();
        sleep(delay.min(until.saturating_duration_since(began))).await;
        self.end_waits();
        self.signals.draining.cancel();
        let mut complete = finish_calls(self.name, &self.tasks, &self.signals, until).await;
        for (index, hook) in self.hooks.into_iter().enumerate() {
            if timeout_at(until, hook()).await.is_err() {
                tracing::warn!(service = self.name, step = index, "a shutdown step did not finish in time");
                complete = false;
            }
        }
        tracing::info!(service = self.name, ms = began.elapsed().as_secs_f64() * 1_000.0, complete, "stopped");
        complete
    }
}

/// Waits for running calls, ends the late ones with `SHUTTING_DOWN`, then closes the remaining connections. Returns
/// whether all calls ended in time by themselves.
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
    tracing::warn!(service = name, "ending calls that did not finish in time");
    signals.forced_end.all.cancel();
    if timeout_at(share(SHARE_OF_LAST_WORDS), tasks.finish()).await.is_err() {
        tracing::warn!(service = name, "closing connections that did not end in time");
        signals.kill.cancel();
        // Calls of closed connections end at their next poll; a call that blocks its thread is abandoned.
        timeout_at(share(SHARE_OF_CALLS), tasks.finish()).await.ok();
    }
    false
}
