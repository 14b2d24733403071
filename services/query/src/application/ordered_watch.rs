//! A value that many look at. Who waits for it to change is told in the order of waiting, which tokio's own `watch` leaves to
//! chance: a simulation could not be repeated.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

struct Inner<T> {
    /// The value, and how often it was changed.
    state: Mutex<(u64, T)>,
    changed: Notify,
}

impl<T> Inner<T> {
    fn state(&self) -> MutexGuard<'_, (u64, T)> {
        // Changed in single steps; a panic elsewhere leaves nothing half done in it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module.
pub struct OrderedWatch<T>(Arc<Inner<T>>);

impl<T: Clone> OrderedWatch<T> {
    pub fn new(value: T) -> Self {
        Self(Arc::new(Inner { state: Mutex::new((0, value)), changed: Notify::new() }))
    }

    /// Changes the value; `change` says whether it has, and only then anybody is told.
    pub fn modify(&self, change: impl FnOnce(&mut T) -> bool) {
        let mut state = self.0.state();
        if change(&mut state.1) {
            state.0 += 1;
            drop(state);
            self.0.changed.notify_waiters();
        }
    }

    /// One that has seen the value as it is now.
    pub fn listen(&self) -> Listener<T> {
        Listener { seen: self.0.state().0, ordered_watch: self.0.clone() }
    }
}

/// One who looks.
pub struct Listener<T> {
    ordered_watch: Arc<Inner<T>>,
    /// So many changes it knows of.
    seen: u64,
}

impl<T: Clone> Listener<T> {
    /// The value as it is now, which counts as seen.
    pub fn latest(&mut self) -> T {
        let state = self.ordered_watch.state();
        self.seen = state.0;
        state.1.clone()
    }

    /// Waits until the value is another than the one last seen. Cancellation loses nothing.
    pub async fn changed(&mut self) -> T {
        let ordered_watch = self.ordered_watch.clone();
        loop {
            // A change is heard from here on, also before it is waited for.
            let changed = ordered_watch.changed.notified();
            let (count, value) = ordered_watch.state().clone();
            if count != self.seen {
                self.seen = count;
                return value;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_change_is_seen_once_and_none_is_missed() {
        let ordered_watch = OrderedWatch::new(1);
        let mut listener = ordered_watch.listen();
        assert_eq!(listener.changed().now_or_never(), None, "it has seen that");
        ordered_watch.modify(|value| std::mem::replace(value, 2) != 2);
        ordered_watch.modify(|value| std::mem::replace(value, 3) != 3);
        assert_eq!(listener.changed().now_or_never(), Some(3));
        assert_eq!(listener.changed().now_or_never(), None);
        ordered_watch.modify(|_| false);
        assert_eq!(listener.changed().now_or_never(), None, "nothing was changed");
        ordered_watch.modify(|value| std::mem::replace(value, 4) != 4);
        assert_eq!(listener.latest(), 4);
        assert_eq!(listener.changed().now_or_never(), None, "it has looked");
    }

    #[tokio::test]
    async fn who_waits_longest_is_told_first() {
        let ordered_watch = OrderedWatch::new(0);
        let told = Arc::new(Mutex::new(Vec::new()));
        let wait = |name: usize| {
            let (mut listener, told) = (ordered_watch.listen(), told.clone());
            async move {
                listener.changed().await;
                told.lock().unwrap().push(name);
            }
        };
        let waiting: Vec<_> = (0..20).map(|name| tokio::spawn(wait(name))).collect();
        tokio::task::yield_now().await;
        ordered_watch.modify(|value| std::mem::replace(value, 1) != 1);
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(*told.lock().unwrap(), (0..20).collect::<Vec<_>>());
    }
}
