//! Consumers that stall, are deleted, or only look as if they stalled.

use std::time::Instant;

use futures::FutureExt;
use serde_json::Value;

use super::*;

const FILTERS: [&str; 1] = ["eticket.v1.a.*"];

/// The consumers that the server has.
async fn names(bus: &Nats) -> Vec<String> {
    let answer: Value = bus.stream.api("CONSUMER.NAMES.ETICKET", &json!({})).await.unwrap();
    answer["consumers"].as_array().into_iter().flatten().map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// From now on the server delivers nothing to this consumer, and goes on sending signs of life.
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
async fn a_consumer_that_stalls_is_made_anew_where_it_stood() {
    let node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    for number in 1..=3 {
        bus.publish(message("x", number)).await.unwrap();
    }
    let mut consumer = bus.attach("stalls", &FILTERS).await.unwrap();
    let batch = in_time(consumer.next(2)).await.unwrap();
    assert_eq!(ids(&batch), ["x/1", "x/2"]);
    consumer.ack(&[1]).await.unwrap();
    pause(&bus, &names(&bus).await[0]).await;
    // What was asked for before the pause may still come; then nothing does.
    let said = loop {
        match soon(consumer.next(2)).await {
            Ok(_) => {}
            outcome => break words(outcome),
        }
    };
    assert!(said.contains("has delivered none of") && said.contains("made anew"), "{said}");
    drop(consumer);
    let mut consumer = bus.attach("stalls", &FILTERS).await.unwrap();
    let mut read = Vec::new();
    while !read.contains(&"x/3".to_owned()) {
        read.extend(ids(&in_time(consumer.next(10)).await.unwrap()).into_iter().map(str::to_owned));
    }
    assert!(read.contains(&"x/2".to_owned()), "it had not been dealt with: {read:?}");
    assert!(!read.contains(&"x/1".to_owned()), "it had been: {read:?}");
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn a_reader_that_stalls_or_is_forgotten_ends() {
    let node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    bus.publish(message("x", 1)).await.unwrap();
    let mut reader = bus.read(0).await.unwrap();
    assert_eq!(ids(&in_time(reader.next(10)).await.unwrap()), ["x/1"]);
    pause(&bus, &names(&bus).await[0]).await;
    bus.publish(message("x", 2)).await.unwrap();
    let said = words(soon(reader.next(10)).await);
    assert!(said.contains("none of 1 messages has been delivered"), "{said}");
    drop(reader);
    eventually("its end", async || names(&bus).await.is_empty().then_some(())).await;

    let mut reader = bus.read(1).await.unwrap();
    assert_eq!(ids(&in_time(reader.next(10)).await.unwrap()), ["x/2"]);
    delete(&bus, &names(&bus).await[0]).await;
    let said = words(in_time(reader.next(10)).await);
    assert!(said.contains("forgotten this reader"), "{said}");
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn who_waits_for_what_another_works_on_does_not_stall() {
    let node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    bus.publish(message("x", 1)).await.unwrap();
    let mut slow = bus.attach("shared", &FILTERS).await.unwrap();
    assert_eq!(ids(&in_time(slow.next(1)).await.unwrap()), ["x/1"]);
    let mut other = bus.attach("shared", &FILTERS).await.unwrap();
    let began = Instant::now();
    let batch = in_time(other.next(10)).await.unwrap();
    assert_eq!((ids(&batch), batch[0].attempts), (vec!["x/1"], 2), "its time was over");
    assert!(began.elapsed() > SOON.stall, "it came after {:?}", began.elapsed());
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn what_is_given_back_is_delivered_before_its_time() {
    let node = server::Nats::start().unwrap();
    let bounds = Bounds { ack_wait: Duration::from_secs(600), ..SOON };
    let bus = Nats::open_with(&config(&node.url()), bounds).unwrap();
    for number in 1..=4 {
        bus.publish(message("x", number)).await.unwrap();
    }
    let mut consumer = bus.attach("back", &FILTERS).await.unwrap();
    // More is under way than is handed out.
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
async fn who_is_attached_hears_that_the_consumer_was_put_back() {
    let node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    bus.publish(message("x", 1)).await.unwrap();
    let mut consumer = bus.attach("restarted", &FILTERS).await.unwrap();
    in_time(consumer.next(1)).await.unwrap();
    consumer.ack(&[1]).await.unwrap();
    bus.restart("restarted").await.unwrap();
    let said = words(soon(consumer.next(1)).await);
    assert!(said.contains("put back to the start"), "{said}");
    let mut consumer = bus.attach("restarted", &FILTERS).await.unwrap();
    let batch = in_time(consumer.next(1)).await.unwrap();
    assert_eq!((ids(&batch), batch[0].attempts), (vec!["x/1"], 1));
    bus.restart("nobody").await.unwrap();
}
