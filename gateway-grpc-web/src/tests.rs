//! Tests of the gateway over real connections, with tonic servers whose responses are fakes.

mod broken;
mod calls;
mod connect;
mod fake;
mod fuzz;
mod hostile;
mod rates;
mod replicas;
mod rest;
mod status;
mod stopping;
mod tls;
mod unread;
mod viewer;
mod web;
mod web_client;

use std::{net::SocketAddr, time::Duration};

use axum::{Router, body::Body};
use eticket_proto::{
    query::query_service_client::QueryServiceClient, ticket::ticket_service_client::TicketServiceClient,
};
use eticket_rpc_server::{config::LimitsConfig, health::Health, server::Running};
use eticket_runtime::{config::Settings, context::Context, process::Service as _};
use http::Request;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, task::JoinSet};
use tonic::transport::{Channel, Endpoint};
use tower::ServiceExt;

use self::fake::Upstreams;
use crate::{Config, ConsoleConfig, CorsConfig, Gateway, UpstreamConfig};

const MAX_MESSAGE_BYTES: u32 = 64 * 1024;

/// A server; dropping it closes its connections.
struct Served {
    address: SocketAddr,
    _accepting: JoinSet<()>,
}

async fn bind(address: impl Into<Option<SocketAddr>>) -> TcpListener {
    let address = address.into().unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
    TcpListener::bind(address).await.expect("the address is free")
}

fn serve(listener: TcpListener, router: Router) -> Served {
    let address = listener.local_addr().expect("a bound socket has an address");
    let mut accepting = JoinSet::new();
    accepting.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.expect("the listener works");
            stream.set_nodelay(true).expect("the socket is open");
            let service = router.clone().map_request(|request: Request<hyper::body::Incoming>| request.map(Body::new));
            connections.spawn(async move {
                // Clients may disconnect at any time, so errors of a connection are ignored.
                let builder = auto::Builder::new(TokioExecutor::new());
                builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)).await.ok();
            });
        }
    });
    Served { address, _accepting: accepting }
}

/// A gateway and its upstreams.
struct World {
    upstreams: Upstreams,
    address: SocketAddr,
    health: Health,
    gateway: Running,
}

impl World {
    async fn new() -> Self {
        Self::with_limits(LimitsConfig::default()).await
    }

    async fn with_default_deadline(time: Duration) -> Self {
        let default_deadline_ms = u64::try_from(time.as_millis()).expect("a short time");
        Self::with_limits(LimitsConfig { default_deadline_ms, ..LimitsConfig::default() }).await
    }

    async fn with_limits(limits: LimitsConfig) -> Self {
        let upstreams = Upstreams::start().await;
        let [ticket, reservation, pricing, query] = upstreams.addresses().map(|address| UpstreamConfig {
            url: Some(format!("http://{address}").parse().expect("an address")),
            ..Default::default()
        });
        let config = Config {
            max_message_bytes: MAX_MESSAGE_BYTES,
            upstream: crate::Upstreams { ticket, reservation, pricing, query },
            cors: CorsConfig::default(),
            console: ConsoleConfig::default(),
        };
        let context = Context::new(Gateway::NAME, Settings { limits, ..Settings::for_tests() });
        let gateway = Gateway::build(&context, config).await.expect("it starts");
        let health = gateway.health().expect("the gateway has a health").clone();
        Self { upstreams, address: gateway.address(), health, gateway }
    }

    /// Returns a gRPC channel over HTTP/2 to the gateway.
    async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).expect("an address");
        endpoint.connect().await.expect("the gateway listens")
    }

    async fn tickets(&self) -> TicketServiceClient<Channel> {
        TicketServiceClient::new(self.channel().await)
    }

    async fn views(&self) -> QueryServiceClient<Channel> {
        QueryServiceClient::new(self.channel().await)
    }
}

/// Waits until `condition` holds, and fails after ten seconds.
async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let waiting = async {
        while !condition().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap_or_else(|_| panic!("{what}: not within 10 s"));
}
