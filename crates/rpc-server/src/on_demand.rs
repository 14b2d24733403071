//! Streams of responses that hold nothing while their client takes nothing.
//!
//! hyper polls the body of a response only while its client gives flow control window. A body that reads a store therefore stops
//! in the middle of the read, with the pooled connection or the lock in hand, for as long as its client likes. Here the source of
//! a stream runs in a task of its own: an item that was asked for is made to the end, whatever the client does meanwhile, and
//! the next one is made only when the body asks for it.

use std::time::Duration;

use eticket_base::tasks::Tasks;
use eticket_proto::error::ErrorReason;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::error::{ApiError, internal_status};

/// A stream ends, and gives back all it has, when its client takes no message for so long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `source` in a task and asks it for one item at a time.
///
/// The stream ends after the first error of `source`; with `SERVICE_OVERLOADED` when the client takes nothing for [`PATIENCE`];
/// and with `INTERNAL` when `source` panics. `ending` asks `source` for its next item even if the client does not: cancel it
/// where `source` then has an error to give.
pub fn on_demand<T: Send + 'static>(
    tasks: &Tasks,
    name: &'static str,
    ending: CancellationToken,
    mut source: BoxStream<'static, Result<T, Status>>,
) -> BoxStream<'static, Result<T, Status>> {
    let (ask, mut asked) = mpsc::channel::<()>(1);
    // One item, and beside it the error of a client that has not even taken that.
    let (give, given) = mpsc::channel(2);
    tasks.spawn(name, async move {
        loop {
            let demand = tokio::select! {
                biased;
                () = ending.cancelled() => Ok(Some(())),
                demand = timeout(PATIENCE, asked.recv()) => demand,
            };
            let next = match demand {
                Ok(Some(())) => tokio::select! {
                    biased;
                    () = give.closed() => return,
                    next = source.next() => next,
                },
                Ok(None) => return,
                Err(_) => Some(Err(nothing_taken())),
            };
            if matches!(next, Some(Ok(_))) {
                // There is room: an item is made only when the one before was taken, except at the end.
                if give.try_send(next).is_err() {
                    return;
                }
                continue;
            }
            // What the source holds is free before anybody can see the end.
            drop(source);
            let _ = give.try_send(next);
            return;
        }
    });
    let taken = stream::unfold(Some((ask, given)), |channels| async move {
        let (ask, mut given) = channels?;
        // Fails when the task has ended: what it left is in the other channel.
        let _ = ask.send(()).await;
        match given.recv().await {
            Some(Some(item)) => {
                let goes_on = item.is_ok();
                Some((item, goes_on.then_some((ask, given))))
            }
            Some(None) => None,
            None => Some((Err(internal_status()), None)),
        }
    });
    taken.boxed()
}

fn nothing_taken() -> Status {
    let message = format!("the client has taken no message for {} s; begin again", PATIENCE.as_secs());
    ApiError::new(ErrorReason::ServiceOverloaded).message(message).into()
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use futures::FutureExt;

    use super::*;

    /// Counts up, with a wait within each item. The counter shows how many are made.
    fn numbers(made: Arc<AtomicU32>) -> BoxStream<'static, Result<u32, Status>> {
        let next = |(number, made): (u32, Arc<AtomicU32>)| async move {
            tokio::task::yield_now().await;
            made.store(number, Ordering::SeqCst);
            Some((Ok(number), (number + 1, made)))
        };
        stream::unfold((1, made), next).boxed()
    }

    fn reason(item: Option<Result<u32, Status>>) -> Option<ErrorReason> {
        ApiError::from_status(&item.expect("an item").expect_err("an error"))
    }

    #[tokio::test]
    async fn an_item_is_made_to_its_end_without_being_polled_and_no_other_one() {
        let (tasks, made) = (Tasks::new(), Arc::new(AtomicU32::new(0)));
        let mut stream = on_demand(&tasks, "numbers", CancellationToken::new(), numbers(made.clone()));
        tokio::task::yield_now().await;
        assert_eq!(made.load(Ordering::SeqCst), 0, "nobody has asked");
        assert!(stream.next().now_or_never().is_none(), "it takes a moment");
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        assert_eq!(made.load(Ordering::SeqCst), 1);
        assert_eq!(stream.next().await.expect("an item").expect("a number"), 1);
        drop(stream);
        tasks.finish().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_gives_back_what_the_source_holds() {
        let tasks = Tasks::new();
        let held = Arc::new(());
        let holds = held.clone();
        let source = stream::iter(1..).map(move |number| {
            let _ = &holds;
            Ok(number)
        });
        let mut stream = on_demand(&tasks, "numbers", CancellationToken::new(), source.boxed());
        assert_eq!(stream.next().await.expect("an item").expect("a number"), 1);
        // Asked for, made, and never taken.
        assert!(stream.next().now_or_never().is_none());
        let begun = tokio::time::Instant::now();
        tasks.finish().await;
        assert_eq!(begun.elapsed(), PATIENCE);
        assert_eq!(Arc::strong_count(&held), 1, "the source is gone");
        assert_eq!(stream.next().await.expect("an item").expect("a number"), 2, "what was made is not lost");
        assert_eq!(reason(stream.next().await), Some(ErrorReason::ServiceOverloaded));
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn the_source_says_why_it_ends_also_to_a_client_that_asks_for_nothing() {
        let tasks = Tasks::new();
        let ending = CancellationToken::new();
        let ended = ending.clone();
        let source = stream::once(async move {
            ended.cancelled().await;
            Err(ApiError::new(ErrorReason::ShuttingDown).into())
        });
        let mut stream = on_demand(&tasks, "ends", ending.clone(), source.boxed());
        ending.cancel();
        tasks.finish().await;
        assert_eq!(reason(stream.next().await), Some(ErrorReason::ShuttingDown));
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn an_end_is_an_end_and_a_panic_is_none() {
        let tasks = Tasks::new();
        let mut stream = on_demand(&tasks, "ends", CancellationToken::new(), stream::iter([Ok(1)]).boxed());
        assert_eq!(stream.next().await.expect("an item").expect("a number"), 1);
        assert!(stream.next().await.is_none());
        let source = stream::once(async { panic!("on purpose") });
        let mut stream: BoxStream<'static, Result<u32, Status>> =
            on_demand(&tasks, "panics", CancellationToken::new(), source.boxed());
        let status = stream.next().await.expect("an item").expect_err("an error");
        assert_eq!(status.code(), tonic::Code::Internal, "a client must not take it for the end");
        tasks.finish().await;
    }
}
