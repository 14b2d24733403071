//! Bounds the calls under way. One too many is refused at once: a queue would only add its wait to what is late already.
//!
//! It is the innermost layer: what others refuse takes no permit. A permit is held until the response's body has ended or
//! its caller has gone, whichever comes first.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use eticket_proto::error::ErrorReason;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::{Layer, Service};

use super::{methods, reply};
use crate::{config::EXEMPT_STREAMS, error::ApiError};

#[derive(Debug, Clone)]
pub(crate) struct AdmissionLayer {
    service: &'static str,
    permits: Arc<Semaphore>,
    /// For streams of health and reflection: a client that opens them without end must be refused too.
    exempt: Arc<Semaphore>,
}

impl AdmissionLayer {
    pub(crate) fn new(service: &'static str, concurrency: usize) -> Self {
        let exempt = Arc::new(Semaphore::new(EXEMPT_STREAMS));
        Self { service, permits: Arc::new(Semaphore::new(concurrency)), exempt }
    }
}

impl<S> Layer<S> for AdmissionLayer {
    type Service = Admission<S>;

    fn layer(&self, inner: S) -> Admission<S> {
        Admission { inner, service: self.service, permits: self.permits.clone(), exempt: self.exempt.clone() }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Admission<S> {
    inner: S,
    service: &'static str,
    permits: Arc<Semaphore>,
    exempt: Arc<Semaphore>,
}

impl<S, A, B> Service<Request<A>> for Admission<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    B: Default,
{
    type Response = Response<AdmissionBody<B>>;
    type Error = S::Error;
    type Future = AdmissionFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let permits = match methods::find(request.uri().path()) {
            Some(method) if method.exempt && method.streams => &self.exempt,
            Some(method) if method.exempt => {
                return AdmissionFuture { inner: Some(self.inner.call(request)), permit: None };
            }
            _ => &self.permits,
        };
        match permits.clone().try_acquire_owned() {
            Ok(permit) => AdmissionFuture { inner: Some(self.inner.call(request)), permit: Some(permit) },
            Err(_) => {
                metrics::counter!("eticket_rpc_shed_total", "service" => self.service).increment(1);
                AdmissionFuture { inner: None, permit: None }
            }
        }
    }
}

pin_project! {
    pub(crate) struct AdmissionFuture<F> {
        // None if the call is shed.
        #[pin]
        inner: Option<F>,
        permit: Option<OwnedSemaphorePermit>,
    }
}

impl<F, B, E> Future for AdmissionFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Default,
{
    type Output = Result<Response<AdmissionBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(inner) = this.inner.as_pin_mut() else {
            let refusal = reply::only_trailers(ApiError::new(ErrorReason::ServiceOverloaded));
            return Poll::Ready(Ok(refusal));
        };
        let response = ready!(inner.poll(context))?;
        let permit = this.permit.take();
        Poll::Ready(Ok(response.map(|inner| AdmissionBody { inner, _permit: permit })))
    }
}

/// A body that holds its call's permit.
#[derive(Debug, Default)]
pub(crate) struct AdmissionBody<B> {
    inner: B,
    _permit: Option<OwnedSemaphorePermit>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for AdmissionBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
