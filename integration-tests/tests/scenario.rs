//! The story that the system is judged by, on each way in.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use eticket_integration_tests::{Api, Eticket, Protocol, redelivery, scenario};
use tempfile::TempDir;

async fn tell(protocol: Protocol) {
    let data = TempDir::new().expect("a folder");
    let eticket = Eticket::start(data.path()).await;
    let told = scenario::first_act(&Api::new(&eticket, protocol)).await;
    eticket.stop().await;
    let again = redelivery::publish_again(data.path(), |message| scenario::is_the_cancellation(&told, message));
    assert!(again.await.body.len() > 10, "the event has a body");

    let eticket = Eticket::start(data.path()).await;
    scenario::second_act(&Api::new(&eticket, protocol), &told).await;
    eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_grpc() {
    tell(Protocol::Direct).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_grpc_through_the_gateway() {
    tell(Protocol::Gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_grpc_web() {
    tell(Protocol::WebBinary).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_grpc_web_in_base64() {
    tell(Protocol::WebText).await;
}
