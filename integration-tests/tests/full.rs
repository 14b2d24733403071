//! PostgreSQL and nats-server on a full disk: who writes is told to come again, who reads is served, nothing acknowledged is lost,
//! and when there is room all goes on. A limit on the size of files stands for the full disk, as in `disk.rs`: it needs nobody's
//! permission, and both servers do then what they do where no space is left.

#![cfg(target_os = "linux")]
#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::time::Duration;

use chrono::Weekday;
use eticket_integration_tests::{
    Api, Eticket, Protocol, aftermath,
    api::reason,
    calendar,
    eventually::{SOON, eventually},
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
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};
use tonic_types::StatusExt;
use uuid::Uuid;

/// Those that write to PostgreSQL.
const OWNERS: [&str; 3] = ["ticket", "reservation", "pricing"];
/// A whole file of PostgreSQL's log fits, and of a table all but half of its last page.
const TABLES_ARE_FULL: u64 = (1 << 20) + 4096;
/// Far more commands than what is left in tables has room for.
const MOST: usize = 200;
/// Within this a change of health must show.
const SHOWS: Duration = Duration::from_secs(10);

/// With files of its log that are smaller than a table can be made in a test.
async fn postgres() -> Postgres {
    // What a vacuum finds is room.
    let settings = Settings { lines: vec!["autovacuum = off".to_owned()], log_file_mb: Some(1), ..Settings::default() };
    spawn_blocking(move || Postgres::start_with(&settings).expect("PostgreSQL starts")).await.expect("no panic")
}

/// Whether there was no room; any other error is none of a full disk.
fn is_refused<A>(answer: &Result<A, Status>) -> bool {
    let Err(status) = answer else { return false };
    assert_eq!((status.code(), reason(status).as_str()), (Code::Unavailable, "STORE_UNAVAILABLE"), "{status:?}");
    let retry = status.get_details_retry_info().and_then(|retry| retry.retry_delay);
    assert!(retry.is_some_and(|delay| delay > Duration::ZERO), "{status:?}");
    assert!(status.metadata().contains_key(headers::RETRY_PUSHBACK), "{status:?}");
    true
}

async fn shows(eticket: &Eticket, server: &str, name: &str, expected: ServingStatus) {
    let api = Api::at(eticket.address(server));
    eventually(SHOWS, "its health shows it", async || {
        let request = HealthCheckRequest { service: name.to_owned() };
        let answer: Result<HealthCheckResponse, Status> = api.call("grpc.health.v1.Health/Check", request).await;
        match answer.map(|answer| answer.status()) {
            Ok(status) if status == expected => Ok(()),
            other => Err((server.to_owned(), name.to_owned(), other)),
        }
    })
    .await;
}

