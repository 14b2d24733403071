//! The server of services, gateway and admin endpoint: HTTP/1.1 and HTTP/2 on one port, with hyper.
//!
//! tonic's own server is not used: its timeout returns CANCELLED, and its connections do not drain at a maximum age.
//! gRPC services are wrapped in these layers, outermost first: observe → language → catch panic → allowed clients →
//! authenticate → deadline → drain → admission. A plain router is served without layers; a server that translates other
//! protocols, such as the gateway, applies [`layered`] inside the translation.
//!
//! Shutdown order: not ready → drain delay → streams and waits end with `SHUTTING_DOWN` → GOAWAY and the port closes →
//! running calls finish; late calls end with `SHUTTING_DOWN`, and their connections close if they still do not end →
//! the hooks of the service. The caller of the shutdown sets a time limit for all steps together.

mod admission;
mod authenticate;
mod catch_panic;
mod connections;
pub mod deadline;
pub mod drain;
mod grace;
mod guard;
mod http1;
pub mod language;
pub mod methods;
mod observe;
mod reply;
mod running;
#[cfg(test)]
mod tests;
mod tls;

use std::{convert::Infallible, io, net::SocketAddr, time::Duration};

use axum::{Router, body::Body};
use eticket_base::{
    exit::{self, StartError},
    in_process,
    tasks::Tasks,
};
use eticket_proto::health::health_server::HealthServer;
use eticket_tls::{Acceptor, ServerTlsConfig};
use http::{Request, Response};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{server::NamedService, service::RoutesBuilder};
use tower::{Service, ServiceBuilder};

use self::{
    admission::AdmissionLayer,
    authenticate::AuthenticateLayer,
    catch_panic::CatchPanicLayer,
    connections::{Entrance, Listeners, Signals},
    deadline::DeadlineLayer,
    drain::{DrainLayer, ForcedEnd},
    guard::Guard,
    language::LanguageLayer,
    observe::ObserveLayer,
    tls::AllowedClientsLayer,
};
pub use self::{
    connections::{ConnectionLimits, Peer},
    deadline::{Deadline, timeout_of},
    drain::{ConnectionDraining, Draining},
    guard::{Browsers, Origins, is_grpc, media_type},
    running::{Hook, Running},
};
use crate::{
    auth::Authentication,
    config::{LimitsConfig, ShutdownConfig},
    health::{Health, STANDARD_SERVICES},
};

/// A server that has not started.
pub struct Server {
    name: &'static str,
    listen: SocketAddr,
    limits: LimitsConfig,
    shutdown: ShutdownConfig,
    connection_limits: ConnectionLimits,
    services: RoutesBuilder,
    reflection: Vec<String>,
    health: Option<Health>,
    routes: Option<Router>,
    browsers: Browsers,
    authentication: Authentication,
    tls: ServerTlsConfig,
    ending: CancellationToken,
}

impl Server {
    /// Creates a server without services.
    #[must_use]
    pub fn new(name: &'static str, listen: SocketAddr, limits: &LimitsConfig, shutdown: &ShutdownConfig) -> Self {
        Self {
            name,
            listen,
            limits: limits.clone(),
            shutdown: shutdown.clone(),
            // A single connection must be able to reach the call limit; otherwise its client queues calls that the
            // server should reject.
            connection_limits: ConnectionLimits {
                streams: limits.streams(),
                idle: Duration::from_millis(limits.keep_alive_ms),
                ..ConnectionLimits::default()
            },
            services: RoutesBuilder::default(),
            reflection: Vec::new(),
            health: None,
            routes: None,
            browsers: Browsers::new(Origins::These(Vec::new()), listen),
            authentication: Authentication::default(),
            tls: ServerTlsConfig::default(),
            ending: CancellationToken::new(),
        }
    }

    /// Adds a gRPC service.
    #[must_use]
    pub fn service<S>(mut self, service: S) -> Self
    where
        S: Service<Request<tonic::body::Body>, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
        S::Response: axum::response::IntoResponse,
        S::Future: Send + 'static,
    {
        self.services.add_service(service);
        self
    }

    /// Adds server reflection (v1 and v1alpha) for these services and for health and reflection.
    #[must_use]
    pub fn reflection<N: Into<String>>(mut self, services: impl IntoIterator<Item = N>) -> Self {
        self.reflection.extend(services.into_iter().map(Into::into));
        self
    }

    /// Serves `grpc.health.v1` from `health`, and clears its readiness first when the server stops.
    #[must_use]
    pub fn health(mut self, health: Health) -> Self {
        self.health = Some(health);
        self
    }

    /// Serves only this router. The router is then responsible for services, reflection, health and all layers.
    #[must_use]
    pub fn routes(mut self, router: Router) -> Self {
        self.routes = Some(router);
        self
    }

    /// Sets which web pages may call. The default is the server's own pages and those of loopback origins.
    #[must_use]
    pub fn browsers(mut self, browsers: Browsers) -> Self {
        self.browsers = browsers;
        self
    }

