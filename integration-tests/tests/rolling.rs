//! A rolling restart of every service under load: a client with the shipped service config sees no failed call.
//!
//! With `ETICKET_OLD_BINARIES`, the folder of the binaries of an older release, it is a rolling upgrade from that release.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use chrono::Weekday;
use eticket_integration_tests::{
    Protocol,
    aftermath::metrics,
    calendar,
    caller::Caller,
    eventually::{SOON, eventually},
    mesh::{Mesh, Plan},
    process::Eticket,
};
use eticket_proto::{
    query::{GetTicketViewRequest, GetTicketViewResponse},
    reservation::{
        CancelReservationRequest, CancelReservationResponse, ReserveTicketRequest, ReserveTicketResponse, UserGrade,
    },
    ticket::{GetTicketRequest, GetTicketResponse},
};
use tokio::sync::Mutex;
use tonic::Code;
use uuid::Uuid;

const CALLERS: usize = 16;

/// Reserves, reads and cancels repeatedly; returns the number of successful calls.
async fn run_calls(
    caller: Arc<Mutex<Caller>>,
    ticket: String,
    done: Arc<AtomicUsize>,
    stopping: Arc<AtomicBool>,
) -> Result<(), (String, Code)> {
    let request_id = || Uuid::new_v4().to_string();
    macro_rules! call {
        ($method:literal, $request:expr => $answer:ty) => {{
            let answered = caller.lock().await.call::<$answer>($method, &$request).await;
            let answer = answered.await.map_err(|code| ($method.to_owned(), code))?;
            done.fetch_add(1, Ordering::Relaxed);
            answer
        }};
    }
    while !stopping.load(Ordering::Relaxed) {
        let request = ReserveTicketRequest {
            ticket_id: ticket.clone(),
            user_id: "A".to_owned(),
            user_grade: UserGrade::Gold.into(),
            request_id: request_id(),
        };
        let reserved =
            call!("eticket.reservation.v1.ReservationService/ReserveTicket", request => ReserveTicketResponse);
        let request = GetTicketRequest { ticket_id: ticket.clone() };
        call!("eticket.ticket.v1.TicketService/GetTicket", request => GetTicketResponse);
        let request = GetTicketViewRequest { ticket_id: ticket.clone(), ..Default::default() };
        call!("eticket.query.v1.QueryService/GetTicketView", request => GetTicketViewResponse);
        let reservation_id = reserved.reservation.expect("an answer has its resource").reservation_id;
        let request = CancelReservationRequest { reservation_id, request_id: request_id() };
        call!("eticket.reservation.v1.ReservationService/CancelReservation", request => CancelReservationResponse);
    }
    Ok(())
}

/// Waits until the client has reconnected to this gateway. A rolling update leaves time for this (`minReadySeconds` of
/// the chart): client libraries pause for a second or more after a refused connection, and without any connection calls
/// fail whatever the servers do.
async fn client_reconnected(gateway: &Eticket) {
    let called = r#"eticket_rpc_total{service="gateway",rpc="eticket.ticket.v1.TicketService/GetTicket",code="OK"}"#;
    eventually(SOON, "the restarted gateway is called", async || {
        let metrics = metrics(gateway).await;
        if metrics.lines().any(|line| line.starts_with(called)) { Ok(()) } else { Err(metrics) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL, nats-server and eticket-caller: cargo xtask test"]
async fn no_call_fails_while_every_replica_is_restarted() {
    let older = std::env::var_os("ETICKET_OLD_BINARIES").map(PathBuf::from);
    let mut mesh = Mesh::start(Plan::default().replicas(2).gateways(2).first_from(older)).await;
    let api = mesh.api(Protocol::Gateway);
    for number in 0..CALLERS {
        let ticket = format!("t-{number}");
        let answer = api.register(&ticket, calendar::upcoming(Weekday::Wed)).await.expect("registered");
        for replica in mesh.replicas("query") {
            mesh.api_with("query", replica.address()).settled(&ticket, &answer.consistency_token).await;
        }
    }
    let gateways: Vec<&str> = mesh.replicas("gateway").iter().map(|replica| replica.address()).collect();
    let caller = Arc::new(Mutex::new(Caller::start(&gateways)));
    let (done, stopping) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let rounds: Vec<_> = (0..CALLERS)
        .map(|number| tokio::spawn(run_calls(caller.clone(), format!("t-{number}"), done.clone(), stopping.clone())))
        .collect();
    for service in ["ticket", "reservation", "pricing", "query", "gateway"] {
        for number in 0..2 {
            let before = done.load(Ordering::Relaxed);
            mesh.replica_of(service, number).stop().await;
            mesh.replica_of(service, number).start().await;
            if service == "gateway" {
                client_reconnected(mesh.replica_of(service, number).process()).await;
            }
            eprintln!("{service} {number}: {} calls meanwhile", done.load(Ordering::Relaxed) - before);
        }
    }
    stopping.store(true, Ordering::Relaxed);
    let mut failed = Vec::new();
    for round in rounds {
        failed.extend(round.await.expect("a caller does not panic").err());
    }
    let done = done.load(Ordering::Relaxed);
    assert!(failed.is_empty() && done > 300, "{done} calls went well; failed: {failed:?}");
    Arc::try_unwrap(caller).ok().expect("no task uses the caller any more").into_inner().finish().await;
    mesh.stop().await;
}
