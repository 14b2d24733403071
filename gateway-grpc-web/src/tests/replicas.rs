//! Connections to the replicas of an upstream: selection, reconnects, removal.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use eticket_base::{tasks::Tasks, windows::Windows};
use eticket_local_servers::free_address;
use eticket_proto::{
    error::ErrorReason,
    health::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
        health_server::Health as _,
    },
    ticket::{
        GetTicketRequest, ticket_service_client::TicketServiceClient, ticket_service_server::TicketServiceServer,
    },
};
use eticket_rpc_client::addresses::Address;
use eticket_rpc_server::{
    error::ApiError,
    health::Health,
    server::{ConnectionLimits, Running, Server},
};
use eticket_runtime::config::Settings;
use futures::{StreamExt, future::join_all};
use tokio::{net::TcpListener, sync::watch};

use super::{
    bind, eventually,
    fake::{SLOW, Upstreams},
};
use crate::{
    Backend,
    health::GatewayHealth,
    routes::Routes,
    upstream::{OwnCalls, Pool, Upstream},
};

/// Starts a server with a health service that also has its own name.
async fn replica(name: &str, limits: ConnectionLimits) -> Running {
    replica_that_is(Health::new([name]), limits).await
}

async fn replica_that_is(health: Health, limits: ConnectionLimits) -> Running {
    let settings = Settings::for_tests();
    let server = Server::new("replica", settings.listen, &settings.limits, &settings.shutdown);
    server.connection_limits(limits).health(health).start().await.expect("it starts")
}

fn address(socket: std::net::SocketAddr) -> Address {
    Address { socket, authority: socket.to_string(), in_process: None }
}

fn upstream(addresses: watch::Receiver<Vec<Address>>) -> Arc<Upstream> {
    Arc::new(Upstream::new(Backend::Ticket, Pool::new(addresses, None, Windows::for_streams(8), &Tasks::new())))
}

/// Returns whether the called replica has this name.
async fn calls_replica(upstream: &Arc<Upstream>, name: &str) -> Result<bool, tonic::Status> {
    let mut client = HealthClient::new(OwnCalls(upstream.clone()));
    match client.check(HealthCheckRequest { service: name.to_owned() }).await {
        Ok(_) => Ok(true),
        Err(status) if status.code() == tonic::Code::NotFound => Ok(false),
        Err(status) => Err(status),
    }
}

#[tokio::test]
async fn connections_that_reach_their_age_lose_no_call() {
    let limits = ConnectionLimits { max_age: Duration::from_millis(10), ..ConnectionLimits::default() };
    let replica = replica("one", limits).await;
    let (_sender, addresses) = watch::channel(vec![address(replica.address())]);
    let upstream = upstream(addresses);
    let until = Instant::now() + Duration::from_millis(700);
    join_all((0..8).map(async |_| {
        // A busy machine makes few calls in this time.
        let mut calls = 0;
        while calls < 20 || Instant::now() < until {
            assert!(calls_replica(&upstream, "one").await.expect("no call is lost"));
            calls += 1;
        }
    }))
    .await;
}

#[tokio::test]
async fn calls_avoid_a_dead_address() {
    let one = replica("one", ConnectionLimits::default()).await;
    let dead = free_address().expect("a port");
    let (_sender, addresses) = watch::channel(vec![address(dead), address(one.address())]);
    let upstream = upstream(addresses);
    for _ in 0..20 {
        assert!(calls_replica(&upstream, "one").await.expect("the other address responds"));
    }
}

#[tokio::test]
async fn addresses_are_used_in_turn_and_dropped_when_removed() {
    let (one, two) =
        (replica("one", ConnectionLimits::default()).await, replica("two", ConnectionLimits::default()).await);
    let (sender, addresses) = watch::channel(vec![address(one.address()), address(two.address())]);
    let upstream = upstream(addresses);
    eventually("both are called", async || {
        let (first, second) =
            (calls_replica(&upstream, "one").await.unwrap(), calls_replica(&upstream, "one").await.unwrap());
        first != second
    })
    .await;
    sender.send_replace(vec![address(two.address())]);
    eventually("only the second one is called", async || {
        let asked = join_all((0..8).map(|_| calls_replica(&upstream, "two"))).await;
        asked.into_iter().all(|by_two| by_two.unwrap())
    })
    .await;
}

/// Starts two replicas; each has its own name besides the shared one. Only the second one is ready.
async fn two_replicas() -> ([Health; 2], [Running; 2], Arc<Upstream>) {
    let healths = ["one", "two"].map(|name| Health::new([name, SHARED]).with_store());
    healths[1].set_store(true);
    let [one, two] = [&healths[0], &healths[1]].map(|health| replica_that_is(health.clone(), Default::default()));
    let replicas = [one.await, two.await];
    let known = replicas.iter().map(|replica| address(replica.address())).collect();
    let (sender, addresses) = watch::channel(known);
    // The addresses do not change; the receiver works without its sender.
    drop(sender);
    (healths, replicas, upstream(addresses))
}

