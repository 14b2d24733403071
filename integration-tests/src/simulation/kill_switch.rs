//! Tracks whether a process is alive, and at which of its steps it dies.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio_util::sync::CancellationToken;

/// Clones belong to the same process.
#[derive(Clone, Default)]
pub(super) struct KillSwitch(Arc<Inner>);

#[derive(Default)]
struct Inner {
    is_dead: AtomicBool,
    /// Steps until the process dies; 0 if no death is planned.
    left: AtomicU64,
    died: CancellationToken,
}

impl KillSwitch {
    pub(super) fn is_alive(&self) -> bool {
        !self.0.is_dead.load(Ordering::Relaxed)
    }

    /// Counts a step of the process; returns whether the process is still alive.
    pub(super) fn beat(&self) -> bool {
        let left = self.0.left.load(Ordering::Relaxed);
        self.0.left.store(left.saturating_sub(1), Ordering::Relaxed);
        if left == 1 {
            self.stop();
        }
        self.is_alive()
    }

    /// Kills the process like SIGKILL.
    pub(super) fn stop(&self) {
        self.0.is_dead.store(true, Ordering::Relaxed);
        self.0.died.cancel();
    }

    /// Plans the death of the process at this step from now.
    pub(super) fn doom(&self, steps: u64) {
        self.0.left.store(steps, Ordering::Relaxed);
    }

    /// Cancels a planned death.
    pub(super) fn spare(&self) {
        self.doom(0);
    }

    pub(super) async fn died(&self) {
        self.0.died.cancelled().await;
    }
}
