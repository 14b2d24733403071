//! Converts a panic in a handler into INTERNAL; only that call ends.
//!
//! This layer is inside the observe and language layers and outside of all layers that hold resources for a call:
//! unwinding drops their futures and bodies, which releases permits.

use std::{
    any::Any,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use eticket_base::tasks;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Status;
use tower::{Layer, Service};

use super::reply;
use crate::error;

#[derive(Debug, Clone, Copy)]
pub(crate) struct CatchPanicLayer;

impl<S> Layer<S> for CatchPanicLayer {
    type Service = CatchPanic<S>;

    fn layer(&self, inner: S) -> CatchPanic<S> {
        CatchPanic { inner }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct CatchPanic<S> {
    inner: S,
}

impl<S, A, B> Service<Request<A>> for CatchPanic<S>
where
    S: Service<Request<A>, Response = Response<B>>,
{
    type Response = Response<CatchPanicBody<B>>;
    type Error = S::Error;
    type Future = CatchPanicFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        // Only polling needs protection: generated services run no handler code in `call`.
        CatchPanicFuture { inner: self.inner.call(request) }
    }
}

pin_project! {
    pub(crate) struct CatchPanicFuture<F> {
        #[pin]
        inner: F,
    }
}

impl<F, B, E> Future for CatchPanicFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<CatchPanicBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let inner = self.project().inner;
        match catch_unwind(AssertUnwindSafe(|| inner.poll(context))) {
            Ok(poll) => poll.map_ok(|response| response.map(|inner| CatchPanicBody { inner: Some(inner) })),
            Err(panic) => Poll::Ready(Ok(reply::only_trailers(status_of(&*panic)))),
        }
    }
}

fn status_of(panic: &(dyn Any + Send)) -> Status {
    metrics::counter!("eticket_rpc_panics_total").increment(1);
    tracing::error!(panic = tasks::panic_text(panic), "a handler panicked");
    error::internal_status()
}

/// A body that ends with INTERNAL after a panic; empty afterwards.
#[derive(Debug)]
pub(crate) struct CatchPanicBody<B> {
    inner: Option<B>,
}

impl<B> Default for CatchPanicBody<B> {
    fn default() -> Self {
        Self { inner: None }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for CatchPanicBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        match catch_unwind(AssertUnwindSafe(|| Pin::new(inner).poll_frame(context))) {
            Ok(poll) => poll,
            Err(panic) => {
                self.inner = None;
                Poll::Ready(Some(reply::trailers(status_of(&*panic))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
