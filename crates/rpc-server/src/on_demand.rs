//! Response streams that hold no resource while the client does not read.
//!
//! hyper polls a response body only while the client grants flow control window. A body that reads from a store can
//! therefore stop in the middle of a read and keep a pooled connection or a lock for as long as the client likes. Here
//! the source of a stream runs in its own task: a requested item is always produced completely, whatever the client
//! does, and the next item is produced only when the body requests it.

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

/// A stream ends and releases all its resources when its client has read no message for this long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `source` in a task and requests one item at a time.
///
/// The stream ends after the first error of `source`; with `SERVICE_OVERLOADED` if the client reads nothing for
/// [`PATIENCE`]; and with `INTERNAL` if `source` panics. Cancelling `ending` polls `source` for its next item without a
/// request from the client: cancel it when `source` has a final error to return.
pub fn on_demand<T: Send + 'static>(
    tasks: &Tasks,
    name: &'static str,
    ending: CancellationToken,
    mut source: BoxStream<'static, Result<T, Status>>,
) -> BoxStream<'static, Result<T, Status>> {
    let (ask, mut asked) = mpsc::channel::<()>(1);
    // Capacity for one item, and for the final error of a client that has not read this item.
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
                Err(_) => Some(Err(client_reads_nothing())),
            };
            if matches!(next, Some(Ok(_))) {
                // There is capacity: except at the end, an item is produced only after the previous one was read.
                if give.try_send(next).is_err() {
                    return;
                }
                continue;
            }
            // Releases the resources of the source before the client can see the end of the stream.
            drop(source);
            let _ = give.try_send(next);
            return;
        }
    });
    let taken = stream::unfold(Some((ask, given)), |channels| async move {
        let (ask, mut given) = channels?;
        // Fails if the task has ended; its last item is then in the other channel.
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

fn client_reads_nothing() -> Status {
    let message = format!("the client has read no message for {} s; start the call again", PATIENCE.as_secs());
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

    /// Counts up; each item contains a wait. `made` counts the produced items.
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
    async fn a_requested_item_completes_without_polls_and_no_further_item_starts() {
        let (tasks, made) = (Tasks::new(), Arc::new(AtomicU32::new(0)));
        let mut stream = on_demand(&tasks, "numbers", CancellationToken::new(), numbers(made.clone()));
        tokio::task::yield_now().await;
        assert_eq!(made.load(Ordering::SeqCst), 0, "nothing was requested");
        assert!(stream.next().now_or_never().is_none(), "the item is not ready yet");
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        assert_eq!(made.load(Ordering::SeqCst), 1);
        assert_eq!(stream.next().await.expect("an item").expect("a number"), 1);
        drop(stream);
        tasks.finish().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_reading_releases_the_source() {
        let tasks = Tasks::new();
        let held = Arc::new(());
        let holds = held.clone();
        let source = stream::iter(1..).map(move |number| {
            let _ = &holds;
            Ok(number)
        });
        let mut stream = on_demand(&tasks, "numbers", CancellationToken::new(), source.boxed());
        assert_eq!(stream.next().await.expect("an item").expect("a number"), 1);
        // Requested and produced, but never read.
        assert!(stream.next().now_or_never().is_none());
        let begun = tokio::time::Instant::now();
        tasks.finish().await;
        assert_eq!(begun.elapsed(), PATIENCE);
        assert_eq!(Arc::strong_count(&held), 1, "the source was dropped");
        assert_eq!(stream.next().await.expect("an item").expect("a number"), 2, "the produced item is delivered");
        assert_eq!(reason(stream.next().await), Some(ErrorReason::ServiceOverloaded));
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn the_final_error_reaches_a_client_that_does_not_read() {
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
    async fn a_panic_ends_the_stream_with_an_error() {
        let tasks = Tasks::new();
        let mut stream = on_demand(&tasks, "ends", CancellationToken::new(), stream::iter([Ok(1)]).boxed());
        assert_eq!(stream.next().await.expect("an item").expect("a number"), 1);
        assert!(stream.next().await.is_none());
        let source = stream::once(async { panic!("on purpose") });
        let mut stream: BoxStream<'static, Result<u32, Status>> =
            on_demand(&tasks, "panics", CancellationToken::new(), source.boxed());
        let status = stream.next().await.expect("an item").expect_err("an error");
        assert_eq!(status.code(), tonic::Code::Internal, "a client must not mistake a panic for the end");
        tasks.finish().await;
    }
}
