//! One gRPC call through the gateway: routed by its path, limited in size, and forwarded without decoding its messages.
//!
//! The surrounding layers set its deadline, language and trace.

pub(crate) mod request_body;
pub(crate) mod response_body;

use std::{
    convert::Infallible,
    error::Error,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use eticket_base::telemetry::TraceContext;
use eticket_proto::{error::ErrorReason, error_text::Language, headers};
use eticket_rpc_server::{
    error::ApiError,
    server::{Deadline, language, methods},
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Version, header, request};
use tonic::{Status, service::Routes as LocalServices};
use tower::Service;

use self::{
    request_body::{Allowance, RequestBody, SharedFault},
    response_body::{Inner, ResponseBody},
};
use crate::{
    rate_limit::RateLimit,
    routes::{Backend, Destination, Routes},
    upstream::{Failure, Upstream, outgoing::Outgoing},
};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const CORRELATION_ID: HeaderName = HeaderName::from_static(headers::CORRELATION_ID);

/// An upstream that resets a stream within this time before the deadline resets it because of the deadline: the
/// upstream's own deadline is slightly earlier.
const AT_THE_DEADLINE: Duration = Duration::from_millis(10);

/// Headers that apply to one connection (RFC 9110, 7.6.1), and the origin of the page: the gateway has already checked
/// it, and services have no list of allowed origins.
const NOT_PASSED_ON: [HeaderName; 8] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::HOST,
    header::ORIGIN,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// State that all calls share.
pub(crate) struct Shared {
    pub(crate) routes: Arc<Routes>,
    pub(crate) upstreams: [Arc<Upstream>; 4],
    /// Serves health, reflection, and the state of replicas.
    pub(crate) local: LocalServices,
    pub(crate) max_message_bytes: u32,
    pub(crate) rate_limit: Option<RateLimit>,
}

/// The service that handles all gRPC calls.
#[derive(Clone)]
pub(crate) struct Calls(pub(crate) Arc<Shared>);

/// The upstream, the deadline and the language of one call, and the fault of its request body.
#[derive(Debug, Default)]
pub(crate) struct CallContext {
    /// `None` for what the gateway answers itself.
    upstream: Option<Arc<Upstream>>,
    fault: SharedFault,
    deadline: Option<Deadline>,
    language: Language,
}

impl Service<Request<Body>> for Calls {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // An outer layer limits the number of calls, and each upstream's connections have their own limit.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let shared = self.0.clone();
        Box::pin(async move { Ok(shared.answer(request).await.unwrap_or_else(|status| status.into_http())) })
    }
}

impl Shared {
    async fn answer(&self, request: Request<Body>) -> Result<Response<ResponseBody>, Status> {
        let route = self.routes.find(request.uri().path(), methods::of(&request))?;
        let (mut head, body) = request.into_parts();
        if let Some(limit) = self.rate_limit.as_ref().filter(|_| route.destination != Destination::Gateway) {
            limit.check(&head.extensions)?;
        }
        let fault = SharedFault::default();
        let call_context = CallContext {
            upstream: self.upstream(route.destination, &head.headers)?,
            fault: fault.clone(),
            deadline: head.extensions.get().copied(),
            language: language::current(),
        };
        let allowance = Allowance { max_message_bytes: self.max_message_bytes, single: !route.streams_requests };
        let correlation_id = prepare(&mut head);
        let request_body = RequestBody::new(body, allowance, fault);
        let mut response = match call_context.upstream.clone() {
            Some(upstream) => {
                let request = Request::from_parts(head, Outgoing::Caller(request_body));
                let answered = upstream.call(request).await.map_err(|failure| call_context.no_response(&failure))?;
                ResponseBody::wrap(answered.map(Inner::Upstream), call_context)
            }
            None => {
                if let Some(deadline) = call_context.deadline {
                    head.extensions.insert(deadline);
                }
                let Ok(answered) = self.local.clone().call(Request::from_parts(head, request_body)).await;
                ResponseBody::wrap(answered.map(Inner::Own), call_context)
            }
        };
        if let Some(id) = correlation_id {
            // The caller can quote the id in a problem report even if it was generated here.
            response.headers_mut().entry(CORRELATION_ID).or_insert(id);
        }
        Ok(response)
    }

