//! Ends calls with `SHUTTING_DOWN` when the server drains, so that no connected client sees a broken connection.
//!
//! Each request carries [`Draining`], for handlers that wait. This layer ends the calls that their handlers do not end,
//! so it must be outside of all services and inside the deadline layer:
//!
//! - Streams end immediately, also when only their connection has reached its maximum age, so that the client moves to
//!   another connection before this one closes. A stream that reports the progress of finite work continues when only
//!   the connection ages.
//! - Unanswered read-only calls end after a short grace: the gateway cannot tell a wait from work.
//! - Everything else ends when no time is left. Commands do not end earlier, because their effect may already be
//!   committed.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use eticket_proto::error::ErrorReason;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tower::{Layer, Service};

use super::{methods, reply};
use crate::error::ApiError;

/// A draining response may still deliver this many frames that are ready, such as the last health change.
const LAST_FRAMES: u32 = 16;

/// Cancelled when a call should end early with `SHUTTING_DOWN`. An extension of every request.
#[derive(Debug, Clone, Default)]
pub struct Draining(pub CancellationToken);

/// Cancelled when the connection drains, because the server stops or because of the connection's age. An extension of
/// every request.
#[derive(Debug, Clone, Default)]
pub struct ConnectionDraining(pub CancellationToken);

/// Ends calls that nothing else has ended. An extension of every request. The tokens are cancelled in the order of the
/// fields.
#[derive(Debug, Clone, Default)]
pub(crate) struct ForcedEnd {
    /// For streams that report the progress of finite work.
    pub(crate) work: CancellationToken,
    /// For read-only calls without a response.
    pub(crate) reads: CancellationToken,
    /// For all remaining calls.
    pub(crate) all: CancellationToken,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct DrainLayer;

impl<S> Layer<S> for DrainLayer {
    type Service = Drain<S>;

    fn layer(&self, inner: S) -> Drain<S> {
        Drain { inner }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Drain<S> {
    inner: S,
}

impl<S, A, B> Service<Request<A>> for Drain<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    B: Default,
{
    type Response = Response<DrainBody<B>>;
    type Error = S::Error;
    type Future = DrainFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let method = methods::of(&request);
        let forced_end: ForcedEnd = request.extensions().get().cloned().unwrap_or_default();
        let ends = match request.extensions().get().cloned() {
            _ if method.is_some_and(|method| method.finishes) => {
                Ends { unanswered: end(forced_end.work.clone()), answered: Some(forced_end.work) }
            }
            Some(ConnectionDraining(token)) if method.is_some_and(|method| method.streams) => {
                request.extensions_mut().insert(Draining(token.clone()));
                Ends { unanswered: end(token.clone()), answered: Some(token) }
            }
            // A read-only response that has begun is sent to its end.
            _ if method.is_some_and(|method| method.reads && !method.streams) => {
                Ends { unanswered: end(forced_end.reads), answered: Some(forced_end.all) }
            }
            _ => Ends { unanswered: end(forced_end.all.clone()), answered: Some(forced_end.all) },
        };
        DrainFuture { inner: self.inner.call(request), ends }
    }
}

type End = Pin<Box<WaitForCancellationFutureOwned>>;

fn end(token: CancellationToken) -> End {
    Box::pin(token.cancelled_owned())
}

/// The signals that end a call before its response, and during the response.
struct Ends {
    unanswered: End,
    /// None once the response has begun.
    answered: Option<CancellationToken>,
}

pin_project! {
    pub(crate) struct DrainFuture<F> {
        #[pin]
        inner: F,
        ends: Ends,
    }
}

impl<F, B, E> Future for DrainFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Default,
{
    type Output = Result<Response<DrainBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // The handler is polled first: one that observes `Draining` returns a more specific response than this layer
        // can.
        let Poll::Ready(response) = this.inner.poll(context) else {
            ready!(this.ends.unanswered.as_mut().poll(context));
            return Poll::Ready(Ok(reply::only_trailers(ApiError::new(ErrorReason::ShuttingDown))));
        };
        let draining = this.ends.answered.take().map(end);
        Poll::Ready(
            response.map(|whole| whole.map(|inner| DrainBody { inner: Some(inner), draining, frames_left: None })),
        )
    }
}

/// A body that ends with SHUTTING_DOWN once its token is cancelled and it has no ready frame; empty afterwards.
pub(crate) struct DrainBody<B> {
    inner: Option<B>,
    draining: Option<End>,
    /// Set once the response drains.
    frames_left: Option<u32>,
}

impl<B> Default for DrainBody<B> {
    fn default() -> Self {
        Self { inner: None, draining: None, frames_left: None }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for DrainBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        if this.draining.as_mut().is_some_and(|token| token.as_mut().poll(context).is_ready()) {
            // A completed future must not be polled again.
            this.draining = None;
            this.frames_left = Some(LAST_FRAMES);
        }
        match &mut this.frames_left {
            None => return Pin::new(inner).poll_frame(context),
            Some(0) => {}
            Some(left) => {
                *left -= 1;
                if let Poll::Ready(frame) = Pin::new(inner).poll_frame(context) {
                    return Poll::Ready(frame);
                }
            }
        }
        this.inner = None;
        Poll::Ready(Some(reply::trailers(ApiError::new(ErrorReason::ShuttingDown))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
