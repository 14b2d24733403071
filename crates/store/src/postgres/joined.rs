//! Single rows that many callers read at the same moment.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use eticket_base::error::chain;
use tokio::sync::oneshot;

use crate::Error;

/// Maximum number of keys in one read.
const KEYS: usize = 512;

struct Waiting<K, V> {
    key: K,
    reply: oneshot::Sender<Result<V, Error>>,
}

struct State<K, V> {
    waiting: Vec<Waiting<K, V>>,
    is_reading: bool,
}

/// Joins reads: the keys that are requested while a read is in progress are read together by the next one. A read begins
/// after the request of each of its keys, so it sees everything that was committed before the request.
pub struct Joined<K, V> {
    state: Arc<Mutex<State<K, V>>>,
}

impl<K, V> Default for Joined<K, V> {
    fn default() -> Self {
        Self { state: Arc::new(Mutex::new(State { waiting: Vec::new(), is_reading: false })) }
    }
}

impl<K, V> Joined<K, V>
where
    K: Clone + Send + 'static,
    V: Send + 'static,
{
    /// Reads the value of one key. `read` returns the values of several keys, in their order; it is the same function in
    /// each call. A read that has begun is completed even if its callers are cancelled.
    ///
    /// # Errors
    /// The error of `read`, also of a read that was in progress when this key was requested. If the data of another key is
    /// invalid, the keys are read one by one.
    pub async fn read<R, F>(&self, key: K, read: R) -> Result<V, Error>
    where
        R: Fn(Vec<K>) -> F + Send + 'static,
        F: Future<Output = Result<Vec<V>, Error>> + Send + 'static,
    {
        let (reply, value) = oneshot::channel();
        let was_reading = {
            let mut state = lock(&self.state);
            state.waiting.push(Waiting { key, reply });
            mem::replace(&mut state.is_reading, true)
        };
        if !was_reading {
            tokio::spawn(read_all(Reading { state: self.state.clone(), has_ended: false }, read));
        }
        value.await.unwrap_or(Err(Error::Unavailable(sqlx::Error::WorkerCrashed)))
    }
}

fn lock<K, V>(state: &Mutex<State<K, V>>) -> MutexGuard<'_, State<K, V>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The turn to read. If a panic ends it, the callers get an error, and the next one begins another turn.
struct Reading<K, V> {
    state: Arc<Mutex<State<K, V>>>,
    has_ended: bool,
}

impl<K, V> Reading<K, V> {
    /// Takes the next keys. Ends the turn if there are none.
    fn take(&mut self) -> Option<Vec<Waiting<K, V>>> {
        let mut state = lock(&self.state);
        state.waiting.retain(|waiting| !waiting.reply.is_closed());
        let count = state.waiting.len().min(KEYS);
        let rest = state.waiting.split_off(count);
        let taken = mem::replace(&mut state.waiting, rest);
        self.has_ended = taken.is_empty();
        state.is_reading = !self.has_ended;
        state.is_reading.then_some(taken)
    }

    /// Takes all that came since.
    fn take_replies(&self) -> impl Iterator<Item = oneshot::Sender<Result<V, Error>>> + use<K, V> {
        mem::take(&mut lock(&self.state).waiting).into_iter().map(|waiting| waiting.reply)
    }
}

impl<K, V> Drop for Reading<K, V> {
    fn drop(&mut self) {
        if !self.has_ended {
            let mut state = lock(&self.state);
            state.waiting.clear();
            state.is_reading = false;
        }
    }
}

/// Returns the error for another caller; the errors of sqlx cannot be cloned.
fn again(error: &Error) -> Error {
    match error {
        Error::Unavailable(sqlx::Error::PoolClosed) => Error::Unavailable(sqlx::Error::PoolClosed),
        Error::Unavailable(source) => Error::Unavailable(sqlx::Error::Protocol(chain(source))),
        Error::Data(source) => Error::data(chain(&**source)),
    }
}