const SHARED: &str = "eticket.ticket.v1.TicketService";

async fn only(upstream: &Arc<Upstream>, name: &str) -> bool {
    join_all((0..8).map(|_| calls_replica(upstream, name))).await.into_iter().all(|by_it| by_it.expect("answered"))
}

#[tokio::test]
async fn an_unready_replica_is_called_only_if_none_is_ready() {
    let (healths, _replicas, upstream) = two_replicas().await;
    assert!(only(&upstream, "two").await, "not even a first call goes to a replica that is not ready");
    healths[0].set_store(true);
    healths[1].set_store(false);
    eventually("only the first one is called", async || only(&upstream, "one").await).await;
    healths[0].set_store(false);
    eventually("both are called, as before", async || {
        let by_two = join_all((0..8).map(|_| calls_replica(&upstream, "two"))).await;
        let by_two = by_two.into_iter().filter(|by_two| *by_two.as_ref().expect("answered")).count();
        (1..8).contains(&by_two)
    })
    .await;
}

#[tokio::test]
async fn a_service_serves_if_any_of_its_replicas_does() {
    let (healths, _replicas, upstream) = two_replicas().await;
    let health = GatewayHealth {
        own: Health::new(Vec::<String>::new()),
        routes: Arc::new(Routes::try_new(None).expect("the contract")),
        upstreams: Backend::ALL.map(|_| upstream.clone()),
    };
    let request = || tonic::Request::new(HealthCheckRequest { service: SHARED.to_owned() });
    let mut watch = health.watch(request()).await.expect("watched").into_inner();
    let mut next = async || watch.next().await.expect("open").expect("a state").status();
    assert_eq!(next().await, ServingStatus::Serving);
    healths[0].set_store(true);
    healths[1].set_store(false);
    let unexpected = tokio::time::timeout(Duration::from_secs(5), next()).await;
    assert!(unexpected.is_err(), "the other one serves: {unexpected:?}");
    let checked = health.check(request()).await.expect("checked").get_ref().status();
    assert_eq!(checked, ServingStatus::Serving);
    healths[0].set_store(false);
    assert_eq!(next().await, ServingStatus::NotServing);
    healths[1].set_store(true);
    assert_eq!(next().await, ServingStatus::Serving);
}

/// Accepts and counts connections without responding.
async fn count_connections(listener: TcpListener, count: Arc<AtomicUsize>) {
    let mut held = Vec::new();
    while let Ok((stream, _)) = listener.accept().await {
        count.fetch_add(1, Ordering::SeqCst);
        held.push(stream);
    }
}

#[tokio::test]
async fn concurrent_calls_share_one_connection() {
    let listener = bind(None).await;
    let socket = listener.local_addr().expect("bound");
    let count = Arc::new(AtomicUsize::new(0));
    let counting = tokio::spawn(count_connections(listener, count.clone()));
    let (_sender, addresses) = watch::channel(vec![address(socket)]);
    let upstream = upstream(addresses);
    let calls = join_all((0..50).map(|_| calls_replica(&upstream, "one")));
    assert!(tokio::time::timeout(Duration::from_millis(300), calls).await.is_err(), "no server responds");
    assert_eq!(count.load(Ordering::SeqCst), 1);
    counting.abort();
}

#[tokio::test(start_paused = true)]
async fn without_an_address_a_call_fails_early() {
    let (_sender, addresses) = watch::channel(Vec::new());
    let upstream = upstream(addresses);
    let start = tokio::time::Instant::now();
    assert!(calls_replica(&upstream, "one").await.is_err());
    assert!(start.elapsed() < Duration::from_secs(1));
}

/// A connection that has reached its maximum age stays open until the deadlines of its calls.
#[tokio::test]
async fn a_wait_keeps_its_deadline_when_the_connection_to_its_service_ages() {
    let (settings, upstreams) = (Settings::for_tests(), Upstreams::start().await);
    let short = Duration::from_millis(50);
    let aged = ConnectionLimits { max_age: short, max_age_grace: short, ..ConnectionLimits::default() };
    let server = Server::new("replica", settings.listen, &settings.limits, &settings.shutdown);
    let server = server.service(TicketServiceServer::new(upstreams.fake.clone())).connection_limits(aged);
    let running = server.start().await.expect("it starts");
    let (_known, addresses) = watch::channel(vec![address(running.address())]);
    let mut client = TicketServiceClient::new(OwnCalls(upstream(addresses)));
    let mut wait = tonic::Request::new(GetTicketRequest { ticket_id: SLOW.to_owned() });
    wait.set_timeout(Duration::from_millis(1500));
    let status = client.get_ticket(wait).await.expect_err("the wait never ends");
    assert_eq!(ApiError::from_status(&status), Some(ErrorReason::DeadlineExceeded), "{status:?}");
    running.stop().await;
}
