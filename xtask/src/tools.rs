//! Tools that are not on every machine: fetched once, each of a pinned version, into the target folder or `node_modules`.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use crate::{checkout::Checkout, command};

const CARGO_DENY: &str = "0.20.2";
const GRPCURL: &str = "v1.9.4";

/// cargo-deny; built when missing, which takes some minutes.
pub(crate) fn cargo_deny(checkout: &Checkout) -> Result<PathBuf> {
    let program = checkout.tools().join("bin/cargo-deny");
    let wanted = format!("cargo-deny {CARGO_DENY}");
    if program.is_file() && command::output(checkout.command(path(&program)?).arg("--version"))?.trim() == wanted {
        return Ok(program);
    }
    let mut install = checkout.cargo();
    install.args(["install", "--locked", "--quiet", "--force", "cargo-deny", "--version", CARGO_DENY, "--root"]);
    command::run(install.arg(checkout.tools()))?;
    Ok(program)
}

/// buf, of the version in `proto/package-lock.json`.
pub(crate) fn buf(checkout: &Checkout) -> Result<PathBuf> {
    let folder = checkout.root().join("proto");
    let program = folder.join("node_modules/.bin/buf");
    // npm notes here what it has installed; a lock file that is younger asks for something else.
    let installed = modified(&folder.join("node_modules/.package-lock.json"));
    if program.exists() && installed.is_some() && installed >= modified(&folder.join("package-lock.json")) {
        return Ok(program);
    }
    command::require("npm", "--version", "install Node.js 20 or newer, which brings npm; buf comes by it")?;
    command::run(checkout.command("npm").arg("ci").current_dir(&folder))?;
    Ok(program)
}

/// grpcurl, for the tests that see the system as a person with grpcurl does.
pub(crate) fn grpcurl(checkout: &Checkout) -> Result<PathBuf> {
    let bin = checkout.tools().join("bin");
    let program = bin.join("grpcurl");
    // What `go install` builds does not know its own version, so it is written down beside it.
    let note = checkout.tools().join("grpcurl.version");
    if program.is_file() && fs::read_to_string(&note).is_ok_and(|version| version == GRPCURL) {
        return Ok(program);
    }
    command::require("go", "version", "install Go 1.25 or newer; grpcurl is built with it")?;
    fs::create_dir_all(&bin).with_context(|| format!("cannot make {}", bin.display()))?;
    let mut install = checkout.command("go");
    install.arg("install").arg(format!("github.com/fullstorydev/grpcurl/cmd/grpcurl@{GRPCURL}"));
    command::run(install.env("GOBIN", &bin))?;
    fs::write(&note, GRPCURL).with_context(|| format!("cannot write {}", note.display()))?;
    Ok(program)
}

fn modified(file: &std::path::Path) -> Option<std::time::SystemTime> {
    fs::metadata(file).and_then(|metadata| metadata.modified()).ok()
}

fn path(program: &std::path::Path) -> Result<&str> {
    program.to_str().with_context(|| format!("{} is not UTF-8", program.display()))
}
