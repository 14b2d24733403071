//! `cargo xtask chart`: the tests of the Helm chart, which are a Go program with Helm's own engine and Kubernetes' own types.

use std::process::Command;

use anyhow::Result;

use crate::{checkout::Checkout, command, tools};

const ADVICE: &str = "install Go 1.25 or newer; the tests of the Helm chart are built with it";

/// Runs all tests. `prepare` may name built binaries, without which the tests that start them are skipped.
pub(crate) fn test(checkout: &Checkout, prepare: impl FnOnce(&mut Command)) -> Result<()> {
    let promtool = tools::promtool(checkout)?;
    let mut test = go_test(checkout)?;
    // Without it, the tests of alerts and of the dashboard are skipped.
    test.env("ETICKET_PROMTOOL", promtool);
    prepare(&mut test);
    command::run(&mut test)
}

/// Writes the files that are made from the chart's values.yaml.
pub(crate) fn update(checkout: &Checkout) -> Result<()> {
    command::run(go_test(checkout)?.args(["-run", "TestGeneratedFilesAreUpToDate"]).env("UPDATE", "1"))
}

fn go_test(checkout: &Checkout) -> Result<Command> {
    command::require("go", "version", ADVICE)?;
    let mut test = checkout.command("go");
    // Without Go's cache of results: it does not see which files of the chart a test has read.
    test.args(["test", "-count=1", "."]).current_dir(checkout.root().join("integration-tests/chart"));
    Ok(test)
}
