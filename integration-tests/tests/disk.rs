//! A full disk: writes fail with a retryable error, reads succeed, and nothing is damaged. With free space everything
//! continues, with or without a restart. A limit on the size of files simulates the full disk.

#![cfg(target_os = "linux")]
#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::{fs, path::Path, time::Duration};

use chrono::Weekday;
use eticket_integration_tests::{
    Api, Eticket, Protocol, aftermath,
    api::reason,
    calendar,
    eventually::{SOON, eventually},
    health::{self, ServingStatus, shows},
    process::{Launch, SERVERS},
    raw::Raw,
};
use eticket_proto::{
    headers,
    query::WaitFor,
    reservation::{ReservationStatus, ReserveTicketResponse, UserGrade},
    ticket::{ListTicketsRequest, TicketStatus},
};
use tempfile::TempDir;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use uuid::Uuid;

/// Bytes by which files may still grow.
const ROOM: u64 = 300_000;
/// Far more commands than fit into that space.
const MOST: usize = 500;
/// Commands that were answered while there was space, and commands that failed afterwards.
struct Filled {
    registered: Vec<String>,
    /// The reservation of `before-0`.
    held: ReserveTicketResponse,
    cancelled: Vec<String>,
    refused: Refused,
}

/// Failed commands, with their request ids.
struct Refused {
    register: String,
    reserve: String,
    cancel: String,
}

impl Filled {
    fn reservation(&self) -> &str {
        &self.held.reservation.as_ref().expect("an answer has its resource").reservation_id
    }
}

fn largest_file(data: &Path) -> u64 {
    let entries = fs::read_dir(data).expect("the folder");
    let length = |entry: std::io::Result<fs::DirEntry>| entry.and_then(|entry| entry.metadata()).map(|file| file.len());
    entries.filter_map(|entry| length(entry).ok()).max().expect("it has files")
}

/// Returns whether a command failed for lack of space; a full disk must not cause any other error.
fn is_refused<A>(answer: &Result<A, Status>) -> bool {
    let Err(status) = answer else { return false };
    assert_eq!((status.code(), reason(status).as_str()), (Code::Unavailable, "STORE_UNAVAILABLE"), "{status:?}");
    let retry = status.get_details_retry_info().and_then(|retry| retry.retry_delay);
    assert!(retry.is_some_and(|delay| delay > Duration::ZERO), "{status:?}");
    assert!(status.metadata().contains_key(headers::RETRY_PUSHBACK), "{status:?}");
    true
}

async fn fill(eticket: &Eticket, api: &Api, data: &Path) -> Filled {
    let slot = calendar::upcoming(Weekday::Wed);
    let (mut registered, mut cancelled) = (Vec::new(), Vec::new());
    for number in 0..3 {
        let ticket = format!("before-{number}");
        let token = api.register(&ticket, slot).await.expect("there is room").consistency_token;
        api.settled(&ticket, &token).await;
        registered.push(ticket);
    }
    let held = api.reserve("before-0", "A", UserGrade::Vip).await.expect("there is room");
    api.settled("before-0", &held.consistency_token).await;

    // The space runs out during normal work, in one file after another.
    eticket.limit_files(Some(largest_file(data) + ROOM));
    let mut full = [false, false];
    for number in 0..MOST {
        let ticket = format!("while-{number}");
        let answer = api.register(&ticket, slot).await;
        full[0] |= is_refused(&answer);
        registered.extend(answer.ok().map(|_| ticket));
        let answer = api.reserve("before-1", "B", UserGrade::Gold).await;
        full[1] |= answer.as_ref().err().is_some_and(|status| status.code() == Code::Unavailable);
        let Ok(answer) = answer else { break };
        let reservation = answer.reservation.expect("an answer has its resource").reservation_id;
        let answer = api.cancel(&reservation).await;
        full[1] |= is_refused(&answer);
        cancelled.extend(answer.ok().map(|_| reservation));
        if full == [true, true] {
            break;
        }
    }
    assert!(full.contains(&true), "{MOST} commands of each kind fit into {ROOM} bytes");

    // From here on no file may grow by a single byte.
    eticket.limit_files(Some(1));
    let id = || Uuid::new_v4().to_string();
    let refused = Refused { register: id(), reserve: id(), cancel: id() };
    let filled = Filled { registered, held, cancelled, refused };
    assert!(is_refused(&api.register_as("later", slot, &filled.refused.register).await));
    assert!(is_refused(&api.reserve_as("before-2", "C", UserGrade::Gold, &filled.refused.reserve).await));
    assert!(is_refused(&api.cancel_as(filled.reservation(), &filled.refused.cancel).await));
    assert!(is_refused(&api.withdraw("before-2", "").await));
    filled
}

