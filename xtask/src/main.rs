//! `cargo xtask`: development tasks for people and the pipeline.

mod bench;
mod browser;
mod chart;
mod checkout;
mod clients;
mod command;
mod console;
mod contract;
mod controls;
mod dependencies;
mod docs;
mod files;
mod fuzz;
mod image;
mod kubernetes;
mod lint;
mod openapi;
mod release;
mod rotation;
mod steps;
mod tarball;
mod test;
mod tools;
mod up;

use std::{num::NonZero, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{checkout::Checkout, controls::Selection, rotation::Rotation};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Development tasks of eTicket")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run all static checks
    Lint,
    /// Run all tests, including those that need built binaries and tools, and then the negative controls
    ///
    /// Controls, seeds of the simulation and tests on Kubernetes rotate: a run covers a fifth of them, selected by the
    /// number of commits, and all controls whose files the last 20 commits changed.
    Test {
        /// Run all controls, all seeds and all tests on Kubernetes
        #[arg(long)]
        full: bool,
        /// Skip the negative controls
        #[arg(long)]
        without_controls: bool,
    },
    /// Measure rates and latencies as ratios to a health Check of the same run; takes about a minute
    Bench {
        /// Also write the results to this file as JSON
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Also write a report with plots to this file as HTML
        #[arg(long, value_name = "FILE", conflicts_with = "against")]
        html: Option<PathBuf>,
        /// Measure the distributed form, with PostgreSQL and nats-server, and compare it with pgbench
        #[arg(long)]
        distributed: bool,
        /// Measure the release binaries in this folder too, in turn, and print ratios: those of another commit
        #[arg(long, value_name = "DIR")]
        against: Option<PathBuf>,
        /// Number of rounds with --against
        #[arg(long, value_name = "N", default_value = "5", requires = "against")]
        rounds: NonZero<usize>,
        /// Number of callers, each of which starts its next call after the response: 32, or 256 in an experiment
        #[arg(long, value_name = "N")]
        callers: Option<NonZero<usize>>,
        /// Make this measurement instead, on the distributed form: costs with up to a million tickets, what the
        /// gateway adds, a crowd that wants few tickets, events that waited for NATS, a database that keeps old rows,
        /// or traces
        #[arg(
            long,
            value_parser = ["growth", "gateway", "sale", "backlog", "snapshot", "traces"],
            conflicts_with_all = ["against", "html", "distributed"]
        )]
        experiment: Option<String>,
        /// Number of tickets of `growth`, and of events of `backlog`: 1,000,000, at least 1,000
        #[arg(long, value_name = "N", requires = "experiment", value_parser = clap::value_parser!(u32).range(1_000..))]
        count: Option<u32>,
        /// How long `snapshot` keeps old rows, in seconds: 600
        #[arg(long, value_name = "SECONDS", requires = "experiment")]
        kept: Option<u64>,
    },
    /// Run the distributed form on this machine until Ctrl-C: PostgreSQL, nats-server, two replicas of each service and
    /// a gateway
    Up {
        /// Folder of state and logs
        #[arg(long, value_name = "DIR", default_value = "eticket-up")]
        data: PathBuf,
        /// Run the binaries in this folder instead of building them
        #[arg(long, value_name = "DIR")]
        binaries: Option<PathBuf>,
    },
    /// Lint and render the Helm chart in every tested way, and test its templates
    ///
    /// `test` includes this, and also runs the tests that start servers with the rendered configuration.
    Chart {
        /// Generate values.schema.json and the table in the README of the chart from the comments in values.yaml
        #[arg(long)]
        update: bool,
    },
    /// Check the protobuf contract by the rules of buf, and that clients of the last release can use it
    Contract {
        /// Make the contract the released one, proto/released.binpb, with which later ones must be compatible; part of a release
        #[arg(long)]
        update: bool,
        /// Write docs/api.md, the reference of the API
        #[arg(long, conflicts_with = "update")]
        docs: bool,
        /// Write an archive of the protos, their descriptors and the service config into the target folder; part of a release
        #[arg(long, conflicts_with_all = ["update", "docs"])]
        archive: bool,
    },
    /// Write docs/errors.md from the comments in the protobuf contract; `lint` fails if it is not up to date
    Docs,
    /// Check that the OpenAPI document of REST matches the contract
    Openapi {
        /// Generate gateway-grpc-web/openapi.json from the contract
        #[arg(long)]
        update: bool,
    },
    /// Run the tests with arbitrary input of clients for some minutes each
    Fuzz {
        /// Minutes for each target
        #[arg(long, default_value_t = 10)]
        minutes: u64,
    },
    /// Write the container image as an OCI archive, and its bill of materials; needs no container engine
    Image {
        /// Use the program `eticket` in this folder instead of building it in the profile `dist`
        #[arg(long, value_name = "DIR")]
        binaries: Option<PathBuf>,
        /// Folder of the archive
        #[arg(long, value_name = "DIR", default_value = "target/image")]
        output: PathBuf,
    },
    /// Test the Helm chart on a real Kubernetes with one node, on this machine; needs root and namespaces
    ///
    /// The first run builds Kubernetes, which takes about ten minutes.
    Kubernetes {
        /// Use the binaries and tests that were built before
        #[arg(long)]
        without_build: bool,
    },
    /// Check that this commit can be released, and make the files of the release
    Release {
        /// Only show what is wrong and which files would be made
        #[arg(long)]
        dry_run: bool,
        /// Make only these parts
        #[arg(long, value_enum, value_delimiter = ',')]
        only: Vec<release::Part>,
    },
    /// Remove each guard in a scratch copy: the named test must then fail
    Controls {
        /// Run only controls whose patch has one of these texts in its name
        only: Vec<String>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = Checkout::find().and_then(|checkout| match arguments.task {
        Task::Lint => lint::run(&checkout),
        Task::Test { full, without_controls } => test::run(&checkout, full, !without_controls),
        Task::Bench { json, html, distributed, against, rounds, callers, experiment, count, kept } => {
            let plan = bench::Plan { json, html, distributed, against, rounds, callers, experiment, count, kept };
            bench::run(&checkout, &plan)
        }
        Task::Up { data, binaries } => up::run(&checkout, &checkout.root().join(data), binaries),
        Task::Chart { update: false } => chart::test(&checkout, |_| ()),
        Task::Chart { update: true } => chart::update(&checkout),
        Task::Contract { update: true, .. } => contract::update(&checkout),
        Task::Contract { docs: true, .. } => contract::docs(&checkout),
        Task::Contract { archive: true, .. } => contract::archive(&checkout, checkout.target()),
        Task::Contract { .. } => contract::check(&checkout),
        Task::Docs => docs::update(&checkout),
        Task::Openapi { update: false } => openapi::check(&checkout),
        Task::Openapi { update: true } => openapi::update(&checkout),
        Task::Fuzz { minutes } => fuzz::run(&checkout, minutes),
        Task::Image { binaries, output } => image::run(&checkout, binaries, &checkout.root().join(output)),
        Task::Kubernetes { without_build } => kubernetes::run(&checkout, without_build, None),
        Task::Release { dry_run, only } => release::run(&checkout, dry_run, &only),
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
