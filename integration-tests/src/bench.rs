//! Benchmark of eTicket from a client's view, through the gateway: the real process on a fresh data folder, under load
//! on the loopback.
//!
//! The load generator shares the machine's cores with the processes that it measures, and machines differ. Every figure
//! is therefore also given as a ratio to a health Check, the cheapest call, measured in the same run. The benchmark
//! fails only for wrong results, never for low speed: after the load every view must show the acknowledged reservation.

mod comparison;
mod counters;
pub(crate) mod database;
mod experiments;
mod html;
mod latencies;
mod load;
mod phases;
mod reference;
mod report;
mod subject;
mod timeline;
mod usage;
mod wires;

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

pub use self::{
    comparison::Comparison,
    database::DatabaseWork,
    experiments::{Experiment, Outcome, Scale},
    latencies::Latencies,
    load::Load,
    report::{Cost, Measured, Point, Report, Row, ServiceWork, Start, Work},
    timeline::Sample,
};
use self::{phases::Bench, subject::Subject, usage::Usage};
use crate::{
    Protocol,
    mesh::{self, Infrastructure, Mesh},
    process::Launch,
};

/// The size of every phase. A phase ends at a number of calls or after a time, whichever comes first.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Callers of a closed loop: each starts its next call after the response.
    pub callers: usize,
    /// Processes of each service in the distributed form.
    pub replicas: usize,
    /// Connections that the callers share.
    pub connections: usize,
    /// Calls before the measurement.
    pub warm_up: usize,
    /// Limit of the registration phase; tickets that are not registered by then are not reserved.
    pub registering: Duration,
    /// Reservations through the gateway.
    pub reservations: usize,
    /// Reservations without the gateway.
    pub direct_reservations: usize,
    /// Limit of each phase of reservations.
    pub reserving: Duration,
    /// Duration of each phase of Checks and of views.
    pub reading: Duration,
    /// Reservations per second while the delay from response to view is measured.
    pub steady_rate: u32,
    /// Duration of the phase with the steady rate.
    pub steady: Duration,
    /// Synced appends to a file, which show the cost of a commit on this disk.
    pub syncs: usize,
    /// Whether to measure the view over each protocol of the gateway.
    pub wires: bool,
    /// Numbers of callers for the curve of throughput and latency.
    pub curve: Vec<usize>,
    /// Limit of each point of the curve.
    pub curve_reservations: usize,
    /// Limit of each point of the curve.
    pub curve_time: Duration,
}

impl Plan {
    /// The plan of `cargo xtask bench`: about a minute.
    #[must_use]
    pub fn full() -> Self {
        Self {
            callers: 32,
            replicas: 2,
            connections: 8,
            warm_up: 1_000,
            registering: Duration::from_secs(20),
            reservations: 12_000,
            direct_reservations: 6_000,
            reserving: Duration::from_secs(12),
            reading: Duration::from_secs(4),
            steady_rate: 100,
            steady: Duration::from_secs(10),
            syncs: 200,
            wires: true,
            curve: vec![1, 4, 16, 64, 256],
            curve_reservations: 6_000,
            curve_time: Duration::from_secs(2),
        }
    }

    /// A minimal plan that exercises every phase.
    #[must_use]
    pub fn tiny() -> Self {
        let moment = Duration::from_millis(100);
        Self {
            callers: 4,
            replicas: 1,
            connections: 2,
            warm_up: 4,
            reservations: 12,
            direct_reservations: 8,
            reading: moment,
            steady_rate: 20,
            steady: moment * 2,
            syncs: 3,
            curve: vec![1, 3],
            curve_reservations: 4,
            ..Self::full()
        }
    }

    fn steady_reservations(&self) -> usize {
        let count = f64::from(self.steady_rate) * self.steady.as_secs_f64();
        // The product is at most a few thousand.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
        let count = count.round() as usize;
        count
    }

    /// Returns the number of tickets to register before the load.
    fn tickets(&self) -> usize {
        let curve = self.curve.len() * self.curve_reservations;
        self.reservations + self.steady_reservations() + self.direct_reservations + curve
    }
}

/// The form of eTicket that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One process.
    AllInOne,
    /// One process per service, on PostgreSQL and NATS that sync commits and messages to the disk.
    Distributed,
}

