//! Reads an HTTP/1.1 request body to its end even if the call has already ended.
//!
//! Otherwise the connection would close while the client still writes, and the client would see a broken pipe instead
//! of the response. HTTP/2 does not need this, because it ends single streams.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use eticket_base::tasks::Tasks;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::timeout;

/// Limit of the bytes that are read and discarded.
const MOST_BYTES: usize = 16 * 1024 * 1024;
/// Limit of the time for reading them.
const LONGEST: Duration = Duration::from_secs(2);

/// Continues reading in its own task if it is dropped before the end of the body.
#[derive(Debug)]
pub(crate) struct Lingering {
    inner: Option<Body>,
    tasks: Tasks,
}

impl Lingering {
    pub(crate) fn wrap(inner: Body, tasks: &Tasks) -> Body {
        match inner.is_end_stream() {
            true => inner,
            false => Body::new(Self { inner: Some(inner), tasks: tasks.clone() }),
        }
    }
}

impl http_body::Body for Lingering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let polled = Pin::new(inner).poll_frame(context);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.inner = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take().filter(|inner| !inner.is_end_stream()) {
            self.tasks.spawn("rest of a request", async move {
                timeout(LONGEST, discard(inner)).await.ok();
            });
        }
    }
}

async fn discard(mut body: Body) {
    let mut left = MOST_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { return };
        left = rest;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use futures::stream::{self, StreamExt};

    use super::*;

    /// Creates a body of `chunks` chunks of 1 MiB; also returns how many of them were read.
    fn body(chunks: usize) -> (Body, Arc<AtomicUsize>) {
        let read = Arc::new(AtomicUsize::new(0));
        let counting = read.clone();
        let chunks = stream::iter(0..chunks).map(move |_| {
            counting.fetch_add(1, Ordering::SeqCst);
            Ok::<_, axum::Error>(Bytes::from(vec![0; 1024 * 1024]))
        });
        (Body::from_stream(chunks), read)
    }

    #[tokio::test]
    async fn the_unread_rest_is_discarded_up_to_a_limit() {
        for (chunks, expected) in [(3, 3), (100, 17)] {
            let tasks = Tasks::new();
            let (inner, read) = body(chunks);
            drop(Lingering::wrap(inner, &tasks));
            tasks.finish().await;
            assert_eq!(read.load(Ordering::SeqCst), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_for_a_silent_client_is_bounded() {
        let tasks = Tasks::new();
        drop(Lingering::wrap(Body::from_stream(stream::pending::<Result<Bytes, axum::Error>>()), &tasks));
        let start = tokio::time::Instant::now();
        tasks.finish().await;
        assert_eq!(start.elapsed(), LONGEST);
    }
}
