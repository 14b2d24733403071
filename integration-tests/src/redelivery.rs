//! Publishes a message again with the same headers and body, as a bus may do at any time.

use std::path::Path;

use eticket_base::config::bus::BusConfig;
use eticket_bus::{Bus, Message};
use eticket_bus_embedded::Embedded;
use eticket_bus_nats::Nats;

/// The file of the embedded bus in a data folder.
pub const BUS_FILE: &str = "bus.db";

/// Publishes the first `wanted` message again, on the file of the embedded bus while no process runs.
///
/// # Panics
/// If the stream has no such message, or if the process that owns the folder still runs.
pub async fn publish_again(data: &Path, wanted: impl Fn(&Message) -> bool) -> Message {
    let bus = Embedded::open(&data.join(BUS_FILE)).await.expect("no other process has opened the file");
    let message = publish_again_on(&bus, wanted).await;
    bus.close().await;
    message
}

/// Publishes the first `wanted` message again on any bus.
///
/// # Panics
/// If the stream has no such message, or if the bus does not respond.
pub async fn publish_again_on(bus: &dyn Bus, wanted: impl Fn(&Message) -> bool) -> Message {
    let last = bus.state().await.expect("the bus answers").last_sequence;
    for sequence in 1..=last {
        let message = bus.message_at(sequence).await.expect("the bus answers");
        if let Some(message) = message.filter(&wanted) {
            bus.publish(message.clone()).await.expect("the bus takes a message");
            return message;
        }
    }
    panic!("none of the {last} messages on the stream is wanted")
}

/// Connects to the bus of a mesh, to publish messages by hand.
///
/// # Panics
/// If the URL is invalid.
pub fn nats(url: &str) -> Nats {
    Nats::open(&BusConfig { url: Some(url.to_owned()), ..BusConfig::default() }).expect("a bus")
}

/// Deletes the stream, like an operator after the stream has lost its newest messages.
///
/// # Panics
/// If the server rejects it.
pub async fn delete_stream(url: &str) {
    let client = async_nats::connect(url).await.expect("connected");
    let answer = client.request("$JS.API.STREAM.DELETE.ETICKET", bytes::Bytes::new()).await.expect("an answer");
    let answer: serde_json::Value = serde_json::from_slice(&answer.payload).expect("JSON");
    assert_eq!(answer["success"], true, "{answer}");
}
