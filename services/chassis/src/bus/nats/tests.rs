//! The adapter against servers of its own.

use std::sync::Arc;

use eticket_local_servers::nats as server;

use super::*;
use crate::bus::contract;

fn config(url: &str) -> BusConfig {
    BusConfig { url: Some(url.to_owned()), ..BusConfig::default() }
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
    let urls: Vec<String> = nodes.iter().map(server::Nats::url).collect();
    let config = BusConfig { replicas: 3, ..config(&urls.join(",")) };
    contract::suite(async || Arc::new(Nats::open(&config).unwrap()) as Arc<dyn Bus>).await;
}
