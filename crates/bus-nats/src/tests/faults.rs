//! Servers that die, hang, or lose data.

use std::{fs, io, path::Path, time::Instant};

use rustix::process::Signal;

use super::*;

/// Waits until consumer and reader report another stream; until then they may only report that the bus is unavailable.
async fn expect_stream_changed(consumer: &mut dyn Consumer, reader: &mut dyn Reader) {
    let of_consumer = async {
        while !matches!(consumer.next(10).await, Err(Error::StreamChanged)) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let of_reader = async {
        while !matches!(reader.next(10).await, Err(Error::StreamChanged)) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    soon(async { tokio::join!(of_consumer, of_reader) }).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn a_wiped_server_has_a_stream_with_another_epoch() {
    let mut node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    bus.publish(message("x", 1)).await.unwrap();
    let before = bus.state().await.unwrap();
    let mut consumer = bus.attach("wiped", &["eticket.v1.a.*"]).await.unwrap();
    let mut reader = bus.read(0).await.unwrap();
    assert_eq!(ids(&in_time(consumer.next(10)).await.unwrap()), ["x/1"]);
    assert_eq!(ids(&in_time(reader.next(10)).await.unwrap()), ["x/1"]);
    block_in_place(|| {
        node.kill().unwrap();
        node.wipe().unwrap();
        node.start_again().unwrap();
    });
    expect_stream_changed(&mut *consumer, &mut *reader).await;
    let after = bus.state().await.unwrap();
    assert_eq!(after.last_sequence, 0);
    assert_ne!(after.epoch, before.epoch);
    assert_eq!(bus.message_at(1).await.unwrap(), None);
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn waiting_consumers_and_readers_notice_a_deleted_stream() {
    let node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    let before = bus.state().await.unwrap();
    let mut consumer = bus.attach("waits", &["eticket.v1.a.*"]).await.unwrap();
    let mut reader = bus.read(0).await.unwrap();
    let delete = async {
        bus.stream.api::<serde_json::Value>("STREAM.DELETE.ETICKET", &json!({})).await.unwrap();
    };
    tokio::join!(delete, expect_stream_changed(&mut *consumer, &mut *reader));
    assert_ne!(bus.state().await.unwrap().epoch, before.epoch);
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn publishing_to_a_missing_stream_creates_it() {
    let node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    assert_eq!(bus.publish(message("x", 1)).await.unwrap(), 1);
    assert_eq!(bus.publish(message("x", 2)).await.unwrap(), 2);
    let before = bus.state().await.unwrap();
    bus.stream.api::<serde_json::Value>("STREAM.DELETE.ETICKET", &json!({})).await.unwrap();
    assert_eq!(bus.publish(message("x", 3)).await.unwrap(), 1);
    let after = bus.state().await.unwrap();
    assert_eq!(after.last_sequence, 1);
    assert_ne!(after.epoch, before.epoch);
}

/// An acknowledgement contains a sequence. One for a deleted stream must not apply to the message with this sequence in
/// the next stream.
#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn acknowledgements_of_a_deleted_stream_do_not_count_in_the_next() {
    let node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    bus.publish(message("old", 1)).await.unwrap();
    let mut consumer = bus.attach("late", &["eticket.v1.a.*"]).await.unwrap();
    assert_eq!(ids(&in_time(consumer.next(10)).await.unwrap()), ["old/1"]);
    bus.stream.api::<serde_json::Value>("STREAM.DELETE.ETICKET", &json!({})).await.unwrap();
    bus.publish(message("new", 1)).await.unwrap();
    let mut other = bus.attach("late", &["eticket.v1.a.*"]).await.unwrap();
    assert_eq!(ids(&in_time(other.next(10)).await.unwrap()), ["new/1"]);
    consumer.ack(&[1]).await.unwrap();
    // Same connection, so the server handles the acknowledgement before this request.
    bus.state().await.unwrap();
    drop(other);
    let mut another = bus.attach("late", &["eticket.v1.a.*"]).await.unwrap();
    assert_eq!(ids(&soon(another.next(10)).await.unwrap()), ["new/1"], "it is not acknowledged");
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &target)?,
            false => drop(fs::copy(entry.path(), target)?),
        }
    }
    Ok(())
}

/// Restores the older messages of the stream, but keeps the state of its consumers.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn a_consumer_ahead_of_the_stream_starts_again() {
    let mut node = server::Nats::start().unwrap();
    let messages = node.folder().join("jetstream/jetstream/$G/streams/ETICKET/msgs");
    let older = tempfile::tempdir().unwrap();
    let bus = open(&node.url());
    bus.publish(message("kept", 1)).await.unwrap();
    block_in_place(|| {
        node.stop().unwrap();
        copy(&messages, &older.path().join("msgs")).unwrap();
        node.start_again().unwrap();
    });
    eventually("the state", async || bus.state().await.ok()).await;
    for number in 2..=5 {
        bus.publish(message("lost", number)).await.unwrap();
    }
    let mut consumer = bus.attach("ahead", &["eticket.v1.a.*"]).await.unwrap();
    while let Some(delivery) = in_time(consumer.next(1)).await.unwrap().first() {
        consumer.ack(&[delivery.sequence]).await.unwrap();
        if delivery.sequence == 5 {
            break;
        }
    }
    bus.state().await.unwrap();
    let epoch = bus.state().await.unwrap().epoch;
    block_in_place(|| {
        node.stop().unwrap();
        fs::remove_dir_all(&messages).unwrap();
        copy(&older.path().join("msgs"), &messages).unwrap();
        node.start_again().unwrap();
    });
    let state = eventually("the state", async || bus.state().await.ok()).await;
    assert_eq!((state.epoch, state.last_sequence), (epoch, 1), "the stream has lost its last messages");
    drop(consumer);
    let mut consumer = bus.attach("ahead", &["eticket.v1.a.*"]).await.unwrap();
    assert_eq!(ids(&soon(consumer.next(10)).await.unwrap()), ["kept/1"]);
    bus.publish(message("after", 2)).await.unwrap();
    assert_eq!(ids(&in_time(consumer.next(10)).await.unwrap()), ["after/2"]);
}

