//! A stream that has lost messages and keeps its epoch: the states of the owners are restored without an operator.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use chrono::Weekday;
use eticket_integration_tests::{
    Protocol, calendar,
    eventually::{SOON, eventually},
    mesh::{Mesh, Plan},
};
use eticket_proto::{query::WaitFor, reservation::UserGrade, ticket::TicketStatus};
use tokio::task::block_in_place;

/// Starts a mesh with all stores on SQLite, two replicas of the view, and frequent comparisons.
async fn mesh() -> Mesh {
    let mut plan = Plan::default().replicas(2);
    for service in ["ticket", "reservation", "pricing"] {
        plan = plan.on_sqlite(service);
    }
    for service in ["ticket", "reservation", "pricing", "query"] {
        plan = plan.key(service, "audit.rows_per_second", "2000").key(service, "audit.confirm_after_ms", "300");
    }
    Mesh::start(plan).await
}

/// Restores an earlier storage of the server: the stream keeps its epoch and has lost its newest messages.
fn restore_the_stream(mesh: &mut Mesh) {
    block_in_place(|| {
        let nats = &mut mesh.infrastructure.nats;
        nats.stop().expect("stopped");
        nats.restore_copy().expect("restored");
        nats.start_again().expect("it starts again");
    });
}

async fn tickets_of(mesh: &Mesh, replica: usize, tickets: &[String]) -> usize {
    let api = mesh.api_with("query", mesh.replicas("query")[replica].address());
    let mut shown = 0;
    for ticket in tickets {
        let view = api.view(ticket, "", WaitFor::Unspecified).await;
        shown += usize::from(view.is_ok_and(|view| view.base_price.is_some()));
    }
    shown
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL and nats-server: cargo xtask test"]
async fn messages_lost_by_a_restored_stream_are_restored_automatically() {
    let mut mesh = mesh().await;
    let api = mesh.api(Protocol::Direct);
    let mut tickets = Vec::new();
    api.register("t-0", calendar::upcoming(Weekday::Wed)).await.expect("registered");
    api.settled("t-0", "").await;
    tickets.push("t-0".to_owned());
    block_in_place(|| {
        let nats = &mut mesh.infrastructure.nats;
        nats.stop().expect("stopped");
        nats.keep_copy().expect("copied");
        nats.start_again().expect("it starts again");
    });
    for number in 1..20 {
        let ticket = format!("t-{number}");
        api.register(&ticket, calendar::upcoming(Weekday::Wed)).await.expect("registered");
        tickets.push(ticket);
    }
    for ticket in &tickets {
        api.settled(ticket, "").await;
    }

    // One view is new after the loss; the other one has read the lost messages.
    for number in [0, 1] {
        mesh.replica_of("query", number).stop().await;
    }
    mesh.replica_of("query", 0).forget();
    restore_the_stream(&mut mesh);
    mesh.replica_of("query", 0).start().await;
    assert_eq!(tickets_of(&mesh, 0, &tickets).await, tickets.len(), "a ready view is complete");
    mesh.replica_of("query", 1).start().await;
    assert_eq!(tickets_of(&mesh, 1, &tickets).await, tickets.len());

    // Both views receive later changes.
    let answer = api.reserve("t-7", "A", UserGrade::Vip).await.expect("reserved");
    for number in [0, 1] {
        let api = mesh.api_with("query", mesh.replicas("query")[number].address());
        let view = api.settled("t-7", &answer.consistency_token).await;
        assert_eq!(view.ticket_status(), TicketStatus::Reserved);
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL and nats-server: cargo xtask test"]
async fn events_lost_before_delivery_are_detected_and_resent() {
    let mut mesh = mesh().await;
    let api = mesh.api(Protocol::Direct);
    api.register("before", calendar::upcoming(Weekday::Wed)).await.expect("registered");
    api.settled("before", "").await;
    block_in_place(|| {
        let nats = &mut mesh.infrastructure.nats;
        nats.stop().expect("stopped");
        nats.keep_copy().expect("copied");
        nats.start_again().expect("it starts again");
    });
    // While pricing is down, the events are published and then lost.
    mesh.replica_of("pricing", 0).stop().await;
    api.register("lost", calendar::upcoming(Weekday::Wed)).await.expect("registered");
    let placed = api.reserve("lost", "A", UserGrade::Vip).await.expect("reserved");
    let taken_in = eventually(SOON, "the view has the reservation", async || {
        let view = api.view("lost", &placed.consistency_token, WaitFor::Applied).await.map_err(|it| it.to_string())?;
        if view.ticket_status() == TicketStatus::Reserved { Ok(view) } else { Err(format!("{view:?}")) }
    });
    taken_in.await;
    restore_the_stream(&mut mesh);
    mesh.replica_of("pricing", 0).start().await;
    let view = api.settled("lost", &placed.consistency_token).await;
    assert!(view.settled && view.discounted_price.is_some(), "{view:?}");
    mesh.stop().await;
}
