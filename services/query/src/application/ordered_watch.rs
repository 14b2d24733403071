//! A value with change notifications in the order in which listeners wait. The order of `tokio::sync::watch` is random,
//! so that simulations would not be repeatable.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

struct Inner<T> {
    /// The value, and the number of its changes.
    state: Mutex<(u64, T)>,
    changed: Notify,
}

impl<T> Inner<T> {
    fn state(&self) -> MutexGuard<'_, (u64, T)> {
        // Each change is a single step, so a panic elsewhere cannot leave the value in an inconsistent state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module.
pub struct OrderedWatch<T>(Arc<Inner<T>>);

impl<T: Clone> OrderedWatch<T> {
    pub fn new(value: T) -> Self {
        Self(Arc::new(Inner { state: Mutex::new((0, value)), changed: Notify::new() }))
    }

    /// Changes the value. Listeners are notified only if `change` returns `true`.
    pub fn modify(&self, change: impl FnOnce(&mut T) -> bool) {
        let mut state = self.0.state();
        if change(&mut state.1) {
            state.0 += 1;
            drop(state);
            self.0.changed.notify_waiters();
        }
    }

    /// Returns a listener that has seen the current value.
    pub fn listen(&self) -> Listener<T> {
        Listener { seen: self.0.state().0, ordered_watch: self.0.clone() }
    }
}

/// Listens to changes of the value.
pub struct Listener<T> {
    ordered_watch: Arc<Inner<T>>,
    /// Number of changes that the listener has seen.
    seen: u64,
}

impl<T: Clone> Listener<T> {
    /// Returns the current value and marks it as seen.
    pub fn latest(&mut self) -> T {
        let state = self.ordered_watch.state();
        self.seen = state.0;
        state.1.clone()
    }

    /// Waits until the value has changed since it was last seen. It is cancel safe: no change is lost.
    pub async fn changed(&mut self) -> T {
        let ordered_watch = self.ordered_watch.clone();
        loop {
            // Created before the check, so that a change between the check and the wait is not missed.
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
        assert_eq!(listener.changed().now_or_never(), None, "the current value is seen");
        ordered_watch.modify(|value| std::mem::replace(value, 2) != 2);
        ordered_watch.modify(|value| std::mem::replace(value, 3) != 3);
        assert_eq!(listener.changed().now_or_never(), Some(3));
        assert_eq!(listener.changed().now_or_never(), None);
        ordered_watch.modify(|_| false);
        assert_eq!(listener.changed().now_or_never(), None, "no change");
        ordered_watch.modify(|value| std::mem::replace(value, 4) != 4);
        assert_eq!(listener.latest(), 4);
        assert_eq!(listener.changed().now_or_never(), None, "seen by latest");
    }

    #[tokio::test]
    async fn the_listener_that_waits_longest_is_notified_first() {
        let ordered_watch = OrderedWatch::new(0);
        let notified = Arc::new(Mutex::new(Vec::new()));
        let wait = |name: usize| {
            let (mut listener, notified) = (ordered_watch.listen(), notified.clone());
            async move {
                listener.changed().await;
                notified.lock().unwrap().push(name);
            }
        };
        let waiting: Vec<_> = (0..20).map(|name| tokio::spawn(wait(name))).collect();
        tokio::task::yield_now().await;
        ordered_watch.modify(|value| std::mem::replace(value, 1) != 1);
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(*notified.lock().unwrap(), (0..20).collect::<Vec<_>>());
    }
}
