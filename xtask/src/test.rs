//! `cargo xtask test`: all tests, including those that need built binaries and tools, and the negative controls.

use std::{
    env,
    io::{BufRead, BufReader},
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};

use crate::{
    browser, chart,
    checkout::Checkout,
    clients, command, console,
    controls::{self, Selection},
    kubernetes,
    rotation::Rotation,
    steps::Steps,
    tools,
};

/// What a slice of the tests on Kubernetes takes on a slow machine that has to build Kubernetes first.
const SLICE_TAKES: Duration = Duration::from_mins(35);
/// What all of these tests take there.
const ALL_TAKE: Duration = Duration::from_mins(60);
/// Suites that take less time are not listed separately.
const LISTED: Duration = Duration::from_secs(5);

/// Installs missing tools, builds once, and runs all tests, including the ignored ones.
pub(crate) fn run(checkout: &Checkout, full: bool, with_controls: bool) -> Result<()> {
    let mut steps = Steps::new(checkout, "test");
    let rotation = Rotation::new(checkout, full)?;
    steps.run("grpcurl", || tools::grpcurl(checkout))?;
    steps.run("connectconformance", || tools::connectconformance(checkout))?;
    steps.run("buf", || tools::buf(checkout))?;
    steps.run("postgres", || tools::postgres(checkout))?;
    steps.run("clients", || clients::install(checkout))?;
    steps.run("console", || console::install(checkout))?;
    steps.run("browser", || browser::install(checkout))?;
    let nats_server = steps.run("nats-server", || tools::nats_server(checkout))?;
    let path = tools::path_with(&nats_server)?;
    // One build for binaries and tests: in separate builds cargo would select other features and build everything
    // twice.
    let mut build = checkout.cargo();
    build.args(["build", "--workspace", "--bins", "--tests", "--examples", "--locked"]);
    steps.run("build", || command::run(&mut build))?;
    let binaries = checkout.target().join("debug");
    // Its failure must not hide those of the other tests.
    let chart = steps.run("chart", || {
        chart::test(checkout, |tests| {
            tests.env("PATH", &path).env("ETICKET_BINARIES", &binaries);
        })
    });
    let mut tests = checkout.cargo();
    tests.args(["test", "--workspace", "--locked", "--no-fail-fast", "--", "--include-ignored"]);
    // Shows the tests where the built binaries are (integration-tests/src/binary.rs).
    tests.env("PATH", path).env("ETICKET_BINARIES", binaries);
    if let Some(seeds) = rotation.seeds() {
        tests.env("SIMULATION_SEEDS", seeds);
    }
    if full {
        tests.env("CONSOLE_PAGES", "all");
    } else {
        // The tour of the README builds a release. Optimized, that takes longer than all other suites together.
        tests.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0");
    }
    let mut suites = Suites::default();
    let outcome = steps.run("tests", || suites.run(&mut tests));
    for (name, took, passed) in suites.slow() {
        steps.add(&format!("tests: {name}"), took, passed);
    }
    chart.and(outcome)?;
    if with_controls {
        steps.run("controls", || controls::run(checkout, &Selection::Rotating(&rotation)))?;
    }
    on_kubernetes(&mut steps, checkout, &rotation)
}

/// Runs the tests on Kubernetes where the machine can run a node and the run has the time for them.
fn on_kubernetes(steps: &mut Steps, checkout: &Checkout, rotation: &Rotation) -> Result<()> {
    let slice = rotation.slice();
    let takes = if slice.is_some() { SLICE_TAKES } else { ALL_TAKE };
    let obstacle = match deadline()? {
        Some(left) if left < takes => Some(format!("this run must end in {} s", left.as_secs())),
        _ => steps.run("packages of Kubernetes", || kubernetes::obstacle(checkout))?,
    };
    match obstacle {
        None => steps.run("kubernetes", || kubernetes::run(checkout, true, slice)),
        Some(obstacle) => {
            eprintln!("NOT RUN: the Helm chart on a real Kubernetes: {obstacle}; `cargo xtask kubernetes` runs it");
            Ok(())
        }
    }
}

