//! PostgreSQL and nats-server on a full disk: writes fail with a retryable error, reads succeed, no acknowledged
//! command is lost, and with free space everything continues. A limit on the size of files simulates the full disk, as
//! in `disk.rs`: it needs no privileges, and both servers react to it as to a full disk.

#![cfg(target_os = "linux")]
#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::time::Duration;

use chrono::Weekday;
use eticket_integration_tests::{
    Api, Protocol, aftermath,
    api::reason,
    calendar,
    eventually::{SOON, eventually},
    health::{ServingStatus, shows},
    process::Launch,
};
use eticket_local_servers::{
    nats::Nats,
    postgres::{Postgres, Settings},
};
use eticket_proto::{
    headers,
    query::WaitFor,
    reservation::{ReservationStatus, ReserveTicketResponse, UserGrade},
    ticket::TicketStatus,
};
use tempfile::TempDir;
use tokio::task::{block_in_place, spawn_blocking};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use uuid::Uuid;

/// The services that write to PostgreSQL.
const OWNERS: [&str; 3] = ["ticket", "reservation", "pricing"];
/// A whole segment of PostgreSQL's WAL fits, and all of a table except half of its last page.
const TABLES_ARE_FULL: u64 = (1 << 20) + 4096;
/// Far more commands than the remaining space in the tables can take.
const MOST: usize = 200;
/// Starts PostgreSQL with WAL segments that are smaller than the tables of the test.
async fn postgres() -> Postgres {
    // A vacuum would free space.
    let settings = Settings { lines: vec!["autovacuum = off".to_owned()], log_file_mb: Some(1), ..Settings::default() };
    spawn_blocking(move || Postgres::start_with(&settings).expect("PostgreSQL starts")).await.expect("no panic")
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

/// Data from before the fault, and the request ids of commands that fail.
struct Known {
    registered: Vec<String>,
    held: ReserveTicketResponse,
    register_id: String,
    reserve_id: String,
    cancel_id: String,
}

impl Known {
    async fn made(api: &Api) -> Self {
        let mut registered = Vec::new();
        for ticket in ["held", "free", "spare"] {
            let token =
                api.register(ticket, calendar::upcoming(Weekday::Wed)).await.expect("registered").consistency_token;
            api.settled(ticket, &token).await;
            registered.push(ticket.to_owned());
        }
        let held = api.reserve("held", "A", UserGrade::Vip).await.expect("reserved");
        api.settled("held", &held.consistency_token).await;
        let id = || Uuid::new_v4().to_string();
        Self { registered, held, register_id: id(), reserve_id: id(), cancel_id: id() }
    }

    fn reservation(&self) -> &str {
        &self.held.reservation.as_ref().expect("an answer has its resource").reservation_id
    }

    /// Checks that each kind of command fails.
    async fn every_command_fails(&self, api: &Api) {
        let slot = calendar::upcoming(Weekday::Wed);
        assert!(is_refused(&api.register_as("later", slot, &self.register_id).await));
        assert!(is_refused(&api.reserve_as("free", "B", UserGrade::Gold, &self.reserve_id).await));
        assert!(is_refused(&api.cancel_as(self.reservation(), &self.cancel_id).await));
        assert!(is_refused(&api.withdraw("free", "").await));
    }

    async fn acknowledged_data_exists(&self, api: &Api) {
        for ticket in &self.registered {
            assert_eq!(&api.ticket(ticket).await.expect("it was registered").ticket_id, ticket);
        }
        let kept = api.reservation(self.reservation()).await.expect("it was reserved");
        assert_eq!(Some(kept), self.held.reservation);
        assert!(api.price("held").await.is_ok());
    }

    /// Retries the failed commands with their ids, and waits until every saga has ended.
    async fn retries_succeed(&self, api: &Api) {
        let slot = calendar::upcoming(Weekday::Wed);
        let registered = eventually(SOON, "a ticket is registered", async || {
            api.register_as("later", slot, &self.register_id).await
        });
        let registered = registered.await;
        let reserved = eventually(SOON, "a ticket is reserved", async || {
            api.reserve_as("free", "B", UserGrade::Gold, &self.reserve_id).await
        });
        let reserved = reserved.await;
        let cancelled = eventually(SOON, "a reservation is cancelled", async || {
            api.cancel_as(self.reservation(), &self.cancel_id).await
        });
        let cancelled = cancelled.await;
        let ended = cancelled.reservation.expect("an answer has its resource");
        assert_eq!(ended.status(), ReservationStatus::Cancelled);
        let of = async |ticket: &str, token: &str| api.settled(ticket, token).await.ticket_status();
        assert_eq!(of("later", &registered.consistency_token).await, TicketStatus::Available);
        assert_eq!(of("free", &reserved.consistency_token).await, TicketStatus::Reserved);
        assert_eq!(of("held", &cancelled.consistency_token).await, TicketStatus::Available);
        for ticket in &self.registered {
            assert!(api.settled(ticket, "").await.settled, "{ticket}");
        }
    }
}

/// Grows the tables that every command writes to up to the limit, with rows that are rolled back: their pages stay. The
/// rows are small, so that no event fits into the last page.
fn fill(postgres: &Postgres, schema: &str) {
    // Otherwise the server would find the free space a minute later.
    for table in ["record", "outbox"] {
        let keep = format!("alter table {schema}.{table} set (autovacuum_enabled = false)");
        postgres.sql("postgres", &keep).expect("the owner of the table may");
    }
    for rows in [
        "record select gen_random_uuid(), repeat('h', 32)::bytea, 'a'::bytea, '9999-01-01'",
        "outbox (subject, revision, headers, body) select 'none', 0, 'h', 'b'::bytea",
    ] {
        let refused = postgres.sql(
            "postgres",
            &format!("insert into {schema}.{rows} from generate_series(1, 1000) a, generate_series(1, 100) b"),
        );
        let refused = refused.expect_err("so many rows do not fit").to_string();
        assert!(refused.contains("could not extend file"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn full_postgresql_tables_block_writes_until_there_is_free_space() {
    let (postgres, data) = (postgres().await, TempDir::new().expect("a folder"));
    let eticket = Launch::all_in_one(data.path()).key("store.url", &postgres.url("postgres")).start().await;
    let api = Api::new(&eticket, Protocol::Gateway);
    let mut known = Known::made(&api).await;

    block_in_place(|| {
        postgres.limit_files(Some(TABLES_ARE_FULL)).expect("limited");
        OWNERS.iter().for_each(|schema| fill(&postgres, schema));
    });
    // The last pages have space for a few rows.
    let mut full = [false, false];
    for number in 0..MOST {
        let ticket = format!("while-{number}");
        let answer = api.register(&ticket, calendar::upcoming(Weekday::Wed)).await;
        full[0] |= is_refused(&answer);
        known.registered.extend(answer.ok().map(|_| ticket));
        // The ticket is held for short moments only, so another holder does not matter.
        match api.reserve("spare", "B", UserGrade::Gold).await {
            Ok(answer) => {
                let reservation = answer.reservation.expect("an answer has its resource").reservation_id;
                full[1] |= is_refused(&api.cancel(&reservation).await);
            }
            answer => full[1] |= answer.is_err_and(|status| status.code() == Code::Unavailable),
        }
        if full == [true, true] {
            break;
        }
    }
    assert_eq!(full, [true, true], "{MOST} commands of each kind fit");
    known.every_command_fails(&api).await;
    known.acknowledged_data_exists(&api).await;
    let view = api.view("held", &known.held.consistency_token, WaitFor::Settled).await.expect("it has settled");
    assert_eq!(view.ticket_status(), TicketStatus::Reserved);
    for server in OWNERS {
        // Reads succeed, so the server stays ready.
        shows(eticket.address(server), "readiness", ServingStatus::Serving).await;
        shows(eticket.address(server), "liveness", ServingStatus::Serving).await;
    }
    assert!(eticket.log().contains("could not extend file"), "with PostgreSQL's error:\n{}", eticket.log());

    postgres.limit_files(None).expect("limited no more");
    known.retries_succeed(&api).await;
    for server in OWNERS {
        shows(eticket.address(server), "bus", ServingStatus::Serving).await;
    }
    aftermath::serves(&eticket).await;
    aftermath::ends_well(eticket).await;
}

/// PostgreSQL shuts down when it cannot write its WAL, and does not start again before it can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn postgresql_without_space_for_its_wal_is_down_and_loses_nothing() {
    let (mut postgres, data) = (postgres().await, TempDir::new().expect("a folder"));
    let eticket = Launch::all_in_one(data.path()).key("store.url", &postgres.url("postgres")).start().await;
    let api = Api::new(&eticket, Protocol::Gateway);
    let known = Known::made(&api).await;

    postgres.limit_files(Some(1)).expect("limited");
    known.every_command_fails(&api).await;
    // A command fails before it writes WAL if its table has no free page. This statement writes nothing but WAL.
    let emitted = postgres.sql("postgres", "select pg_logical_emit_message(true, 'eticket', 'full')");
    assert!(emitted.is_err(), "{emitted:?}");
    for server in OWNERS {
        shows(eticket.address(server), "readiness", ServingStatus::NotServing).await;
        shows(eticket.address(server), "liveness", ServingStatus::Serving).await;
    }
    assert!(postgres.sql("postgres", "select 1").is_err(), "it has shut down");
    assert!(is_refused(&api.ticket("held").await));
    assert!(api.view("held", "", WaitFor::Unspecified).await.is_ok(), "the view is query's own");

    // As an operator would restart it after freeing space.
    block_in_place(|| {
        postgres.kill().expect("what may be left of it");
        postgres.start_again().expect("it starts with room");
    });
    for server in OWNERS {
        shows(eticket.address(server), "readiness", ServingStatus::Serving).await;
    }
    known.acknowledged_data_exists(&api).await;
    known.retries_succeed(&api).await;
    aftermath::serves(&eticket).await;
    aftermath::ends_well(eticket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn nats_without_space_delays_events_but_not_commands() {
    let nats = spawn_blocking(|| Nats::start().expect("nats-server starts")).await.expect("no panic");
    let data = TempDir::new().expect("a folder");
    let eticket = Launch::all_in_one(data.path()).key("bus.url", &nats.url()).start().await;
    let api = Api::new(&eticket, Protocol::Gateway);
    let known = Known::made(&api).await;

    nats.limit_files(Some(1)).expect("limited");
    let cancelled = api.cancel(known.reservation()).await.expect("cancelling does not need the bus");
    let reserved = api.reserve("free", "B", UserGrade::Gold).await.expect("nor here");
    let registered = api.register("later", calendar::upcoming(Weekday::Wed)).await.expect("nor here");
    for server in ["ticket", "reservation"] {
        shows(eticket.address(server), "bus", ServingStatus::NotServing).await;
        shows(eticket.address(server), "readiness", ServingStatus::Serving).await;
    }
    let log = eticket.log();
    assert!(log.contains("file too large") && log.contains("give the server or the account more storage"), "{log}");
    assert_eq!(api.ticket("later").await.expect("it was registered").ticket_id, "later");
    let view = api.view("held", "", WaitFor::Unspecified).await.expect("as it was");
    assert_eq!(view.ticket_status(), TicketStatus::Reserved, "the view has not received the event");

    nats.limit_files(None).expect("limited no more");
    let of = async |ticket: &str, token: &str| api.settled(ticket, token).await.ticket_status();
    assert_eq!(of("held", &cancelled.consistency_token).await, TicketStatus::Available);
    assert_eq!(of("free", &reserved.consistency_token).await, TicketStatus::Reserved);
    assert_eq!(of("later", &registered.consistency_token).await, TicketStatus::Available);
    for server in ["ticket", "reservation", "pricing", "query"] {
        shows(eticket.address(server), "bus", ServingStatus::Serving).await;
    }
    aftermath::serves(&eticket).await;
    aftermath::ends_well(eticket).await;
}
