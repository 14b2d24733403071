//! Tests of the adapter against NATS servers.

mod access;
mod breaks;
mod faults;
mod kills;
mod settings;
mod watchdog;

use eticket_bus::{Delivery, contract};
use eticket_local_servers::nats as server;
use tokio::{
    task::block_in_place,
    time::{sleep, timeout},
};

use super::*;

/// Bound of each wait.
const BOUND: Duration = Duration::from_secs(30);

/// Short timeouts for tests.
const SOON: Bounds = Bounds {
    first_connection: Duration::from_secs(5),
    request: Duration::from_secs(1),
    look: Duration::from_millis(200),
    stall: Duration::from_secs(1),
    ack_wait: Duration::from_secs(3),
};

fn config(url: &str) -> BusConfig {
    BusConfig { url: Some(url.to_owned()), ..BusConfig::default() }
}

fn open(url: &str) -> Nats {
    Nats::open_with(&config(url), SOON).unwrap()
}

fn message(aggregate: &str, number: u64) -> Message {
    let headers = vec![("ce-id".into(), format!("{aggregate}/{number}"))];
    Message { subject: format!("eticket.v1.a.{aggregate}"), headers, body: vec![7; 3].into() }
}

fn ids(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries.iter().map(|delivery| delivery.message.header("ce-id").unwrap()).collect()
}

/// Receives messages until there are `count`: a batch may have fewer than are waiting. Does not acknowledge them.
async fn gather(consumer: &mut dyn Consumer, count: usize) -> Vec<Delivery> {
    let mut gathered = Vec::new();
    while gathered.len() < count {
        gathered.extend(in_time(consumer.next(count - gathered.len())).await.unwrap());
    }
    gathered
}

/// Retries until there is a result.
async fn eventually<T>(what: &str, attempt: impl AsyncFn() -> Option<T>) -> T {
    let tries = async {
        loop {
            match attempt().await {
                Some(value) => return value,
                None => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    timeout(BOUND, tries).await.unwrap_or_else(|_| panic!("{what} did not happen in {BOUND:?}"))
}

/// Limits a wait to [`BOUND`].
async fn in_time<T>(future: impl Future<Output = T>) -> T {
    timeout(BOUND, future).await.expect("an answer in time")
}

/// For results within about a second, so that a test without its guard fails sooner than after [`BOUND`].
async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(BOUND / 3, future).await.expect("an answer soon")
}

/// The text of an `Unavailable` error.
fn unavailable_text<T>(outcome: Result<T, Error>) -> String {
    match outcome {
        Err(Error::Unavailable(words)) => words,
        Err(error) => panic!("another error: {error}"),
        Ok(_) => panic!("no error"),
    }
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn keeps_the_contract() {
    let node = server::Nats::start().unwrap();
    contract::suite(async || Arc::new(Nats::open(&config(&node.url())).unwrap()) as Arc<dyn Bus>).await;
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn keeps_the_contract_on_a_cluster() {
    let nodes = server::Nats::cluster().unwrap();
    let config = config_of_cluster(&nodes);
    // The cluster refuses a stream with three replicas until its leader knows the storage of each server.
    let first = Nats::open(&config).unwrap();
    eventually("a stream of three", async || first.state().await.ok()).await;
    first.close().await;
    // The suite opens connections of its own, each to any of the servers, and these know the leader at different times.
    for node in &nodes {
        let only = Nats::open(&BusConfig { replicas: 3, ..self::config(&node.url()) }).unwrap();
        eventually("the leader, from each server", async || only.state().await.ok()).await;
        only.close().await;
    }
    contract::suite(async || Arc::new(Nats::open(&config).unwrap()) as Arc<dyn Bus>).await;
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn a_reader_on_a_server_that_lags_is_not_at_the_end() {
    let nodes = server::Nats::cluster().unwrap();
    let bus = Nats::open(&config_of_cluster(&nodes)).unwrap();
    eventually("a stream of three", async || bus.state().await.ok()).await;
    // The cluster places each consumer on a server of its choice, so some are not with the leader of the stream.
    let mut readers = Vec::new();
    for _ in 0..6 {
        readers.push(bus.read(0).await.unwrap());
    }
    for number in 1..=100 {
        let sequence = bus.publish(message("x", number)).await.unwrap();
        let ends = futures::future::try_join_all(readers.iter_mut().map(|reader| reader.is_at_end())).await.unwrap();
        assert_eq!(ends, [false; 6], "{sequence} was acknowledged");
        for reader in &mut readers {
            assert_eq!(in_time(reader.next(1)).await.unwrap()[0].sequence, sequence);
        }
    }
}

fn config_of_cluster(nodes: &[server::Nats]) -> BusConfig {
    let urls: Vec<String> = nodes.iter().map(server::Nats::url).collect();
    BusConfig { replicas: 3, ..config(&urls.join(",")) }
}
