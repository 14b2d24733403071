//! Selects the part of the slow suites that a run covers.
//!
//! All controls, all seeds and all tests on Kubernetes take too long for every change. A plain run covers one slice of
//! each, selected by the number of commits, so that five consecutive commits cover everything. `--full` covers
//! everything.

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::Result;

use crate::{checkout::Checkout, command};

const SLICES: u64 = 5;
/// Controls whose files the last 20 commits changed always run.
const RECENT_COMMITS: &str = "-20";
/// Commits with more files than this are renames or moves, which do not count as changes.
const MOST_FILES: usize = 100;
/// Number of seeds in a full run: `SEEDS` in integration-tests/tests/simulation.rs.
const SEEDS: u64 = 10_000;

pub(crate) enum Rotation {
    /// Everything.
    Full,
    /// One slice, and all controls that depend on these files.
    Slice { number: u64, changed: BTreeSet<PathBuf> },
}

impl Rotation {
    /// Selects the slice of the current commit. Without a git history, as in an unpacked archive, everything runs.
    pub(crate) fn new(checkout: &Checkout, full: bool) -> Result<Self> {
        let mut count = checkout.command("git");
        let counted = command::captured(count.args(["rev-list", "--count", "HEAD"]))?;
        let commits = String::from_utf8_lossy(&counted.stdout).trim().parse::<u64>();
        let Ok(commits) = commits else { return Ok(Self::Full) };
        if full {
            return Ok(Self::Full);
        }
        let mut log = checkout.command("git");
        let committed = command::output(log.args(["log", RECENT_COMMITS, "--name-only", "--pretty=format:%x00"]))?;
        let mut status = checkout.command("git");
        let edited = command::output(status.args(["diff", "--name-only", "HEAD"]))?;
        let mut changed = changed_files(&committed);
        changed.extend(edited.lines().map(PathBuf::from));
        Ok(Self::Slice { number: commits % SLICES, changed })
    }

    /// Whether to run the item at `index` of a list, which depends on these files.
    pub(crate) fn covers(&self, index: usize, files: &[PathBuf]) -> bool {
        match self {
            Self::Full => true,
            Self::Slice { number, changed } => {
                index as u64 % SLICES == *number || files.iter().any(|file| changed.contains(file))
            }
        }
    }

    /// The seeds in the format of the simulation test; `None` for its default, which is all seeds.
    pub(crate) fn seeds(&self) -> Option<String> {
        match self {
            Self::Full => None,
            Self::Slice { number, .. } => {
                let width = SEEDS / SLICES;
                Some(format!("{}..{}", number * width, (number + 1) * width))
            }
        }
    }

    /// The slice in the format of the tests on Kubernetes; `None` for all parts.
    pub(crate) fn slice(&self) -> Option<String> {
        match self {
            Self::Full => None,
            Self::Slice { number, .. } => Some(format!("{number}/{SLICES}")),
        }
    }
}

/// The files of all commits that do not count as renames. Each commit starts with a zero byte.
fn changed_files(log: &str) -> BTreeSet<PathBuf> {
    let files = |commit: &str| commit.lines().filter(|line| !line.is_empty()).map(PathBuf::from).collect::<Vec<_>>();
    log.split('\0').map(files).filter(|files| files.len() <= MOST_FILES).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(number: u64, changed: &[&str]) -> Rotation {
        Rotation::Slice { number, changed: changed.iter().map(PathBuf::from).collect() }
    }

    #[test]
    fn five_slices_cover_every_control_and_every_seed() {
        for index in 0..23 {
            let covered = (0..SLICES).filter(|number| slice(*number, &[]).covers(index, &[])).count();
            assert_eq!(covered, 1, "control {index}");
        }
        let seeds: Vec<_> = (0..SLICES).filter_map(|number| slice(number, &[]).seeds()).collect();
        assert_eq!(seeds, ["0..2000", "2000..4000", "4000..6000", "6000..8000", "8000..10000"]);
        assert_eq!(Rotation::Full.seeds(), None);
        assert_eq!((slice(3, &[]).slice(), Rotation::Full.slice()), (Some("3/5".to_owned()), None));
    }

    #[test]
    fn commits_that_move_files_do_not_count() {
        let moved: String = (0..=MOST_FILES).map(|number| format!("moved/{number}.rs\n")).collect();
        let log = format!("\0\na.rs\n\n\0\n{moved}\n\0\nb.rs\n");
        assert_eq!(changed_files(&log), ["a.rs", "b.rs"].map(PathBuf::from).into());
    }

    #[test]
    fn a_changed_file_is_covered_by_every_slice() {
        let file = PathBuf::from("services/ticket/src/domain.rs");
        for number in 0..SLICES {
            assert!(slice(number, &["services/ticket/src/domain.rs"]).covers(3, std::slice::from_ref(&file)));
        }
        assert!(!slice(0, &["README.md"]).covers(3, &[file]));
    }
}
