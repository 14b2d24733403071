//! `GetStatus`: every replica of a service, and the gateway itself.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use eticket_base::{tasks::Tasks, windows::Windows};
use eticket_local_servers::free_address;
use eticket_proto::{
    error::ErrorReason,
    headers,
    operations::{
        GetStatusRequest, ReplicaStatus, operations_service_client::OperationsServiceClient,
        operations_service_server::OperationsServiceServer,
    },
};
use eticket_rpc_client::addresses::Address;
use eticket_rpc_server::{error::ApiError, health::Health};
use tokio::{net::TcpListener, sync::watch};
use tonic::{Request, Status, service::Routes};

use super::{
    Served, World, bind,
    fake::{FORBIDDEN, Fake, SILENT},
    serve,
};
use crate::{
    Backend,
    status::GatewayStatus,
    upstream::{Pool, Upstream},
};

/// A replica that the gateway can call.
fn replica(listener: TcpListener) -> (Fake, Served) {
    let fake = Fake::new(Backend::Ticket);
    let routes = Routes::new(OperationsServiceServer::new(fake.clone()));
    (fake, serve(listener, routes.into_axum_router()))
}

/// A gateway whose upstreams all have these addresses.
fn gateway(addresses: &[SocketAddr]) -> GatewayStatus {
    let address = |socket: &SocketAddr| Address { socket: *socket, authority: socket.to_string(), in_process: None };
    let known: Vec<_> = addresses.iter().map(address).collect();
    let upstreams = Backend::ALL.map(|backend| {
        let (_, addresses) = watch::channel(known.clone());
        Arc::new(Upstream::new(backend, Pool::new(addresses, None, Windows::for_streams(8), &Tasks::new())))
    });
    GatewayStatus { health: Health::new([""; 0]), upstreams }
}

fn request(service: &'static str, credentials: &'static str) -> Request<GetStatusRequest> {
    let mut request = Request::new(GetStatusRequest {});
    request.metadata_mut().insert(headers::SERVICE, service.parse().unwrap());
    request.metadata_mut().insert("authorization", credentials.parse().unwrap());
    request
}

async fn replicas(gateway: &GatewayStatus, credentials: &'static str) -> Result<Vec<ReplicaStatus>, Status> {
    Ok(gateway.respond(&request("ticket", credentials)).await?.replicas)
}

#[tokio::test]
async fn every_replica_is_called_and_listed() {
    let (one, first) = replica(bind(None).await);
    let (two, second) = replica(bind(None).await);
    let gateway = gateway(&[first.address, second.address]);
    let listed = replicas(&gateway, "Bearer admin").await.expect("listed");
    let mut addresses = [first.address, second.address];
    addresses.sort();
    let expected = addresses.map(|address| ReplicaStatus {
        service: "ticket".to_owned(),
        address: address.to_string(),
        instance_id: "Bearer admin".to_owned(),
        ready: true,
        ..ReplicaStatus::default()
    });
    assert_eq!(listed, expected, "with the credentials of the caller");
    assert_eq!([one, two].map(|fake| fake.begun.load(Ordering::SeqCst)), [1, 1]);
}

#[tokio::test]
async fn replicas_without_a_response_are_listed_within_the_bound() {
    let (_fake, served) = replica(bind(None).await);
    let older = serve(
        bind(None).await,
        axum::Router::new().fallback(async || Status::unimplemented("").into_http::<axum::body::Body>()),
    );
    // It accepts connections, because nobody calls `accept`, and never responds.
    let mute = bind(None).await;
    let dead = free_address().expect("a port");
    let mute_address = mute.local_addr().expect("bound");
    let gateway = gateway(&[served.address, older.address, mute_address, dead]);
    let began = Instant::now();
    let listed = replicas(&gateway, "Bearer admin").await.expect("listed");
    assert!(began.elapsed() < Duration::from_secs(4), "all at the same time: {:?}", began.elapsed());
    assert_eq!(listed.len(), 4, "{listed:?}");
    let reason = |address: SocketAddr| {
        let found = listed.iter().find(|replica| replica.address == address.to_string()).expect("listed");
        assert_eq!(found.service, "ticket");
        found.unreachable_reason.as_str()
    };
    assert_eq!(reason(served.address), "");
    assert_eq!(reason(older.address), "its version does not have GetStatus");
    assert_eq!(reason(mute_address), "it did not respond within 2000 ms");
    assert!(reason(dead).starts_with("no connection to 127.0.0.1:"), "{}", reason(dead));
}

#[tokio::test]
async fn a_caller_that_is_refused_gets_no_states() {
    let (_fake, served) = replica(bind(None).await);
    let status = replicas(&gateway(&[served.address]), FORBIDDEN).await.expect_err("refused");
    assert_eq!(ApiError::from_status(&status), Some(ErrorReason::NotAllowed));
}

#[tokio::test]
async fn the_gateway_waits_no_longer_than_the_caller() {
    let world = World::new().await;
    let mut client = OperationsServiceClient::new(world.channel().await);
    let mut request = request("ticket", SILENT);
    // Without it, the gateway waits for 2 s. A tenth of it is left for the response.
    request.set_timeout(Duration::from_secs(2));
    let listed = client.get_status(request).await.expect("a response before the deadline").into_inner().replicas;
    assert_eq!(listed.len(), 1);
    assert!(listed[0].unreachable_reason.starts_with("it did not respond within "), "{listed:?}");
}

#[tokio::test]
async fn the_header_selects_a_service_or_the_gateway() {
    let world = World::new().await;
    let mut client = OperationsServiceClient::new(world.channel().await);
    for backend in Backend::ALL {
        let listed = client.get_status(request(backend.name(), "Bearer admin")).await.expect("listed").into_inner();
        assert_eq!(listed.replicas.len(), 1);
        assert_eq!(listed.replicas[0].service, backend.name());
        assert_eq!(listed.replicas[0].address, world.upstreams.addresses()[backend as usize].to_string());
    }
    let own = client.get_status(request("gateway", "Bearer admin")).await.expect("listed").into_inner().replicas;
    let [own] = &own[..] else { panic!("one gateway: {own:?}") };
    assert_eq!((own.service.as_str(), own.address.as_str(), own.ready), ("gateway", "", true));
    assert!(!own.instance_id.is_empty() && !own.version.is_empty() && own.start_time.is_some(), "{own:?}");
    let names: Vec<_> = own.components.iter().map(|component| component.name.as_str()).collect();
    assert_eq!(names, ["server", "ticket", "reservation", "pricing", "query"]);
    for unknown in ["", "nobody"] {
        let status = client.get_status(request(unknown, "Bearer admin")).await.expect_err("refused");
        assert_eq!(ApiError::from_status(&status), Some(ErrorReason::InvalidField), "{unknown:?}");
    }
}
