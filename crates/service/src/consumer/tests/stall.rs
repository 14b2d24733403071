//! What operators see when a consumer on NATS stalls, and that the stall ends.

use std::time::Duration;

use eticket_base::{config::bus::BusConfig, telemetry};
use eticket_bus_nats::{Bounds, Nats};
use eticket_local_servers::nats as server;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::*;

/// The bounds of a process, shortened.
const SOON: Bounds = Bounds {
    first_connection: Duration::from_secs(5),
    request: Duration::from_secs(1),
    look: Duration::from_millis(200),
    stall: Duration::from_secs(1),
    ack_wait: Duration::from_secs(3),
};
/// Maximum time to wait for an expected event.
const BOUND: Duration = Duration::from_secs(30);

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(BOUND, waiting).await.unwrap_or_else(|_| panic!("{what}: not within {BOUND:?}"));
}

/// Sends a request to the JetStream API.
async fn api(client: &async_nats::Client, subject: String, payload: Value) -> Value {
    let response = client.request(format!("$JS.API.{subject}"), payload.to_string().into()).await.unwrap();
    serde_json::from_slice(&response.payload).unwrap()
}

/// Returns the name of the only consumer on the server.
async fn only_consumer(client: &async_nats::Client) -> String {
    let response = api(client, "CONSUMER.NAMES.ETICKET".to_owned(), json!({})).await;
    let names = response["consumers"].as_array().unwrap();
    assert_eq!(names.len(), 1, "{names:?}");
    names[0].as_str().unwrap().to_owned()
}

fn event(revision: u64) -> Message {
    let headers = vec![("ce-id".into(), format!("x/{revision}"))];
    Message { subject: "eticket.v1.a.x".to_owned(), headers, body: format!("x={revision}").into() }
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn a_stall_shows_in_the_health_and_passes() {
    telemetry::metrics();
    let node = server::Nats::start().unwrap();
    let config = BusConfig { url: Some(node.url()), ..BusConfig::default() };
    let bus = Arc::new(Nats::open_with(&config, SOON).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let service = service(database(folder.path()).await);
    let consumer = consumer(bus.clone(), &service);
    let (health, stopping) = (consumer.health.clone(), CancellationToken::new());
    let running = tokio::spawn(consumer.run(stopping.clone()));
    let serves = |expected: bool| {
        let health = health.clone();
        async move || health.is_serving("bus") == Some(expected)
    };
    let applied = async |revision: i64| eventually("the event", async || service.newest("x") == Some(revision)).await;

    bus.publish(event(1)).await.unwrap();
    applied(1).await;
    eventually("service", serves(true)).await;

    let client = async_nats::connect(node.url()).await.unwrap();
    // From here on the server delivers no message to this consumer, but still sends heartbeats.
    let until = (chrono::Utc::now() + chrono::TimeDelta::hours(1)).to_rfc3339();
    let subject = format!("CONSUMER.PAUSE.ETICKET.{}", only_consumer(&client).await);
    assert_eq!(api(&client, subject, json!({ "pause_until": until })).await["paused"], json!(true));
    bus.publish(event(2)).await.unwrap();
    eventually("a stall", serves(false)).await;
    applied(2).await;
    eventually("recovery", serves(true)).await;
    let metrics = telemetry::metrics().unwrap().render();
    assert!(metrics.contains("eticket_bus_stalls_total{consumer=\"test\""), "{metrics}");

    let subject = format!("CONSUMER.DELETE.ETICKET.{}", only_consumer(&client).await);
    assert_eq!(api(&client, subject, json!({})).await["success"], json!(true));
    bus.publish(event(3)).await.unwrap();
    eventually("the loss", serves(false)).await;
    applied(3).await;
    eventually("recovery", serves(true)).await;
    stopping.cancel();
    timeout(BOUND, running).await.unwrap().unwrap();
}