/// Checks that reads return the acknowledged data.
async fn is_there(api: &Api, filled: &Filled) {
    for ticket in &filled.registered {
        assert_eq!(&api.ticket(ticket).await.expect("it was registered").ticket_id, ticket);
    }
    for reservation in &filled.cancelled {
        let status = api.reservation(reservation).await.expect("it was reserved").status();
        assert_eq!(status, ReservationStatus::Cancelled);
    }
    let kept = api.reservation(filled.reservation()).await.expect("it was reserved");
    assert_eq!(Some(kept), filled.held.reservation);
    let tickets: Raw =
        api.call("eticket.ticket.v1.TicketService/ListTickets", ListTicketsRequest::default()).await.expect("a page");
    assert!(!tickets.0.is_empty());
    assert!(api.price("before-0").await.is_ok());
    let view = api.view("before-0", &filled.held.consistency_token, WaitFor::Settled).await.expect("it has settled");
    assert_eq!(view.ticket_status(), TicketStatus::Reserved);
}

/// Waits until a server reports by its health `bus` that it cannot send its events. Which of them still have events to
/// send depends on the file that was full first.
async fn events_do_not_flow(eticket: &Eticket) {
    eventually(SOON, "a server cannot send its events", async || {
        let mut seen = Vec::new();
        for server in ["ticket", "reservation", "pricing"] {
            match health::check(eticket.address(server), "bus").await {
                Ok(ServingStatus::NotServing) => return Ok(()),
                other => seen.push((server, other)),
            }
        }
        Err(seen)
    })
    .await;
}

/// Retries the failed commands with their ids, and waits until every saga has ended.
async fn retries_succeed(api: &Api, filled: &Filled) {
    let (slot, refused) = (calendar::upcoming(Weekday::Wed), &filled.refused);
    let cancelled = eventually(SOON, "there is room to cancel", async || {
        api.cancel_as(filled.reservation(), &refused.cancel).await
    })
    .await;
    let registered =
        eventually(SOON, "there is room to register", async || api.register_as("later", slot, &refused.register).await)
            .await;
    let reserved = eventually(SOON, "there is room to reserve", async || {
        api.reserve_as("before-2", "C", UserGrade::Gold, &refused.reserve).await
    })
    .await;
    let tokens = [("before-0", cancelled.consistency_token), ("later", registered.consistency_token)];
    for (ticket, token) in tokens {
        assert_eq!(api.settled(ticket, &token).await.ticket_status(), TicketStatus::Available, "{ticket}");
    }
    let view = api.settled("before-2", &reserved.consistency_token).await;
    assert_eq!((view.ticket_status(), view.user_id.as_str()), (TicketStatus::Reserved, "C"));
    for ticket in &filled.registered {
        assert!(api.settled(ticket, "").await.settled, "{ticket}");
    }
}

async fn started(data: &Path) -> (Eticket, Api) {
    let eticket = Launch::all_in_one(data).limitable().start().await;
    let api = Api::new(&eticket, Protocol::Gateway);
    (eticket, api)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_succeed_and_a_restart_with_free_space_recovers() {
    let data = TempDir::new().expect("a folder");
    let (eticket, api) = started(data.path()).await;
    let filled = fill(&eticket, &api, data.path()).await;
    is_there(&api, &filled).await;
    for server in ["ticket", "reservation", "pricing", "query"] {
        // Reads succeed, so the server stays ready.
        shows(eticket.address(server), "readiness", ServingStatus::Serving).await;
        shows(eticket.address(server), "liveness", ServingStatus::Serving).await;
    }
    events_do_not_flow(&eticket).await;
    aftermath::ends_well(eticket).await;

    let (eticket, api) = started(data.path()).await;
    is_there(&api, &filled).await;
    retries_succeed(&api, &filled).await;
    aftermath::serves(&eticket).await;
    aftermath::ends_well(eticket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn free_space_lets_the_process_recover_without_a_restart() {
    let data = TempDir::new().expect("a folder");
    let (eticket, api) = started(data.path()).await;
    let filled = fill(&eticket, &api, data.path()).await;
    events_do_not_flow(&eticket).await;
    eticket.limit_files(None);
    retries_succeed(&api, &filled).await;
    for server in ["ticket", "reservation", "pricing", "query"] {
        shows(eticket.address(server), "bus", ServingStatus::Serving).await;
    }
    aftermath::serves(&eticket).await;
    aftermath::ends_well(eticket).await;
}

#[tokio::test]
async fn it_does_not_start_without_space_for_its_files() {
    let data = TempDir::new().expect("a folder");
    let exit = Launch::all_in_one(data.path()).without_room().run().await;
    assert_eq!(exit.code, Some(69), "{}", exit.log);
    let folder = data.path().to_str().expect("UTF-8");
    assert!(exit.log.contains(folder) && !exit.log.contains("panicked"), "it names the file:\n{}", exit.log);
    assert_eq!(SERVERS.iter().find(|server| exit.output.contains(**server)), None, "{}", exit.output);
}
