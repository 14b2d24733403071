//! The outermost layer: trace, span, log line and metrics of each call.
//!
//! Log and metrics share a layer because both need the exact end of a call, which is hard to detect: a gRPC failure
//! travels in the headers or trailers of an HTTP 200, a stream ends long after its headers, and a caller may disconnect
//! at any point. The layer is outside of the catch-panic layer, so that panics are recorded as INTERNAL.
//!
//! Rejections and invalid input are the caller's errors; they are logged at debug and counted like all others. Neither
//! the message nor the status text, which may quote it, is logged.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use eticket_base::telemetry::{self, SpanKind, TraceContext};
use http::{Request, Response, uri::PathAndQuery};
use http_body::{Body, Frame, SizeHint};
use metrics::{Counter, Gauge, Histogram};
use pin_project_lite::pin_project;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::Span;

use super::{
    methods::{self, Method},
    reply,
};

const CODES: usize = 17;

/// Observes the calls of one server.
#[derive(Debug, Clone)]
pub(crate) struct ObserveLayer(Arc<Handles>);

/// Cached metric handles: a look-up by labels costs as much as the other bookkeeping of a cheap call together. The last
/// place counts calls of unknown methods.
struct Handles {
    service: &'static str,
    in_flight: OnceLock<Gauge>,
    calls: Vec<OnceLock<Counter>>,
    durations: Vec<OnceLock<Histogram>>,
}

impl std::fmt::Debug for Handles {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Handles").field("service", &self.service).finish_non_exhaustive()
    }
}

impl ObserveLayer {
    pub(crate) fn new(service: &'static str) -> Self {
        let places = methods::count() + 1;
        Self(Arc::new(Handles {
            service,
            in_flight: OnceLock::new(),
            calls: (0..places * CODES).map(|_| OnceLock::new()).collect(),
            durations: (0..places).map(|_| OnceLock::new()).collect(),
        }))
    }
}

impl Handles {
    fn in_flight(&self) -> &Gauge {
        self.in_flight.get_or_init(|| metrics::gauge!("eticket_rpc_in_flight", "service" => self.service))
    }

    fn record(&self, method: Option<&'static Method>, code: Code, seconds: f64) {
        let place = method.map_or(self.durations.len() - 1, |method| method.index);
        let rpc = name_of(method);
        if let Some(calls) = self.calls.get(place * CODES + code as usize) {
            let calls = calls.get_or_init(|| {
                let code = reply::code_name(code);
                metrics::counter!("eticket_rpc_total", "service" => self.service, "rpc" => rpc, "code" => code)
            });
            calls.increment(1);
        }
        if let Some(durations) = self.durations.get(place) {
            let durations = durations.get_or_init(
                || metrics::histogram!("eticket_rpc_duration_seconds", "service" => self.service, "rpc" => rpc),
            );
            durations.record(seconds);
        }
    }
}

