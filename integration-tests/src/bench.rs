//! How fast eTicket is, seen by a client through the gateway: the real process on a fresh data folder, under load on loopback.
//!
//! The load comes from this process and shares the machine's cores with what it measures, and machines differ; so every figure is
//! also given as a ratio to that of a health Check, the cheapest call there is, measured in the same run. Nothing here fails for
//! being slow, only for being wrong: after the load every view must show the reservation that was acknowledged.

mod counters;
mod latencies;
mod load;
mod phases;
mod reference;
mod report;
mod subject;
mod usage;

use std::{
    fs::File,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

pub use self::{
    latencies::Latencies,
    load::Load,
    report::{Cost, Report, Row, ServiceWork, Start, Work},
};
use self::{phases::Bench, subject::Subject, usage::Usage};
use crate::{
    Eticket, Protocol,
    mesh::{self, Infrastructure, Mesh},
};

/// How much of everything. All phases are bounded by a count or a time, whichever comes first.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Callers of a closed loop: each calls again when it has its answer.
    pub callers: usize,
    /// Connections that they share.
    pub connections: usize,
    /// Before anything is counted.
    pub warm_up: usize,
    /// Longest registering beforehand; what is not registered by then is not reserved either.
    pub registering: Duration,
    /// Reservations through the gateway.
    pub reservations: usize,
    /// The same past the gateway.
    pub direct_reservations: usize,
    /// Longest phase of reservations.
    pub reserving: Duration,
    /// Each phase of Checks and of views.
    pub reading: Duration,
    /// Reservations a second while the delay from answer to view is measured.
    pub steady_rate: u32,
    /// And for how long.
    pub steady: Duration,
    /// Appends to a file, each synced: what the disk takes for a commit.
    pub syncs: usize,
}

impl Plan {
    /// What `cargo xtask bench` does: about a minute.
    #[must_use]
    pub fn full() -> Self {
        Self {
            callers: 32,
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
        }
    }

    /// A little of everything, to see that it works.
    #[must_use]
    pub fn tiny() -> Self {
        let moment = Duration::from_millis(100);
        Self {
            callers: 4,
            connections: 2,
            warm_up: 4,
            reservations: 12,
            direct_reservations: 8,
            reading: moment,
            steady_rate: 20,
            steady: moment * 2,
            syncs: 3,
            ..Self::full()
        }
    }

    fn steady_reservations(&self) -> usize {
        let count = f64::from(self.steady_rate) * self.steady.as_secs_f64();
        // A count of some thousands at most.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
        let count = count.round() as usize;
        count
    }

    /// Tickets that are registered beforehand.
    fn tickets(&self) -> usize {
        self.reservations + self.steady_reservations() + self.direct_reservations
    }
}

/// Measures.
///
/// # Panics
/// If eTicket does not start, answers nothing, or shows a reservation otherwise than it was acknowledged.
pub async fn run(plan: &Plan) -> Report {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let sync = synced_appends(folder.path(), plan.syncs);
    let begun = Instant::now();
    let eticket = Eticket::start(folder.path()).await;
    let first = Start { took: begun.elapsed(), memory: Usage::read(eticket.id()).memory };

    let (rows, work) = measured(plan, &Subject::single(&eticket)).await;
    let after_load = Usage::read(eticket.id()).memory;
    eticket.stop().await;

    let begun = Instant::now();
    let eticket = Eticket::start(folder.path()).await;
    let again = Start { took: begun.elapsed(), memory: Usage::read(eticket.id()).memory };
    eticket.stop().await;
    Report {
        cores: cores(),
        plan: plan.clone(),
        sync,
        rows,
        work,
        start: Some((first, again)),
        after_load,
        pgbench: None,
    }
}

/// Measures the distributed form: a process each, on PostgreSQL and NATS whose commits and messages reach the disk.
///
/// # Panics
/// As [`run`].
pub async fn run_distributed(plan: &Plan) -> Report {
    let infrastructure = Infrastructure::synced().await;
    let sync = synced_appends(infrastructure.postgres.folder(), plan.syncs);
    let (clients, time) = (plan.callers, plan.reading);
    let bare = || reference::transactions_a_second(&infrastructure.postgres, clients, time);
    let pgbench = tokio::task::block_in_place(bare);
    let mesh = Mesh::start_on(infrastructure, mesh::Plan::default()).await;
    let subject = Subject::distributed(&mesh);
    let (rows, work) = measured(plan, &subject).await;
    let after_load = Usage::read_all(&subject.processes).memory;
    mesh.stop().await;
    Report { cores: cores(), plan: plan.clone(), sync, rows, work, start: None, after_load, pgbench: Some(pgbench) }
}

async fn measured(plan: &Plan, subject: &Subject) -> (Vec<Row>, Work) {
    let mut bench = Bench::prepared(plan, subject).await;
    bench.measure(Protocol::Gateway).await;
    bench.measure_steady().await;
    bench.measure(Protocol::Direct).await;
    bench.finish()
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// What the disk under the data folder takes to make 4 KiB durable: no commit can be faster.
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
