//! A fake service whose behaviour each test selects, and helpers to call it. Tests of the layers use no network and
//! paused time; tests of connections use the loopback.

mod authenticate;
mod connections;
mod layers;
mod streams;
mod tls;
mod unread;

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use eticket_proto::{
    error::ErrorReason,
    operations::{
        operations_service_server::{OperationsService, OperationsServiceServer},
        *,
    },
};
use futures::{Stream, StreamExt, stream};
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use prost::Message;
use tokio::sync::watch;
use tonic::{Response, Status};
use tonic_types::StatusExt;

use super::*;
use crate::{call::Call, error::ApiError};

pub(super) const LIST: &str = "/eticket.operations.v1.OperationsService/ListParkedEvents";
pub(super) const REPUBLISH: &str = "/eticket.operations.v1.OperationsService/Republish";
pub(super) const RESEND: &str = "/eticket.operations.v1.OperationsService/ResendParkedEvent";
pub(super) const REBUILD: &str = "/eticket.operations.v1.OperationsService/RebuildView";
pub(super) const SERVICE: &str = "eticket.operations.v1.OperationsService";

/// Unary calls do what their page token or id names. Streams send one message and then do what `stream` names, except
/// RebuildView, which never responds.
#[derive(Clone)]
pub(super) struct Fake {
    /// The number of handlers and streams that have begun and not ended.
    pub(super) under_way: Arc<watch::Sender<usize>>,
    pub(super) stream: StreamKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamKind {
    /// Waits forever.
    Waits,
    /// Always has another message.
    Endless,
    /// Panics.
    Panics,
    /// Returns an error of the contract.
    Refuses,
}

impl Fake {
    pub(super) fn new(stream: StreamKind) -> Self {
        Self { under_way: Arc::new(watch::Sender::new(0)), stream }
    }

    fn begin(&self) -> RunningCall {
        self.under_way.send_modify(|count| *count += 1);
        RunningCall(self.under_way.clone())
    }

    /// Waits until this many calls are running.
    pub(super) async fn reaches(&self, count: usize) {
        let mut changes = self.under_way.subscribe();
        let waiting = changes.wait_for(|now| *now == count);
        tokio::time::timeout(BOUND, waiting).await.expect("in time").expect("a sender");
    }
}

pub(super) struct RunningCall(Arc<watch::Sender<usize>>);

impl Drop for RunningCall {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl OperationsService for Fake {
    type RepublishStream = Responses<RepublishResponse>;
    type RebuildViewStream = Responses<RebuildViewResponse>;
    type CompareViewStream = Responses<CompareViewResponse>;

    async fn list_parked_events(
        &self,
        request: tonic::Request<ListParkedEventsRequest>,
    ) -> Result<Response<ListParkedEventsResponse>, Status> {
        let _under_way = self.begin();
        let call = Call::from_request(&request);
        let next_page_token = match request.get_ref().page_token.as_str() {
            "hang" => std::future::pending().await,
            "wait" => {
                call.draining.cancelled().await;
                return Err(ApiError::new(ErrorReason::ShuttingDown).into());
            }
            "panic" => panic!("on purpose"),
            "refuse" => return Err(ApiError::new(ErrorReason::EtagMismatch).into()),
            "left" => {
                let left = call.deadline.map(|at| at.saturating_duration_since(tokio::time::Instant::now()));
                format!("{left:?}")
            }
            "caller" => format!("{} {:?}", call.caller.is_admin(), call.caller.subject()),
            "trace" => format!("{} {}", call.trace.trace_id(), call.trace.correlation_id),
            other => other.to_owned(),
        };
        Ok(Response::new(ListParkedEventsResponse { next_page_token, ..Default::default() }))
    }

    async fn resend_parked_event(
        &self,
        request: tonic::Request<ResendParkedEventRequest>,
    ) -> Result<Response<ResendParkedEventResponse>, Status> {
        let _under_way = self.begin();
        if request.get_ref().event_id == "hang" {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(ResendParkedEventResponse::default()))
    }

    async fn discard_parked_event(
        &self,
        _: tonic::Request<DiscardParkedEventRequest>,
    ) -> Result<Response<DiscardParkedEventResponse>, Status> {
        Err(Status::unimplemented("a fake"))
    }

