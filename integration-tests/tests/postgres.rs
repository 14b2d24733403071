//! PostgreSQL under the services: one that is away, frozen, late, or not to be used, as callers and operators see it.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::{net::TcpListener, time::Duration};

use chrono::Weekday;
use eticket_integration_tests::{
    Api, Eticket, Exit, Protocol, api::reason, calendar, eventually::eventually, process::Launch,
};
use eticket_local_servers::postgres::Postgres;
use eticket_proto::{
    query::WaitFor,
    reservation::{ReservationStatus, UserGrade},
    ticket::TicketStatus,
};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::task::{block_in_place, spawn_blocking};
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};
use tonic_types::StatusExt;
use uuid::Uuid;

/// Those that keep their state there.
const OWNERS: [&str; 3] = ["ticket", "reservation", "pricing"];
/// Within this a change of health must show.
const SHOWS: Duration = Duration::from_secs(10);

async fn server() -> Postgres {
    spawn_blocking(|| Postgres::start().expect("PostgreSQL starts")).await.expect("no panic")
}

fn with_password(url: &str) -> String {
    url.replace("postgres@", "postgres:s3cret@")
}

async fn health(eticket: &Eticket, server: &str, name: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: name.to_owned() };
    let answer = Api::at(eticket.address(server)).call("grpc.health.v1.Health/Check", request).await;
    answer.map_or(ServingStatus::Unknown, |answer: HealthCheckResponse| answer.status())
}

async fn shows(eticket: &Eticket, serving: ServingStatus) {
    for server in OWNERS {
        eventually(SHOWS, server, async || match health(eticket, server, "readiness").await {
            seen if seen == serving => Ok(()),
            seen => Err(seen),
        })
        .await;
        assert_eq!(health(eticket, server, "liveness").await, ServingStatus::Serving);
    }
    assert_eq!(health(eticket, "query", "readiness").await, ServingStatus::Serving, "it has a store of its own");
}

fn is_told<A>(answer: Result<A, Status>) {
    let status = answer.map(drop).expect_err("the store is away");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "STORE_UNAVAILABLE"), "{status:?}");
    assert!(status.get_details_retry_info().is_some(), "it says when to come again: {status:?}");
}

