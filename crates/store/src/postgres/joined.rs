//! Single rows that many callers read at the same moment.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use eticket_base::error::chain;
use tokio::{runtime::Handle, sync::oneshot};

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
    /// each call. If the caller is cancelled, the others are not affected.
    ///
    /// # Errors
    /// The error of `read`, also of a read that was in progress when this key was requested. If the data of another key is
    /// invalid, the keys are read one by one.
    pub async fn read<R, F>(&self, key: K, read: R) -> Result<V, Error>
    where
        R: Fn(Vec<K>) -> F + Clone + Send + 'static,
        F: Future<Output = Result<Vec<V>, Error>> + Send + 'static,
    {
        if let Some(value) = self.wait_for_the_next(&key) {
            return value.await.unwrap_or(Err(Error::Unavailable(sqlx::Error::WorkerCrashed)));
        }
        // Within this call: alone, a read is as fast as a statement of its own. The turn passes on when it is dropped.
        let turn = Turn { state: self.state.clone(), read };
        let values = (turn.read)(vec![key]).await;
        if let Err(error @ Error::Unavailable(_)) = &values {
            turn.fail_those_waiting(error);
        }
        values?.pop().ok_or_else(missing)
    }

    /// Leaves the key to the next read, if one is in progress; otherwise the caller must read.
    fn wait_for_the_next(&self, key: &K) -> Option<oneshot::Receiver<Result<V, Error>>> {
        let mut state = lock(&self.state);
        mem::replace(&mut state.is_reading, true).then(|| {
            let (reply, value) = oneshot::channel();
            state.waiting.push(Waiting { key: key.clone(), reply });
            value
        })
    }
}

fn lock<K, V>(state: &Mutex<State<K, V>>) -> MutexGuard<'_, State<K, V>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn missing() -> Error {
    Error::data("a read returned no value for its key")
}

/// Returns the error for another caller; the errors of sqlx cannot be cloned.
fn again(error: &Error) -> Error {
    match error {
        Error::Unavailable(sqlx::Error::PoolClosed) => Error::Unavailable(sqlx::Error::PoolClosed),
        Error::Unavailable(source) => Error::Unavailable(sqlx::Error::Protocol(chain(source))),
        Error::Data(source) => Error::data(chain(&**source)),
    }
}

/// The turn to read. When it is dropped, also by a cancelled caller or a panic, a task reads for those that wait.
struct Turn<K, V, R, F>
where
    K: Clone + Send + 'static,
    V: Send + 'static,
    R: Fn(Vec<K>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Vec<V>, Error>> + Send + 'static,
{
    state: Arc<Mutex<State<K, V>>>,
    read: R,
}

impl<K, V, R, F> Turn<K, V, R, F>
where
    K: Clone + Send + 'static,
    V: Send + 'static,
    R: Fn(Vec<K>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Vec<V>, Error>> + Send + 'static,
{
    /// Takes the next keys.
    fn take(&self) -> Vec<Waiting<K, V>> {
        let mut state = lock(&self.state);
        let count = state.waiting.len().min(KEYS);
        let rest = state.waiting.split_off(count);
        mem::replace(&mut state.waiting, rest)
    }

    /// They have waited as long as the read took: another one could outlast their deadlines.
    fn fail_those_waiting(&self, error: &Error) {
        for Waiting { reply, .. } in mem::take(&mut lock(&self.state).waiting) {
            let _ = reply.send(Err(again(error)));
        }
    }

    async fn read_those_waiting(self) {
        let (keys, replies): (Vec<K>, Vec<_>) =
            self.take().into_iter().map(|waiting| (waiting.key, waiting.reply)).unzip();
        match (self.read)(keys.clone()).await {
            Ok(values) => {
                for (value, reply) in values.into_iter().zip(replies) {
                    // The caller may have been cancelled.
                    let _ = reply.send(Ok(value));
                }
            }
            Err(Error::Data(_)) if keys.len() > 1 => {
                for (key, reply) in keys.into_iter().zip(replies) {
                    let value = (self.read)(vec![key]).await.map(|mut values| values.pop());
                    let _ = reply.send(value.and_then(|value| value.ok_or_else(missing)));
                }
            }
            Err(error) => {
                for reply in replies {
                    let _ = reply.send(Err(again(&error)));
                }
                self.fail_those_waiting(&error);
            }
        }
    }
}

impl<K, V, R, F> Drop for Turn<K, V, R, F>
where
    K: Clone + Send + 'static,
    V: Send + 'static,
    R: Fn(Vec<K>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Vec<V>, Error>> + Send + 'static,
{
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.waiting.retain(|waiting| !waiting.reply.is_closed());
        if !state.waiting.is_empty()
            && let Ok(runtime) = Handle::try_current()
        {
            drop(state);
            let next = Self { state: self.state.clone(), read: self.read.clone() };
            runtime.spawn(next.read_those_waiting());
            return;
        }
        state.waiting.clear();
        state.is_reading = false;
    }
}

#[cfg(test)]
mod tests {
    use tokio::{sync::Semaphore, task::JoinHandle};

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

        fn ask(&self, joined: &Arc<Joined<u32, u32>>, key: u32) -> JoinHandle<Result<u32, Error>> {
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
        let [first, second] = one_waits(&source, &joined, 503).await;
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
        let [first, cancelled] = one_waits(&source, &joined, 1).await;
        cancelled.abort();
        assert!(cancelled.await.is_err());
        source.permits.add_permits(100);
        assert_eq!(first.await.unwrap().unwrap(), 2);
        assert_eq!(source.ask(&joined, 3).await.unwrap().unwrap(), 6);
        assert_eq!(source.reads(), [vec![1], vec![3]]);
    }

    /// Begins a read of `first`, and requests key 2 meanwhile.
    async fn one_waits(
        source: &Source,
        joined: &Arc<Joined<u32, u32>>,
        first: u32,
    ) -> [JoinHandle<Result<u32, Error>>; 2] {
        let first = source.ask(joined, first);
        while source.reads().is_empty() {
            tokio::task::yield_now().await;
        }
        let second = source.ask(joined, 2);
        while lock(&joined.state).waiting.is_empty() {
            tokio::task::yield_now().await;
        }
        [first, second]
    }

    #[tokio::test]
    async fn reads_continue_after_a_panic() {
        let (source, joined) = (Source::new(0), Arc::new(Joined::default()));
        let [panicking, waiting] = one_waits(&source, &joined, 666).await;
        source.permits.add_permits(100);
        assert!(panicking.await.is_err());
        assert_eq!(waiting.await.unwrap().unwrap(), 4);
        assert_eq!(source.ask(&joined, 4).await.unwrap().unwrap(), 8);
    }

    #[tokio::test]
    async fn a_cancelled_caller_passes_the_turn_on() {
        let (source, joined) = (Source::new(0), Arc::new(Joined::default()));
        let [cancelled, waiting] = one_waits(&source, &joined, 1).await;
        cancelled.abort();
        assert!(cancelled.await.is_err());
        source.permits.add_permits(100);
        assert_eq!(waiting.await.unwrap().unwrap(), 4);
        assert_eq!(source.reads(), [vec![1], vec![2]]);
    }
}
