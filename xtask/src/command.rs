//! Runs other programs; errors show the command line.

use std::{
    io::ErrorKind,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, anyhow, bail};

/// Runs a command with inherited output and without input, so that it cannot wait for a person.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    eprintln!("> {shown}");
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot start `{shown}`"))?;
    if status.success() { Ok(()) } else { Err(anyhow!("`{shown}` failed: {status}")) }
}

/// Runs a command and returns its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = shown(command);
    let output = captured(command)?;
    if !output.status.success() {
        bail!("`{shown}` failed: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{shown}` wrote output that is not UTF-8"))
}

/// Runs a command and returns its output and exit status.
pub(crate) fn captured(command: &mut Command) -> Result<Output> {
    let shown = shown(command);
    command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{shown}`"))
}

/// Fails with `advice` if the program is not installed.
pub(crate) fn require(program: &str, version: &str, advice: &str) -> Result<()> {
    match Command::new(program).arg(version).stdin(Stdio::null()).output() {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => bail!("{program} is not installed: {advice}"),
        Err(error) => Err(error).with_context(|| format!("cannot start {program}")),
    }
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
