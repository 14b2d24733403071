//! The distributed form: replicas on PostgreSQL and NATS, and each mixture of stores, selected by URLs only.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use chrono::Weekday;
use eticket_bus::Bus;
use eticket_integration_tests::{
    Api, Protocol,
    api::reason,
    calendar,
    eventually::{SOON, eventually},
    health::{ServingStatus, check, shows},
    mesh::{Mesh, Plan},
    race, redelivery, scenario,
};
use eticket_proto::{
    query::{TicketView, WaitFor},
    reservation::{ReservationStatus, UserGrade},
    ticket::TicketStatus,
};
use tonic::Code;
use tonic_types::StatusExt;

/// Runs the whole scenario with the second delivery over NATS, while all processes run.
async fn run_scenario(mesh: &Mesh, protocol: Protocol) {
    let api = mesh.api(protocol);
    let first = scenario::first_act(&api).await;
    let bus = redelivery::nats(&mesh.infrastructure.nats.url());
    let again = redelivery::publish_again_on(&bus, |message| scenario::is_the_cancellation(&first, message));
    assert!(again.await.body.len() > 10, "the event has a body");
    bus.close().await;
    scenario::second_act(&api, &first).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL and nats-server: cargo xtask test"]
async fn the_scenario_and_the_race_over_two_replicas_of_each() {
    let mesh = Mesh::start(Plan::default().replicas(2)).await;
    run_scenario(&mesh, Protocol::Gateway).await;
    let mut apis: Vec<Api> = (0..6).map(|_| mesh.api(Protocol::Gateway)).collect();
    // Without the gateway too: each replica of reservation has its own callers.
    for replica in mesh.replicas("reservation") {
        let ours = mesh.api_with("reservation", replica.address());
        apis.push(ours);
    }
    race::one_of_a_thousand_callers_gets_the_ticket(&apis).await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL and nats-server: cargo xtask test"]
async fn the_scenario_with_reservation_on_postgresql_and_the_others_on_sqlite() {
    let mesh = Mesh::start(Plan::default().on_sqlite("ticket").on_sqlite("pricing")).await;
    run_scenario(&mesh, Protocol::Gateway).await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL and nats-server: cargo xtask test"]
async fn the_scenario_with_reservation_on_sqlite_and_the_others_on_postgresql() {
    let mesh = Mesh::start(Plan::default().on_sqlite("reservation")).await;
    run_scenario(&mesh, Protocol::Direct).await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL and nats-server: cargo xtask test"]
async fn the_scenario_with_all_on_sqlite() {
    let mesh = Mesh::start(Plan::default().on_sqlite("ticket").on_sqlite("pricing").on_sqlite("reservation")).await;
    run_scenario(&mesh, Protocol::WebText).await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL and nats-server: cargo xtask test"]
async fn the_scenario_with_all_on_postgresql() {
    let mesh = Mesh::start(Plan::default()).await;
    run_scenario(&mesh, Protocol::WebBinary).await;
    mesh.stop().await;
}

/// Registers and reserves a ticket; returns the reservation after its saga.
async fn reserved(api: &Api, ticket: &str) -> String {
    api.register(ticket, calendar::upcoming(Weekday::Wed)).await.expect("registered");
    let answer = api.reserve(ticket, "A", UserGrade::Vip).await.expect("reserved");
    api.settled(ticket, &answer.consistency_token).await;
    answer.reservation.expect("an answer has its resource").reservation_id
}

async fn cancelled(api: &Api, reservation: &str) {
    let answer = api.cancel(reservation).await.expect("a holder can always cancel");
    let status = answer.reservation.expect("an answer has its resource").status();
    assert_eq!(status, ReservationStatus::Cancelled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL and nats-server: cargo xtask test"]
async fn cancelling_works_while_everything_else_is_down() {
    let mut mesh = Mesh::start(Plan::default()).await;
    let api = mesh.api(Protocol::Gateway);
    let mut reservations = Vec::new();
    for number in 0..3 {
        reservations.push(reserved(&api, &format!("t-{number}")).await);
    }
    api.register("free", calendar::upcoming(Weekday::Tue)).await.expect("registered");

    for service in ["ticket", "pricing", "query"] {
        mesh.replica_of(service, 0).kill().await;
    }
    mesh.infrastructure.nats.kill().expect("killed");
    let reservation = mesh.replica_of("reservation", 0).address().to_owned();
    // Events wait.
    shows(&reservation, "bus", ServingStatus::NotServing).await;
    let readiness = check(&reservation, "readiness").await;
    assert_eq!(readiness.ok(), Some(ServingStatus::Serving), "cancelling works without the bus");
    cancelled(&api, &reservations[0]).await;
    let refused = api.reserve("free", "B", UserGrade::Gold).await.expect_err("ticket is down");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "TICKET_SERVICE_OVERLOADED"));
    assert!(refused.get_details_retry_info().is_some(), "{refused:?}");

    // The reservation service itself restarts, with only its store available.
    mesh.replica_of("reservation", 0).stop().await;
    mesh.replica_of("reservation", 0).start().await;
    cancelled(&api, &reservations[1]).await;
    mesh.replica_of("reservation", 0).kill().await;
    mesh.replica_of("reservation", 0).start().await;
    cancelled(&mesh.api(Protocol::Direct), &reservations[2]).await;

    mesh.infrastructure.nats.start_again().expect("it starts again");
    for service in ["ticket", "pricing", "query"] {
        mesh.replica_of(service, 0).start().await;
    }
    for number in 0..3 {
        let ticket = format!("t-{number}");
        let view = eventually(SOON, "the cancellation arrives everywhere", async || {
            let view = api.view(&ticket, "", WaitFor::Settled).await.map_err(|status| format!("{status:?}"))?;
            let arrived = view.reservation_status() == ReservationStatus::Cancelled;
            if arrived { Ok(view) } else { Err(format!("{view:?}")) }
        })
        .await;
        assert_eq!(view.ticket_status(), TicketStatus::Available, "{view:?}");
        assert_eq!(view.discounted_price.map(|money| money.units), Some(8_000), "the price is back");
    }
    // The breaker detects that the ticket service is back.
    let answer =
        eventually(SOON, "reserving works again", async || api.reserve("free", "B", UserGrade::Gold).await).await;
    api.settled("free", &answer.consistency_token).await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL and nats-server: cargo xtask test"]
async fn a_hanging_or_stopped_query_replica_does_not_delay_others() {
    use rustix::process::Signal;
    let mut mesh = Mesh::start(Plan::default().replicas(2)).await;
    let ours = mesh.api_with("query", mesh.replicas("query")[0].address());
    for what in ["hangs", "is gone"] {
        let ticket = |number: usize| format!("{}-{number}", what.replace(' ', "-"));
        let other = mesh.replica_of("query", 1);
        if what == "hangs" {
            other.process().signal(Signal::STOP);
        } else {
            other.kill().await;
        }
        let began = std::time::Instant::now();
        for number in 0..20 {
            reserved(&ours, &ticket(number)).await;
        }
        assert!(began.elapsed() < SOON, "without delay: {:?}", began.elapsed());
        let other = mesh.replica_of("query", 1);
        if what == "hangs" {
            other.process().signal(Signal::CONT);
        } else {
            other.start().await;
        }
        // The replica continues from its position and shows the same view.
        let theirs = mesh.api_with("query", mesh.replicas("query")[1].address());
        for number in 0..20 {
            let expected: TicketView = ours.settled(&ticket(number), "").await;
            let seen = eventually(SOON, "the other replica has caught up", async || {
                let view =
                    theirs.view(&ticket(number), "", WaitFor::Settled).await.map_err(|status| format!("{status:?}"))?;
                if view.revisions == expected.revisions { Ok(view) } else { Err(format!("{view:?}")) }
            });
            assert_eq!(seen.await.discounted_price, expected.discounted_price);
        }
    }
    mesh.stop().await;
}
