//! The gateway as one tower service: detects the protocol of each request and dispatches it.
//!
//! Connect with JSON, and REST, are planned beside gRPC-Web: detected by content type and path, translated to gRPC, and
//! sent through the same layers.

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
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use tonic::service::Routes as LocalServices;
use tower::{Layer, Service};
use tower_http::cors::{Cors, CorsLayer};

use crate::{
    call::{Calls, Shared},
    health::GatewayHealth,
    protocol::{Protocol, linger::Lingering, request::to_grpc, response::to_web},
    routes::{Backend, Routes},
    site::{self, Site},
    upstream::{Upstream, pool::Pool},
};

/// An embedded descriptor cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokenDescriptors {
    #[error("the descriptors of the contract cannot be read")]
    Routes(#[from] prost::DecodeError),
    #[error("the descriptors of the contract are inconsistent")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Creates the service for gRPC calls; `pool` creates the connections to an upstream.
pub(crate) fn calls(
    pool: impl Fn(Backend) -> Pool,
    health: Health,
    max_message_bytes: u32,
) -> Result<Calls, BrokenDescriptors> {
    let routes = Arc::new(Routes::try_new()?);
    let upstreams = Backend::ALL.map(|backend| Arc::new(Upstream::new(backend, pool(backend))));
    let health = GatewayHealth { own: health, routes: routes.clone(), upstreams: upstreams.clone() };
    let local = LocalServices::new(HealthServer::new(health))
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .prepare();
    Ok(Calls(Arc::new(Shared { routes, upstreams, local, max_message_bytes })))
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
}

/// gRPC-Web and pages: the requests of browsers, which need CORS headers.
#[derive(Clone)]
struct Browsers<S> {
    grpc: S,
    site: Site,
    tasks: Tasks,
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<S: Clone> Protocols<S> {
    pub(crate) fn new(grpc: S, site: Site, cors: &CorsLayer, tasks: Tasks) -> Self {
        let browsers = cors.layer(Browsers { grpc: grpc.clone(), site, tasks });
        Self(Arc::new(Inner { grpc, browsers }))
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
            return Box::pin(self.0.browsers.clone().call(request));
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
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
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
            let site = self.site.clone();
            return Box::pin(async move { Ok(site.answer(request).await) });
        };
        if request.method() != Method::POST {
            return refused(only_post());
        }
        let answering = self.grpc.call(to_grpc(request, encoding));
        Box::pin(async move { answering.await.map(|response| to_web(response, accepted)) })
    }
}

fn only_post() -> Response<Body> {
    let mut response = site::text(StatusCode::METHOD_NOT_ALLOWED, "gRPC calls are POST requests\n");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
    response
}
