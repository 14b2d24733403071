//! `cargo xtask bench`: measures eTicket on this machine, as ratios to a health Check of the same run.

use std::path::{Path, absolute};

use anyhow::{Context, Result};

use crate::{checkout::Checkout, command, tools};

/// Builds and measures release binaries. Prints a table, and writes the results as JSON to a file.
pub(crate) fn run(checkout: &Checkout, json: Option<&Path>, distributed: bool) -> Result<()> {
    let json = json
        .map(|file| absolute(file).with_context(|| format!("{} is not a valid path", file.display())))
        .transpose()?;
    let mut build = checkout.cargo();
    build.args(["build", "--release", "--locked"]);
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
    if let Some(file) = json {
        bench.arg("--json").arg(file);
    }
    if distributed {
        bench.arg("--distributed").env("PATH", tools::path_with(&tools::nats_server(checkout)?)?);
    }
    command::run(bench.env("ETICKET_BINARIES", checkout.target().join("release")))
}

/// Describes the current commit, marked if there are changes. Only informative.
fn commit(checkout: &Checkout) -> String {
    let described = command::output(checkout.command("git").args(["describe", "--always", "--dirty", "--abbrev=12"]));
    described.map_or_else(|_| "an unknown commit".to_owned(), |text| text.trim().to_owned())
}
