//! `cargo xtask chart`: the tests of the Helm chart, a Go program with the engine of Helm and the types of Kubernetes.

use std::process::Command;

use anyhow::Result;

use crate::{checkout::Checkout, command, tools};

const ADVICE: &str = "install Go 1.25 or newer, which builds the tests of the Helm chart";

/// Runs all tests. `prepare` may set the path of built binaries; without them, the tests that start servers are
/// skipped.
pub(crate) fn test(checkout: &Checkout, prepare: impl FnOnce(&mut Command)) -> Result<()> {
    let promtool = tools::promtool(checkout)?;
    let mut test = go_test(checkout)?;
    // Without it, the tests of alerts and of the dashboard are skipped.
    test.env("ETICKET_PROMTOOL", promtool);
    prepare(&mut test);
    command::run(&mut test)
}

/// Writes the files that are generated from values.yaml.
pub(crate) fn update(checkout: &Checkout) -> Result<()> {
    command::run(go_test(checkout)?.args(["-run", "TestGeneratedFilesAreUpToDate"]).env("UPDATE", "1"))
}

fn go_test(checkout: &Checkout) -> Result<Command> {
    command::require("go", "version", ADVICE)?;
    let mut test = checkout.command("go");
    // Without Go's cache of test results, which does not track the files of the chart.
    test.args(["test", "-count=1", "."]).current_dir(checkout.root().join("integration-tests/chart"));
    Ok(test)
}
