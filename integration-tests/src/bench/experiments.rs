//! Measurements that need conditions of their own: many tickets, a crowd that wants few of them, a bus that was away, a
//! database that keeps old rows. All run on the distributed form.
//!
//! Like the benchmark, they fail only for wrong results.

mod backlog;
mod gateway;
mod growth;
mod sale;
mod snapshot;
mod traces;

use std::{
    fmt::{self, Display, Formatter},
    time::Duration,
};

use clap::ValueEnum;
use serde_json::{Value, json};

use super::{Load, Plan, load::Limit, report::figure, usage::Usage};
use crate::{
    Api,
    mesh::{self, Infrastructure, Mesh},
};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Experiment {
    /// CPU time of reservations and views with up to a million tickets, and the rebuild of a view
    Growth,
    /// CPU time and latency that the gateway adds to a call
    Gateway,
    /// Rate of refusals while 10,000 callers want 100 tickets
    Sale,
    /// Drain of a million events that waited for NATS, and reservations meanwhile
    Backlog,
    /// Reservations while a transaction and a replication slot keep old rows in PostgreSQL
    Snapshot,
    /// CPU time that traces add to a reservation, when one of a hundred is sampled
    Traces,
}

/// The size of the experiments.
#[derive(Debug, Clone)]
pub struct Scale {
    /// Callers, connections and durations. The numbers of calls are those below.
    pub plan: Plan,
    /// Growth: numbers of tickets, in ascending order.
    pub tickets: Vec<usize>,
    /// Growth: rounds of reservations at each number of tickets. The reservations of a round are cancelled after it.
    pub rounds: usize,
    /// Growth: reservations of a round. Fewer than the first number of tickets.
    pub reservations: usize,
    /// Reservations of a measurement of the sustained rate.
    pub sustained: usize,
    /// Callers of the sale.
    pub crowd: usize,
    /// Tickets of the sale.
    pub wanted: usize,
    /// Duration of the sale.
    pub sale: Duration,
    /// Events that wait for NATS.
    pub backlog: usize,
    /// Traces: the share of traces that is sampled.
    pub sampled: f64,
    /// How long old rows are kept while reservations are made and cancelled.
    pub kept: Duration,
    /// Limit of a registration, a rebuild or a drain.
    pub patience: Duration,
}

impl Scale {
    /// The scale of `cargo xtask bench --experiment`.
    #[must_use]
    pub fn full() -> Self {
        Self {
            plan: Plan { callers: 256, ..Plan::full() },
            tickets: vec![1_000, 10_000, 100_000, 1_000_000],
            rounds: 8,
            reservations: 500,
            sustained: 12_000,
            crowd: 10_000,
            wanted: 100,
            sale: Duration::from_secs(10),
            backlog: 1_000_000,
            sampled: 0.01,
            kept: Duration::from_mins(10),
            patience: Duration::from_mins(20),
        }
    }

    /// A minimal scale that exercises every experiment.
    #[must_use]
    pub fn tiny() -> Self {
        Self {
            plan: Plan::tiny(),
            tickets: vec![20, 40],
            rounds: 2,
            reservations: 5,
            sustained: 8,
            crowd: 20,
            wanted: 3,
            sale: Duration::from_millis(200),
            backlog: 50,
            sampled: 0.5,
            kept: Duration::from_millis(100),
            ..Self::full()
        }
    }

    /// Changes the largest number of tickets, and the number of events of a backlog.
    #[must_use]
    pub fn with_count(self, count: usize) -> Self {
        let fewer = self.tickets.iter().copied().filter(|tickets| *tickets < count);
        Self { tickets: fewer.chain([count]).collect(), backlog: count, ..self }
    }

    /// Returns a plan with this number of tickets besides those of the warm-up.
    fn plan(&self, tickets: usize) -> Plan {
        Plan {
            reservations: tickets,
            direct_reservations: 0,
            curve: Vec::new(),
            registering: self.patience,
            reserving: self.patience,
            ..self.plan.clone()
        }
    }

    async fn start(&self, infrastructure: Infrastructure) -> Mesh {
        Mesh::start_on(infrastructure, mesh::Plan::default().replicas(self.plan.replicas)).await
    }

    fn reading(&self) -> Limit {
        Limit { calls: usize::MAX, time: self.plan.reading }
    }
}

/// The figures of an experiment.
#[derive(Debug, Clone)]
pub struct Outcome {
    experiment: Experiment,
    figures: Vec<Figure>,
}

#[derive(Debug, Clone)]
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
}

impl Outcome {
    fn new(experiment: Experiment) -> Self {
        Self { experiment, figures: Vec::new() }
    }

    /// Adds a figure, and shows it at once: a measurement takes minutes.
    fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        let figure = Figure { name: name.into(), value, unit };
        eprintln!("{figure}");
        self.figures.push(figure);
    }

    /// Adds how many times a value is another one.
    fn add_ratio(&mut self, name: impl Into<String>, value: f64, to: f64) {
        self.add(name, value / to, "");
    }

    #[must_use]
    pub fn to_json(&self) -> Value {
        let figures = self.figures.iter().map(|one| json!({ "name": one.name, "value": one.value, "unit": one.unit }));
        json!({ "experiment": self.name(), "figures": figures.collect::<Vec<_>>() })
    }

    fn name(&self) -> String {
        self.experiment.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// The table for people.
impl Display for Outcome {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}", self.name())?;
        self.figures.iter().try_for_each(|figure| writeln!(out, "{figure}"))
    }
}

impl Display for Figure {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let Self { name, value, unit } = self;
        let digits = if value.abs() < 100.0 { 2 } else { 0 };
        write!(out, "  {name:66}{:>12} {unit}", figure(Some(*value), digits))
    }
}

impl Experiment {
    /// Starts the distributed form on servers of its own, and measures.
    ///
    /// # Panics
    /// If eTicket does not start, does not respond, or returns a wrong result.
    pub async fn run(self, scale: &Scale) -> Outcome {
        let mut outcome = Outcome::new(self);
        match self {
            Self::Growth => growth::run(scale, &mut outcome).await,
            Self::Gateway => gateway::run(scale, &mut outcome).await,
            Self::Sale => sale::run(scale, &mut outcome).await,
            Self::Backlog => backlog::run(scale, &mut outcome).await,
            Self::Snapshot => snapshot::run(scale, &mut outcome).await,
            Self::Traces => traces::run(scale, &mut outcome).await,
        }
        outcome
    }
}

/// Returns the CPU time that a process uses for each call of a load, in µs.
async fn cpu_of_each(process: u32, load: impl Future<Output = Load>) -> f64 {
    let before = Usage::read(process).cpu;
    let load = load.await;
    assert!(load.errors.is_empty(), "calls fail: {:?}", load.errors);
    (Usage::read(process).cpu - before).as_secs_f64() * 1e6 / load.latencies.count() as f64
}

/// Returns callers that share connections to an address.
fn callers(plan: &Plan, address: &str) -> Vec<Api> {
    let connections: Vec<Api> = (0..plan.connections).map(|_| Api::at(address)).collect();
    connections.into_iter().cycle().take(plan.callers).collect()
}
