//! The results of the benchmark, as a table for people and as JSON for programs.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
    time::Duration,
};

use serde_json::{Map, Value, json};

use super::{DatabaseWork, Latencies, Load, Plan, Sample, usage::Memory};
use crate::Protocol;

/// The resources that a load used, including its sagas.
#[derive(Debug, Clone)]
pub struct Cost {
    pub calls: usize,
    /// CPU time of the eTicket processes.
    pub server_cpu: Duration,
    /// CPU time of each kind of process, also of PostgreSQL and NATS.
    pub cpu: BTreeMap<&'static str, Duration>,
    pub client_cpu: Duration,
    pub written_bytes: u64,
}

fn sum(
    mut one: BTreeMap<&'static str, Duration>,
    two: &BTreeMap<&'static str, Duration>,
) -> BTreeMap<&'static str, Duration> {
    for (name, cpu) in two {
        *one.entry(name).or_default() += *cpu;
    }
    one
}

/// The results of one kind of call.
#[derive(Debug, Clone)]
pub struct Row {
    pub name: &'static str,
    pub protocol: Protocol,
    pub load: Load,
    /// `None` if several kinds of calls ran together at a given rate.
    pub cost: Option<Cost>,
}

impl Row {
    /// Combines two measurements of the same kind of call.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let cost = self.cost.zip(other.cost).map(|(one, two)| Cost {
            calls: one.calls + two.calls,
            server_cpu: one.server_cpu + two.server_cpu,
            cpu: sum(one.cpu, &two.cpu),
            client_cpu: one.client_cpu + two.client_cpu,
            written_bytes: one.written_bytes + two.written_bytes,
        });
        Self { load: self.load.and(other.load), cost, ..self }
    }

    pub(super) fn rate(&self) -> Option<f64> {
        self.cost.as_ref().map(|_| self.load.per_second())
    }

    pub(super) fn latency_ms(&self, permille: usize) -> Option<f64> {
        self.load.latencies.permille(permille).map(milliseconds)
    }

    /// Returns the CPU time of the processes under load per call.
    pub(super) fn cpu_us(&self) -> Option<f64> {
        self.cost.as_ref().map(|cost| cost.server_cpu.as_secs_f64() * 1e6 / cost.calls as f64)
    }

    /// Like [`Self::cpu_us`], with PostgreSQL and NATS.
    pub(super) fn whole_cpu_us(&self) -> Option<f64> {
        self.cost.as_ref().map(|cost| cost.cpu.values().sum::<Duration>().as_secs_f64() * 1e6 / cost.calls as f64)
    }

    /// Returns the CPU time of one kind of process per call; `None` if there is no such process.
    pub(super) fn cpu_us_of(&self, process: &str) -> Option<f64> {
        let cost = self.cost.as_ref()?;
        Some(cost.cpu.get(process)?.as_secs_f64() * 1e6 / cost.calls as f64)
    }

    fn processes(&self) -> impl Iterator<Item = &'static str> {
        self.cost.iter().flat_map(|cost| cost.cpu.keys().copied())
    }

    fn client_cpu_us(&self) -> Option<f64> {
        self.cost.as_ref().map(|cost| cost.client_cpu.as_secs_f64() * 1e6 / cost.calls as f64)
    }

    fn errors(&self) -> usize {
        self.load.errors.values().sum()
    }
}

/// The work of a service per reservation.
#[derive(Debug, Clone)]
pub struct ServiceWork {
    pub service: &'static str,
    pub commits: f64,
    pub jobs_a_commit: f64,
    /// Duration of a commit.
    pub commit_ms: f64,
    pub events_sent: f64,
    pub events_taken_in: f64,
}

/// The work that the reservations through the gateway caused.
#[derive(Debug, Clone)]
pub struct Work {
    /// From the last response until all sagas had ended.
    pub settled_after: Duration,
    /// Written bytes per reservation.
    pub written_bytes: f64,
    /// The work of PostgreSQL per reservation, if there is one.
    pub database: Option<DatabaseWork>,
    pub services: [ServiceWork; 4],
}

/// A start of the process, up to the ready line.
#[derive(Debug, Clone)]
pub struct Start {
    pub took: Duration,
    pub memory: Memory,
}

