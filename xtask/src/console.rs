//! The web console: its checks, and the installation for its browser tests.

use std::path::PathBuf;

use anyhow::Result;

use crate::{checkout::Checkout, command, tools};

fn folder(checkout: &Checkout) -> PathBuf {
    checkout.root().join("gateway-grpc-web/web")
}

/// Checks types, and that the committed bundle matches the sources.
pub(crate) fn lint(checkout: &Checkout) -> Result<()> {
    prepare(checkout)?;
    for script in ["check", "check:dist"] {
        command::run(npm(checkout).args(["run", "--silent", script]))?;
    }
    Ok(())
}

/// Installs packages and Chromium, and generates the code that the tests share with the console.
pub(crate) fn install(checkout: &Checkout) -> Result<()> {
    prepare(checkout)?;
    tools::chromium(checkout)
}

fn prepare(checkout: &Checkout) -> Result<()> {
    tools::npm_ci(checkout, &folder(checkout), "it builds the web console")?;
    command::run(npm(checkout).args(["run", "--silent", "generate"]))
}

fn npm(checkout: &Checkout) -> std::process::Command {
    let mut npm = checkout.command("npm");
    npm.current_dir(folder(checkout));
    npm
}
