//! PostgreSQL below the services: unavailable, frozen, late or unusable, from the view of callers and operators.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::net::TcpListener;

use chrono::Weekday;
use eticket_integration_tests::{
    Api, Eticket, Exit, Protocol,
    api::reason,
    calendar,
    health::{self, ServingStatus, shows},
    process::Launch,
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
use tonic_types::StatusExt;
use uuid::Uuid;

/// The services that store their state there.
const OWNERS: [&str; 3] = ["ticket", "reservation", "pricing"];
async fn server() -> Postgres {
    spawn_blocking(|| Postgres::start().expect("PostgreSQL starts")).await.expect("no panic")
}

fn with_password(url: &str) -> String {
    url.replace("postgres@", "postgres:s3cret@")
}

async fn readiness_shows(eticket: &Eticket, expected: ServingStatus) {
    for server in OWNERS {
        shows(eticket.address(server), "readiness", expected).await;
        assert_eq!(health::check(eticket.address(server), "liveness").await.ok(), Some(ServingStatus::Serving));
    }
    let query = health::check(eticket.address("query"), "readiness").await;
    assert_eq!(query.ok(), Some(ServingStatus::Serving), "query has its own store");
}

fn reports_unavailable_store<A>(answer: Result<A, Status>) {
    let status = answer.map(drop).expect_err("the store is away");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "STORE_UNAVAILABLE"), "{status:?}");
    assert!(status.get_details_retry_info().is_some(), "it has a retry delay: {status:?}");
}

/// Checks every service by a command or read that needs its store.
async fn every_service_reports_it(api: &Api, reservation: &str, cancel_id: &str) {
    reports_unavailable_store(api.register("late", calendar::upcoming(Weekday::Wed)).await);
    reports_unavailable_store(api.ticket("held").await);
    reports_unavailable_store(api.reserve("free", "user-2", UserGrade::Silver).await);
    reports_unavailable_store(api.cancel_as(reservation, cancel_id).await);
    reports_unavailable_store(api.price("held").await);
    let view = api.view("held", "", WaitFor::Unspecified).await.expect("the view is query's own");
    assert_eq!(view.ticket_status, i32::from(TicketStatus::Reserved));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn an_unavailable_store_is_reported_until_it_is_back() {
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
    every_service_reports_it(&api, &reservation, &cancel_id).await;
    readiness_shows(&eticket, ServingStatus::NotServing).await;
    block_in_place(|| postgres.start_again()).expect("it is back");
    readiness_shows(&eticket, ServingStatus::Serving).await;
    // A frozen server rejects nothing and responds to nothing.
    postgres.signal(Signal::STOP).expect("stopped");
    every_service_reports_it(&api, &reservation, &cancel_id).await;
    readiness_shows(&eticket, ServingStatus::NotServing).await;
    postgres.signal(Signal::CONT).expect("continued");
    readiness_shows(&eticket, ServingStatus::Serving).await;

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
async fn a_late_store_is_awaited_and_logged_once() {
    let (mut postgres, data) = (server().await, TempDir::new().expect("a folder"));
    block_in_place(|| postgres.stop()).expect("stopped");
    let url = with_password(&postgres.url("postgres"));
    let instead = TcpListener::bind(("127.0.0.1", postgres.port())).expect("its port is free");
    let coming = spawn_blocking(move || {
        // The first connection attempt has arrived and fails.
        drop(instead.accept().expect("a connection"));
        drop(instead);
        postgres.start_again().expect("it comes");
        postgres
    });
    let eticket = Launch::all_in_one(data.path()).key("store.url", &url).start().await;
    let _postgres = coming.await.expect("no panic");
    let log = eticket.log();
    assert_eq!(log.matches("the store does not respond: start it, or set store.url").count(), 1, "{log}");
    assert!(log.contains("postgres:***@127.0.0.1") && !log.contains("s3cret"), "{log}");
    eticket.stop().await;
}

fn exits_with(exit: &Exit, code: i32, parts: &[&str]) {
    assert_eq!(exit.code, Some(code), "{}", exit.log);
    for part in parts {
        assert!(exit.log.contains(part), "{part:?} is not in:\n{}", exit.log);
    }
    assert!(!exit.log.contains("s3cret") && !exit.output.contains("s3cret"), "{}{}", exit.output, exit.log);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn an_unusable_store_ends_the_start_with_the_reason() {
    let (postgres, data) = (server().await, TempDir::new().expect("a folder"));
    let alone = |url: &str| {
        let launch = Launch::program("eticket-pricing").data(data.path()).key("bus.url", "embedded");
        launch.key("listen", "127.0.0.1:0").key("store.url", &with_password(url))
    };
    let missing = alone(&postgres.url("nowhere")).run().await;
    exits_with(&missing, 69, &["store.url", "postgres:***@127.0.0.1", "nowhere", "no such database", "create it"]);
    postgres.ask_for_passwords().expect("passwords are required");
    postgres.sql("postgres", "create role guest login password 'other'").expect("made");
    let wrong = alone(&postgres.url("postgres").replace("postgres@", "guest:s3cret@")).run().await;
    exits_with(&wrong, 69, &["store.url", "guest:***@127.0.0.1", "password"]);
}

#[tokio::test]
async fn a_store_url_is_checked_and_its_password_hidden() {
    let check =
        async |url: &str| Launch::program("eticket").key("store.url", url).argument("--check-config").run().await;
    let shown = check("postgres://eticket:s3cret@db:5432/shop?sslmode=verify-full").await;
    exits_with(&shown, 0, &[]);
    let url = "url = \"postgres://eticket:***@db:5432/shop?sslmode=verify-full\"";
    assert_eq!(shown.output.matches(url).count(), 3, "ticket, reservation and pricing:\n{}", shown.output);
    for (url, part) in [
        ("postgres://eticket:s3cret@db/shop?sslmod=require", "unknown parameter sslmod"),
        ("postgres://eticket:s3cret/@db/shop", "expected postgres://"),
        ("mysql://eticket:s3cret@db/shop", "expected sqlite:PATH or postgres://"),
    ] {
        exits_with(&check(url).await, 78, &["store.url = ", "eticket:***@db", part]);
    }
    let own = Launch::program("eticket").key("query.store.url", "postgres://eticket:s3cret@db/shop");
    exits_with(&own.argument("--check-config").run().await, 78, &["query.store.url", "SQLite only"]);
}