/// Reservations through the gateway with a number of callers.
#[derive(Debug, Clone)]
pub struct Point {
    pub callers: usize,
    pub row: Row,
}

/// What was measured while the processes ran.
#[derive(Debug, Clone)]
pub struct Measured {
    pub rows: Vec<Row>,
    /// GetTicketView through the gateway in the form of each kind of client; plain gRPC is the first.
    pub wires: Vec<Row>,
    pub work: Work,
    /// Samples during the reservations of `work`.
    pub timeline: Vec<Sample>,
    /// By the number of callers.
    pub curve: Vec<Point>,
}

/// The whole report.
#[derive(Debug, Clone)]
pub struct Report {
    pub cores: usize,
    pub plan: Plan,
    /// Synced appends of 4 KiB in the file system of the data folder.
    pub sync: Latencies,
    pub measured: Measured,
    /// Starts in an empty folder and in the folder after the load; only for the all-in-one process.
    pub start: Option<(Start, Start)>,
    /// Memory of all eTicket processes after the load.
    pub after_load: Memory,
    /// Memory of the process of each kind that has had the most; empty for the all-in-one process.
    pub memory: BTreeMap<&'static str, Memory>,
    /// Transactions per second of pgbench with the same number of clients, if it was measured.
    pub pgbench: Option<f64>,
}

const PERMILLES: [(&str, usize); 4] = [("p50", 500), ("p90", 900), ("p99", 990), ("p999", 999)];

impl Report {
    /// Returns the health Check through the gateway, the reference of all ratios.
    ///
    /// # Panics
    /// If it was not measured.
    pub fn reference(&self) -> &Row {
        self.row("health Check").expect("the health Check is always measured")
    }

    /// Returns the results of calls through the gateway.
    pub(super) fn row(&self, name: &str) -> Option<&Row> {
        self.measured.rows.iter().find(|row| row.name == name && row.protocol == Protocol::Gateway)
    }

    fn ratio(&self, row: &Row, figure: impl Fn(&Row) -> Option<f64>) -> Option<f64> {
        figure(row).zip(figure(self.reference())).map(|(one, reference)| one / reference)
    }

    /// Returns the ratio of reservations through the gateway to transactions of pgbench.
    fn to_pgbench(&self) -> Option<f64> {
        Some(self.row("ReserveTicket")?.rate()? / self.pgbench?)
    }

    pub fn to_json(&self, commit: &str) -> Value {
        let rows: Vec<Value> = self.measured.rows.iter().map(|row| self.row_to_json(row)).collect();
        let start = |start: &Start| json!({ "ms": milliseconds(start.took), "memory": memory(start.memory) });
        let service = |work: &ServiceWork| {
            json!({
                "service": work.service,
                "commits": work.commits,
                "jobs_a_commit": work.jobs_a_commit,
                "commit_ms": work.commit_ms,
                "events_sent": work.events_sent,
                "events_taken_in": work.events_taken_in,
            })
        };
        json!({
            "commit": commit,
            "cores": self.cores,
            "callers": self.plan.callers,
            "connections": self.plan.connections,
            "steady_per_second": self.plan.steady_rate,
            "synced_append_ms": percentiles(|share| self.sync.permille(share).map(milliseconds)),
            "calls": rows,
            "wires": self.measured.wires.iter().map(|row| self.wire_to_json(row)).collect::<Vec<_>>(),
            "curve": self.measured.curve.iter().map(|Point { callers, row }| {
                json!({ "callers": callers, "calls": self.row_to_json(row) })
            }).collect::<Vec<_>>(),
            "timeline": self.measured.timeline.iter().map(|Sample { at, responses, behind }| {
                json!({ "ms": milliseconds(*at), "responses": responses, "events_behind": behind })
            }).collect::<Vec<_>>(),
            "a_reservation": {
                "settled_ms_after_the_last_answer": milliseconds(self.measured.work.settled_after),
                "written_bytes": self.measured.work.written_bytes,
                "statements": self.measured.work.database.map(|work| work.statements),
                "wal_bytes": self.measured.work.database.map(|work| work.log_bytes),
                "services": self.measured.work.services.iter().map(service).collect::<Vec<_>>(),
            },
            "first_start": self.start.as_ref().map(|(first, _)| start(first)),
            "start_again": self.start.as_ref().map(|(_, again)| start(again)),
            "pgbench_per_second": self.pgbench,
            "reservations_to_pgbench": self.to_pgbench(),
            "memory_after_the_load": memory(self.after_load),
            "memory_by_process": self.memory.iter().map(|(name, one)| ((*name).to_owned(), memory(*one))).collect::<Map<_, _>>(),
        })
    }

