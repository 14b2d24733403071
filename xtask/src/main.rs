//! `cargo xtask`: the tools that people, and the pipeline, would otherwise type by hand.

mod bench;
mod chart;
mod checkout;
mod clients;
mod command;
mod console;
mod contract;
mod controls;
mod dependencies;
mod files;
mod lint;
mod rotation;
mod steps;
mod test;
mod tools;
mod up;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{checkout::Checkout, controls::Selection, rotation::Rotation};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The tools that people would otherwise type by hand")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything that can be said of the code without running it
    Lint,
    /// All tests, also those that need built binaries and tools, and then the negative controls
    ///
    /// Controls and seeds of the simulation rotate: a run takes a fifth of them, chosen by the number of commits, and all controls
    /// whose files the last 20 commits changed.
    Test {
        /// Run all controls and all seeds
        #[arg(long)]
        full: bool,
        /// Leave the negative controls out
        #[arg(long)]
        without_controls: bool,
    },
    /// How fast it is on this machine, beside a health Check measured in the same run; about a minute
    Bench {
        /// Write what was measured to this file as well, as JSON
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// The distributed form, on a PostgreSQL and a nats-server of its own, beside pgbench
        #[arg(long)]
        distributed: bool,
    },
    /// The distributed form on this machine: PostgreSQL, nats-server, two replicas of each service and a gateway, until Ctrl-C
    Up {
        /// Where state and logs lie
        #[arg(long, value_name = "DIR", default_value = "eticket-up")]
        data: PathBuf,
        /// Run the binaries in this folder, instead of building them
        #[arg(long, value_name = "DIR")]
        binaries: Option<PathBuf>,
    },
    /// The Helm chart: lint, all ways to render it, and the tests of its templates
    ///
    /// `test` runs this too, and then also the tests that start the servers with what the chart renders.
    Chart {
        /// Make values.schema.json and the table in its README anew from the comments in values.yaml
        #[arg(long)]
        update: bool,
    },
    /// The protobuf contract: buf's rules, and whether clients of the last release can use it
    Contract {
        /// Make it the released contract, proto/released.binpb, with which later ones must be compatible; part of a release
        #[arg(long)]
        update: bool,
    },
    /// Take one guard after the other out of a scratch copy: the test named for it must fail there
    Controls {
        /// Only controls whose patch has one of these in its name
        only: Vec<String>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = Checkout::find().and_then(|checkout| match arguments.task {
        Task::Lint => lint::run(&checkout),
        Task::Test { full, without_controls } => test::run(&checkout, full, !without_controls),
        Task::Bench { json, distributed } => bench::run(&checkout, json.as_deref(), distributed),
        Task::Up { data, binaries } => up::run(&checkout, &checkout.root().join(data), binaries),
        Task::Chart { update: false } => chart::test(&checkout, |_| ()),
        Task::Chart { update: true } => chart::update(&checkout),
        Task::Contract { update: false } => contract::check(&checkout),
        Task::Contract { update: true } => contract::update(&checkout),
        Task::Controls { only } if only.is_empty() => controls::run(&checkout, &Selection::Rotating(&Rotation::Full)),
        Task::Controls { only } => controls::run(&checkout, &Selection::Named(&only)),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
