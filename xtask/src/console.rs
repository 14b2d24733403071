//! The web console: its checks, and what its tests in a browser need.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::{checkout::Checkout, command, tools};

/// Where Debian and others put it.
const CHROMIUM: &str = "/usr/bin/chromium";

fn folder(checkout: &Checkout) -> PathBuf {
    checkout.root().join("gateway-grpc-web/web")
}

/// Types, and that the committed bundle is what the sources build.
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
    if Path::new(CHROMIUM).is_file() {
        return Ok(());
    }
    // With fonts, or texts in Korean have no width.
    let packages = ["chromium", "fonts-noto-cjk", "fonts-noto-core"];
    if !tools::may_install_packages() {
        bail!("Chromium is missing: install it as {CHROMIUM} (on Debian: apt-get install {})", packages.join(" "));
    }
    tools::apt_get(checkout, &packages)
}

fn prepare(checkout: &Checkout) -> Result<()> {
    tools::npm_ci(checkout, &folder(checkout), "the web console is built with it")?;
    command::run(npm(checkout).args(["run", "--silent", "generate"]))
}

fn npm(checkout: &Checkout) -> std::process::Command {
    let mut npm = checkout.command("npm");
    npm.current_dir(folder(checkout));
    npm
}