/// A hanging server stores all sent messages when it resumes, so each further attempt would store one more message,
/// late.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn a_hanging_server_gets_one_attempt_per_message() {
    let node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    let mut consumer = bus.attach("hangs", &["eticket.v1.a.*"]).await.unwrap();
    let mut reader = bus.read(0).await.unwrap();
    node.signal(Signal::STOP).unwrap();
    let mut number = 1;
    while bus.publish(message("x", number)).await.is_ok() {
        // The server has not been stopped yet.
        number += 1;
    }
    for _ in 0..5 {
        unavailable_text(bus.publish(message("x", number)).await);
    }
    let until_error = async {
        while consumer.next(10).await.is_ok() {}
        while reader.next(10).await.is_ok() {}
    };
    timeout(Duration::from_secs(8), until_error).await.expect("silence is noticed");
    let text = unavailable_text(bus.state().await);
    assert!(text.contains("has not answered") || text.contains("cannot be reached"), "{text}");
    node.signal(Signal::CONT).unwrap();
    eventually("a publish", async || bus.publish(message("y", 1)).await.ok()).await;
    drop((consumer, reader));
    // The client may notice only now that pings were not answered.
    let mut reader = eventually("a reader", async || bus.read(0).await.ok()).await;
    let mut read = Vec::new();
    while !read.contains(&"y/1".to_owned()) {
        read.extend(ids(&in_time(reader.next(10)).await.unwrap()).into_iter().map(str::to_owned));
    }
    let attempts = read.iter().filter(|id| **id == format!("x/{number}")).count();
    assert!(attempts <= 1, "{read:?}");
    let mut consumer = eventually("a consumer", async || bus.attach("hangs", &["eticket.v1.a.y"]).await.ok()).await;
    assert_eq!(ids(&in_time(consumer.next(10)).await.unwrap()), ["y/1"]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn messages_without_a_connection_are_not_sent_later() {
    let mut node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    let mut consumer = bus.attach("waits", &["eticket.v1.a.*"]).await.unwrap();
    bus.publish(message("x", 1)).await.unwrap();
    assert_eq!(ids(&in_time(consumer.next(1)).await.unwrap()), ["x/1"]);
    block_in_place(|| node.kill()).unwrap();
    // Detected without publishing: a message sent before the client notices the end of the connection may be sent again
    // on the next.
    let noticed = async {
        while !matches!(consumer.next(1).await, Err(error) if error.to_string().contains("cannot be reached")) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    in_time(noticed).await;
    let began = Instant::now();
    for text in [unavailable_text(consumer.ack(&[1]).await), unavailable_text(bus.publish(message("x", 2)).await)] {
        assert!(text.contains("cannot be reached"), "{text}");
    }
    assert!(began.elapsed() < SOON.request, "without waiting for the timeout");
    block_in_place(|| node.start_again()).unwrap();
    let sequence = eventually("a publish", async || bus.publish(message("y", 1)).await.ok()).await;
    assert_eq!(sequence, 2);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn a_server_may_start_after_the_process() {
    let mut node = server::Nats::start().unwrap();
    let url = format!("nats://user:s3cret@127.0.0.1:{}", node.port());
    block_in_place(|| node.kill()).unwrap();
    let bus = Nats::open_with(&config(&url), Bounds { first_connection: Duration::ZERO, ..SOON }).unwrap();
    for words in [
        unavailable_text(bus.state().await),
        unavailable_text(bus.publish(message("x", 1)).await),
        unavailable_text(bus.attach("later", &["eticket.v1.>"]).await.map(drop)),
        unavailable_text(bus.read(0).await.map(drop)),
        unavailable_text(bus.restart("later").await),
        unavailable_text(bus.message_at(1).await),
    ] {
        assert!(words.contains("127.0.0.1") && !words.contains("s3cret"), "{words}");
    }
    let text = eventually("the reason", async || {
        Some(unavailable_text(bus.state().await)).filter(|words| words.contains("refused"))
    });
    let text = text.await;
    assert!(text.contains("start nats-server, or set bus.url") && text.matches("refused").count() == 1, "{text}");
    block_in_place(|| node.start_again()).unwrap();
    let state = eventually("the state", async || bus.state().await.ok()).await;
    assert_eq!(state.last_sequence, 0);
    bus.close().await;
}

#[tokio::test]
async fn a_bus_that_was_never_reachable_closes_at_once() {
    let bus = open("nats://127.0.0.1:1");
    in_time(bus.close()).await;
    assert_eq!(unavailable_text(bus.state().await), "it is closed");
}