impl Form {
    /// Measures the binaries in a folder; `None` means those of this checkout.
    ///
    /// # Panics
    /// If eTicket does not start, does not respond, or shows a reservation other than the acknowledged one.
    pub async fn run(self, plan: &Plan, binaries: Option<&Path>) -> Report {
        match self {
            Self::AllInOne => run(plan, binaries).await,
            Self::Distributed => run_distributed(plan, binaries).await,
        }
    }

    /// Measures the binaries of this checkout and those in a folder in turn.
    ///
    /// # Panics
    /// Like [`Self::run`].
    pub async fn compare(self, plan: &Plan, binaries: &Path, rounds: usize) -> Comparison {
        // Older versions do not have every protocol.
        let plan = &Plan { wires: false, curve: Vec::new(), ..plan.clone() };
        let mut measured = Vec::with_capacity(rounds);
        for round in 1..=rounds {
            println!("round {round} of {rounds}");
            // Whichever comes second has a warmer machine.
            measured.push(if round % 2 == 1 {
                let theirs = self.run(plan, Some(binaries)).await;
                (self.run(plan, None).await, theirs)
            } else {
                (self.run(plan, None).await, self.run(plan, Some(binaries)).await)
            });
        }
        Comparison::new(&measured)
    }
}

async fn run(plan: &Plan, binaries: Option<&Path>) -> Report {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let sync = synced_appends(folder.path(), plan.syncs);
    let begun = Instant::now();
    let start = || {
        let launch = Launch::all_in_one(folder.path());
        binaries.into_iter().fold(launch, Launch::in_folder).start()
    };
    let eticket = start().await;
    let first = Start { took: begun.elapsed(), memory: Usage::read(eticket.id()).memory };

    let measured = measure(plan, &Subject::single(&eticket)).await;
    let after_load = Usage::read(eticket.id()).memory;
    eticket.stop().await;

    let begun = Instant::now();
    let eticket = start().await;
    let again = Start { took: begun.elapsed(), memory: Usage::read(eticket.id()).memory };
    eticket.stop().await;
    Report {
        cores: cores(),
        plan: plan.clone(),
        sync,
        measured,
        start: Some((first, again)),
        after_load,
        memory: BTreeMap::new(),
        pgbench: None,
    }
}

async fn run_distributed(plan: &Plan, binaries: Option<&Path>) -> Report {
    let infrastructure = match binaries {
        Some(_) => Infrastructure::synced_for_older().await,
        None => Infrastructure::synced().await,
    };
    let sync = synced_appends(infrastructure.postgres.folder(), plan.syncs);
    let (clients, time) = (plan.callers, plan.reading);
    let bare = || reference::transactions_per_second(&infrastructure.postgres, clients, time);
    let pgbench = tokio::task::block_in_place(bare);
    let layout = mesh::Plan::default().replicas(plan.replicas).first_from(binaries.map(Path::to_owned));
    let mesh = Mesh::start_on(infrastructure, layout).await;
    let subject = Subject::distributed(&mesh);
    let measured = measure(plan, &subject).await;
    let (after_load, memory) = (Usage::read_all(&subject.ids()).memory, subject.memory());
    mesh.stop().await;
    Report {
        cores: cores(),
        plan: plan.clone(),
        sync,
        measured,
        start: None,
        after_load,
        memory,
        pgbench: Some(pgbench),
    }
}

async fn measure(plan: &Plan, subject: &Subject<'_>) -> Measured {
    let mut bench = Bench::prepared(plan, subject).await;
    bench.measure(Protocol::Gateway).await;
    bench.measure_steady().await;
    bench.measure(Protocol::Direct).await;
    bench.measure_curve().await;
    bench.finish()
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Measures synced appends of 4 KiB in the file system of the data folder: a lower bound of a commit.
fn synced_appends(folder: &Path, count: usize) -> Latencies {
    let path = folder.join("synced-appends");
    let mut file = File::create(&path).expect("the folder is ours");
    let page = [0x5a; 4096];
    let append = |_| {
        let begun = Instant::now();
        file.write_all(&page).and_then(|()| file.sync_data()).expect("the disk has room");
        begun.elapsed()
    };
    let latencies = (0..count).map(append).collect();
    std::fs::remove_file(path).expect("the folder is ours");
    latencies
}
