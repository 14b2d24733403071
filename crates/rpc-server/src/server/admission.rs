//! Bounds the number of running calls. A call above the limit is rejected immediately: a queue would only add its delay
//! to calls that are already late.
//!
//! This is the innermost layer, so calls that other layers reject take no permit. A call holds its permit until its
//! response body ends or its caller disconnects. A client that does not read its response must not occupy a permit:
//! when no permit is free, those of bodies that were not polled for [`IDLE`] are revoked.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use eticket_proto::error::ErrorReason;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tower::{Layer, Service};

use super::{methods, reply};
use crate::{config::EXEMPT_STREAMS, error::ApiError};

/// A body is idle if its client has not polled it for this long although it may have data.
pub(super) const IDLE: Duration = Duration::from_secs(10);
/// Minimum time between two searches for idle bodies.
const LOOK: Duration = Duration::from_secs(1);

/// The permits, and the bodies that hold them.
#[derive(Debug)]
struct Permits {
    free: Arc<Semaphore>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    bodies: HashMap<u64, Hold>,
    begun: u64,
    looked: Option<Instant>,
}

#[derive(Debug)]
struct Hold {
    permit: OwnedSemaphorePermit,
    /// When the body began to wait for its client; `None` while it waits for the service.
    idle: Option<Instant>,
}

impl Permits {
    fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { free: Arc::new(Semaphore::new(most)), held: Mutex::default() })
    }

    fn try_acquire(&self) -> Option<OwnedSemaphorePermit> {
        let acquire = || self.free.clone().try_acquire_owned().ok();
        acquire().or_else(|| {
            self.revoke_idle();
            acquire()
        })
    }

    fn revoke_idle(&self) {
        let (now, mut held) = (Instant::now(), self.held());
        if held.looked.is_some_and(|looked| now - looked < LOOK) {
            return;
        }
        held.looked = Some(now);
        held.bodies.retain(|_, hold| hold.idle.is_none_or(|idle| now - idle < IDLE));
    }

    /// Registers a body, which holds the permit until the returned value is dropped. The body counts as not polled yet.
    fn hold(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> BodyPermit {
        let mut held = self.held();
        held.begun += 1;
        let number = held.begun;
        held.bodies.insert(number, Hold { permit, idle: Some(Instant::now()) });
        drop(held);
        BodyPermit { permits: self.clone(), number, waker: None }
    }

    fn set_idle(&self, number: u64, idle: bool) {
        let mut held = self.held();
        if let Some(hold) = held.bodies.get_mut(&number) {
            hold.idle = idle.then(Instant::now);
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Every change of the map is a single step, so a panic in another thread leaves it consistent.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The permit of a body, unless it was revoked.
#[derive(Debug)]
struct BodyPermit {
    permits: Arc<Permits>,
    number: u64,
    /// The waker of the last poll.
    waker: Option<Arc<BodyWaker>>,
}

impl BodyPermit {
    /// Returns the waker to pass to the body, which wakes `task`.
    fn waker(&mut self, task: &Waker) -> Waker {
        match &self.waker {
            Some(known) if known.task.will_wake(task) => return known.clone().into(),
            // Another task polls the body from now on.
            Some(known) => known.replaced.store(true, Ordering::Relaxed),
            None => {}
        }
        let (permits, number, task) = (self.permits.clone(), self.number, task.clone());
        let waker = Arc::new(BodyWaker { permits, number, task, replaced: AtomicBool::new(false) });
        self.waker.insert(waker).clone().into()
    }
}

/// Wakes the task that polls a body. From then on the body waits for its client: it may have data, but a client that has
/// taken its window back by SETTINGS keeps hyper from polling it.
#[derive(Debug)]
struct BodyWaker {
    permits: Arc<Permits>,
    number: u64,
    task: Waker,
    replaced: AtomicBool,
}

impl Wake for BodyWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.replaced.load(Ordering::Relaxed) {
            self.permits.set_idle(self.number, true);
        }
        self.task.wake_by_ref();
    }
}

impl Drop for BodyPermit {
    fn drop(&mut self) {
        let hold = self.permits.held().bodies.remove(&self.number);
        drop(hold.map(|hold| hold.permit));
    }
}

#[derive(Debug, Clone)]
pub(crate) struct AdmissionLayer {
    service: &'static str,
    permits: Arc<Permits>,
    /// For health and reflection streams: a client that opens them without limit must be rejected too.
    exempt: Arc<Permits>,
}

impl AdmissionLayer {
    pub(crate) fn new(service: &'static str, concurrency: usize) -> Self {
        Self { service, permits: Permits::new(concurrency), exempt: Permits::new(EXEMPT_STREAMS) }
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
    permits: Arc<Permits>,
    exempt: Arc<Permits>,
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
        let permits = match methods::of(&request) {
            Some(method) if method.exempt && method.streams => &self.exempt,
            Some(method) if method.exempt => {
                return AdmissionFuture { inner: Some(self.inner.call(request)), permit: None };
            }
            _ => &self.permits,
        };
        match permits.try_acquire() {
            Some(permit) => {
                let permit = Some((permits.clone(), permit));
                AdmissionFuture { inner: Some(self.inner.call(request)), permit }
            }
            None => {
                metrics::counter!("eticket_rpc_shed_total", "service" => self.service).increment(1);
                AdmissionFuture { inner: None, permit: None }
            }
        }
    }
}

pin_project! {
    pub(crate) struct AdmissionFuture<F> {
        // None if the call is rejected.
        #[pin]
        inner: Option<F>,
        permit: Option<(Arc<Permits>, OwnedSemaphorePermit)>,
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
        let place = this.permit.take().map(|(permits, permit)| permits.hold(permit));
        Poll::Ready(Ok(response.map(|inner| AdmissionBody { inner, place })))
    }
}

/// A body that holds the permit of its call.
#[derive(Debug, Default)]
pub(crate) struct AdmissionBody<B> {
    inner: B,
    place: Option<BodyPermit>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for AdmissionBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let AdmissionBody { inner, place } = &mut *self;
        let Some(place) = place else { return Pin::new(inner).poll_frame(context) };
        // Before the poll: the body may be woken while it is polled, and that counts.
        place.permits.set_idle(place.number, false);
        let waker = place.waker(context.waker());
        let polled = Pin::new(inner).poll_frame(&mut Context::from_waker(&waker));
        if polled.is_ready() {
            place.permits.set_idle(place.number, true);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::{FutureExt, StreamExt, channel::mpsc};
    use http_body_util::{BodyExt, StreamBody};
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_may_have_data_and_is_not_polled_loses_its_permit() {
        let (sender, receiver) = mpsc::unbounded();
        let inner = StreamBody::new(receiver.map(|data| Ok::<_, Infallible>(Frame::data(data))));
        let permits = Permits::new(1);
        let permit = permits.try_acquire().expect("it is free");
        let mut body = AdmissionBody { inner, place: Some(permits.hold(permit)) };
        assert!(body.frame().now_or_never().is_none(), "it waits for the service");
        advance(2 * IDLE).await;
        assert!(permits.try_acquire().is_none(), "its client is not at fault");
        sender.unbounded_send(Bytes::from_static(b"data")).expect("open");
        // A client that has taken back its window by SETTINGS keeps hyper from polling the body.
        advance(IDLE / 2).await;
        assert!(permits.try_acquire().is_none(), "it has not waited long");
        advance(IDLE).await;
        assert!(permits.try_acquire().is_some());
        assert!(body.frame().await.is_some(), "its data is delivered nevertheless");
    }
}
