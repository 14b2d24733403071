//! Ends streams when the server drains: the waits of unary calls end by themselves or by their deadline, a stream would not.
//!
//! Each request carries [`Draining`], for handlers that wait. A stream is also told when only its connection has reached its
//! age, so that its client moves on before the connection is cut; a unary call is not, since it can finish first. Streams
//! whose service does not listen (reflection, health) are ended from here, so this must be outside of them and inside the
//! deadline.

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

/// A stream that drains may still deliver this many frames that are ready, such as the last news of its health.
const LAST_FRAMES: u32 = 16;

/// Cancelled when a call should end early with `SHUTTING_DOWN`: an extension of every request.
#[derive(Debug, Clone, Default)]
pub struct Draining(pub CancellationToken);

/// Cancelled when the connection drains, with the server or because of its age: an extension of every request.
#[derive(Debug, Clone, Default)]
pub struct ConnectionDraining(pub CancellationToken);

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
{
    type Response = Response<DrainBody<B>>;
    type Error = S::Error;
    type Future = DrainFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let mut draining = None;
        if methods::find(request.uri().path()).is_some_and(|method| method.streams)
            && let Some(ConnectionDraining(token)) = request.extensions().get().cloned()
        {
            request.extensions_mut().insert(Draining(token.clone()));
            draining = Some(token);
        }
        DrainFuture { inner: self.inner.call(request), draining }
    }
}

pin_project! {
    pub(crate) struct DrainFuture<F> {
        #[pin]
        inner: F,
        draining: Option<CancellationToken>,
    }
}

impl<F, B, E> Future for DrainFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<DrainBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(context))?;
        let draining = this.draining.take().map(|token| Box::pin(token.cancelled_owned()));
        Poll::Ready(Ok(response.map(|inner| DrainBody { inner: Some(inner), draining, frames_left: None })))
    }
}

/// A body that ends with SHUTTING_DOWN once its token is cancelled and it has nothing ready; empty after that.
pub(crate) struct DrainBody<B> {
    inner: Option<B>,
    draining: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// Set once the stream drains.
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
            // A future that has ended must not be polled again.
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