/// Each service, by a command or a read that needs its store.
async fn all_are_told(api: &Api, reservation: &str, cancel_id: &str) {
    is_told(api.register("late", calendar::upcoming(Weekday::Wed)).await);
    is_told(api.ticket("held").await);
    is_told(api.reserve("free", "user-2", UserGrade::Silver).await);
    is_told(api.cancel_as(reservation, cancel_id).await);
    is_told(api.price("held").await);
    let view = api.view("held", "", WaitFor::Unspecified).await.expect("the view is query's own");
    assert_eq!(view.ticket_status, i32::from(TicketStatus::Reserved));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn while_the_store_is_away_callers_are_told_and_when_it_is_back_all_goes_on() {
    let (mut postgres, data) = (server().await, TempDir::new().expect("a folder"));
    let eticket = Launch::all_in_one(data.path()).key("store.url", &postgres.url("postgres")).start().await;
    let api = Api::new(&eticket, Protocol::Gateway);
    for ticket in ["held", "free"] {
        api.register(ticket, calendar::upcoming(Weekday::Wed)).await.expect("registered");
    }
    let made = api.reserve("held", "user-1", UserGrade::Vip).await.expect("reserved");
    let reservation = made.reservation.expect("a reservation").reservation_id;
    api.view("held", &made.consistency_token, WaitFor::Settled).await.expect("settled");
    let cancel_id = Uuid::new_v4().to_string();

    block_in_place(|| postgres.kill()).expect("killed");
    all_are_told(&api, &reservation, &cancel_id).await;
    shows(&eticket, ServingStatus::NotServing).await;
    block_in_place(|| postgres.start_again()).expect("it is back");
    shows(&eticket, ServingStatus::Serving).await;
    // Frozen it refuses nothing, and answers nothing.
    postgres.signal(Signal::STOP).expect("stopped");
    all_are_told(&api, &reservation, &cancel_id).await;
    shows(&eticket, ServingStatus::NotServing).await;
    postgres.signal(Signal::CONT).expect("continued");
    shows(&eticket, ServingStatus::Serving).await;

    let cancelled = api.cancel_as(&reservation, &cancel_id).await.expect("cancelled at the third attempt");
    let ended = cancelled.reservation.expect("a reservation");
    assert_eq!(ended.status, i32::from(ReservationStatus::Cancelled));
    let view = api.view("held", &cancelled.consistency_token, WaitFor::Settled).await.expect("settled");
    assert_eq!(view.ticket_status, i32::from(TicketStatus::Available));
    let exit = eticket.stop().await;
    assert!(!exit.log.contains("panicked"), "{}", exit.log);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn a_store_that_comes_late_is_waited_for_and_said_once() {
    let (mut postgres, data) = (server().await, TempDir::new().expect("a folder"));
    block_in_place(|| postgres.stop()).expect("stopped");
    let url = with_password(&postgres.url("postgres"));
    let instead = TcpListener::bind(("127.0.0.1", postgres.port())).expect("its port is free");
    let coming = spawn_blocking(move || {
        // The first attempt has come, and gets nowhere.
        drop(instead.accept().expect("a connection"));
        drop(instead);
        postgres.start_again().expect("it comes");
        postgres
    });
    let eticket = Launch::all_in_one(data.path()).key("store.url", &url).start().await;
    let _postgres = coming.await.expect("no panic");
    let log = eticket.log();
    assert_eq!(log.matches("the store does not answer: start it, or set store.url").count(), 1, "{log}");
    assert!(log.contains("postgres:***@127.0.0.1") && !log.contains("s3cret"), "{log}");
    eticket.stop().await;
}

fn says(exit: &Exit, code: i32, parts: &[&str]) {
    assert_eq!(exit.code, Some(code), "{}", exit.log);
    for part in parts {
        assert!(exit.log.contains(part), "{part:?} is not in:\n{}", exit.log);
    }
    assert!(!exit.log.contains("s3cret") && !exit.output.contains("s3cret"), "{}{}", exit.output, exit.log);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn a_store_that_cannot_be_used_ends_the_start_and_says_why() {
    let (postgres, data) = (server().await, TempDir::new().expect("a folder"));
    let alone = |url: &str| {
        let launch = Launch::program("eticket-pricing").data(data.path()).key("bus.url", "embedded");
        launch.key("listen", "127.0.0.1:0").key("store.url", &with_password(url))
    };
    let missing = alone(&postgres.url("nowhere")).run().await;
    says(&missing, 69, &["store.url", "postgres:***@127.0.0.1", "nowhere", "no such database", "create it"]);
    postgres.ask_for_passwords().expect("asked for");
    postgres.sql("postgres", "create role guest login password 'other'").expect("made");
    let wrong = alone(&postgres.url("postgres").replace("postgres@", "guest:s3cret@")).run().await;
    says(&wrong, 69, &["store.url", "guest:***@127.0.0.1", "password"]);
}

#[tokio::test]
async fn a_url_is_checked_and_its_password_hidden() {
    let check =
        async |url: &str| Launch::program("eticket").key("store.url", url).argument("--check-config").run().await;
    let shown = check("postgres://eticket:s3cret@db:5432/shop?sslmode=verify-full").await;
    says(&shown, 0, &[]);
    let url = "url = \"postgres://eticket:***@db:5432/shop?sslmode=verify-full\"";
    assert_eq!(shown.output.matches(url).count(), 3, "ticket, reservation and pricing:\n{}", shown.output);
    for (url, part) in [
        ("postgres://eticket:s3cret@db/shop?sslmod=require", "no such parameter: sslmod"),
        ("postgres://eticket:s3cret/@db/shop", "expected postgres://"),
        ("mysql://eticket:s3cret@db/shop", "expected sqlite:PATH or postgres://"),
    ] {
        says(&check(url).await, 78, &["store.url = ", "eticket:***@db", part]);
    }
    let own = Launch::program("eticket").key("query.store.url", "postgres://eticket:s3cret@db/shop");
    says(&own.argument("--check-config").run().await, 78, &["query.store.url", "SQLite only"]);
}