    fn upstream(&self, destination: Destination, headers: &HeaderMap) -> Result<Option<Arc<Upstream>>, ApiError> {
        let backend = match destination {
            Destination::Upstream(backend) => backend,
            Destination::ByHeader => Backend::from_headers(headers)?,
            Destination::Replicas | Destination::Gateway => return Ok(None),
        };
        Ok(Some(self.upstreams[backend as usize].clone()))
    }
}

/// Converts a caller's request into a request of the gateway. Returns its correlation id.
fn prepare(head: &mut request::Parts) -> Option<HeaderValue> {
    let trace = head.extensions.remove().unwrap_or_else(|| TraceContext::from_headers(&head.headers));
    let deadline = head.extensions.get::<Deadline>().copied();
    // The extensions are meant for the gateway's layers only.
    head.extensions.clear();
    head.version = Version::HTTP_2;
    drop_connection_headers(&mut head.headers);
    match deadline {
        Some(deadline) => head.headers.insert(GRPC_TIMEOUT, timeout(deadline)),
        None => head.headers.remove(GRPC_TIMEOUT),
    };
    trace.write_to(&mut head.headers);
    head.headers.get(CORRELATION_ID).cloned()
}

fn drop_connection_headers(headers: &mut HeaderMap) {
    // `connection` may name further headers that apply to this connection only. Headers that gRPC needs are kept.
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| name != header::TE && name != header::CONTENT_TYPE)
        .collect();
    for name in NOT_PASSED_ON.iter().chain(&named) {
        headers.remove(name);
    }
}

/// Formats the time left until the deadline, for the upstream.
fn timeout(deadline: Deadline) -> HeaderValue {
    let left = deadline.remaining();
    // The finest unit that fits into eight digits.
    let text = [(left.as_micros(), 'u'), (left.as_millis(), 'm')]
        .into_iter()
        .find(|(count, _)| *count <= 99_999_999)
        .map_or_else(|| format!("{}S", left.as_secs()), |(count, unit)| format!("{count}{unit}"));
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("0u"))
}

impl CallContext {
    /// Returns the status of a call that has no response.
    fn no_response(&self, failure: &Failure) -> Status {
        failure.refusal().unwrap_or_else(|| self.broken(Some(failure)))
    }

    /// Returns the status of a call whose response ended early.
    fn broken(&self, error: Option<&(dyn Error + 'static)>) -> Status {
        if let Some(fault) = self.fault.get() {
            return (*fault).into();
        }
        if self.deadline.is_some_and(|deadline| deadline.remaining() <= AT_THE_DEADLINE) {
            return ApiError::new(ErrorReason::DeadlineExceeded).to_status(self.language);
        }
        match (&self.upstream, error) {
            (Some(upstream), error) => upstream.unavailable(error).to_status(self.language),
            (None, Some(error)) => ApiError::internal(error),
            (None, None) => Status::internal("the response ended without a status"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;
    use tonic::Code;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reset_at_the_deadline_is_deadline_exceeded() {
        for (left, code) in [(5, Code::DeadlineExceeded), (500, Code::Internal)] {
            let deadline = Some(Deadline(Instant::now() + Duration::from_millis(left)));
            let call_context = CallContext { deadline, ..CallContext::default() };
            assert_eq!(call_context.broken(None).code(), code, "{left} ms left");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_upstream_gets_the_remaining_time() {
        for (time, expected) in [
            (Duration::from_millis(1000), "750000u"),
            (Duration::from_secs(1000), "999750m"),
            (Duration::from_secs(1_000_000), "999999S"),
            (Duration::from_millis(100), "0u"),
        ] {
            let deadline = Deadline(Instant::now() + time);
            tokio::time::advance(Duration::from_millis(250)).await;
            assert_eq!(timeout(deadline), expected);
        }
    }
}
