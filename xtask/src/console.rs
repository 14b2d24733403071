//! The web console: its checks, and the installation for its browser tests.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::{checkout::Checkout, command, tools};

/// The path of Debian's package.
const CHROMIUM: &str = "/usr/bin/chromium";

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
    if Path::new(CHROMIUM).is_file() {
        return Ok(());
    }
    // Without fonts, Korean text would have no width.
    let packages = ["chromium", "fonts-noto-cjk", "fonts-noto-core"];
    if !tools::may_install_packages() {
        bail!("Chromium is missing: install it as {CHROMIUM} (on Debian: apt-get install {})", packages.join(" "));
    }
    tools::apt_get(checkout, &packages)
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
