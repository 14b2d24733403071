//! `cargo xtask test`: all tests, those too that need built binaries and tools, and the negative controls.

use anyhow::Result;

use crate::{checkout::Checkout, command, controls, tools};

/// Sets up what is missing, builds once, and runs everything that `cargo test` alone would leave out as well.
pub(crate) fn run(checkout: &Checkout, with_controls: bool) -> Result<()> {
    tools::grpcurl(checkout)?;
    tools::postgres(checkout)?;
    tools::caller(checkout)?;
    let path = tools::path_with(&tools::nats_server(checkout)?)?;
    // Binaries and tests in one go: built apart, cargo would choose other features for the binaries, and build all twice.
    command::run(checkout.cargo().args(["build", "--workspace", "--bins", "--tests", "--locked"]))?;
    let mut tests = checkout.cargo();
    tests.args(["test", "--workspace", "--locked", "--no-fail-fast", "--", "--include-ignored"]);
    // Tells the tests that the binaries are built (integration-tests/src/binary.rs).
    tests.env("PATH", path).env("ETICKET_BINARIES", checkout.target().join("debug"));
    command::run(&mut tests)?;
    if with_controls { controls::run(checkout, None) } else { Ok(()) }
}