    async fn republish(&self, _: tonic::Request<RepublishRequest>) -> Result<Response<Self::RepublishStream>, Status> {
        let under_way = self.begin();
        let first = stream::iter([Ok(RepublishResponse::default())]);
        let kind = self.stream;
        let rest = stream::unfold(under_way, move |under_way| async move {
            // Yields, because messages that are ready together are sent together.
            tokio::task::yield_now().await;
            match kind {
                StreamKind::Waits => std::future::pending().await,
                StreamKind::Endless => Some((Ok(RepublishResponse::default()), under_way)),
                StreamKind::Panics => panic!("on purpose"),
                StreamKind::Refuses => Some((Err(ApiError::new(ErrorReason::EtagMismatch).into()), under_way)),
            }
        });
        Ok(Response::new(Box::pin(first.chain(rest))))
    }

    async fn rebuild_view(
        &self,
        _: tonic::Request<RebuildViewRequest>,
    ) -> Result<Response<Self::RebuildViewStream>, Status> {
        let _under_way = self.begin();
        std::future::pending().await
    }

    async fn compare_view(
        &self,
        _: tonic::Request<CompareViewRequest>,
    ) -> Result<Response<Self::CompareViewStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn list_unsettled(
        &self,
        _: tonic::Request<ListUnsettledRequest>,
    ) -> Result<Response<ListUnsettledResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get_status(&self, _: tonic::Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

pub(super) fn server(fake: &Fake, limits: &LimitsConfig) -> Server {
    let shutdown = ShutdownConfig { drain_delay_ms: 0, hard_cap_ms: 20_000 };
    Server::new("test", SocketAddr::from(([127, 0, 0, 1], 0)), limits, &shutdown)
        .service(OperationsServiceServer::new(fake.clone()))
        .reflection([SERVICE])
        .health(Health::new([SERVICE]).with_store())
}

pub(super) fn limits(concurrency: usize) -> LimitsConfig {
    LimitsConfig { concurrency: concurrency.try_into().expect("above zero"), ..LimitsConfig::default() }
}

/// Creates a request as gRPC clients send it.
pub(super) fn request(path: &str, message: &impl Message, headers: &[(&'static str, &str)]) -> Request<Body> {
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(u32::try_from(message.encoded_len()).expect("small"));
    message.encode(&mut body).expect("room");
    let mut request = Request::post(path).header("content-type", "application/grpc").header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::from(body.freeze())).expect("a request")
}

pub(super) fn list(what: &str, headers: &[(&'static str, &str)]) -> Request<Body> {
    request(LIST, &ListParkedEventsRequest { page_token: what.into(), ..Default::default() }, headers)
}

/// The messages and the status of a complete response.
pub(super) struct HttpResponse {
    pub(super) http_status: u16,
    pub(super) headers: HeaderMap,
    pub(super) messages: Vec<Bytes>,
    pub(super) status: Status,
}

impl HttpResponse {
    pub(super) fn token(&self) -> String {
        let message = self.messages.first().expect("a message").slice(5..);
        ListParkedEventsResponse::decode(message).expect("of this type").next_page_token
    }

    pub(super) fn reason(&self) -> Option<ErrorReason> {
        ApiError::from_status(&self.status)
    }

    /// Returns whether code, reason and texts are those of `SHUTTING_DOWN`.
    pub(super) fn is_shutting_down(&self) -> bool {
        let pushback = self.status.metadata().contains_key(eticket_proto::headers::RETRY_PUSHBACK);
        let details = self.status.get_error_details();
        self.reason() == Some(ErrorReason::ShuttingDown)
            && pushback
            && details.retry_info().is_some()
            && details.localized_message().is_some()
    }
}

/// Longer than any step takes; a test that reaches it has failed.
pub(super) const BOUND: Duration = Duration::from_secs(90);

/// Reads a response to its end.
pub(super) async fn read(response: http::Response<Body>) -> HttpResponse {
    tokio::time::timeout(BOUND, read_to_end(response)).await.expect("it ends")
}

async fn read_to_end(response: http::Response<Body>) -> HttpResponse {
    let (head, mut body) = response.into_parts();
    let mut status = Status::from_header_map(&head.headers);
    let mut messages = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame.expect("no transport error").into_data() {
            Ok(data) => {
                messages.push(data);
                // Yields, so that an endless stream cannot prevent the timeout from firing.
                tokio::task::yield_now().await;
            }
            Err(frame) => {
                let trailers = frame.into_trailers().expect("data or trailers");
                assert!(status.is_none(), "one status only: {status:?} and {trailers:?}");
                status = Status::from_header_map(&trailers);
                break;
            }
        }
    }
    let status = status.expect("a status");
    HttpResponse { http_status: head.status.as_u16(), headers: head.headers, messages, status }
}