async fn read_all<K, V, R, F>(mut turn: Reading<K, V>, read: R)
where
    K: Clone,
    R: Fn(Vec<K>) -> F,
    F: Future<Output = Result<Vec<V>, Error>>,
{
    while let Some(taken) = turn.take() {
        let (keys, replies): (Vec<K>, Vec<_>) = taken.into_iter().map(|waiting| (waiting.key, waiting.reply)).unzip();
        match read(keys.clone()).await {
            Ok(values) => {
                for (value, reply) in values.into_iter().zip(replies) {
                    // The caller may have been cancelled.
                    let _ = reply.send(Ok(value));
                }
            }
            Err(Error::Data(_)) if keys.len() > 1 => {
                for (key, reply) in keys.into_iter().zip(replies) {
                    let value = read(vec![key]).await.map(|mut values| values.pop());
                    let missing = || Error::data("a read returned no value for its key");
                    let _ = reply.send(value.and_then(|value| value.ok_or_else(missing)));
                }
            }
            Err(error) => {
                // Those that came during the read have waited as long: another read could outlast their deadlines.
                for reply in replies.into_iter().chain(turn.take_replies()) {
                    let _ = reply.send(Err(again(&error)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    /// Records the keys of each read, and returns their doubles after a permit. Fails for 13, and panics for 666.
    #[derive(Clone)]
    struct Source {
        reads: Arc<Mutex<Vec<Vec<u32>>>>,
        permits: Arc<Semaphore>,
    }

    impl Source {
        fn new(permits: usize) -> Self {
            Self { reads: Arc::default(), permits: Arc::new(Semaphore::new(permits)) }
        }

        async fn read(self, keys: Vec<u32>) -> Result<Vec<u32>, Error> {
            self.reads.lock().unwrap().push(keys.clone());
            self.permits.acquire().await.unwrap().forget();
            assert!(!keys.contains(&666), "a read that panics");
            if keys.contains(&13) {
                return Err(Error::data("13"));
            }
            if keys.contains(&503) {
                return Err(Error::Unavailable(sqlx::Error::PoolTimedOut));
            }
            Ok(keys.into_iter().map(|key| key * 2).collect())
        }

        fn ask(&self, joined: &Arc<Joined<u32, u32>>, key: u32) -> tokio::task::JoinHandle<Result<u32, Error>> {
            let (source, joined) = (self.clone(), joined.clone());
            tokio::spawn(async move { joined.read(key, move |keys| source.clone().read(keys)).await })
        }

        /// Requests all keys while the read of key 1 is in progress, then lets all reads end.
        async fn behind_a_read(&self, keys: &[u32]) -> Vec<Result<u32, Error>> {
            let joined = Arc::new(Joined::default());
            let first = self.ask(&joined, 1);
            while self.reads.lock().unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
            let rest: Vec<_> = keys.iter().map(|key| self.ask(&joined, *key)).collect();
            while lock(&joined.state).waiting.len() < keys.len() {
                tokio::task::yield_now().await;
            }
            self.permits.add_permits(100);
            assert_eq!(first.await.unwrap().unwrap(), 2);
            let mut values = Vec::new();
            for one in rest {
                values.push(one.await.unwrap());
            }
            values
        }

        fn reads(&self) -> Vec<Vec<u32>> {
            self.reads.lock().unwrap().clone()
        }
    }

    #[tokio::test]
    async fn keys_requested_during_a_read_are_read_together_after_it() {
        let source = Source::new(0);
        let values = source.behind_a_read(&[1, 2, 3]).await;
        assert_eq!(values.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [2, 4, 6]);
        // Also the same key: the first read may not see what was committed since.
        assert_eq!(source.reads(), [vec![1], vec![1, 2, 3]]);
    }

    #[tokio::test]
    async fn a_row_with_invalid_data_fails_only_its_own_callers() {
        let source = Source::new(0);
        let values = source.behind_a_read(&[2, 13, 3]).await;
        assert!(matches!(&values[..], [Ok(4), Err(Error::Data(_)), Ok(6)]), "{values:?}");
        assert_eq!(source.reads(), [vec![1], vec![2, 13, 3], vec![2], vec![13], vec![3]]);
    }

    #[tokio::test]
    async fn an_outage_fails_all_callers_at_once() {
        let (source, joined) = (Source::new(0), Arc::new(Joined::default()));
        let first = source.ask(&joined, 503);
        while source.reads().is_empty() {
            tokio::task::yield_now().await;
        }
        let second = source.ask(&joined, 2);
        while lock(&joined.state).waiting.is_empty() {
            tokio::task::yield_now().await;
        }
        source.permits.add_permits(100);
        for one in [first, second] {
            assert!(matches!(one.await.unwrap(), Err(Error::Unavailable(_))));
        }
        assert_eq!(source.reads(), [vec![503]], "the second has waited as long as a read takes");
        assert_eq!(source.ask(&joined, 2).await.unwrap().unwrap(), 4);
    }

    #[tokio::test]
    async fn the_keys_of_cancelled_callers_are_not_read() {
        let (source, joined) = (Source::new(0), Arc::new(Joined::default()));
        let first = source.ask(&joined, 1);
        while source.reads().is_empty() {
            tokio::task::yield_now().await;
        }
        let cancelled = source.ask(&joined, 2);
        while lock(&joined.state).waiting.is_empty() {
            tokio::task::yield_now().await;
        }
        cancelled.abort();
        assert!(cancelled.await.is_err());
        source.permits.add_permits(100);
        assert_eq!(first.await.unwrap().unwrap(), 2);
        assert_eq!(source.ask(&joined, 3).await.unwrap().unwrap(), 6);
        assert_eq!(source.reads(), [vec![1], vec![3]]);
    }

    #[tokio::test]
    async fn reads_continue_after_a_panic() {
        let (source, joined) = (Source::new(100), Arc::new(Joined::default()));
        assert!(matches!(source.ask(&joined, 666).await.unwrap(), Err(Error::Unavailable(_))));
        assert_eq!(source.ask(&joined, 4).await.unwrap().unwrap(), 8);
    }
}
