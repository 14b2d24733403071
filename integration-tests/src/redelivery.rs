//! Delivering a message once more, as a bus may at any time: while nothing runs, it is read from the embedded bus's file and
//! published there again, with the same headers and body.

use std::path::Path;

use eticket_chassis::bus::{Bus, Message, embedded::Embedded};

/// The embedded bus's file in a data folder.
pub const BUS_FILE: &str = "bus.db";

/// Publishes the first message that is `wanted` again.
///
/// # Panics
/// If the stream has none, or the process that owns the folder still runs.
pub async fn publish_again(data: &Path, wanted: impl Fn(&Message) -> bool) -> Message {
    let bus = Embedded::open(&data.join(BUS_FILE)).await.expect("the bus's file opens while nobody else has it");
    let last = bus.state().await.expect("the bus answers").last_sequence;
    let mut found = None;
    for sequence in 1..=last {
        let message = bus.message_at(sequence).await.expect("the bus answers");
        if let Some(message) = message.filter(&wanted) {
            found = Some(message);
            break;
        }
    }
    let message = found.unwrap_or_else(|| panic!("none of the {last} messages on the stream is wanted"));
    bus.publish(message.clone()).await.expect("the bus takes a message");
    bus.close().await;
    message
}
