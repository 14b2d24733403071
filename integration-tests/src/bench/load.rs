//! Load generation by callers that start their next call after each response.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tonic::Status;

use super::latencies::Latencies;

/// The results of a load.
#[derive(Debug, Clone, Default)]
pub struct Load {
    /// Latencies of the successful calls.
    pub latencies: Latencies,
    /// The number of failed calls by status code.
    pub errors: BTreeMap<String, usize>,
    pub elapsed: Duration,
}

impl Load {
    /// Returns the successful calls per second.
    pub fn per_second(&self) -> f64 {
        self.latencies.count() as f64 / self.elapsed.as_secs_f64()
    }

    /// Combines two loads that ran one after the other.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let mut errors = self.errors;
        for (code, count) in other.errors {
            *errors.entry(code).or_default() += count;
        }
        Self { latencies: self.latencies.and(other.latencies), errors, elapsed: self.elapsed + other.elapsed }
    }
}

/// The result of a single call.
pub(super) struct Timed<A> {
    pub(super) number: usize,
    pub(super) took: Duration,
    pub(super) answer: Result<A, Status>,
}

/// Splits calls into a load and the successful responses, which are sorted by call number.
pub(super) fn split_results<A>(calls: Vec<Timed<A>>, elapsed: Duration) -> (Load, Vec<(usize, A)>) {
    let (mut durations, mut answers, mut errors) = (Vec::with_capacity(calls.len()), Vec::new(), BTreeMap::new());
    for Timed { number, took, answer } in calls {
        match answer {
            Ok(answer) => {
                durations.push(took);
                answers.push((number, answer));
            }
            Err(status) => *errors.entry(format!("{:?}", status.code())).or_default() += 1,
        }
    }
    answers.sort_unstable_by_key(|(number, _)| *number);
    (Load { latencies: durations.into_iter().collect(), errors, elapsed }, answers)
}

/// The limit of a closed loop.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    pub(super) calls: usize,
    pub(super) time: Duration,
}

/// Runs a closed loop: each caller makes one call after the other until the limit. Calls are numbered from 0.
///
/// # Panics
/// With the status codes, if no call succeeds.
pub(super) async fn closed_loop<C, A, F>(
    callers: &[C],
    limit: Limit,
    call: impl Fn(C, usize) -> F + Send + Sync + 'static,
) -> (Load, Vec<(usize, A)>)
where
    C: Clone + Send + Sync + 'static,
    A: Send + 'static,
    F: Future<Output = Result<A, Status>> + Send + 'static,
{
    let (call, next) = (Arc::new(call), Arc::new(AtomicUsize::new(0)));
    let begun = Instant::now();
    let callers = callers.iter().cloned().map(|caller| {
        let (call, next) = (call.clone(), next.clone());
        tokio::spawn(async move {
            let mut calls = Vec::new();
            while begun.elapsed() < limit.time {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= limit.calls {
                    break;
                }
                let sent = Instant::now();
                let answer = call(caller.clone(), number).await;
                calls.push(Timed { number, took: sent.elapsed(), answer });
            }
            calls
        })
    });
    let done = futures::future::join_all(callers).await;
    let elapsed = begun.elapsed();
    let calls = done.into_iter().flat_map(|calls| calls.expect("no caller panics")).collect();
    let (load, answers) = split_results(calls, elapsed);
    assert!(!answers.is_empty(), "no call of {} was answered well: {:?}", limit.calls, load.errors);
    (load, answers)
}

/// Starts calls at a rate per second, whether or not earlier calls have ended. The latency of a call counts from the
/// moment at which it was due, so delays of the caller count too. Calls are numbered from 0.
///
/// # Panics
/// With the status codes, if no call succeeds.
pub(super) async fn open_loop<C, A, F>(
    callers: &[C],
    rate: f64,
    limit: Limit,
    call: impl Fn(C, usize) -> F,
) -> (Load, Vec<(usize, A)>)
where
    C: Clone,
    A: Send + 'static,
    F: Future<Output = Result<A, Status>> + Send + 'static,
{
    let begun = Instant::now();
    let mut running = Vec::new();
    for (number, caller) in callers.iter().cycle().take(limit.calls).enumerate() {
        let due = Duration::from_secs_f64(number as f64 / rate);
        if due >= limit.time {
            break;
        }
        let due = begun + due;
        tokio::time::sleep_until(due.into()).await;
        let call = call(caller.clone(), number);
        running.push(tokio::spawn(async move {
            let answer = call.await;
            Timed { number, took: due.elapsed(), answer }
        }));
    }
    let done = futures::future::join_all(running).await;
    let calls: Vec<Timed<A>> = done.into_iter().map(|call| call.expect("no caller panics")).collect();
    let count = calls.len();
    let (load, answers) = split_results(calls, begun.elapsed());
    assert!(!answers.is_empty(), "no call of {count} was answered well: {:?}", load.errors);
    (load, answers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Api;

    fn callers() -> Vec<Api> {
        vec![Api::at("127.0.0.1:1"); 3]
    }

    #[tokio::test]
    async fn every_number_is_called_once_and_errors_are_counted_separately() {
        let limit = Limit { calls: 20, time: Duration::from_secs(60) };
        let call = |_, number| async move { if number % 4 == 3 { Err(Status::aborted("")) } else { Ok(number) } };
        let (load, answers) = closed_loop(&callers(), limit, call).await;
        let expected: Vec<_> = (0..20).filter(|number| number % 4 != 3).map(|number| (number, number)).collect();
        assert_eq!(answers, expected);
        assert_eq!(load.latencies.count(), 15);
        assert_eq!(load.errors, BTreeMap::from([("Aborted".to_owned(), 5)]));
        let twice = load.clone().and(load);
        assert_eq!((twice.latencies.count(), twice.errors["Aborted"]), (30, 10));
    }

    #[tokio::test]
    async fn a_time_limit_ends_the_loop() {
        let limit = Limit { calls: usize::MAX, time: Duration::from_millis(20) };
        let (load, answers) = closed_loop(&callers(), limit, |_, _| async { Ok(()) }).await;
        assert!(load.elapsed >= limit.time && !answers.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_loop_does_not_wait_for_responses() {
        let limit = Limit { calls: 100, time: Duration::from_secs(2) };
        let hour = |_, number| async move {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            Ok(number)
        };
        let begun = tokio::time::Instant::now();
        let (load, answers) = open_loop(&callers(), 10.0, limit, hour).await;
        assert_eq!(answers.len(), 20, "ten a second for two seconds");
        assert_eq!(load.latencies.count(), 20);
        assert!(begun.elapsed() < Duration::from_secs(3603), "the calls overlap: {:?}", begun.elapsed());
    }

    #[tokio::test]
    #[should_panic(expected = "Unavailable")]
    async fn a_load_without_success_panics() {
        let limit = Limit { calls: 2, time: Duration::from_secs(60) };
        closed_loop(&callers(), limit, |_, _| async { Err::<(), _>(Status::unavailable("")) }).await;
    }
}
