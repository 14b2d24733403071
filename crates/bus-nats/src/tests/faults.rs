//! What becomes of the adapter when the server dies, hangs, or loses what it had.

use std::{fs, io, path::Path, time::Instant};

use rustix::process::Signal;

use super::*;

/// Waits with what is attached until it hears that the stream is another. What it says before is only that there is no answer.
async fn hears_of_another_stream(consumer: &mut dyn Consumer, reader: &mut dyn Reader) {
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
async fn a_wiped_server_has_another_stream() {
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
    hears_of_another_stream(&mut *consumer, &mut *reader).await;
    let after = bus.state().await.unwrap();
    assert_eq!(after.last_sequence, 0);
    assert_ne!(after.epoch, before.epoch);
    assert_eq!(bus.message_at(1).await.unwrap(), None);
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn a_deleted_stream_is_missed_by_who_only_waits() {
    let node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    let before = bus.state().await.unwrap();
    let mut consumer = bus.attach("waits", &["eticket.v1.a.*"]).await.unwrap();
    let mut reader = bus.read(0).await.unwrap();
    let delete = async {
        bus.stream.api::<serde_json::Value>("STREAM.DELETE.ETICKET", &json!({})).await.unwrap();
    };
    tokio::join!(delete, hears_of_another_stream(&mut *consumer, &mut *reader));
    assert_ne!(bus.state().await.unwrap().epoch, before.epoch);
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn what_is_sent_to_no_stream_makes_it() {
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

/// Acknowledgements say where a message stands in its stream. What is acknowledged of one that is gone must not count for the
/// message that stands there in the next.
#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn what_was_read_of_a_stream_that_is_gone_does_not_count_in_the_next() {
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
    // Over the same connection: the acknowledgement is there before the question.
    bus.state().await.unwrap();
    drop(other);
    let mut another = bus.attach("late", &["eticket.v1.a.*"]).await.unwrap();
    assert_eq!(ids(&soon(another.next(10)).await.unwrap()), ["new/1"], "nobody has dealt with it");
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

/// The stream's messages as they were before, its consumers as they are now.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn a_consumer_ahead_of_the_stream_begins_anew() {
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
    assert_eq!((state.epoch, state.last_sequence), (epoch, 1), "the stream has lost its end");
    drop(consumer);
    let mut consumer = bus.attach("ahead", &["eticket.v1.a.*"]).await.unwrap();
    assert_eq!(ids(&soon(consumer.next(10)).await.unwrap()), ["kept/1"]);
    bus.publish(message("after", 2)).await.unwrap();
    assert_eq!(ids(&in_time(consumer.next(10)).await.unwrap()), ["after/2"]);
}

/// A server that hangs takes what is sent when it goes on: each further attempt would be one more message, and a late one.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn a_server_that_hangs_gets_one_attempt_of_each_message() {
    let node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    let mut consumer = bus.attach("hangs", &["eticket.v1.a.*"]).await.unwrap();
    let mut reader = bus.read(0).await.unwrap();
    node.signal(Signal::STOP).unwrap();
    let mut number = 1;
    while bus.publish(message("x", number)).await.is_ok() {
        // It has not come to a stop yet.
        number += 1;
    }
    for _ in 0..5 {
        words(bus.publish(message("x", number)).await);
    }
    let until_error = async {
        while consumer.next(10).await.is_ok() {}
        while reader.next(10).await.is_ok() {}
    };
    timeout(Duration::from_secs(8), until_error).await.expect("silence is noticed");
    let said = words(bus.state().await);
    assert!(said.contains("has not answered") || said.contains("cannot be reached"), "{said}");
    node.signal(Signal::CONT).unwrap();
    eventually("a publish", async || bus.publish(message("y", 1)).await.ok()).await;
    drop((consumer, reader));
    // It may find only now that the server did not answer its pings.
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
async fn what_cannot_be_sent_now_is_not_sent_later() {
    let mut node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    let mut consumer = bus.attach("waits", &["eticket.v1.a.*"]).await.unwrap();
    bus.publish(message("x", 1)).await.unwrap();
    assert_eq!(ids(&in_time(consumer.next(1)).await.unwrap()), ["x/1"]);
    block_in_place(|| node.kill()).unwrap();
    // By who does not publish: what is sent before the end of the connection is noticed may be sent once more when it is back.
    let noticed = async {
        while !matches!(consumer.next(1).await, Err(error) if error.to_string().contains("cannot be reached")) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    in_time(noticed).await;
    let began = Instant::now();
    for said in [words(consumer.ack(&[1]).await), words(bus.publish(message("x", 2)).await)] {
        assert!(said.contains("cannot be reached"), "{said}");
    }
    assert!(began.elapsed() < SOON.request, "it is known already");
    block_in_place(|| node.start_again()).unwrap();
    let sequence = eventually("a publish", async || bus.publish(message("y", 1)).await.ok()).await;
    assert_eq!(sequence, 2);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn a_server_may_come_later_than_the_process() {
    let mut node = server::Nats::start().unwrap();
    let url = format!("nats://user:s3cret@127.0.0.1:{}", node.port());
    block_in_place(|| node.kill()).unwrap();
    let bus = Nats::open_with(&config(&url), Bounds { first_connection: Duration::ZERO, ..SOON }).unwrap();
    for words in [
        words(bus.state().await),
        words(bus.publish(message("x", 1)).await),
        words(bus.attach("later", &["eticket.v1.>"]).await.map(drop)),
        words(bus.read(0).await.map(drop)),
        words(bus.restart("later").await),
        words(bus.message_at(1).await),
    ] {
        assert!(words.contains("127.0.0.1") && !words.contains("s3cret"), "{words}");
    }
    let said =
        eventually("the reason", async || Some(words(bus.state().await)).filter(|words| words.contains("refused")));
    let said = said.await;
    assert!(said.contains("start nats-server, or set bus.url") && said.matches("refused").count() == 1, "{said}");
    block_in_place(|| node.start_again()).unwrap();
    let state = eventually("the state", async || bus.state().await.ok()).await;
    assert_eq!(state.last_sequence, 0);
    bus.close().await;
}

#[tokio::test]
async fn a_bus_that_never_was_there_closes_at_once() {
    let bus = open("nats://127.0.0.1:1");
    in_time(bus.close()).await;
    assert_eq!(words(bus.state().await), "it is closed");
}
