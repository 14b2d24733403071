//! Connections to an upstream: which are used, made again, left.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use eticket_chassis::{
    client::balance::Address,
    config::Settings,
    health::Health,
    server::{ConnectionLimits, Running, Server},
    tasks::Tasks,
};
use futures::future::join_all;
use tokio::{net::TcpListener, sync::watch};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{bind, eventually};
use crate::{
    Owner,
    upstream::{OwnCalls, Upstream, pool::Pool},
};

/// A server that answers for the health of a service under its own name.
async fn replica(name: &str, limits: ConnectionLimits) -> Running {
    let settings = Settings::for_tests();
    let server = Server::new("replica", settings.listen, &settings.limits, &settings.shutdown);
    server.connection_limits(limits).health(Health::new([name])).start().await.expect("it starts")
}

fn address(socket: std::net::SocketAddr) -> Address {
    Address { socket, authority: socket.to_string() }
}

fn upstream(addresses: watch::Receiver<Vec<Address>>) -> Arc<Upstream> {
    Arc::new(Upstream::new(Owner::Ticket, Pool::new(addresses, &Tasks::new())))
}

/// Whether who is asked answers, and is the replica of this name.
async fn answers(upstream: &Arc<Upstream>, name: &str) -> Result<bool, tonic::Status> {
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
    let calls = join_all((0..8).map(async |_| {
        let mut calls = 0;
        while Instant::now() < until {
            assert!(answers(&upstream, "one").await.expect("no call is lost"));
            calls += 1;
        }
        calls
    }));
    assert!(calls.await.into_iter().sum::<i32>() > 100);
}

#[tokio::test]
async fn calls_go_around_an_address_that_is_dead() {
    let one = replica("one", ConnectionLimits::default()).await;
    let dead = bind(None).await.local_addr().expect("bound");
    let (_sender, addresses) = watch::channel(vec![address(dead), address(one.address())]);
    let upstream = upstream(addresses);
    for _ in 0..20 {
        assert!(answers(&upstream, "one").await.expect("the other address answers"));
    }
}

#[tokio::test]
async fn addresses_are_used_in_turn_and_left_when_they_go() {
    let (one, two) =
        (replica("one", ConnectionLimits::default()).await, replica("two", ConnectionLimits::default()).await);
    let (sender, addresses) = watch::channel(vec![address(one.address()), address(two.address())]);
    let upstream = upstream(addresses);
    eventually("both are asked", async || {
        let (first, second) = (answers(&upstream, "one").await.unwrap(), answers(&upstream, "one").await.unwrap());
        first != second
    })
    .await;
    sender.send_replace(vec![address(two.address())]);
    eventually("only the second one is asked", async || {
        let asked = join_all((0..8).map(|_| answers(&upstream, "two"))).await;
        asked.into_iter().all(|by_two| by_two.unwrap())
    })
    .await;
}

/// Counts connections and answers none of them.
async fn count_connections(listener: TcpListener, count: Arc<AtomicUsize>) {
    let mut held = Vec::new();
    while let Ok((stream, _)) = listener.accept().await {
        count.fetch_add(1, Ordering::SeqCst);
        held.push(stream);
    }
}

#[tokio::test]
async fn calls_at_once_share_one_connection() {
    let listener = bind(None).await;
    let socket = listener.local_addr().expect("bound");
    let count = Arc::new(AtomicUsize::new(0));
    let counting = tokio::spawn(count_connections(listener, count.clone()));
    let (_sender, addresses) = watch::channel(vec![address(socket)]);
    let upstream = upstream(addresses);
    let calls = join_all((0..50).map(|_| answers(&upstream, "one")));
    assert!(tokio::time::timeout(Duration::from_millis(300), calls).await.is_err(), "nobody answers");
    assert_eq!(count.load(Ordering::SeqCst), 1);
    counting.abort();
}

#[tokio::test(start_paused = true)]
async fn without_an_address_a_call_fails_long_before_its_deadline() {
    let (_sender, addresses) = watch::channel(Vec::new());
    let upstream = upstream(addresses);
    let start = tokio::time::Instant::now();
    assert!(answers(&upstream, "one").await.is_err());
    assert!(start.elapsed() < Duration::from_secs(1));
}
