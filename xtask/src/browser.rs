//! The page of another origin that calls the gateway (`integration-tests/browser`): its check, and the installation for its tests.

use std::path::PathBuf;

use anyhow::Result;

use crate::{checkout::Checkout, command, tools};

/// The folder of the page and its tests.
pub(crate) fn folder(checkout: &Checkout) -> PathBuf {
    checkout.root().join("integration-tests/browser")
}

/// Checks types; the tests run without this.
pub(crate) fn lint(checkout: &Checkout) -> Result<()> {
    prepare(checkout)?;
    npm_run(checkout, "check")
}

/// Installs packages and Chromium, and generates the code of the page.
pub(crate) fn install(checkout: &Checkout) -> Result<()> {
    prepare(checkout)?;
    tools::chromium(checkout)
}

fn prepare(checkout: &Checkout) -> Result<()> {
    tools::npm_ci(checkout, &folder(checkout), "it builds a page of the tests")?;
    npm_run(checkout, "generate")
}

fn npm_run(checkout: &Checkout, script: &str) -> Result<()> {
    let mut npm = checkout.command("npm");
    command::run(npm.args(["run", "--silent", script]).current_dir(folder(checkout)))
}
