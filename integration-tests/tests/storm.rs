//! Kills the process with SIGKILL twenty times during a storm of reservations, cancellations, withdrawals, updates and
//! retries: every answered command survives, a retry returns the first response, no ticket is held twice, every view
//! settles, and watchers that resume miss nothing.

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
/// Upper bound of the random number of responses between a start and a kill.
const ANSWERS: usize = 400;

/// The timeouts of the clients decide what is too slow; on a busy machine the breaker must not open first.
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
    eprintln!("ETICKET_STORM_SEED={seed} repeats the choices of the clients");
    seed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_kills_lose_and_duplicate_nothing() {
    let seed = seed();
    let (mut random, data) = (StdRng::seed_from_u64(seed), TempDir::new().expect("a folder"));
    let (arena, watcher) = (Arc::new(Arena::default()), Watcher::default());
    let mut clients: Vec<Client> = (0..CLIENTS).map(|number| Client::new(seed ^ (number + 1))).collect();
    let (mut eticket, mut cut_off) = (start(data.path()).await, 0);
    for round in 0..KILLS {
        let enough = arena.answered() + random.random_range(0..=ANSWERS);
        let watching = tokio::spawn(watcher.clone().watch(watch_address(&eticket, round)));
        let working = clients.into_iter().enumerate().map(|(number, mut client)| {
            let protocol = if (round + number).is_multiple_of(2) { Protocol::Direct } else { Protocol::Gateway };
            let (api, arena) = (Api::new(&eticket, protocol), arena.clone());
            tokio::spawn(async move {
                client.work(&api, &arena).await;
                client
            })
        });
        let working: Vec<_> = working.collect();
        timeout(SOON, arena.reached(enough)).await.expect("clients get responses");
        eticket.kill().await;
        clients = Vec::new();
        for client in working {
            clients.push(client.await.expect("a client does not panic"));
        }
        cut_off += clients.iter().filter(|client| client.is_cut_off()).count();
        watching.await.expect("the watcher does not panic");
        eticket = start(data.path()).await;
    }
    eprintln!("{} commands were answered, {cut_off} lost their response to a kill", arena.answered());
    assert!(arena.answered() > KILLS && cut_off > KILLS, "the kills hit nothing");

    let watching = tokio::spawn(watcher.clone().watch(watch_address(&eticket, KILLS)));
    let asking = clients.into_iter().map(|mut client| {
        let (api, arena) = (Api::new(&eticket, Protocol::Direct), arena.clone());
        async move {
            client.ask_everything_again(&api, &arena).await;
            client
        }
    });
    let clients = futures::future::join_all(asking).await;
    let judged = verdict::judge_all(&Api::new(&eticket, Protocol::Direct), &clients, &watcher).await;
    assert_eq!(watcher.views().len(), judged, "it received only registered tickets");
    verdict::compare_views(eticket.address("query")).await;
    let exit = eticket.stop().await;
    assert!(!exit.log.contains("panicked"), "{}", exit.log);
    watching.await.expect("the watcher does not panic");
}

/// The gateway and the direct address take turns.
fn watch_address(eticket: &Eticket, round: usize) -> String {
    eticket.address(if round.is_multiple_of(2) { "query" } else { "gateway" }).to_owned()
}
