//! Delivering a message once more, as a bus may at any time: with the same headers and body.

use std::path::Path;

use eticket_base::config::bus::BusConfig;
use eticket_bus::{Bus, Message};
use eticket_bus_embedded::Embedded;
use eticket_bus_nats::Nats;

/// The embedded bus's file in a data folder.
pub const BUS_FILE: &str = "bus.db";

/// Publishes the first message that is `wanted` again, on the embedded bus's file while nothing runs.
///
/// # Panics
/// If the stream has none, or the process that owns the folder still runs.
pub async fn publish_again(data: &Path, wanted: impl Fn(&Message) -> bool) -> Message {
    let bus = Embedded::open(&data.join(BUS_FILE)).await.expect("the bus's file opens while nobody else has it");
    let message = publish_again_on(&bus, wanted).await;
    bus.close().await;
    message
}

/// The same on any bus.
///
/// # Panics
/// If the stream has none, or the bus does not answer.
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

/// The bus of a mesh, for who wants to publish on it by hand.
///
/// # Panics
/// If the URL is none.
pub fn nats(url: &str) -> Nats {
    Nats::open(&BusConfig { url: Some(url.to_owned()), ..BusConfig::default() }).expect("a bus")
}

/// Deletes the stream, as an operator does who knows that it has lost its tail.
///
/// # Panics
/// If the server refuses.
pub async fn delete_stream(url: &str) {
    let client = async_nats::connect(url).await.expect("connected");
    let answer = client.request("$JS.API.STREAM.DELETE.ETICKET", bytes::Bytes::new()).await.expect("an answer");
    let answer: serde_json::Value = serde_json::from_slice(&answer.payload).expect("JSON");
    assert_eq!(answer["success"], true, "{answer}");
}
