//! Servers that are too old: the error names the problem and the required version, and the server is not used.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use eticket_integration_tests::{
    Api, Eticket,
    eventually::{SOON, eventually},
    process::Launch,
};
use eticket_local_servers::postgres::Postgres;
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy},
    net::{TcpListener, TcpStream},
    task::spawn_blocking,
};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};

/// A fake with the version of Debian 12: it sends its version and answers pings.
async fn old_nats() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (read, mut write) = connection.into_split();
                let info = json!({
                    "server_id": "old", "version": "2.9.10", "proto": 1, "headers": true, "max_payload": 1_000_000,
                    "jetstream": true,
                });
                write.write_all(format!("INFO {info}\r\n").as_bytes()).await.expect("it listens");
                let mut lines = BufReader::new(read).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    if line == "PING" && write.write_all(b"PONG\r\n").await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    format!("nats://user:s3cret@{address}")
}

async fn health(eticket: &Eticket, name: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: name.to_owned() };
    let api = Api::at(eticket.address("reservation"));
    let answer: HealthCheckResponse = api.call("grpc.health.v1.Health/Check", request).await.expect("it is known");
    answer.status()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_nats_server_is_named_and_the_service_keeps_running() {
    let (url, data) = (old_nats().await, TempDir::new().expect("a folder"));
    let launch = Launch::program("eticket-reservation").data(data.path()).key("listen", "127.0.0.1:0");
    let launch = launch.key("bus.url", &url).key("upstream.ticket.url", "http://127.0.0.1:1");
    let eticket = launch.key("shutdown.drain_delay_ms", "0").start().await;
    let said = "runs nats-server 2.9.10: version 2.10 or newer is needed: update the server, or set bus.url";
    eventually(
        SOON,
        "the log has the error",
        async || if eticket.log().contains(said) { Ok(()) } else { Err(eticket.log()) },
    )
    .await;
    for (name, expected) in [
        ("bus", ServingStatus::NotServing),
        ("readiness", ServingStatus::Serving),
        ("liveness", ServingStatus::Serving),
    ] {
        assert_eq!(health(&eticket, name).await, expected, "{name}");
    }
    let exit = eticket.stop().await;
    assert!(!exit.log.contains("panicked") && !exit.log.contains("s3cret"), "{}", exit.log);
}

/// A proxy that replaces the version in all data from the server by 14.
async fn proxy_with_old_version(postgres: &Postgres) -> String {
    let version = postgres.sql("postgres", "show server_version").expect("it answers");
    let number = postgres.sql("postgres", "show server_version_num").expect("it answers");
    let number: i32 = number.parse().expect("a number");
    let old = format!("14{}", &version[2..]);
    // Each with its length prefix, as a column of a row; otherwise any four bytes could match.
    let mut swaps = vec![(column(&number.to_be_bytes()), column(&140_019_i32.to_be_bytes()))];
    swaps.push((column(version.as_bytes()), column(old.as_bytes())));
    let port = postgres.port();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                (client.into_split(), server.into_split());
            tokio::spawn(async move { copy(&mut from_client, &mut to_server).await });
            let swaps = swaps.clone();
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
                    swaps.iter().for_each(|(from, to)| swap(&mut buffer[..length], from, to));
                    if to_client.write_all(&buffer[..length]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    format!("postgres://postgres:s3cret@{address}/postgres")
}

fn column(bytes: &[u8]) -> Vec<u8> {
    let length = i32::try_from(bytes.len()).expect("a short value").to_be_bytes();
    [&length[..], bytes].concat()
}

fn swap(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    while let Some(at) = bytes.windows(from.len()).position(|window| window == from) {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn an_old_postgresql_ends_the_start_and_is_named() {
    let postgres = spawn_blocking(|| Postgres::start().expect("PostgreSQL starts")).await.expect("no panic");
    let (url, data) = (proxy_with_old_version(&postgres).await, TempDir::new().expect("a folder"));
    let launch = Launch::program("eticket-pricing").data(data.path()).key("bus.url", "embedded");
    let exit = launch.key("listen", "127.0.0.1:0").key("store.url", &url).run().await;
    assert_eq!(exit.code, Some(69), "{}", exit.log);
    for part in ["store.url", "postgres:***@127.0.0.1", "it runs PostgreSQL 14.", "15 or newer is needed"] {
        assert!(exit.log.contains(part), "{part:?} is not in:\n{}", exit.log);
    }
    assert!(!exit.log.contains("s3cret"), "{}", exit.log);
    // Nothing was created there.
    let schemas = postgres.sql("postgres", "select count(*) from pg_namespace where nspname = 'pricing'");
    assert_eq!(schemas.expect("it answers"), "0");
}
