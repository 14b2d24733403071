//! Callers that call again as soon as they have their answer.

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
use crate::Api;

/// What came of a load.
#[derive(Debug, Clone, Default)]
pub struct Load {
    /// Of the calls that were answered well.
    pub latencies: Latencies,
    /// Failed calls by their status code.
    pub errors: BTreeMap<String, usize>,
    pub elapsed: Duration,
}

impl Load {
    /// Good answers a second.
    pub fn per_second(&self) -> f64 {
        self.latencies.count() as f64 / self.elapsed.as_secs_f64()
    }

    /// One after the other.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let mut errors = self.errors;
        for (code, count) in other.errors {
            *errors.entry(code).or_default() += count;
        }
        Self { latencies: self.latencies.and(other.latencies), errors, elapsed: self.elapsed + other.elapsed }
    }
}

/// How a single call went.
pub(super) struct Timed<A> {
    pub(super) number: usize,
    pub(super) took: Duration,
    pub(super) answer: Result<A, Status>,
}

/// A load and the good answers, by the numbers of their calls.
pub(super) fn sorted_out<A>(calls: Vec<Timed<A>>, elapsed: Duration) -> (Load, Vec<(usize, A)>) {
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

/// When a closed loop is over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    pub(super) calls: usize,
    pub(super) time: Duration,
}

/// Each of the callers makes one call after the other until the limit; calls are numbered from 0.
///
/// # Panics
/// If not one call is answered well, with a code that says why.
pub(super) async fn closed_loop<A, F>(
    callers: &[Api],
    limit: Limit,
    call: impl Fn(Api, usize) -> F + Send + Sync + 'static,
) -> (Load, Vec<(usize, A)>)
where
    A: Send + 'static,
    F: Future<Output = Result<A, Status>> + Send + 'static,
{
    let (call, next) = (Arc::new(call), Arc::new(AtomicUsize::new(0)));
    let begun = Instant::now();
    let callers = callers.iter().cloned().map(|api| {
        let (call, next) = (call.clone(), next.clone());
        tokio::spawn(async move {
            let mut calls = Vec::new();
            while begun.elapsed() < limit.time {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= limit.calls {
                    break;
                }
                let sent = Instant::now();
                let answer = call(api.clone(), number).await;
                calls.push(Timed { number, took: sent.elapsed(), answer });
            }
            calls
        })
    });
    let done = futures::future::join_all(callers).await;
    let elapsed = begun.elapsed();
    let calls = done.into_iter().flat_map(|calls| calls.expect("no caller panics")).collect();
    let (load, answers) = sorted_out(calls, elapsed);
    assert!(!answers.is_empty(), "no call of {} was answered well: {:?}", limit.calls, load.errors);
    (load, answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn callers() -> Vec<Api> {
        vec![Api::at("127.0.0.1:1"); 3]
    }

    #[tokio::test]
    async fn every_number_is_called_once_and_errors_are_counted_apart() {
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
    async fn time_ends_it_too() {
        let limit = Limit { calls: usize::MAX, time: Duration::from_millis(20) };
        let (load, answers) = closed_loop(&callers(), limit, |_, _| async { Ok(()) }).await;
        assert!(load.elapsed >= limit.time && !answers.is_empty());
    }

    #[tokio::test]
    #[should_panic(expected = "Unavailable")]
    async fn no_good_answer_at_all_is_no_measurement() {
        let limit = Limit { calls: 2, time: Duration::from_secs(60) };
        closed_loop(&callers(), limit, |_, _| async { Err::<(), _>(Status::unavailable("")) }).await;
    }
}