/// Returns how long this run may still take: until `ETICKET_TEST_DEADLINE`, in seconds since 1970, if that is set.
fn deadline() -> Result<Option<Duration>> {
    let Ok(text) = env::var("ETICKET_TEST_DEADLINE") else { return Ok(None) };
    let deadline = text.parse().with_context(|| format!("ETICKET_TEST_DEADLINE={text} is not a number of seconds"))?;
    let end = UNIX_EPOCH + Duration::from_secs(deadline);
    Ok(Some(end.duration_since(SystemTime::now()).unwrap_or_default()))
}

/// Reads the names and results of suites from the output of cargo.
#[derive(Default)]
struct Suites {
    running: String,
    done: Vec<(String, Duration, bool)>,
}

impl Suites {
    /// Runs a command and forwards its output. Standard output and standard error share one pipe, because cargo prints
    /// the name of a suite on one of them and the suite prints its result on the other.
    fn run(&mut self, command: &mut Command) -> Result<()> {
        let (reader, writer) = std::io::pipe().context("cannot create a pipe")?;
        command.stdout(writer.try_clone().context("cannot share a pipe")?).stderr(writer);
        command.stdin(std::process::Stdio::null());
        let mut child = command.spawn().context("cannot start cargo")?;
        // The command holds the write ends; they must be closed so that reading ends with the child process.
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).context("cannot read what the tests print")? > 0 {
            let text = String::from_utf8_lossy(&line);
            print!("{text}");
            self.note(&text);
            line.clear();
        }
        let status = child.wait().context("cannot wait for cargo")?;
        if status.success() { Ok(()) } else { bail!("the tests ended with {status}") }
    }

    /// Records a line such as `Running tests/race.rs (target/debug/deps/race-…)` or `test result: ok. 3 passed; …;
    /// finished in 12.34s`.
    fn note(&mut self, line: &str) {
        let line = line.trim();
        if let Some(suite) = line.strip_prefix("Running ") {
            let file = suite.rsplit('/').next().unwrap_or(suite).trim_end_matches(')');
            let name = file.rsplit_once('-').map_or(file, |(name, _)| name);
            self.running = name.to_owned();
        } else if let Some(suite) = line.strip_prefix("Doc-tests ") {
            self.running = format!("doc {suite}");
        } else if let Some(result) = line.strip_prefix("test result: ") {
            let seconds =
                result.rsplit_once("finished in ").and_then(|(_, time)| time.trim_end_matches('s').parse().ok());
            let took = Duration::from_secs_f64(seconds.unwrap_or_default());
            self.done.push((self.running.clone(), took, result.starts_with("ok.")));
        }
    }

    /// The suites that failed or took long, slowest first.
    fn slow(&self) -> Vec<(String, Duration, bool)> {
        let mut slow: Vec<_> =
            self.done.iter().filter(|(_, took, passed)| *took >= LISTED || !passed).cloned().collect();
        slow.sort_by_key(|(_, took, _)| std::cmp::Reverse(*took));
        slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_and_failed_suites_are_listed_by_name() {
        let mut suites = Suites::default();
        for line in [
            "     Running unittests src/lib.rs (target/debug/deps/eticket_store-0123456789abcdef)",
            "test result: ok. 9 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.40s",
            "     Running tests/race.rs (target/debug/deps/race-0123456789abcdef)",
            "test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.50s",
            "     Running tests/simulation.rs (target/debug/deps/simulation-0123456789abcdef)",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 61.25s",
        ] {
            suites.note(line);
        }
        let expected = [("simulation", 61_250, true), ("race", 1500, false)]
            .map(|(name, millis, passed)| (name.to_owned(), Duration::from_millis(millis), passed));
        assert_eq!(suites.slow(), expected);
    }
}
