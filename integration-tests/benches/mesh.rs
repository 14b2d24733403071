//! Runs the benchmark for `cargo xtask bench`; see `eticket_integration_tests::bench`.

use std::path::PathBuf;

use clap::Parser;
use eticket_integration_tests::bench::{Plan, run, run_distributed};

#[derive(Parser)]
struct Arguments {
    /// Write the results to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Name of the measured version in the report
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// Measure the distributed form, on PostgreSQL and NATS
    #[arg(long)]
    distributed: bool,
    /// Passed by cargo to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() {
    let Arguments { json, commit, distributed, bench: _ } = Arguments::parse();
    let plan = Plan::full();
    let report = if distributed { run_distributed(&plan).await } else { run(&plan).await };
    println!("eTicket at {commit}: {report}");
    if let Some(path) = json {
        let text = format!("{:#}\n", report.to_json(&commit));
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }
}
