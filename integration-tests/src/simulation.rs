//! Simulation of two replicas of each service in one thread, over stores and a bus in memory. A seed decides the
//! scheduling, which messages the network loses, duplicates, delays or reorders, which process is killed at which step,
//! and which messages the bus loses.
//!
//! The code under test is the production code from the use cases to consumers, relays and readers; adapters and clients
//! belong to the simulation. Time is virtual, so nothing waits, and the same seed gives the same log. Responses to
//! clients, commits and views are checked while the simulation runs. At the end all faults cease, and all parts must
//! agree.

mod clients;
mod faults;
mod history;
mod judge;
mod kill_switch;
mod link;
mod plan;
mod replicas;
mod rest;
mod scheduler;
mod service;
mod watchers;
mod wrong;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use self::{
    plan::Plan,
    replicas::{Fleet, FleetInner},
    scheduler::Scheduler,
};

pub use self::wrong::Wrong;

/// The result of a seed.
pub struct Report {
    /// All events in order.
    pub log: Vec<String>,
    /// A violation of the protocol, if there is one.
    pub failure: Option<String>,
    /// How often each kind of event has occurred.
    pub coverage: BTreeMap<&'static str, u64>,
}

/// Runs one seed, with the correct protocol or with one broken rule.
pub fn run(seed: u64, wrong: Option<Wrong>) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    let report = runtime.block_on(async {
        let scheduler = Scheduler::new(seed);
        let plan = Plan::draw(&scheduler, wrong);
        scheduler.log("plan", &format!("{plan:?}"));
        let fleet = FleetInner::new(scheduler.clone(), plan, wrong).await;
        if let Err(what) = live(&fleet).await {
            scheduler.fail(what);
        }
        scheduler.report()
    });
    // Dropping the runtime drops all running tasks.
    drop(runtime);
    report
}

async fn live(fleet: &Fleet) -> Result<(), String> {
    fleet.start_all();
    let clients = clients::start(fleet);
    let watchers = watchers::start(fleet);
    faults::until_the_end(fleet).await;
    fleet.scheduler.cease();
    fleet.ceased.cancel();
    fleet.start_all();
    rest::come_to_rest(fleet, clients, watchers).await
}

/// The failure of the lowest seed, and the sums over all seeds.
#[derive(Default)]
pub struct Exploration {
    pub failure: Option<(u64, String)>,
    pub coverage: BTreeMap<&'static str, u64>,
    /// The number of seeds that were run.
    pub seeds: u64,
}

impl Exploration {
    fn add(&mut self, other: Self) {
        self.seeds += other.seeds;
        for (what, count) in other.coverage {
            *self.coverage.entry(what).or_default() += count;
        }
        self.failure = match (self.failure.take(), other.failure) {
            (Some(one), Some(another)) => Some(if one.0 < another.0 { one } else { another }),
            (one, another) => one.or(another),
        };
    }
}

/// Runs seeds on all processors until one fails.
pub fn explore(seeds: std::ops::Range<u64>, wrong: Option<Wrong>) -> Exploration {
    let (next, stop_at) = (AtomicU64::new(seeds.start), AtomicU64::new(seeds.end));
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let worker = || {
        let mut found = Exploration::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= stop_at.load(Ordering::Relaxed) {
                return found;
            }
            let report = run(seed, wrong);
            if report.failure.is_some() {
                // Only the lowest failing seed is reported, so higher seeds need not run.
                stop_at.fetch_min(seed, Ordering::Relaxed);
            }
            let failure = report.failure.map(|what| (seed, what));
            found.add(Exploration { failure, coverage: report.coverage, seeds: 1 });
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..processors).map(|_| scope.spawn(worker)).collect();
        let mut all = Exploration::default();
        workers.into_iter().for_each(|worker| all.add(worker.join().expect("no panic")));
        all
    })
}
