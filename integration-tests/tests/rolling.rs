//! A rolling restart of every service under load: a client with the shipped service config sees no failed call.
//!
//! With `ETICKET_OLD_BINARIES`, the folder of the binaries of an older release, it is a rolling upgrade from that release.

use std::path::PathBuf;

use chrono::Weekday;
use eticket_integration_tests::{
    Protocol,
    aftermath::metrics,
    calendar,
    caller::Caller,
    eventually::{SOON, eventually},
    mesh::{Mesh, Plan},
    process::Eticket,
    rounds::Rounds,
};

const CALLERS: usize = 16;

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
    let tickets: Vec<String> = (0..CALLERS).map(|number| format!("t-{number}")).collect();
    for ticket in &tickets {
        let answer = api.register(ticket, calendar::upcoming(Weekday::Wed)).await.expect("registered");
        for replica in mesh.replicas("query") {
            mesh.api_with("query", replica.address()).settled(ticket, &answer.consistency_token).await;
        }
    }
    let gateways: Vec<&str> = mesh.replicas("gateway").iter().map(|replica| replica.address()).collect();
    let rounds = Rounds::start(Caller::start(&gateways), tickets);
    for service in ["ticket", "reservation", "pricing", "query", "gateway"] {
        for number in 0..2 {
            let before = rounds.done();
            mesh.replica_of(service, number).stop().await;
            mesh.replica_of(service, number).start().await;
            if service == "gateway" {
                client_reconnected(mesh.replica_of(service, number).process()).await;
            }
            eprintln!("{service} {number}: {} calls meanwhile", rounds.done() - before);
        }
    }
    let (done, failed) = rounds.stop().await;
    assert!(failed.is_empty() && done > 300, "{done} calls went well; failed: {failed:?}");
    mesh.stop().await;
}
