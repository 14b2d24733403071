//! Runs seeds of the simulation, and checks that it detects every broken rule of the protocol.
//!
//! `SIMULATION_SEEDS=4711 cargo test -p eticket-integration-tests --test simulation seeds` runs a single seed and
//! prints its log; a range is written as `0..500`. `SIMULATION_WRONG=Locks` tries only the rules with this text in
//! their names.

use std::{env, ops::Range};

use eticket_integration_tests::simulation::{Wrong, explore, run};

const SEEDS: u64 = 10_000;

/// This number of seeds covers everything in `ALL_OF_IT`.
const ENOUGH_FOR_ALL: u64 = 1_000;

/// Situations that the seeds must cover; otherwise the test would prove little.
const ALL_OF_IT: [&str; 28] = [
    "a client read its own write",
    "a client tried again",
    "a consumer's acknowledgement was lost",
    "a message came again, late",
    "a message outlived its sender",
    "a process was killed",
    "a reservation was cancelled",
    "a reservation was rejected",
    "a store did not answer",
    "a ticket was reserved",
    "a ticket was withdrawn",
    "a view was deleted",
    "a watch was ended by its replica",
    "all states were published again",
    "an acknowledgement of the bus was lost",
    "an answer was lost",
    "an etag was out of date",
    "refused: it has expired",
    "refused: it is withdrawn",
    "refused: the ticket is held",
    "refused: there is no ticket",
    "the bus lost what was not durable",
    "the bus was out",
    "the ledger of an unheld ticket was closed",
    "the stream lost its tail",
    "the stream lost messages one by one",
    "the stream was lost",
    "the ticket service could not be asked",
];

/// Returns the requested seeds; the log of a single seed is printed.
fn requested_seeds() -> Option<Range<u64>> {
    let text = env::var("SIMULATION_SEEDS").ok()?;
    let number = |text: &str| text.trim().parse::<u64>().unwrap_or_else(|_| panic!("SIMULATION_SEEDS: {text:?}"));
    Some(match text.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => number(&text)..number(&text) + 1,
    })
}

#[test]
fn all_seeds_converge() {
    let seeds = requested_seeds().unwrap_or(0..SEEDS);
    let number = seeds.end - seeds.start;
    if number == 1 {
        let report = run(seeds.start, None);
        println!("{}", report.log.join("\n"));
        assert_eq!(report.failure, None, "seed {}", seeds.start);
        return;
    }
    let explored = explore(seeds, None);
    println!("{} seeds: {:#?}", explored.seeds, explored.coverage);
    if let Some((seed, what)) = explored.failure {
        panic!("seed {seed}: {what}\nagain, with its log: SIMULATION_SEEDS={seed}");
    }
    if number >= ENOUGH_FOR_ALL {
        let missing: Vec<_> = ALL_OF_IT.iter().filter(|what| !explored.coverage.contains_key(*what)).collect();
        assert!(missing.is_empty(), "no seed came to {missing:?}");
    }
}

#[test]
fn the_same_seed_has_the_same_log() {
    for seed in 0..50 {
        let (one, other) = (run(seed, None), run(seed, None));
        let differs = one.log.iter().zip(&other.log).find(|(one, other)| one != other);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(one.log.len(), other.log.len(), "seed {seed}");
    }
}

#[test]
fn each_broken_rule_is_detected() {
    let mut missed = Vec::new();
    let only = env::var("SIMULATION_WRONG").unwrap_or_default();
    let chosen = Wrong::ALL.into_iter().filter(|wrong| format!("{wrong:?}").contains(&only));
    for wrong in chosen {
        let explored = explore(0..SEEDS, Some(wrong));
        match explored.failure {
            Some((seed, what)) => println!("{wrong:?}: seed {seed}: {what:.300}"),
            None => missed.push(wrong),
        }
    }
    assert!(missed.is_empty(), "not noticed in {SEEDS} seeds: {missed:?}");
}
