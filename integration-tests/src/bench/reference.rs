//! The rate of PostgreSQL itself on this machine, measured by pgbench in the same run: the minimal transaction of a
//! reservation, with the same number of clients.

use std::{fs, time::Duration};

use eticket_local_servers::postgres::Postgres;

const SCRIPT: &str = "begin;\ninsert into bench (filler) values (repeat('x', 100));\ncommit;\n";

/// Returns the transactions per second.
///
/// # Panics
/// If pgbench is missing or fails.
pub(super) fn transactions_per_second(postgres: &Postgres, clients: usize, time: Duration) -> f64 {
    postgres.create_database("bench").expect("a database");
    postgres.sql("bench", "create table bench (id bigserial primary key, filler text not null)").expect("a table");
    let script = postgres.folder().join("bench.sql");
    fs::write(&script, SCRIPT).expect("the folder is ours");
    let mut pgbench = postgres.command("pgbench");
    pgbench.args(["--no-vacuum", "--host=127.0.0.1", "--username=postgres", "--jobs=2"]);
    pgbench.arg(format!("--port={}", postgres.port())).arg(format!("--client={clients}"));
    pgbench.arg(format!("--time={}", time.as_secs().max(1))).arg("--file").arg(&script).arg("bench");
    let output = pgbench.output().expect("pgbench comes with PostgreSQL");
    let (written, complaints) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let rate = written.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    rate.unwrap_or_else(|| panic!("pgbench printed no rate: {written}{complaints}"))
}
