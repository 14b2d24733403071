//! Spawns all tasks of a service, with names, and joins them when the service stops.
//!
//! A panic ends only its own task. It is logged with the name of the task and counted in `eticket_task_panics_total`,
//! because a consumer or relay that ended unnoticed is worse than one that never started.

use std::{any::Any, future::Future, panic::AssertUnwindSafe};

use futures::FutureExt;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

/// The tasks of one service. Clones refer to the same tasks.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stopping: CancellationToken,
}

impl Tasks {
    /// Creates an empty set of tasks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `future` to completion. It is never aborted; a task that must end early watches [`Tasks::stopping`].
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let guarded = AssertUnwindSafe(future).catch_unwind().map(move |end| {
            if let Err(panic) = end {
                metrics::counter!("eticket_task_panics_total", "task" => name).increment(1);
                tracing::error!(task = name, panic = panic_text(&*panic), "a task panicked");
            }
        });
        self.tracker.spawn(guarded.instrument(tracing::Span::current()));
    }

    /// Returns the token that is cancelled when the service stops.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Cancels [`Tasks::stopping`] and waits until all tasks have ended, including those spawned meanwhile.
    pub async fn stop(&self) {
        self.stopping.cancel();
        self.finish().await;
    }

    /// Waits until all tasks have ended, without cancelling them.
    pub async fn finish(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Returns the message of a panic, if it is text.
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use super::*;

    #[tokio::test]
    async fn stop_cancels_and_waits() {
        let tasks = Tasks::new();
        let ended = Arc::new(AtomicBool::new(false));
        let (stopping, flag) = (tasks.stopping(), ended.clone());
        tasks.spawn("waiting", async move {
            stopping.cancelled().await;
            tokio::task::yield_now().await;
            flag.store(true, Ordering::SeqCst);
        });
        tasks.stop().await;
        assert!(ended.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn finish_waits_without_cancelling() {
        let tasks = Tasks::new();
        let (send, receive) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn("waiting", async move {
            receive.await.ok();
        });
        assert!(tasks.finish().now_or_never().is_none());
        assert!(!tasks.stopping().is_cancelled());
        send.send(()).expect("the task listens");
        tasks.finish().await;
    }

    #[tokio::test]
    async fn a_panic_ends_only_its_own_task() {
        let tasks = Tasks::new();
        tasks.spawn("panics", async { panic!("on purpose") });
        let (send, receive) = tokio::sync::oneshot::channel();
        tasks.spawn("unaffected", async move {
            send.send(()).ok();
        });
        tasks.finish().await;
        assert_eq!(receive.await, Ok(()));
        assert_eq!(panic_text(&String::from("words")), "words");
    }
}
