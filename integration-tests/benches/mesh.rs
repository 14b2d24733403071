//! Runs the benchmark for `cargo xtask bench`; see `eticket_integration_tests::bench`.

use std::{
    num::NonZero,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Parser;
use eticket_integration_tests::bench::{Experiment, Form, Plan, Scale};

#[derive(Parser)]
struct Arguments {
    /// Write the results to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a report with plots to this file, as HTML
    #[arg(long, value_name = "FILE", conflicts_with = "against")]
    html: Option<PathBuf>,
    /// Name of the measured version in the report
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// Measure the distributed form, on PostgreSQL and NATS
    #[arg(long)]
    distributed: bool,
    /// Measure the release binaries in this folder too, in turn
    #[arg(long, value_name = "DIR")]
    against: Option<PathBuf>,
    /// Number of rounds with --against
    #[arg(long, value_name = "N", default_value = "5")]
    rounds: NonZero<usize>,
    /// Number of callers, each of which starts its next call after the response
    #[arg(long, value_name = "N")]
    callers: Option<NonZero<usize>>,
    /// Make this measurement instead, on the distributed form
    #[arg(long, value_name = "NAME", conflicts_with_all = ["against", "html"])]
    experiment: Option<Experiment>,
    /// Number of tickets of `growth`, and of events of `backlog`
    #[arg(long, value_name = "N", requires = "experiment", value_parser = clap::value_parser!(u32).range(1_000..))]
    count: Option<u32>,
    /// How long `snapshot` keeps old rows, in seconds
    #[arg(long, value_name = "SECONDS", requires = "experiment")]
    kept: Option<u64>,
    /// Passed by cargo to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() {
    let Arguments { json, html, commit, distributed, against, rounds, callers, experiment, count, kept, bench: _ } =
        Arguments::parse();
    if let Some(experiment) = experiment {
        let mut scale = Scale::full();
        scale.plan.callers = callers.map_or(scale.plan.callers, NonZero::get);
        scale.kept = kept.map_or(scale.kept, Duration::from_secs);
        if let Some(count) = count {
            scale = scale.with_count(count as usize);
        }
        let outcome = experiment.run(&scale).await;
        println!("eTicket at {commit}, {} callers: {outcome}", scale.plan.callers);
        let mut results = outcome.to_json();
        results["commit"] = commit.into();
        json.into_iter().for_each(|path| write(&path, &format!("{results:#}\n")));
        return;
    }
    let mut plan = Plan::full();
    if let Some(callers) = callers {
        plan.callers = callers.get();
    }
    let form = if distributed { Form::Distributed } else { Form::AllInOne };
    let results = match against {
        None => {
            let report = form.run(&plan, None).await;
            println!("eTicket at {commit}: {report}");
            if let Some(path) = html {
                write(&path, &report.to_html(&commit));
            }
            report.to_json(&commit)
        }
        Some(folder) => {
            let comparison = form.compare(&plan, &folder, rounds.get()).await;
            println!("eTicket at {commit} and in {}, {} callers: {comparison}", folder.display(), plan.callers);
            let mut results = comparison.to_json();
            results["commit"] = commit.into();
            results["callers"] = plan.callers.into();
            results
        }
    };
    if let Some(path) = json {
        write(&path, &format!("{results:#}\n"));
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}