    /// Sets how the server finds out who calls. The default: every caller is an admin.
    #[must_use]
    pub fn authentication(mut self, authentication: Authentication) -> Self {
        if authentication.is_on() {
            self.browsers = self.browsers.by_any_name();
        }
        self.authentication = authentication;
        self
    }

    /// Sets the certificates. The default is plain text.
    #[must_use]
    pub fn tls(mut self, tls: &ServerTlsConfig) -> Self {
        self.tls = tls.clone();
        self
    }

    /// Replaces the default limits of a connection.
    #[must_use]
    pub fn connection_limits(mut self, limits: ConnectionLimits) -> Self {
        self.connection_limits = limits;
        self
    }

    /// Returns a token that is cancelled when waits must end because the server stops; for waits outside of requests.
    #[must_use]
    pub fn draining(&self) -> CancellationToken {
        self.ending.clone()
    }

    /// Binds the address and serves. Calls succeed from here on; the health reports whether clients should call.
    ///
    /// # Errors
    /// If a TLS file is not valid, the address cannot be bound, or the descriptors of the contract cannot be read.
    pub async fn start(mut self) -> Result<Running, StartError> {
        let (tcp, address) = bind(self.name, self.listen).await?;
        let (in_process, dialer) = in_process::listen();
        let listeners = Listeners { tcp, in_process };
        let signals = Signals {
            ending: self.ending.clone(),
            draining: CancellationToken::new(),
            forced_end: ForcedEnd::default(),
            kill: CancellationToken::new(),
        };
        let tasks = Tasks::new();
        let tls = Acceptor::start(&self.tls, &tasks, signals.draining.clone())?;
        let guard = Guard { browsers: self.browsers.clone(), only_grpc: self.routes.is_none() };
        let entrance = Entrance { tls, guard, name: self.name };
        let (limits, ends) = (self.connection_limits.clone(), signals.clone());
        // The two branches have different service types, so each spawns its own task.
        match self.routes.take() {
            Some(router) => {
                tasks.spawn("accept", connections::accept(listeners, router, entrance, limits, ends, tasks.clone()));
            }
            None => {
                let service = self.around_services()?;
                tasks.spawn("accept", connections::accept(listeners, service, entrance, limits, ends, tasks.clone()));
            }
        }
        tracing::info!(service = self.name, %address, "listening");
        let dialer = (!self.tls.is_on()).then_some(dialer);
        Ok(Running::new(self.name, address, dialer, self.health, &self.shutdown, signals, tasks))
    }

    fn around_services(&mut self) -> Result<impl Stack<Future: Send> + use<>, StartError> {
        self.add_reflection()?;
        if let Some(health) = &self.health {
            self.services.add_service(HealthServer::new(health.clone()));
        }
        let routes = std::mem::take(&mut self.services).routes().prepare().into_axum_router();
        Ok(layered(self.name, &self.limits, &self.authentication, routes))
    }

    fn add_reflection(&mut self) -> Result<(), StartError> {
        if self.reflection.is_empty() {
            return Ok(());
        }
        let builder = || {
            let builder = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(eticket_proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET);
            let names = self.reflection.iter().map(String::as_str).chain(STANDARD_SERVICES);
            names.fold(builder, |builder, name| builder.with_service_name(name))
        };
        let (v1, v1alpha) = (builder().build_v1(), builder().build_v1alpha());
        self.services.add_service(v1.map_err(StartError::failed)?);
        self.services.add_service(v1alpha.map_err(StartError::failed)?);
        Ok(())
    }
}

/// Wraps a gRPC service in the server's layers, for a router that translates other protocols outside of them.
pub fn layered<S, B>(
    name: &'static str,
    limits: &LimitsConfig,
    authentication: &Authentication,
    service: S,
) -> impl Stack<Future: Send> + use<S, B>
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
    B: http_body::Body<Data = bytes::Bytes> + Default + Unpin + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    ServiceBuilder::new()
        .map_response(with_axum_body)
        .layer(ObserveLayer::new(name))
        .layer(LanguageLayer)
        .layer(CatchPanicLayer)
        .layer(AllowedClientsLayer)
        .layer(AuthenticateLayer(authentication.clone()))
        .layer(DeadlineLayer { default: limits.default_deadline() })
        .layer(DrainLayer)
        .layer(AdmissionLayer::new(name, limits.concurrency.get()))
        .map_response(reply::too_large_is_exhausted)
        .service(service)
}

/// A service with its layers, with the bounds that connections need.
pub trait Stack:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static
{
}

impl<S> Stack for S where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static
{
}

fn with_axum_body<B>(response: Response<B>) -> Response<Body>
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    response.map(Body::new)
}

async fn bind(name: &str, listen: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let bound = async {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound.await.map_err(|error: io::Error| {
        let what = format!("{name} cannot listen on {listen}: {}", exit::advice_on_listening(&error));
        StartError::unavailable(what, error)
    })
}
