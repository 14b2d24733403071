//! `connectrpc.conformance.v1.ConformanceService`: each request says how to respond, and each response repeats its
//! requests.
//!
//! All methods are served as streams in both directions, which look the same on the wire: generated code for unary
//! methods has no way to send trailers with a success.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use eticket_rpc_server::server::Deadline;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use prost::{Message, Name};
use prost_types::Any;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status, Streaming, body::Body, codec::CompressionEncoding::Gzip, metadata::MetadataMap, server::Grpc,
    server::NamedService,
};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

use self::proto::{
    BidiStreamRequest, BidiStreamResponse, ClientStreamRequest, ClientStreamResponse, ConformancePayload, Header,
    IdempotentUnaryRequest, IdempotentUnaryResponse, ServerStreamRequest, ServerStreamResponse,
    StreamResponseDefinition, UnaryRequest, UnaryResponse, UnaryResponseDefinition, conformance_payload::RequestInfo,
    unary_response_definition::Response as Single,
};

/// Generated from the protos of the suite.
#[allow(
    dead_code,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated code, of which only some is used"
)]
pub(crate) mod proto {
    include!(concat!(env!("OUT_DIR"), "/connectrpc.conformance.v1.rs"));
}

/// The full name of the service.
pub(crate) const SERVICE_NAME: &str = "connectrpc.conformance.v1.ConformanceService";

/// The service. Its limit is for messages that arrive compressed: the gateway passes them on, and sees only their
/// compressed length.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConformanceService {
    pub(crate) max_message_bytes: u32,
}

impl NamedService for ConformanceService {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<Request<Body>> for ConformanceService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let limit = self.max_message_bytes as usize;
        Box::pin(async move {
            Ok(match request.uri().path().rsplit('/').next() {
                Some("Unary") => serve::<UnaryRequest, UnaryResponse>(request, limit).await,
                Some("IdempotentUnary") => {
                    serve::<IdempotentUnaryRequest, IdempotentUnaryResponse>(request, limit).await
                }
                Some("ServerStream") => serve::<ServerStreamRequest, ServerStreamResponse>(request, limit).await,
                Some("ClientStream") => serve::<ClientStreamRequest, ClientStreamResponse>(request, limit).await,
                Some("BidiStream") => serve::<BidiStreamRequest, BidiStreamResponse>(request, limit).await,
                // The suite has a method `Unimplemented`.
                _ => Status::unimplemented("the service does not have this method").into_http(),
            })
        })
    }
}

async fn serve<Q: Asks, A: Message + Default + From<ConformancePayload> + 'static>(
    request: Request<Body>,
    max_message_bytes: usize,
) -> Response<Body> {
    let grpc = Grpc::new(ProstCodec::<A, Q>::default()).accept_compressed(Gzip).send_compressed(Gzip);
    let mut grpc = grpc.max_decoding_message_size(max_message_bytes);
    grpc.streaming(service_fn(respond::<Q, A>), request).await
}

/// How a request wants to be answered.
#[derive(Debug, Default)]
struct Plan {
    headers: Vec<Header>,
    /// Of one response each.
    data: VecDeque<Vec<u8>>,
    delay: Duration,
    error: Option<proto::Error>,
    trailers: Vec<Header>,
    /// Each request gets a response before the next is read.
    full_duplex: bool,
}

/// A request of the suite.
trait Asks: Message + Default + Name + 'static {
    /// The method takes a single request.
    const SINGLE: bool;

    /// Takes the definition of the response out of a copy of the first request.
    fn plan(self) -> Plan;
}

impl Plan {
    fn of_one(definition: Option<UnaryResponseDefinition>) -> Self {
        let definition = definition.unwrap_or_default();
        let (data, error) = match definition.response {
            Some(Single::Error(error)) => (None, Some(error)),
            Some(Single::ResponseData(data)) => (Some(data), None),
            None => (Some(Vec::new()), None),
        };
        Self {
            headers: definition.response_headers,
            data: data.into_iter().collect(),
            delay: Duration::from_millis(definition.response_delay_ms.into()),
            error,
            trailers: definition.response_trailers,
            full_duplex: false,
        }
    }

    fn of_many(definition: Option<StreamResponseDefinition>, full_duplex: bool) -> Self {
        let definition = definition.unwrap_or_default();
        Self {
            headers: definition.response_headers,
            data: definition.response_data.into(),
            delay: Duration::from_millis(definition.response_delay_ms.into()),
            error: definition.error,
            trailers: definition.response_trailers,
            full_duplex,
        }
    }
}

impl Asks for UnaryRequest {
    const SINGLE: bool = true;

    fn plan(self) -> Plan {
        Plan::of_one(self.response_definition)
    }
}

impl Asks for IdempotentUnaryRequest {
    const SINGLE: bool = true;