/// What was answered before, and the ids of requests that are refused.
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

    /// Each kind of command.
    async fn nothing_is_taken(&self, api: &Api) {
        let slot = calendar::upcoming(Weekday::Wed);
        assert!(is_refused(&api.register_as("later", slot, &self.register_id).await));
        assert!(is_refused(&api.reserve_as("free", "B", UserGrade::Gold, &self.reserve_id).await));
        assert!(is_refused(&api.cancel_as(self.reservation(), &self.cancel_id).await));
        assert!(is_refused(&api.withdraw("free", "").await));
    }

    async fn all_is_there(&self, api: &Api) {
        for ticket in &self.registered {
            assert_eq!(&api.ticket(ticket).await.expect("it was registered").ticket_id, ticket);
        }
        let kept = api.reservation(self.reservation()).await.expect("it was reserved");
        assert_eq!(Some(kept), self.held.reservation);
        assert!(api.price("held").await.is_ok());
    }

    /// What was refused is asked for again, with its ids, and every saga comes to its end.
    async fn all_goes_on(&self, api: &Api) {
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

/// Has the tables that every command writes to grow to the limit, by rows that are taken back: their pages stay. The rows are small, so
/// that the last page has no room for an event.
fn fill(postgres: &Postgres, schema: &str) {
    // The server would find the room again, a minute later.
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
async fn where_tables_of_postgresql_cannot_grow_who_reads_is_served_and_with_room_all_goes_on() {
    let (postgres, data) = (postgres().await, TempDir::new().expect("a folder"));
    let eticket = Launch::all_in_one(data.path()).key("store.url", &postgres.url("postgres")).start().await;
    let api = Api::new(&eticket, Protocol::Gateway);
    let mut known = Known::made(&api).await;

    block_in_place(|| {
        postgres.limit_files(Some(TABLES_ARE_FULL)).expect("limited");
        OWNERS.iter().for_each(|schema| fill(&postgres, schema));
    });
    // The last pages have room for a few rows.
    let mut full = [false, false];
    for number in 0..MOST {
        let ticket = format!("while-{number}");
        let answer = api.register(&ticket, calendar::upcoming(Weekday::Wed)).await;
        full[0] |= is_refused(&answer);
        known.registered.extend(answer.ok().map(|_| ticket));
        // Nobody holds it for long, and whoever does for a moment changes nothing.
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
    known.nothing_is_taken(&api).await;
    known.all_is_there(&api).await;
    let view = api.view("held", &known.held.consistency_token, WaitFor::Settled).await.expect("it has settled");
    assert_eq!(view.ticket_status(), TicketStatus::Reserved);
    for server in OWNERS {
        // It answers those who read, so balancers need not look away.
        shows(&eticket, server, "readiness", ServingStatus::Serving).await;
        shows(&eticket, server, "liveness", ServingStatus::Serving).await;
    }
    assert!(eticket.log().contains("could not extend file"), "in PostgreSQL's words:\n{}", eticket.log());

    postgres.limit_files(None).expect("limited no more");
    known.all_goes_on(&api).await;
    for server in OWNERS {
        shows(&eticket, server, "bus", ServingStatus::Serving).await;
    }
    aftermath::serves(&eticket).await;
    aftermath::ends_well(eticket).await;
}

/// PostgreSQL ends itself where it cannot write its log, and does not come up before it can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn where_postgresql_cannot_write_its_log_it_is_away_and_loses_nothing() {
    let (mut postgres, data) = (postgres().await, TempDir::new().expect("a folder"));
    let eticket = Launch::all_in_one(data.path()).key("store.url", &postgres.url("postgres")).start().await;
    let api = Api::new(&eticket, Protocol::Gateway);
    let known = Known::made(&api).await;

    postgres.limit_files(Some(1)).expect("limited");
    known.nothing_is_taken(&api).await;
    assert!(postgres.sql("postgres", "select 1").is_err(), "it has ended itself");
    for server in OWNERS {
        shows(&eticket, server, "readiness", ServingStatus::NotServing).await;
        shows(&eticket, server, "liveness", ServingStatus::Serving).await;
    }
    assert!(is_refused(&api.ticket("held").await));
    assert!(api.view("held", "", WaitFor::Unspecified).await.is_ok(), "the view is query's own");

    // As whoever has made room starts it again.
    block_in_place(|| {
        postgres.kill().expect("what may be left of it");
        postgres.start_again().expect("it starts with room");
    });
    for server in OWNERS {
        shows(&eticket, server, "readiness", ServingStatus::Serving).await;
    }
    known.all_is_there(&api).await;
    known.all_goes_on(&api).await;
    aftermath::serves(&eticket).await;
    aftermath::ends_well(eticket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn where_nats_has_no_room_commands_go_on_and_events_flow_when_it_has() {
    let nats = spawn_blocking(|| Nats::start().expect("nats-server starts")).await.expect("no panic");
    let data = TempDir::new().expect("a folder");
    let eticket = Launch::all_in_one(data.path()).key("bus.url", &nats.url()).start().await;
    let api = Api::new(&eticket, Protocol::Gateway);
    let known = Known::made(&api).await;

    nats.limit_files(Some(1)).expect("limited");
    let cancelled = api.cancel(known.reservation()).await.expect("the bus is not asked");
    let reserved = api.reserve("free", "B", UserGrade::Gold).await.expect("nor here");
    let registered = api.register("later", calendar::upcoming(Weekday::Wed)).await.expect("nor here");
    for server in ["ticket", "reservation"] {
        shows(&eticket, server, "bus", ServingStatus::NotServing).await;
        shows(&eticket, server, "readiness", ServingStatus::Serving).await;
    }
    let log = eticket.log();
    assert!(log.contains("file too large") && log.contains("give the server or the account more storage"), "{log}");
    assert_eq!(api.ticket("later").await.expect("it was registered").ticket_id, "later");
    let view = api.view("held", "", WaitFor::Unspecified).await.expect("as it was");
    assert_eq!(view.ticket_status(), TicketStatus::Reserved, "it has not heard of it");

    nats.limit_files(None).expect("limited no more");
    let of = async |ticket: &str, token: &str| api.settled(ticket, token).await.ticket_status();
    assert_eq!(of("held", &cancelled.consistency_token).await, TicketStatus::Available);
    assert_eq!(of("free", &reserved.consistency_token).await, TicketStatus::Reserved);
    assert_eq!(of("later", &registered.consistency_token).await, TicketStatus::Available);
    for server in ["ticket", "reservation", "pricing", "query"] {
        shows(&eticket, server, "bus", ServingStatus::Serving).await;
    }
    aftermath::serves(&eticket).await;
    aftermath::ends_well(eticket).await;
}
