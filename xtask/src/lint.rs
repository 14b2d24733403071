//! `cargo xtask lint`: formatting, clippy, dependencies and their licenses, the contract's rules, the rules of the house.

use anyhow::{Result, bail};

use crate::{checkout::Checkout, command, console, contract, dependencies, files, steps::Steps, tools};

type Check = fn(&Checkout) -> Result<()>;

/// Runs every check, also after one has failed, and names those that did.
pub(crate) fn run(checkout: &Checkout) -> Result<()> {
    let checks: [(&str, Check); 8] = [
        ("fmt", fmt),
        ("files", files::check),
        ("clippy", clippy),
        ("doc", doc),
        ("unused", dependencies::check),
        ("deny", deny),
        ("buf", contract::check),
        ("console", console::lint),
    ];
    let mut steps = Steps::new(checkout, "lint");
    let mut failed = Vec::new();
    for (name, check) in checks {
        if let Err(error) = steps.run(name, || check(checkout)) {
            eprintln!("lint {name}: {error:#}");
            failed.push(name);
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("lint failed: {}", failed.join(", ")) }
}

fn fmt(checkout: &Checkout) -> Result<()> {
    command::run(checkout.cargo().args(["fmt", "--all", "--check"]))
}

fn clippy(checkout: &Checkout) -> Result<()> {
    let mut clippy = checkout.cargo();
    clippy.args(["clippy", "--workspace", "--all-targets", "--locked", "--"]);
    // A function fits a screen; the threshold is in clippy.toml.
    command::run(clippy.args(["-D", "warnings", "-D", "clippy::too_many_lines"]))
}

/// The documentation, with that of private items: a link that leads nowhere is an error.
fn doc(checkout: &Checkout) -> Result<()> {
    let mut doc = checkout.cargo();
    doc.args(["doc", "--workspace", "--no-deps", "--document-private-items", "--locked", "--lib"]);
    // The other binaries have the name of their library, and with it the folder of its documentation.
    doc.args(["--bin", "eticket", "--bin", "xtask"]);
    // Examples have the dependencies of tests. With them, cargo chooses the features that clippy has chosen, and checks nothing outside
    // of the workspace a second time.
    command::run(doc.arg("--examples").env("RUSTDOCFLAGS", "-D warnings"))
}

/// Without the advisories: their database is fetched from the net, so what this says would change by itself.
fn deny(checkout: &Checkout) -> Result<()> {
    let deny = tools::cargo_deny(checkout)?;
    // Also what other platforms need: without these cargo cannot say offline what the tree is.
    command::run(checkout.cargo().args(["fetch", "--locked", "--quiet"]))?;
    let mut check = checkout.command(&deny.to_string_lossy());
    command::run(check.args(["--offline", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"]))
}