    fn plan(self) -> Plan {
        Plan::of_one(self.response_definition)
    }
}

impl Asks for ClientStreamRequest {
    const SINGLE: bool = false;

    fn plan(self) -> Plan {
        Plan::of_one(self.response_definition)
    }
}

impl Asks for ServerStreamRequest {
    const SINGLE: bool = true;

    fn plan(self) -> Plan {
        Plan::of_many(self.response_definition, false)
    }
}

impl Asks for BidiStreamRequest {
    const SINGLE: bool = false;

    fn plan(self) -> Plan {
        Plan::of_many(self.response_definition, self.full_duplex)
    }
}

macro_rules! response {
    ($($name:ident),*) => {$(
        impl From<ConformancePayload> for $name {
            fn from(payload: ConformancePayload) -> Self {
                Self { payload: Some(payload) }
            }
        }
    )*};
}

response!(UnaryResponse, IdempotentUnaryResponse, ServerStreamResponse, ClientStreamResponse, BidiStreamResponse);

type Responses<A> = ReceiverStream<Result<A, Status>>;

async fn respond<Q: Asks, A: From<ConformancePayload> + Send + 'static>(
    request: tonic::Request<Streaming<Q>>,
) -> Result<tonic::Response<Responses<A>>, Status> {
    let mut info = RequestInfo {
        request_headers: to_list(request.metadata().as_ref()),
        timeout_ms: request.extensions().get().map(|deadline: &Deadline| deadline.remaining().as_millis() as i64),
        ..RequestInfo::default()
    };
    let mut requests = request.into_inner();
    let first = requests.message().await?;
    if Q::SINGLE && first.is_none() {
        // As generated code says it.
        return Err(Status::internal("Missing request message."));
    }
    if let Some(first) = &first {
        info.requests.push(any(first)?);
    }
    let plan = first.unwrap_or_default().plan();
    if !plan.full_duplex {
        while let Some(request) = requests.message().await? {
            info.requests.push(any(&request)?);
        }
    }
    let mut headers = MetadataMap::from_headers(to_map(&plan.headers)?);
    let (sender, responses) = mpsc::channel(1);
    // It ends when the caller drops the response.
    tokio::spawn(async move {
        let end = send(plan, info, requests, &sender).await;
        sender.send(Err(end.unwrap_or_else(|status| status))).await.ok();
    });
    let mut response = tonic::Response::new(ReceiverStream::new(responses));
    std::mem::swap(response.metadata_mut(), &mut headers);
    Ok(response)
}

/// Sends the responses, and returns the status after them, with its trailers.
async fn send<Q: Asks, A: From<ConformancePayload>>(
    mut plan: Plan,
    info: RequestInfo,
    mut requests: Streaming<Q>,
    sender: &mpsc::Sender<Result<A, Status>>,
) -> Result<Status, Status> {
    let mut untold = Some(info);
    while let Some(data) = plan.data.pop_front() {
        tokio::time::sleep(plan.delay).await;
        let payload = ConformancePayload { data, request_info: untold.take() };
        sender.send(Ok(payload.into())).await.map_err(|_| Status::cancelled("the caller has gone"))?;
        if plan.full_duplex {
            match requests.message().await? {
                Some(request) => {
                    untold = Some(RequestInfo { requests: vec![any(&request)?], ..RequestInfo::default() })
                }
                None => plan.full_duplex = false,
            }
        }
    }
    let trailers = MetadataMap::from_headers(to_map(&plan.trailers)?);
    let Some(error) = plan.error else { return Ok(Status::with_metadata(Code::Ok, "", trailers)) };
    let mut details = error.details;
    if let Some(info) = untold {
        details.push(any(&info)?);
    }
    let status = tonic_types::Status { code: error.code, message: error.message.unwrap_or_default(), details };
    let (code, message) = (Code::from(error.code), status.message.clone());
    Ok(Status::with_details_and_metadata(code, message, status.encode_to_vec().into(), trailers))
}

fn any(message: &impl Name) -> Result<Any, Status> {
    Any::from_msg(message).map_err(|error| Status::internal(error.to_string()))
}

/// Binary values stay in base64, as they are on the wire; so the suite writes them.
fn to_list(map: &HeaderMap) -> Vec<Header> {
    let header = |name: &HeaderName| Header {
        name: name.to_string(),
        value: map.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect(),
    };
    map.keys().map(header).collect()
}

fn to_map(list: &[Header]) -> Result<HeaderMap, Status> {
    let mut map = HeaderMap::new();
    for header in list {
        let name = HeaderName::try_from(&header.name).map_err(|error| Status::internal(error.to_string()))?;
        for value in &header.value {
            let value = HeaderValue::try_from(value).map_err(|error| Status::internal(error.to_string()))?;
            map.append(name.clone(), value);
        }
    }
    Ok(map)
}
