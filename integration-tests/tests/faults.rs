//! Kills, freezes, disconnects and wipes every part, one after another, under a storm of commands: no acknowledged
//! command is lost, no ticket is held twice, all views settle, and services, view and bus agree.

use std::time::Duration;

use eticket_integration_tests::{
    mesh::{Infrastructure, Mesh, Plan},
    proxy::{LinkState, Proxy},
    redelivery,
    storm::siege,
};
use rustix::process::Signal;
use tokio::{task::block_in_place, time::sleep};

/// How long a part is frozen, disconnected or slowed.
const FOR_A_WHILE: Duration = Duration::from_secs(10);
/// A shorter time for the mildest faults.
const BRIEFLY: Duration = Duration::from_secs(4);

const PROCESSES: [(&str, usize); 9] = [
    ("ticket", 0),
    ("ticket", 1),
    ("reservation", 0),
    ("reservation", 1),
    ("pricing", 0),
    ("pricing", 1),
    ("query", 0),
    ("query", 1),
    ("gateway", 0),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL and nats-server: cargo xtask test"]
async fn every_process_is_killed_in_turn() {
    let mut mesh = Mesh::start(Plan::default().replicas(2)).await;
    siege::through(&mut mesh, "kill -9 of each process", async |mesh| {
        for (service, number) in PROCESSES {
            mesh.replica_of(service, number).kill().await;
            mesh.replica_of(service, number).start().await;
        }
    })
    .await;
    siege::through(&mut mesh, "kill -9 of nats-server", async |mesh| {
        mesh.infrastructure.nats.kill().expect("killed");
        block_in_place(|| mesh.infrastructure.nats.start_again()).expect("it starts again");
    })
    .await;
    siege::through(&mut mesh, "kill -9 of PostgreSQL", async |mesh| {
        mesh.infrastructure.postgres.kill().expect("killed");
        block_in_place(|| mesh.infrastructure.postgres.start_again()).expect("it starts again");
    })
    .await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL and nats-server: cargo xtask test"]
async fn every_process_is_frozen_in_turn() {
    let mut mesh = Mesh::start(Plan::default().replicas(2)).await;
    for (service, number) in [("ticket", 0), ("reservation", 0), ("pricing", 0), ("query", 0), ("gateway", 0)] {
        siege::through(&mut mesh, &format!("SIGSTOP of {service}"), async |mesh| {
            mesh.replica_of(service, number).process().signal(Signal::STOP);
            sleep(FOR_A_WHILE).await;
            mesh.replica_of(service, number).process().signal(Signal::CONT);
        })
        .await;
    }
    siege::through(&mut mesh, "SIGSTOP of nats-server", async |mesh| {
        mesh.infrastructure.nats.signal(Signal::STOP).expect("signalled");
        sleep(FOR_A_WHILE).await;
        mesh.infrastructure.nats.signal(Signal::CONT).expect("signalled");
    })
    .await;
    siege::through(&mut mesh, "SIGSTOP of PostgreSQL", async |mesh| {
        mesh.infrastructure.postgres.signal(Signal::STOP).expect("signalled");
        sleep(FOR_A_WHILE).await;
        mesh.infrastructure.postgres.signal(Signal::CONT).expect("signalled");
    })
    .await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL and nats-server: cargo xtask test"]
async fn every_connection_is_closed_slowed_and_frozen() {
    let infrastructure = Infrastructure::start().await;
    let store = Proxy::start(format!("127.0.0.1:{}", infrastructure.postgres.port())).await;
    let bus = Proxy::start(format!("127.0.0.1:{}", infrastructure.nats.port())).await;
    let plan = Plan::default()
        .replicas(2)
        .store_at(format!("postgres://postgres@{}/postgres", store.address()))
        .bus_at(format!("nats://{}", bus.address()));
    let mut mesh = Mesh::start_on(infrastructure, plan).await;
    for (name, proxy) in [("NATS", &bus), ("PostgreSQL", &store)] {
        for (link_state, duration) in [
            (LinkState::Cut, BRIEFLY),
            (LinkState::Slow(Duration::from_millis(30)), BRIEFLY),
            (LinkState::Hanging, FOR_A_WHILE),
        ] {
            siege::through(&mut mesh, &format!("the connections to {name}: {link_state:?}"), async |_| {
                proxy.set(link_state);
                sleep(duration).await;
                proxy.set(LinkState::Fair);
            })
            .await;
        }
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL and nats-server: cargo xtask test"]
async fn the_bus_loses_its_messages() {
    let mut mesh = Mesh::start(Plan::default().replicas(2)).await;
    siege::through(&mut mesh, "NATS's storage is wiped", async |mesh| {
        let nats = &mut mesh.infrastructure.nats;
        nats.kill().expect("killed");
        nats.wipe().expect("wiped");
        block_in_place(|| nats.start_again()).expect("it starts again");
    })
    .await;
    siege::through(&mut mesh, "the stream is deleted", async |mesh| {
        redelivery::delete_stream(&mesh.infrastructure.nats.url()).await;
    })
    .await;
    mesh.stop().await;
}
