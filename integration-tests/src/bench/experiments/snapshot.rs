//! A database that cannot remove old rows: a transaction holds an old snapshot, and a replication slot does not
//! advance.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Stdio},
    sync::Arc,
    time::Instant,
};

use eticket_local_servers::postgres::Postgres;

use super::{Outcome, Scale, growth::cancel};
use crate::{
    Protocol,
    bench::{load::Limit, phases::Bench, report::milliseconds, subject::Subject},
    mesh::Infrastructure,
};

const SLOT: &str = "select pg_create_logical_replication_slot('held', 'pgoutput')";

pub(super) async fn run(scale: &Scale, outcome: &mut Outcome) {
    let mesh = scale.start(Infrastructure::synced_with("wal_level = logical").await).await;
    let subject = Subject::of_processes(&mesh);
    let plan = scale.plan(2 * scale.sustained + scale.plan.steady_reservations());
    let mut bench = Bench::prepared(&plan, &subject).await;
    let before = measure(&mut bench, scale).await;
    let postgres = &mesh.infrastructure.postgres;
    let snapshot = tokio::task::block_in_place(|| {
        postgres.sql("postgres", SLOT).expect("a slot");
        Snapshot::hold(postgres)
    });
    let callers = bench.callers(Protocol::Gateway).to_vec();
    let (begun, mut made) = (Instant::now(), 0);
    while begun.elapsed() < scale.kept {
        let limit = Limit { calls: scale.sustained.min(bench.tickets.len() / 2), time: scale.patience };
        let (_, _, reserved) = bench.reserve(Protocol::Gateway, &callers, limit, Arc::default()).await;
        made += reserved.len();
        cancel(&mut bench, &callers, reserved).await;
    }
    let after = measure(&mut bench, scale).await;
    tokio::task::block_in_place(|| snapshot.release());
    outcome.add("reservations made and cancelled meanwhile", made as f64, "");
    for ((name, unit, before), (_, _, after)) in before.into_iter().zip(after) {
        outcome.add(format!("{name}, before"), before, unit);
        outcome.add(format!("{name}, with old rows"), after, unit);
        // A rate that falls and a latency that rises are both worse.
        let (worse, better) = if unit == "ms" { (before, after) } else { (after, before) };
        outcome.add_ratio(format!("{name}: what remains"), worse, better);
    }
    drop(bench);
    mesh.stop().await;
}

/// Measures the sustained rate, and the latencies at a steady rate.
async fn measure(bench: &mut Bench<'_>, scale: &Scale) -> [(&'static str, &'static str, f64); 4] {
    let callers = bench.callers(Protocol::Gateway).to_vec();
    let limit = Limit { calls: scale.sustained, time: scale.patience };
    let (row, settled_after, reserved) = bench.reserve(Protocol::Gateway, &callers, limit, Arc::default()).await;
    let sustained = reserved.len() as f64 / (row.load.elapsed + settled_after).as_secs_f64();
    bench.verify(&reserved).await;
    cancel(bench, &callers, reserved).await;
    let [responses, _, settled] = bench.steady().await;
    let at = |row: &crate::bench::Row, share| row.load.latencies.permille(share).map(milliseconds).unwrap_or_default();
    [
        ("sustained reservations", "a second", sustained),
        ("response at a steady rate, p50", "ms", at(&responses, 500)),
        ("response to settled view, p50", "ms", at(&settled, 500)),
        ("response to settled view, p99", "ms", at(&settled, 990)),
    ]
}

/// An open transaction that reads by an old snapshot.
struct Snapshot(Child);

impl Snapshot {
    fn hold(postgres: &Postgres) -> Self {
        let mut psql = postgres.command("psql");
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--dbname"]).arg(postgres.url("postgres"));
        let mut child = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("psql starts");
        let begin = b"begin isolation level repeatable read;\nselect pg_current_xact_id_if_assigned() is null;\n";
        child.stdin.as_mut().expect("a pipe").write_all(begin).expect("psql reads");
        // Its response shows that the snapshot is taken.
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("psql responds");
        assert_eq!(line.trim(), "t");
        Self(child)
    }

    fn release(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().expect("psql was started").success(), "the transaction was held until now");
    }
}
