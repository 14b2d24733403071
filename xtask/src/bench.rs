//! `cargo xtask bench`: measures eTicket on this machine, as ratios to a health Check of the same run, or to another
//! version.

use std::{
    num::NonZero,
    path::{Path, PathBuf, absolute},
};

use anyhow::{Context, Result, ensure};

use crate::{checkout::Checkout, command, tools};

/// What is measured.
pub(crate) struct Plan {
    /// The file for the results.
    pub(crate) json: Option<PathBuf>,
    /// The file for the report with plots.
    pub(crate) html: Option<PathBuf>,
    pub(crate) distributed: bool,
    /// The folder with the release binaries of another commit.
    pub(crate) against: Option<PathBuf>,
    pub(crate) rounds: NonZero<usize>,
    pub(crate) callers: Option<NonZero<usize>>,
    /// The name of the measurement to make instead, on the distributed form.
    pub(crate) experiment: Option<String>,
    /// The number of tickets or events of the experiment.
    pub(crate) count: Option<u32>,
    /// How long the experiment keeps old rows, in seconds.
    pub(crate) kept: Option<u64>,
}

/// Builds and measures release binaries. Prints a table, and writes the results as JSON to a file.
pub(crate) fn run(checkout: &Checkout, plan: &Plan) -> Result<()> {
    let json = plan.json.as_deref().map(path).transpose()?;
    let html = plan.html.as_deref().map(path).transpose()?;
    let against = plan.against.as_deref().map(path).transpose()?;
    if let Some(folder) = &against {
        let needed = if plan.distributed { "eticket-gateway" } else { "eticket" };
        let program = folder.join(needed);
        ensure!(
            program.is_file(),
            "{} is not there; --against expects the folder of a release build",
            program.display()
        );
    }
    let mut build = checkout.cargo();
    build.args(["build", "--release", "--locked"]);
    let distributed = plan.distributed || plan.experiment.is_some();
    if distributed {
        tools::postgres(checkout)?;
        build.args(["--workspace", "--bins", "--exclude", "xtask"]);
    } else {
        // In a build of its own, as in the README: with the load generator, cargo could select other features.
        build.args(["--package", "eticket"]);
    }
    command::run(&mut build)?;
    let mut bench = checkout.cargo();
    bench.args(["bench", "--locked", "--package", "eticket-integration-tests", "--bench", "mesh", "--"]);
    bench.args(["--commit", &commit(checkout)]);
    if let Some(callers) = plan.callers {
        bench.arg("--callers").arg(callers.to_string());
    }
    if let Some(experiment) = &plan.experiment {
        bench.arg("--experiment").arg(experiment);
    }
    if let Some(count) = plan.count {
        bench.arg("--count").arg(count.to_string());
    }
    if let Some(kept) = plan.kept {
        bench.arg("--kept").arg(kept.to_string());
    }
    if let Some(file) = json {
        bench.arg("--json").arg(file);
    }
    if let Some(file) = html {
        bench.arg("--html").arg(file);
    }
    if let Some(folder) = against {
        bench.arg("--against").arg(folder).arg("--rounds").arg(plan.rounds.to_string());
    }
    if plan.distributed {
        bench.arg("--distributed");
    }
    if distributed {
        bench.env("PATH", tools::path_with(&tools::nats_server(checkout)?)?);
    }
    command::run(bench.env("ETICKET_BINARIES", checkout.target().join("release")))
}

/// The benchmark runs in another folder.
fn path(file: &Path) -> Result<PathBuf> {
    absolute(file).with_context(|| format!("{} is not a valid path", file.display()))
}

/// Describes the current commit, marked if there are changes. Only informative.
fn commit(checkout: &Checkout) -> String {
    let described = command::output(checkout.command("git").args(["describe", "--always", "--dirty", "--abbrev=12"]));
    described.map_or_else(|_| "an unknown commit".to_owned(), |text| text.trim().to_owned())
}
