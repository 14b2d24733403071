//! The acceptance scenario on each protocol.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use eticket_integration_tests::{Api, Eticket, Protocol, redelivery, scenario};
use tempfile::TempDir;

async fn run_scenario(protocol: Protocol) {
    let data = TempDir::new().expect("a folder");
    let eticket = Eticket::start(data.path()).await;
    let first = scenario::first_act(&Api::new(&eticket, protocol)).await;
    eticket.stop().await;
    let again = redelivery::publish_again(data.path(), |message| scenario::is_the_cancellation(&first, message));
    assert!(again.await.body.len() > 10, "the event has a body");

    let eticket = Eticket::start(data.path()).await;
    scenario::second_act(&Api::new(&eticket, protocol), &first).await;
    eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_grpc() {
    run_scenario(Protocol::Direct).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_grpc_through_the_gateway() {
    run_scenario(Protocol::Gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_grpc_web() {
    run_scenario(Protocol::WebBinary).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_grpc_web_in_base64() {
    run_scenario(Protocol::WebText).await;
}
