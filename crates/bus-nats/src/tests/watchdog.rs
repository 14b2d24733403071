//! Consumers that stall or are deleted, or only seem to stall.

use std::time::Instant;

use futures::FutureExt;
use serde_json::Value;

use super::*;

const FILTERS: [&str; 1] = ["eticket.v1.a.*"];

/// The names of all consumers on the server.
async fn names(bus: &Nats) -> Vec<String> {
    let answer: Value = bus.stream.api("CONSUMER.NAMES.ETICKET", &json!({})).await.unwrap();
    answer["consumers"].as_array().into_iter().flatten().map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// Pauses a consumer: the server delivers nothing, but still sends heartbeats.
async fn pause(bus: &Nats, name: &str) {
    let until = chrono::Utc::now() + chrono::TimeDelta::hours(1);
    let payload = json!({ "pause_until": until.to_rfc3339() });
    let answer: Value = bus.stream.api(&format!("CONSUMER.PAUSE.ETICKET.{name}"), &payload).await.unwrap();
    assert_eq!(answer["paused"], json!(true));
}

async fn delete(bus: &Nats, name: &str) {
    let answer: Value = bus.stream.api(&format!("CONSUMER.DELETE.ETICKET.{name}"), &json!({})).await.unwrap();
    assert_eq!(answer["success"], json!(true));
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn a_stalled_consumer_is_created_again_at_its_position() {
    let node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    for number in 1..=3 {
        bus.publish(message("x", number)).await.unwrap();
    }
    let mut consumer = bus.attach("stalls", &FILTERS).await.unwrap();
    assert_eq!(ids(&gather(&mut *consumer, 2).await), ["x/1", "x/2"]);
    consumer.ack(&[1]).await.unwrap();
    pause(&bus, &names(&bus).await[0]).await;
    // Messages requested before the pause may still arrive.
    let text = loop {
        match soon(consumer.next(2)).await {
            Ok(_) => {}
            outcome => break unavailable_text(outcome),
        }
    };
    assert!(text.contains("has delivered none of") && text.contains("created it again"), "{text}");
    drop(consumer);
    let mut consumer = bus.attach("stalls", &FILTERS).await.unwrap();
    let mut read = Vec::new();
    while !read.contains(&"x/3".to_owned()) {
        read.extend(ids(&in_time(consumer.next(10)).await.unwrap()).into_iter().map(str::to_owned));
    }
    assert!(read.contains(&"x/2".to_owned()), "it was not acknowledged: {read:?}");
    assert!(!read.contains(&"x/1".to_owned()), "it was acknowledged: {read:?}");
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn the_server_delivers_the_next_messages_while_a_reader_processes_others() {
    let node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    for number in 1..=4 {
        bus.publish(message("x", number)).await.unwrap();
    }
    let mut reader = bus.read(0).await.unwrap();
    let mut read = 0;
    while read < 2 {
        read += in_time(reader.next(2 - read)).await.unwrap().len();
    }
    let name = names(&bus).await.remove(0);
    let delivered = async || durable::info(&bus.stream, &name).await.ok()??.delivered.consumer_seq.checked_sub(3);
    soon(eventually("a delivery without another call", delivered)).await;
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn a_stalled_or_deleted_reader_ends() {
    let node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    bus.publish(message("x", 1)).await.unwrap();
    let mut reader = bus.read(0).await.unwrap();
    assert_eq!(ids(&in_time(reader.next(10)).await.unwrap()), ["x/1"]);
    pause(&bus, &names(&bus).await[0]).await;
    bus.publish(message("x", 2)).await.unwrap();
    let text = unavailable_text(soon(reader.next(10)).await);
    assert!(text.contains("none of 1 pending messages was delivered"), "{text}");
    drop(reader);
    eventually("the deletion of its consumer", async || names(&bus).await.is_empty().then_some(())).await;

    let mut reader = bus.read(1).await.unwrap();
    assert_eq!(ids(&in_time(reader.next(10)).await.unwrap()), ["x/2"]);
    delete(&bus, &names(&bus).await[0]).await;
    let text = unavailable_text(in_time(reader.next(10)).await);
    assert!(text.contains("deleted this reader"), "{text}");
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn waiting_while_another_member_works_is_no_stall() {
    let node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    bus.publish(message("x", 1)).await.unwrap();
    let mut slow = bus.attach("shared", &FILTERS).await.unwrap();
    assert_eq!(ids(&in_time(slow.next(1)).await.unwrap()), ["x/1"]);
    let mut other = bus.attach("shared", &FILTERS).await.unwrap();
    let began = Instant::now();
    let batch = in_time(other.next(10)).await.unwrap();
    assert_eq!((ids(&batch), batch[0].attempts), (vec!["x/1"], 2), "its ack_wait ended");
    assert!(began.elapsed() > SOON.stall, "it came after {:?}", began.elapsed());
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn returned_messages_are_delivered_before_the_ack_wait_ends() {
    let node = server::Nats::start().unwrap();
    let bounds = Bounds { ack_wait: Duration::from_secs(600), ..SOON };
    let bus = Nats::open_with(&config(&node.url()), bounds).unwrap();
    for number in 1..=4 {
        bus.publish(message("x", number)).await.unwrap();
    }
    let mut consumer = bus.attach("back", &FILTERS).await.unwrap();
    // More messages are requested than returned.
    assert!(consumer.next(4).now_or_never().is_none());
    assert_eq!(in_time(consumer.next(1)).await.unwrap().len(), 1);
    drop(consumer);
    let mut consumer = bus.attach("back", &FILTERS).await.unwrap();
    let mut read = Vec::new();
    while read.len() < 4 {
        read.extend(soon(consumer.next(10)).await.unwrap().into_iter().map(|delivery| delivery.sequence));
    }
    read.sort_unstable();
    assert_eq!(read, [1, 2, 3, 4]);
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn members_notice_a_restart_of_the_consumer() {
    let node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    bus.publish(message("x", 1)).await.unwrap();
    let mut consumer = bus.attach("restarted", &FILTERS).await.unwrap();
    in_time(consumer.next(1)).await.unwrap();
    consumer.ack(&[1]).await.unwrap();
    bus.restart("restarted").await.unwrap();
    let text = unavailable_text(soon(consumer.next(1)).await);
    assert!(text.contains("moved back to the start"), "{text}");
    let mut consumer = bus.attach("restarted", &FILTERS).await.unwrap();
    let batch = in_time(consumer.next(1)).await.unwrap();
    assert_eq!((ids(&batch), batch[0].attempts), (vec!["x/1"], 1));
    bus.restart("nobody").await.unwrap();
}
