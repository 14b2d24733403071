//! `cargo xtask lint`: formatting, clippy, dependencies and licenses, the protobuf contract and its OpenAPI document,
//! the rules for single files, and the workflows of the pipeline.

use anyhow::{Result, bail};

use crate::{
    browser, checkout::Checkout, command, console, contract, controls, dependencies, docs, files, openapi,
    steps::Steps, tools,
};

type Check = fn(&Checkout) -> Result<()>;

/// Runs all checks, even after a failure; the error names the failed ones.
pub(crate) fn run(checkout: &Checkout) -> Result<()> {
    let checks: [(&str, Check); 13] = [
        ("fmt", fmt),
        ("files", files::check),
        ("controls", controls::check),
        ("clippy", clippy),
        ("doc", doc),
        ("unused", dependencies::check),
        ("deny", deny),
        ("buf", contract::check),
        ("docs", docs::check),
        ("openapi", openapi::check),
        ("console", console::lint),
        ("browser", browser::lint),
        ("workflows", workflows),
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
    // A function should fit on a screen; clippy.toml has the limit.
    command::run(clippy.args(["-D", "warnings", "-D", "clippy::too_many_lines"]))
}

/// Builds the documentation, with that of private items; a broken link is an error.
fn doc(checkout: &Checkout) -> Result<()> {
    let mut doc = checkout.cargo();
    doc.args(["doc", "--workspace", "--no-deps", "--document-private-items", "--locked", "--lib"]);
    // The other binaries have the name of their library, and with it the folder of its documentation.
    doc.args(["--bin", "eticket", "--bin", "xtask"]);
    // Examples have the dependencies of tests. With them, cargo chooses the features that clippy has chosen, and checks nothing outside
    // of the workspace a second time.
    command::run(doc.arg("--examples").env("RUSTDOCFLAGS", "-D warnings"))
}

/// Without advisories: their database is downloaded, so the result would change by itself.
fn deny(checkout: &Checkout) -> Result<()> {
    let deny = tools::cargo_deny(checkout)?;
    // Includes dependencies of other platforms, which cargo needs to resolve the tree offline.
    command::run(checkout.cargo().args(["fetch", "--locked", "--quiet"]))?;
    let mut check = checkout.command(&deny.to_string_lossy());
    command::run(check.args(["--offline", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"]))
}

/// Without shellcheck and pyflakes: whether they are installed would change the result.
fn workflows(checkout: &Checkout) -> Result<()> {
    let actionlint = tools::actionlint(checkout)?;
    let files = checkout.files()?.into_iter().filter(|file| file.starts_with(".github/workflows"));
    command::run(checkout.command(&actionlint.to_string_lossy()).args(["-shellcheck=", "-pyflakes="]).args(files))?;
    let zizmor = tools::zizmor(checkout)?;
    command::run(checkout.command(&zizmor.to_string_lossy()).args([
        "--offline",
        "--quiet",
        "--min-severity=medium",
        ".github",
    ]))
}