    fn row_to_json(&self, row: &Row) -> Value {
        json!({
            "name": row.name,
            "through_the_gateway": row.protocol == Protocol::Gateway,
            "calls": row.load.latencies.count(),
            "errors": row.load.errors,
            "per_second": row.rate(),
            "latency_ms": percentiles(|share| row.latency_ms(share)),
            "cpu_us": row.cpu_us(),
            "cpu_us_with_postgres_and_nats": row.whole_cpu_us(),
            "cpu_us_by_process": row.processes().map(|of| (of.to_owned(), json!(row.cpu_us_of(of)))).collect::<Map<_, _>>(),
            "client_cpu_us": row.client_cpu_us(),
            "ratio_to_check": {
                "per_second": self.ratio(row, Row::rate),
                "latency": percentiles(|share| self.ratio(row, |row| row.latency_ms(share))),
                "cpu": self.ratio(row, Row::cpu_us),
            },
        })
    }

    /// Returns the CPU time of a call over a wire as a multiple of that over plain gRPC.
    fn to_grpc(&self, row: &Row) -> Option<f64> {
        let grpc = self.measured.wires.first()?;
        Some(row.cpu_us()? / grpc.cpu_us()?)
    }

    fn wire_to_json(&self, row: &Row) -> Value {
        json!({
            "name": row.name,
            "calls": row.load.latencies.count(),
            "errors": row.load.errors,
            "per_second": row.rate(),
            "cpu_us": row.cpu_us(),
            "cpu_to_grpc": self.to_grpc(row),
        })
    }

    fn write_wires(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(out, "GetTicketView through the gateway, by wire; ratios are to gRPC")?;
        for row in &self.measured.wires {
            let (rate, cpu, ratio) = (figure(row.rate(), 0), figure(row.cpu_us(), 0), figure(self.to_grpc(row), 2));
            writeln!(out, "  {:24}{rate:>9} a second{cpu:>8} µs CPU{ratio:>7}", row.name)?;
        }
        writeln!(out)
    }

    fn write_rows(&self, protocol: Protocol, out: &mut Formatter<'_>) -> fmt::Result {
        for row in self.measured.rows.iter().filter(|row| row.protocol == protocol) {
            write!(out, "  {:24}", row.name)?;
            write!(out, "{:>9}{:>8}", figure(row.rate(), 0), figure(self.ratio(row, Row::rate), 3))?;
            for (_, share) in PERMILLES {
                write!(out, "{:>8}", figure(row.latency_ms(share), 2))?;
            }
            for share in [500, 990] {
                write!(out, "{:>7}", figure(self.ratio(row, |row| row.latency_ms(share)), 1))?;
            }
            write!(out, "{:>8}{:>7}", figure(row.cpu_us(), 0), figure(self.ratio(row, Row::cpu_us), 1))?;
            write!(out, "{:>8}{:>9}", figure(row.client_cpu_us(), 0), row.load.latencies.count())?;
            writeln!(out, "{}", if row.errors() == 0 { String::new() } else { format!("  {:?}", row.load.errors) })?;
        }
        Ok(())
    }

    fn write_work(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let kib = self.measured.work.written_bytes / 1024.0;
        let settled = milliseconds(self.measured.work.settled_after);
        writeln!(out, "a reservation: {kib:.1} KiB written; all settled {settled:.0} ms after the last answer")?;
        if let Some(DatabaseWork { statements, log_bytes }) = self.measured.work.database {
            let kib = log_bytes / 1024.0;
            writeln!(out, "  PostgreSQL   {statements:.2} statements; {kib:.1} KiB of write-ahead log")?;
        }
        for work in &self.measured.work.services {
            let ServiceWork { service, commits, jobs_a_commit, commit_ms, events_sent, events_taken_in } = work;
            let events = format!("{events_sent:.2} sent, {events_taken_in:.2} taken in");
            writeln!(
                out,
                "  {service:12} {commits:.3} commits of {jobs_a_commit:.1} jobs, {commit_ms:.1} ms each; events: {events}"
            )?;
        }
        Ok(())
    }

