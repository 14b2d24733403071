//! `cargo xtask bench`: how fast eTicket is on this machine, beside a health Check measured in the same run.

use std::path::{Path, absolute};

use anyhow::{Context, Result};

use crate::{checkout::Checkout, command, tools};

/// Builds `eticket` as people run it, and measures it; the table goes to standard output, and the same as JSON to a file.
pub(crate) fn run(checkout: &Checkout, json: Option<&Path>, distributed: bool) -> Result<()> {
    let json = json.map(|file| absolute(file).with_context(|| format!("what is {}?", file.display()))).transpose()?;
    let mut build = checkout.cargo();
    build.args(["build", "--release", "--locked"]);
    if distributed {
        tools::postgres(checkout)?;
        build.args(["--workspace", "--bins", "--exclude", "xtask"]);
    } else {
        // By itself, as the README does: together with the load generator it could be built with other features.
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

/// The commit that is checked out; marked if anything was changed since. Nothing depends on it.
fn commit(checkout: &Checkout) -> String {
    let described = command::output(checkout.command("git").args(["describe", "--always", "--dirty", "--abbrev=12"]));
    described.map_or_else(|_| "an unknown commit".to_owned(), |text| text.trim().to_owned())
}
