//! Negative controls: each removes one guard in a scratch copy of the checkout, and the named test must then fail.
//!
//! A guard is only known to work if a test fails without it. The indexes are the TOML files in
//! `integration-tests/controls`.

mod scratch;

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Output,
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::{checkout::Checkout, command, rotation::Rotation, tools};
use scratch::Scratch;

/// While the test of one control waits until its bound, the other builds.
const WORKERS: usize = 2;
/// Packages without a library. Selected beside the package of a test, they give third-party libraries the features that
/// these have in a build of the whole workspace, so that its results serve all controls.
const UNIFIERS: [&str; 2] = ["eticket", "xtask"];
/// The folder of patches and indexes, relative to the root.
const FOLDER: &str = "integration-tests/controls";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    control: Vec<Control>,
}

/// A guard and the test that fails without it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Control {
    /// File name of the patch, in the folder of the index.
    patch: String,
    /// The rule that the patch breaks.
    guard: String,
    /// Package of the test.
    package: String,
    /// Full name of the test.
    test: String,
}

/// The controls to run.
pub(crate) enum Selection<'a> {
    /// The controls whose patch has one of these texts in its name.
    Named(&'a [String]),
    /// The controls that the rotation covers.
    Rotating(&'a Rotation),
}

/// Runs the selected controls; the error names those that failed.
pub(crate) fn run(checkout: &Checkout, selection: &Selection<'_>) -> Result<()> {
    let folder = checkout.root().join(FOLDER);
    let controls = load(&folder)?;
    let mut chosen = Vec::new();
    for (index, control) in controls.iter().enumerate() {
        let wanted = match selection {
            Selection::Named(parts) => parts.iter().any(|part| control.patch.contains(part)),
            Selection::Rotating(rotation) => rotation.covers(index, &dependencies_of(&folder, &control.patch)?),
        };
        if wanted {
            chosen.push(control);
        }
    }
    if let Selection::Named(parts) = selection {
        for part in *parts {
            let known = controls.iter().any(|control| control.patch.contains(part));
            ensure!(known, "no patch of a control has {part:?} in its name");
        }
    }
    eprintln!("{} of {} controls", chosen.len(), controls.len());
    // Some of the tests start servers.
    let path = tools::path_with(&tools::nats_server(checkout)?)?;
    let first = Scratch::copy(checkout, 0)?;
    if WORKERS > 1 && !Scratch::exists(checkout, WORKERS - 1) {
        // Crates of the workspace are built once and copied; workers that start from nothing would each build them.
        for package in chosen.iter().map(|control| control.package.as_str()).collect::<BTreeSet<_>>() {
            command::run(first.cargo().args(test(package)).arg("--no-run"))?;
        }
        (1..WORKERS).try_for_each(|number| first.duplicate(checkout, number))?;
    }
    let queue = Mutex::new(chosen.into_iter());
    let work = &|number| {
        let scratch = Scratch::copy(checkout, number)?;
        let mut wrong = Vec::new();
        while let Some(control) = next(&queue) {
            match run_one(&scratch, &folder, control, &path) {
                Ok(()) => eprintln!("control {}: {} fails without {}", control.patch, control.test, control.guard),
                Err(error) => {
                    eprintln!("control {}: {error:#}", control.patch);
                    wrong.push(control.patch.as_str());
                }
            }
            scratch.restore(checkout)?;
        }
        Ok(wrong)
    };
    let outcomes: Vec<Result<Vec<&str>>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|number| scope.spawn(move || work(number))).collect();
        let ended = |worker: thread::ScopedJoinHandle<'_, _>| match worker.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        workers.into_iter().map(ended).collect()
    });
    let wrong = outcomes.into_iter().collect::<Result<Vec<_>>>()?.concat();
    if wrong.is_empty() { Ok(()) } else { bail!("controls failed: {}", wrong.join(", ")) }
}

/// The files that a control depends on: its patch and the patched files.
fn dependencies_of(folder: &Path, patch: &str) -> Result<Vec<PathBuf>> {
    let path = folder.join(patch);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let changed = text.lines().filter_map(|line| line.strip_prefix("+++ b/")).map(PathBuf::from);
    Ok(changed.chain([Path::new(FOLDER).join(patch)]).collect())
}

