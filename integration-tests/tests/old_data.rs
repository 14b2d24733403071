//! Data of an older release opens and serves: the data folder of `eticket`, the database of the distributed form, and a
//! configuration file.
//!
//! The fixtures in `fixtures/0.1` are those of commit b0dd356. To make fixtures of another commit, run this test with
//! `ETICKET_OLD_BINARIES`, the folder of its binaries, and `ETICKET_FIXTURES`, an empty folder. Without these variables
//! the test also makes fixtures of this commit, in a temporary folder, and opens them.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use chrono::{DateTime, TimeDelta, Utc};
use eticket_integration_tests::{
    Api, Eticket, Protocol,
    binary::root,
    calendar::Slot,
    mesh::{Infrastructure, Mesh, Plan},
    process::Launch,
};
use eticket_proto::{
    reservation::{ReservationStatus, UserGrade},
    ticket::TicketStatus,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::block_in_place;

/// The folder of `eticket`.
const DATA: &str = "data";
/// The database of the distributed form.
const DATABASE: &str = "postgres.sql";
/// What clients of the older release have kept.
const KEPT: &str = "kept.json";
/// The configuration in force, as the older release prints it.
const CONFIGURATION: &str = "eticket.toml";

/// The ticket that is free, held, withdrawn, and free again after a cancellation.
const TICKETS: [&str; 4] = ["free", "held", "withdrawn", "cancelled"];

fn slot() -> Slot {
    // Fixtures must not expire.
    let start: DateTime<Utc> = "2090-01-04T01:00:00Z".parse().expect("a time");
    Slot { start, end: start + TimeDelta::hours(2) }
}

/// Brings each ticket into its state; returns what a client keeps.
async fn fill(api: &Api) -> Value {
    for ticket in TICKETS {
        api.register(ticket, slot()).await.expect("registered");
    }
    let held = api.reserve("held", "A", UserGrade::Gold).await.expect("reserved");
    let cancelled = api.reserve("cancelled", "B", UserGrade::Silver).await.expect("reserved");
    let cancelled = cancelled.reservation.expect("a reservation").reservation_id;
    let last = api.cancel(&cancelled).await.expect("cancelled");
    let withdrawn = api.withdraw("withdrawn", "").await.expect("withdrawn");
    api.settled("held", &held.consistency_token).await;
    api.settled("cancelled", &last.consistency_token).await;
    api.settled("withdrawn", &withdrawn.consistency_token).await;
    api.settled("free", "").await;
    json!({
        "reservation": held.reservation.expect("a reservation").reservation_id,
        "token": held.consistency_token,
        "etag": api.ticket("free").await.expect("found").etag,
    })
}

/// Checks that nothing is lost, and that everything goes on.
async fn verify(api: &Api, kept: &Value) {
    let text = |name: &str| kept[name].as_str().expect("text").to_owned();
    let view = api.settled("held", &text("token")).await;
    assert_eq!(view.ticket_status(), TicketStatus::Reserved);
    assert!(view.base_price.is_some() && view.discounted_price.is_some(), "{view:?}");
    for (ticket, status) in [
        ("free", TicketStatus::Available),
        ("withdrawn", TicketStatus::Withdrawn),
        ("cancelled", TicketStatus::Available),
    ] {
        let view = api.settled(ticket, "").await;
        assert_eq!((view.ticket_status(), view.settled), (status, true), "{ticket}");
    }
    assert_eq!(api.price("free").await.expect("a price").ticket_id, "free");
    let held = api.reservation(&text("reservation")).await.expect("found");
    assert_eq!((held.user_id.as_str(), held.status()), ("A", ReservationStatus::Reserved));

    api.withdraw("free", &text("etag")).await.expect("the etag is still that of the ticket");
    api.reserve("held", "C", UserGrade::Gold).await.expect_err("it is still held");
    api.cancel(&text("reservation")).await.expect("cancelled");
    let again = api.reserve("held", "C", UserGrade::Gold).await.expect("reserved");
    let view = api.settled("held", &again.consistency_token).await;
    assert_eq!(view.ticket_status(), TicketStatus::Reserved);
}

fn older() -> Option<PathBuf> {
    std::env::var_os("ETICKET_OLD_BINARIES").map(PathBuf::from)
}

fn all_in_one(data: &Path) -> Launch {
    let launch = Launch::all_in_one(data);
    older().into_iter().fold(launch, |launch, folder| launch.in_folder(&folder))
}

/// Fills a data folder and a database, and leaves them in `folder`.
async fn make(folder: &Path) {
    let data = folder.join(DATA);
    let eticket = all_in_one(&data).start().await;
    let kept = fill(&Api::new(&eticket, Protocol::Gateway)).await;
    eticket.stop().await;
    let configuration = all_in_one(Path::new("data")).argument("--check-config").run().await;
    assert_eq!(configuration.code, Some(0), "{}", configuration.log);
    fs::write(folder.join(CONFIGURATION), configuration.output).expect("written");

    let mut mesh = Mesh::start(Plan::default().first_from(older())).await;
    let distributed = fill(&mesh.api(Protocol::Gateway)).await;
    for service in ["gateway", "query", "pricing", "reservation", "ticket"] {
        mesh.replica_of(service, 0).stop().await;
    }
    let dump = block_in_place(|| mesh.infrastructure.postgres.dump("postgres")).expect("dumped");
    fs::write(folder.join(DATABASE), dump).expect("written");
    let kept = json!({ DATA: kept, DATABASE: distributed });
    fs::write(folder.join(KEPT), format!("{kept:#}\n")).expect("written");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("created");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let copy = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            self::copy(&path, &copy);
        } else {
            fs::copy(&path, &copy).expect("copied");
        }
    }
}

/// Opens copies of the data in `folder`.
async fn open(folder: &Path) {
    let kept = fs::read_to_string(folder.join(KEPT)).expect("a fixture");
    let kept: Value = serde_json::from_str(&kept).expect("JSON");

    let opened = TempDir::new().expect("a folder");
    copy(&folder.join(DATA), &opened.path().join(DATA));
    let eticket = Eticket::start(&opened.path().join(DATA)).await;
    verify(&Api::new(&eticket, Protocol::Gateway), &kept[DATA]).await;
    eticket.stop().await;

    let configuration = folder.join(CONFIGURATION);
    let launch = Launch::program("eticket").argument("--check-config").argument("--config");
    let checked = launch.argument(configuration.to_str().expect("UTF-8")).run().await;
    assert_eq!(checked.code, Some(0), "{}", checked.log);

    // The stream is a new one, so every service publishes its states again.
    let infrastructure = Infrastructure::start().await;
    let dump = fs::read_to_string(folder.join(DATABASE)).expect("a fixture");
    block_in_place(|| infrastructure.postgres.load("postgres", &dump)).expect("loaded");
    let mesh = Mesh::start_on(infrastructure, Plan::default().replicas(2)).await;
    verify(&mesh.api(Protocol::Gateway), &kept[DATABASE]).await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL and nats-server: cargo xtask test"]
async fn data_of_the_first_release_opens_and_serves() {
    open(&root().join("integration-tests/fixtures/0.1")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL and nats-server: cargo xtask test"]
async fn data_of_this_release_opens_and_serves() {
    let temporary = TempDir::new().expect("a folder");
    let folder = std::env::var_os("ETICKET_FIXTURES").map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    make(&folder).await;
    open(&folder).await;
}
