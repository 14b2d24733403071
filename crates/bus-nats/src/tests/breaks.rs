//! Connections that break during deliveries, and requests that are held back.

use std::collections::BTreeSet;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use super::*;

/// A connection is closed after this many bytes from the server.
const LASTS: u64 = 100_000;
const COUNT: u64 = 400;

/// Starts a proxy to the server that closes each connection after a while.
async fn brittle_proxy(port: u16) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let ((mut from_client, mut to_client), (from_server, mut to_server)) =
                    (client.into_split(), server.into_split());
                let mut from_server = from_server.take(LASTS);
                tokio::select! {
                    _ = copy(&mut from_client, &mut to_server) => {}
                    _ = copy(&mut from_server, &mut to_client) => drop(to_client.shutdown().await),
                }
            });
        }
    });
    url
}

async fn filled_server() -> server::Nats {
    let node = server::Nats::start().unwrap();
    // Longer timeouts: together the messages wait for many disk syncs.
    let bus = Nats::open(&config(&node.url())).unwrap();
    let big = |number: u64| Message { body: vec![7; 1000].into(), ..message(&number.to_string(), number) };
    let sent = futures::future::join_all((1..=COUNT).map(|number| bus.publish(big(number)))).await;
    assert!(sent.into_iter().all(|outcome| outcome.is_ok()));
    node
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn a_reader_skips_nothing() {
    let node = filled_server().await;
    let bus = open(&brittle_proxy(node.port()).await);
    let (mut position, mut readers) = (0, 0);
    while position < COUNT {
        let mut reader = eventually("a reader", async || bus.read(position).await.ok()).await;
        readers += 1;
        while position < COUNT
            && let Ok(batch) = in_time(reader.next(50)).await
        {
            for delivery in batch {
                assert_eq!(delivery.sequence, position + 1);
                position = delivery.sequence;
            }
        }
    }
    assert!(readers > 1, "the connection broke");
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn a_consumer_misses_nothing() {
    let node = filled_server().await;
    let bus = open(&brittle_proxy(node.port()).await);
    let (mut taken, mut twice) = (BTreeSet::<u64>::new(), 0);
    while taken.len() < usize::try_from(COUNT).unwrap() {
        let mut consumer =
            eventually("a consumer", async || bus.attach("brittle", &["eticket.v1.a.*"]).await.ok()).await;
        while taken.len() < usize::try_from(COUNT).unwrap()
            && let Ok(batch) = in_time(consumer.next(50)).await
        {
            let sequences: Vec<u64> = batch.iter().map(|delivery| delivery.sequence).collect();
            twice += batch.iter().filter(|delivery| delivery.attempts > 1).count();
            taken.extend(&sequences);
            if consumer.ack(&sequences).await.is_err() {
                break;
            }
        }
    }
    assert!(twice > 0, "messages in flight when the connection broke were delivered again");
}

/// Starts a proxy to the server for one connection. It signals the `nth` request of this kind, and holds it back until
/// released.
async fn holding_proxy(
    port: u16,
    question: &'static str,
    nth: usize,
) -> (String, oneshot::Receiver<()>, oneshot::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    let ((arrive, arrived), (release, released)) = (oneshot::channel(), oneshot::channel());
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
            (client.into_split(), server.into_split());
        tokio::spawn(async move { copy(&mut from_server, &mut to_client).await });
        let (mut buffer, mut seen, mut hold) = (vec![0; 64 * 1024], Vec::new(), Some((arrive, released)));
        while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
            seen.extend_from_slice(&buffer[..length]);
            if seen.windows(question.len()).filter(|window| *window == question.as_bytes()).count() >= nth
                && let Some((arrive, released)) = hold.take()
            {
                arrive.send(()).unwrap();
                released.await.unwrap();
            }
            to_server.write_all(&buffer[..length]).await.unwrap();
        }
    });
    (url, arrived, release)
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn a_stream_created_again_during_attach_is_noticed() {
    let node = server::Nats::start().unwrap();
    let other = open(&node.url());
    other.state().await.unwrap();
    let (url, arrived, release) = holding_proxy(node.port(), "$JS.API.CONSUMER.INFO.", 1).await;
    let bus = open(&url);
    let meanwhile = async {
        arrived.await.unwrap();
        other.stream.api::<serde_json::Value>("STREAM.DELETE.ETICKET", &json!({})).await.unwrap();
        other.publish(message("x", 1)).await.unwrap();
        release.send(()).unwrap();
    };
    let (attached, ()) = in_time(async { tokio::join!(bus.attach("late", &["eticket.v1.a.*"]), meanwhile) }).await;
    // The consumer is in the new stream, under a name for the deleted one.
    assert!(matches!(attached, Err(Error::StreamChanged)), "{:?}", attached.err());
}

/// After nats-server has responded to the deletion of a stream, it removes a folder that the next stream needs. A limit
/// on the size of files simulates that moment.
#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn a_failed_creation_of_the_stream_is_retried() {
    let node = server::Nats::start().unwrap();
    node.limit_files(Some(1)).unwrap();
    let (url, arrived, release) = holding_proxy(node.port(), "$JS.API.STREAM.CREATE.", 2).await;
    let bus = open(&url);
    let second_attempt = async {
        arrived.await.unwrap();
        node.limit_files(None).unwrap();
        release.send(()).unwrap();
        std::future::pending().await
    };
    let state = soon(async {
        tokio::select! {
            state = bus.state() => state,
            () = second_attempt => unreachable!("it never ends"),
        }
    });
    assert_eq!(state.await.unwrap().last_sequence, 0);
}