/// Checks that every patch applies: where it does not, the guarded code has changed and the patch must follow.
pub(crate) fn check(checkout: &Checkout) -> Result<()> {
    let mut wrong = Vec::new();
    for control in load(&checkout.root().join(FOLDER))? {
        let patch = Path::new(FOLDER).join(&control.patch);
        let applied = command::captured(checkout.command("git").args(["apply", "--check"]).arg(patch))?;
        if !applied.status.success() {
            wrong.push(String::from_utf8_lossy(&applied.stderr).into_owned());
        }
    }
    if wrong.is_empty() { Ok(()) } else { bail!("patches of controls do not apply:\n{}", wrong.concat()) }
}

fn next<'c>(queue: &Mutex<std::vec::IntoIter<&'c Control>>) -> Option<&'c Control> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).next()
}

/// Loads all indexes, sorted by package so that the tests of one package follow each other. Fails if a patch is in no
/// index.
fn load(folder: &Path) -> Result<Vec<Control>> {
    let (mut controls, mut present) = (Vec::new(), BTreeSet::new());
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        match path.extension().and_then(OsStr::to_str) {
            Some("toml") => {
                let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
                let index: Index = toml::from_str(&text).with_context(|| format!("in {}", path.display()))?;
                controls.extend(index.control);
            }
            Some("patch") => {
                present.extend(path.file_name().map(|name| name.to_string_lossy().into_owned()));
            }
            _ => {}
        }
    }
    let listed: BTreeSet<String> = controls.iter().map(|control| control.patch.clone()).collect();
    let odd: Vec<&String> = listed.symmetric_difference(&present).collect();
    ensure!(odd.is_empty(), "these patches have no entry in an index, or the entries no patch: {odd:?}");
    controls.sort_by(|one, other| (&one.package, &one.patch).cmp(&(&other.package, &other.patch)));
    Ok(controls)
}

/// The arguments of `cargo test` for the tests within the library of a package.
fn test(package: &str) -> Vec<&str> {
    let mut arguments = vec!["test", "--locked", "--quiet", "--lib", "--package", package];
    arguments.extend(UNIFIERS.into_iter().flat_map(|unifier| ["--package", unifier]));
    arguments
}

fn run_one(scratch: &Scratch, folder: &Path, control: &Control, path: &OsStr) -> Result<()> {
    scratch.apply(&folder.join(&control.patch))?;
    let arguments = test(&control.package);
    // Built separately, so that a compile error does not count as a failed test.
    let built = command::captured(scratch.cargo().args(&arguments).arg("--no-run"))?;
    ensure!(built.status.success(), "does not compile without the guard:\n{}", String::from_utf8_lossy(&built.stderr));
    let ran = command::captured(scratch.cargo().env("PATH", path).args(&arguments).args([
        "--",
        "--include-ignored",
        "--exact",
        &control.test,
    ]))?;
    judge(&ran, &control.test)
}

/// Succeeds if one test ran and failed.
fn judge(ran: &Output, test: &str) -> Result<()> {
    let output = String::from_utf8_lossy(&ran.stdout);
    let results: Vec<&str> = output.lines().filter(|line| line.starts_with("test result:")).collect();
    if !ran.status.success() && results.iter().any(|line| line.contains(" 0 passed; 1 failed;")) {
        return Ok(());
    }
    ensure!(
        results.iter().any(|line| line.contains(" 1 passed;")),
        "{test} did not run:\n{output}{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    bail!("{test} passes without the guard")
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

    use super::*;

    fn ran(code: i32, line: &str) -> Output {
        Output {
            status: ExitStatus::from_raw(code << 8),
            stdout: format!("\n{line}\n").into_bytes(),
            stderr: Vec::new(),
        }
    }

    #[test]
    fn only_one_failed_test_counts() {
        assert!(judge(&ran(101, "test result: FAILED. 0 passed; 1 failed; 0 ignored"), "a").is_ok());
        let passed = judge(&ran(0, "test result: ok. 1 passed; 0 failed; 0 ignored"), "a").expect_err("it passed");
        assert!(passed.to_string().contains("passes without"), "{passed}");
        let none = judge(&ran(0, "test result: ok. 0 passed; 0 failed; 0 ignored"), "a").expect_err("none ran");
        assert!(none.to_string().contains("did not run"), "{none}");
        let crashed = judge(&ran(101, "error: could not compile"), "a").expect_err("nothing ran");
        assert!(crashed.to_string().contains("did not run"), "{crashed}");
    }
}
