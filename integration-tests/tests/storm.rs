//! kill -9 twenty times in the middle of a storm of reservations, cancellations, withdrawals, updates and retries: every answered
//! command is there, a retry gives the first answer, no ticket is held twice, every view settles, watchers that resume miss
//! nothing.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::{path::Path, sync::Arc};

use eticket_integration_tests::{
    Api, Eticket, Protocol,
    eventually::SOON,
    process::Launch,
    storm::{Arena, client::Client, verdict, watcher::Watcher},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tempfile::TempDir;
use tokio::time::timeout;

const KILLS: usize = 20;
const CLIENTS: u64 = 6;
/// Of answers, between a start and a kill: at random up to here.
const ANSWERS: usize = 400;

/// The clients' own patience shall decide what is too slow, not the breaker on a busy machine.
async fn start(data: &Path) -> Eticket {
    Launch::all_in_one(data)
        .key("reservation.upstream.ticket.deadline_ms", "15000")
        .key("reservation.upstream.ticket.attempt_timeout_ms", "14000")
        .key("reservation.upstream.ticket.breaker.slow_call_ms", "14000")
        .start()
        .await
}

fn seed() -> u64 {
    let given = std::env::var("ETICKET_STORM_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let seed = given.unwrap_or_else(rand::random);
    eprintln!("ETICKET_STORM_SEED={seed} has clients choose the same again");
    seed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_kills_lose_nothing_and_double_nothing() {
    let seed = seed();
    let (mut random, data) = (StdRng::seed_from_u64(seed), TempDir::new().expect("a folder"));
    let (arena, watcher) = (Arc::new(Arena::default()), Watcher::default());
    let mut clients: Vec<Client> = (0..CLIENTS).map(|number| Client::new(seed ^ (number + 1))).collect();
    let (mut eticket, mut cut_off) = (start(data.path()).await, 0);
    for round in 0..KILLS {
        let enough = arena.answered() + random.random_range(0..=ANSWERS);
        let watching = tokio::spawn(watcher.clone().watch(watched_at(&eticket, round)));
        let working = clients.into_iter().enumerate().map(|(number, mut client)| {
            let protocol = if (round + number).is_multiple_of(2) { Protocol::Direct } else { Protocol::Gateway };
            let (api, arena) = (Api::new(&eticket, protocol), arena.clone());
            tokio::spawn(async move {
                client.work(&api, &arena).await;
                client
            })
        });
        let working: Vec<_> = working.collect();
        timeout(SOON, arena.reached(enough)).await.expect("the storm goes on");
        eticket.kill().await;
        clients = Vec::new();
        for client in working {
            clients.push(client.await.expect("a client does not panic"));
        }
        cut_off += clients.iter().filter(|client| client.is_cut_off()).count();
        watching.await.expect("the watcher does not panic");
        eticket = start(data.path()).await;
    }
    eprintln!("{} commands were answered, {cut_off} lost their answer to a kill", arena.answered());
    assert!(arena.answered() > KILLS && cut_off > KILLS, "the kills hit nothing");

    let watching = tokio::spawn(watcher.clone().watch(watched_at(&eticket, KILLS)));
    let asking = clients.into_iter().map(|mut client| {
        let (api, arena) = (Api::new(&eticket, Protocol::Direct), arena.clone());
        async move {
            client.ask_everything_again(&api, &arena).await;
            client
        }
    });
    let clients = futures::future::join_all(asking).await;
    let judged = verdict::judge_all(&Api::new(&eticket, Protocol::Direct), &clients, &watcher).await;
    assert_eq!(watcher.views().len(), judged, "it was sent no ticket that nobody registered");
    verdict::compare_views(eticket.address("query")).await;
    let exit = eticket.stop().await;
    assert!(!exit.log.contains("panicked"), "{}", exit.log);
    watching.await.expect("the watcher does not panic");
}

/// Both ways to the view take their turns.
fn watched_at(eticket: &Eticket, round: usize) -> String {
    eticket.address(if round.is_multiple_of(2) { "query" } else { "gateway" }).to_owned()
}