fn name_of(method: Option<&'static Method>) -> &'static str {
    method.map_or("unknown", |method| method.name.as_str())
}

/// A running call. Dropped before its end it is recorded as CANCELLED, because the caller has disconnected.
struct Observation {
    handles: Arc<Handles>,
    method: Option<&'static Method>,
    start: Instant,
    /// For the log.
    span: Span,
    /// For the trace.
    exported: telemetry::Span,
    ended: bool,
}

impl Observation {
    fn begin(handles: Arc<Handles>, method: Option<&'static Method>, trace: &TraceContext) -> Self {
        let span = tracing::info_span!(
            "rpc",
            service = handles.service,
            rpc = name_of(method),
            correlation_id = %trace.correlation_id,
            trace_id = trace.trace_id(),
        );
        handles.in_flight().increment(1.0);
        Self { handles, method, start: Instant::now(), span, exported: exported(method, trace), ended: false }
    }

    /// `explained`: the status has details.
    fn end(&mut self, code: Code, explained: bool) {
        if self.ended {
            return;
        }
        self.ended = true;
        let elapsed = self.start.elapsed();
        self.handles.in_flight().decrement(1.0);
        self.handles.record(self.method, code, elapsed.as_secs_f64());
        self.exported.set("rpc.grpc.status_code", i64::from(code as i32));
        if is_fault(code) {
            self.exported.fail(reply::code_name(code));
        }
        // The body may be dropped much later.
        drop(std::mem::take(&mut self.exported));
        let (code_name, ms) = (reply::code_name(code), elapsed.as_secs_f64() * 1_000.0);
        self.span.in_scope(|| match code {
            // A status without details comes from tonic: the body was not a message of the method's type.
            Code::Internal if !explained => tracing::info!(code = code_name, ms, "call failed, with a malformed body"),
            Code::Internal | Code::Unknown | Code::DataLoss => tracing::error!(code = code_name, ms, "call failed"),
            _ => tracing::debug!(code = code_name, ms, "call ended"),
        });
    }
}

/// Begins the span of a call. Health and reflection have none: probes would be most of all traces.
fn exported(method: Option<&'static Method>, trace: &TraceContext) -> telemetry::Span {
    let Some(method) = method.filter(|method| !method.exempt) else { return telemetry::Span::default() };
    let mut span = telemetry::Span::start(SpanKind::Server, trace, || method.name.as_str().into());
    if let (true, Some((service, name))) = (span.is_recorded(), method.name.split_once('/')) {
        span.set("rpc.system", "grpc");
        span.set("rpc.service", service);
        span.set("rpc.method", name);
    }
    span
}

/// The codes that the conventions of OpenTelemetry count as a fault of the server.
fn is_fault(code: Code) -> bool {
    use Code::{DataLoss, DeadlineExceeded, Internal, Unavailable, Unimplemented, Unknown};
    matches!(code, Unknown | DeadlineExceeded | Unimplemented | Internal | Unavailable | DataLoss)
}

impl Drop for Observation {
    fn drop(&mut self) {
        self.end(Code::Cancelled, false);
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe { inner, handles: self.0.clone() }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Observe<S> {
    inner: S,
    handles: Arc<Handles>,
}

impl<S, A, B> Service<Request<A>> for Observe<S>
where
    S: Service<Request<A>, Response = Response<B>>,
{
    type Response = Response<ObserveBody<B>>;
    type Error = S::Error;
    type Future = ObserveFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let trace = TraceContext::from_headers(request.headers()).at(self.handles.service);
        let path = request.uri().path_and_query().cloned();
        let observation = Observation::begin(self.handles.clone(), methods::look_up(&mut request), &trace);
        request.extensions_mut().insert(trace);
        let inner = observation.span.in_scope(|| self.inner.call(request));
        ObserveFuture { inner, observation: Some(observation), path }
    }
}

pin_project! {
    pub(crate) struct ObserveFuture<F> {
        #[pin]
        inner: F,
        observation: Option<Observation>,
        path: Option<PathAndQuery>,
    }
}

impl<F, B, E> Future for ObserveFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<ObserveBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let entered = this.observation.as_ref().map(|observation| observation.span.enter());
        let mut response = ready!(this.inner.poll(context))?;
        drop(entered);
        let mut observation = this.observation.take();
        // A status in the headers ends the call; no body follows.
        if let Some(code) = reply::code_of(response.headers())
            && let Some(mut observation) = observation.take()
        {
            observation.end(code, reply::is_explained(response.headers()));
            let headers = response.headers_mut();
            if code == Code::Unimplemented && !headers.contains_key(Status::GRPC_MESSAGE) {
                reply::name_unknown(headers, this.path.as_ref().map_or("", PathAndQuery::path));
            }
            reply::decode_message(headers);
        }
        Poll::Ready(Ok(response.map(|inner| ObserveBody { inner, observation })))
    }
}

/// A body that ends the observation with the status in its trailers.
pub(crate) struct ObserveBody<B> {
    inner: B,
    observation: Option<Observation>,
}

impl<B: Default> Default for ObserveBody<B> {
    fn default() -> Self {
        Self { inner: B::default(), observation: None }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for ObserveBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        let entered = this.observation.as_ref().map(|observation| observation.span.enter());
        let mut frame = ready!(Pin::new(&mut this.inner).poll_frame(context));
        drop(entered);
        if let Some(trailers) = frame.as_mut().and_then(|frame| frame.as_mut().ok()?.trailers_mut()) {
            reply::decode_message(trailers);
        }
        let end = match &frame {
            Some(Ok(frame)) => frame
                .trailers_ref()
                .and_then(|trailers| Some((reply::code_of(trailers)?, reply::is_explained(trailers)))),
            // A body without a status is a plain HTTP response.
            None => Some((Code::Ok, false)),
            Some(Err(_)) => Some((Code::Unknown, false)),
        };
        if let Some((code, explained)) = end
            && let Some(mut observation) = this.observation.take()
        {
            observation.end(code, explained);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
