//! The gateway as one tower service: detects the protocol of each request and dispatches it.
//!
//! gRPC and gRPC-Web have content types of their own, REST and Connect have paths. Everything else is the site.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::body::Body;
use eticket_base::tasks::Tasks;
use eticket_proto::health::health_server::HealthServer;
use eticket_rpc_server::health::Health;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use tonic::service::Routes as LocalServices;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_http::{
    compression::{
        CompressionLayer,
        predicate::{NotForContentType, Predicate, SizeAbove},
    },
    cors::{Cors, CorsLayer},
};

use crate::{
    call::{Calls, Shared},
    connect::Connect,
    health::GatewayHealth,
    protocol::{Protocol, linger::Lingering, request::to_grpc, response::to_web},
    rate_limit::RateLimit,
    rest::{Rest, Unsupported},
    routes::{Backend, Routes},
    site::{self, Site},
    status::GatewayStatus,
    transcode::{Contract, exchange::Grpc},
    upstream::{Pool, Upstream},
};

/// Media types of streams in Connect begin with this.
const CONNECT_STREAM: &str = "application/connect+";

/// An embedded descriptor cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokenDescriptors {
    #[error("the descriptors of the contract are inconsistent")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("an annotation of the contract is not supported")]
    Annotation(#[from] Unsupported),
}

/// Creates the service for gRPC calls; `pool` creates the connections to an upstream.
pub(crate) fn calls(
    pool: impl Fn(Backend) -> Pool,
    routes: Routes,
    health: Health,
    max_message_bytes: u32,
    rate_limit: Option<RateLimit>,
) -> Result<Calls, BrokenDescriptors> {
    let routes = Arc::new(routes);
    let upstreams = Backend::ALL.map(|backend| Arc::new(Upstream::new(backend, pool(backend))));
    let status = GatewayStatus { health: health.clone(), upstreams: upstreams.clone() };
    let health = GatewayHealth { own: health, routes: routes.clone(), upstreams: upstreams.clone() };
    let local = LocalServices::new(HealthServer::new(health))
        .add_service(status)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .prepare();
    Ok(Calls(Arc::new(Shared { routes, upstreams, local, max_message_bytes, rate_limit })))
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(eticket_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET)
}

/// The gateway: a layered service for gRPC calls, behind the protocol detection. Clones share everything.
pub(crate) struct Protocols<S>(Arc<Inner<S>>);

struct Inner<S> {
    grpc: S,
    browsers: Cors<Browsers<S>>,
    without_cors: Browsers<S>,
}

/// Everything but gRPC: the requests of browsers, which need CORS headers.
#[derive(Clone)]
struct Browsers<S> {
    grpc: S,
    pages: Pages,
    tasks: Tasks,
}

/// The protocols and pages that are found by path.
#[derive(Debug, Clone)]
pub(crate) struct Pages {
    pub(crate) site: Site,
    pub(crate) rest: Rest,
    pub(crate) connect: Connect,
}

impl Pages {
    /// Finds the paths of the contract.
    ///
    /// # Errors
    /// If an annotation of the contract is not supported.
    pub(crate) fn try_new(site: Site, contract: Contract, max_message_bytes: u32) -> Result<Self, BrokenDescriptors> {
        let contract = Arc::new(contract);
        let rest = Rest::try_new(contract.clone(), max_message_bytes)?;
        Ok(Self { site, rest, connect: Connect::new(contract, max_message_bytes) })
    }

    /// Answers a request by its path, compressed if the client accepts it. Streams are not compressed: their messages
    /// must not wait for each other.
    async fn answer(self, grpc: impl Grpc, request: Request<Body>) -> Response<Body> {
        let path = request.uri().path();
        let (is_rest, is_connect) = (self.rest.owns(path), self.connect.owns(path));
        if !is_rest && !is_connect {
            return self.site.answer(request).await;
        }
        let answer = service_fn(move |request| {
            let (pages, grpc) = (self.clone(), grpc.clone());
            async move {
                Ok::<_, Infallible>(match is_rest {
                    true => pages.rest.answer(grpc, request).await,
                    false => pages.connect.answer(grpc, request).await,
                })
            }
        });
        let compress =
            SizeAbove::new(256).and(NotForContentType::SSE).and(NotForContentType::const_new(CONNECT_STREAM));
        let Ok(response) = CompressionLayer::new().compress_when(compress).layer(answer).oneshot(request).await;
        response.map(Body::new)
    }
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<S: Clone> Protocols<S> {
    pub(crate) fn new(grpc: S, pages: Pages, cors: &CorsLayer, tasks: Tasks) -> Self {
        let without_cors = Browsers { grpc: grpc.clone(), pages, tasks };
        Self(Arc::new(Inner { grpc, browsers: cors.layer(without_cors.clone()), without_cors }))
    }
}

impl<S> Clone for Protocols<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Returns the response of a rejected request.
fn refused(response: Response<Body>) -> Answering {
    Box::pin(std::future::ready(Ok(response)))
}

impl<S> Service<Request<Body>> for Protocols<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // All inner services are always ready: calls above the limit are rejected instead of queued.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answering {
        // Browsers cannot read gRPC responses, so gRPC calls skip CORS.
        if Protocol::from_headers(request.headers()) != Some(Protocol::Grpc) {
            // The CORS layer answers every OPTIONS request as a preflight request.
            let asks = request.method() == Method::OPTIONS && !is_preflight(request.headers());
            return match asks && self.0.without_cors.pages.rest.owns(request.uri().path()) {
                true => Box::pin(self.0.without_cors.clone().call(request)),
                false => Box::pin(self.0.browsers.clone().call(request)),
            };
        }
        if request.version() < Version::HTTP_2 {
            let text = "gRPC needs HTTP/2; over HTTP/1.1 use gRPC-Web\n";
            return refused(site::text(StatusCode::HTTP_VERSION_NOT_SUPPORTED, text));
        }
        if request.method() != Method::POST {
            return refused(only_post());
        }
        Box::pin(self.0.grpc.clone().call(request))
    }
}

impl<S> Service<Request<Body>> for Browsers<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Answering {
        if request.version() < Version::HTTP_2 {
            request = request.map(|body| Lingering::wrap(body, &self.tasks));
        }
        let Some(Protocol::Web { request: encoding, response: accepted }) = Protocol::from_headers(request.headers())
        else {
            let (pages, grpc) = (self.pages.clone(), self.grpc.clone());
            return Box::pin(async move { Ok(pages.answer(grpc, request).await) });
        };
        if request.method() != Method::POST {
            return refused(only_post());
        }
        let answering = self.grpc.call(to_grpc(request, encoding));
        Box::pin(async move { answering.await.map(|response| to_web(response, accepted)) })
    }
}

fn is_preflight(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

fn only_post() -> Response<Body> {
    let mut response = site::text(StatusCode::METHOD_NOT_ALLOWED, "gRPC calls are POST requests\n");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
    response
}
