//! Determines how long a connection stays open after its maximum age: until the last deadline of its running calls.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::time::Instant;

/// The deadlines of the running calls of one connection. An extension of every request. Clones share state.
#[derive(Debug, Clone, Default)]
pub(crate) struct Deadlines(Arc<Mutex<BTreeMap<Instant, usize>>>);

impl Deadlines {
    /// Registers a call with this deadline until the returned value is dropped.
    pub(crate) fn hold(&self, until: Instant) -> Held {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(until).or_default() += 1;
        Held { deadlines: self.clone(), until }
    }

    /// The latest deadline of the running calls.
    pub(crate) fn last(&self) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).last_key_value().map(|(last, _)| *last)
    }
}

/// A registered call.
#[derive(Debug)]
pub(crate) struct Held {
    deadlines: Deadlines,
    until: Instant,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut deadlines = self.deadlines.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = deadlines.get_mut(&self.until) {
            *count -= 1;
            if *count == 0 {
                deadlines.remove(&self.until);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_last_deadline_is_that_of_a_call_under_way() {
        let (deadlines, now) = (Deadlines::default(), Instant::now());
        assert_eq!(deadlines.last(), None);
        let later = now + Duration::from_secs(1);
        let (first, second, third) = (deadlines.hold(now), deadlines.hold(later), deadlines.hold(later));
        drop(second);
        assert_eq!(deadlines.last(), Some(later));
        drop(third);
        assert_eq!(deadlines.last(), Some(now));
        drop(first);
        assert_eq!(deadlines.last(), None);
    }
}