    /// Writes the CPU time of a reservation by process, if there are several.
    fn write_cpu(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let Some(row) = self.row("ReserveTicket").filter(|row| row.processes().count() > 1) else { return Ok(()) };
        let each = |process| format!("{process} {}", figure(row.cpu_us_of(process), 0));
        let all: Vec<String> = row.processes().map(each).collect();
        writeln!(out, "CPU µs of a reservation: {} ({} in all)", all.join(", "), figure(row.whole_cpu_us(), 0))
    }

    fn write_process(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let mib = |kib: u64| kib / 1024;
        let start = |start: &Start| format!("{:.0} ms, {} MiB", milliseconds(start.took), mib(start.memory.resident));
        if let Some((first, again)) = &self.start {
            let (first, again) = (start(first), start(again));
            writeln!(out, "start to the ready line: {first} in an empty folder; {again} after the load")?;
        }
        if let Some((pgbench, ratio)) = self.pgbench.zip(self.to_pgbench()) {
            writeln!(
                out,
                "pgbench, begin; insert of 100 bytes; commit, as many clients: {pgbench:.0}/s; ReserveTicket is {ratio:.3} of it"
            )?;
        }
        let Memory { resident, peak } = self.after_load;
        writeln!(out, "memory under load: {} MiB at the end, {} MiB at most", mib(resident), mib(peak))?;
        if self.memory.is_empty() {
            return Ok(());
        }
        let each = |(name, memory): (&&str, &Memory)| format!("{name} {} ({})", mib(memory.resident), mib(memory.peak));
        let all: Vec<String> = self.memory.iter().map(each).collect();
        writeln!(out, "memory of a process in MiB (at most): {}", all.join(", "))
    }
}

/// The table for people.
impl Display for Report {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let Plan { callers, connections, steady_rate, replicas, .. } = self.plan;
        writeln!(
            out,
            "{} cores, shared with the load; {callers} callers on {connections} connections, steady: {steady_rate} a second",
            self.cores
        )?;
        if !self.memory.is_empty() {
            writeln!(out, "{replicas} processes of each service, and a gateway")?;
        }
        let sync = |share| figure(self.sync.permille(share).map(milliseconds), 2);
        writeln!(out, "4 KiB made durable: p50 {} ms, p99 {} ms", sync(500), sync(990))?;
        writeln!(
            out,
            "ratios are to the health Check through the gateway; CPU is that of our processes, with all that a call sets off\n"
        )?;
        writeln!(
            out,
            "  {:24}{:>9}{:>8}{:>8}{:>8}{:>8}{:>8}{:>7}{:>7}{:>8}{:>7}{:>8}{:>9}",
            "",
            "a second",
            "ratio",
            "p50 ms",
            "p90",
            "p99",
            "p99.9",
            "p50 ×",
            "p99 ×",
            "CPU µs",
            "ratio",
            "client",
            "calls"
        )?;
        for (protocol, title) in [(Protocol::Gateway, "through the gateway"), (Protocol::Direct, "without the gateway")]
        {
            writeln!(out, "{title}")?;
            self.write_rows(protocol, out)?;
        }
        writeln!(out)?;
        self.write_wires(out)?;
        self.write_work(out)?;
        self.write_cpu(out)?;
        self.write_process(out)
    }
}

pub(super) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn memory(Memory { resident, peak }: Memory) -> Value {
    json!({ "resident_kib": resident, "peak_kib": peak })
}

fn percentiles(at: impl Fn(usize) -> Option<f64>) -> Value {
    PERMILLES.map(|(name, share)| (name.to_owned(), json!(at(share)))).into_iter().collect()
}

pub(super) fn figure(number: Option<f64>, digits: usize) -> String {
    number.map_or_else(|| "-".to_owned(), |number| format!("{number:.digits$}"))
}
