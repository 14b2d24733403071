//! The scratch copy of the checkout in which guards are removed.
//!
//! The copy is kept between runs, and only different files are written, so that cargo rebuilds only what a patch
//! changes. It has its own target folder: cargo names build results by paths within the workspace, so with a shared
//! folder a crate without its guard could be used in a normal build.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{checkout::Checkout, command};

pub(super) struct Scratch {
    folder: PathBuf,
}

impl Scratch {
    pub(super) fn copy(checkout: &Checkout, number: usize) -> Result<Self> {
        let scratch = Self { folder: checkout.target().join(format!("controls/{number}")) };
        scratch.restore(checkout)?;
        Ok(scratch)
    }

    pub(super) fn exists(checkout: &Checkout, number: usize) -> bool {
        checkout.target().join(format!("controls/{number}/target")).is_dir()
    }

    /// Copies files and build results, with the times of modification by which cargo finds them up to date.
    pub(super) fn duplicate(&self, checkout: &Checkout, number: usize) -> Result<()> {
        let other = checkout.target().join(format!("controls/{number}"));
        fs::create_dir_all(&other).with_context(|| format!("cannot create {}", other.display()))?;
        command::run(Command::new("cp").arg("-a").arg(self.folder.join(".")).arg(other))
    }

    fn tree(&self) -> PathBuf {
        self.folder.join("tree")
    }

    /// Makes the copy equal to the checkout.
    pub(super) fn restore(&self, checkout: &Checkout) -> Result<()> {
        let wanted: BTreeSet<PathBuf> = checkout.files()?.into_iter().collect();
        for file in &wanted {
            let bytes =
                fs::read(checkout.root().join(file)).with_context(|| format!("cannot read {}", file.display()))?;
            let copy = self.tree().join(file);
            if fs::read(&copy).is_ok_and(|there| there == bytes) {
                continue;
            }
            if let Some(parent) = copy.parent() {
                fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
            }
            fs::write(&copy, bytes).with_context(|| format!("cannot write {}", copy.display()))?;
        }
        remove_others(&self.tree(), &self.tree(), &wanted)
    }

    /// Removes a guard.
    ///
    /// # Errors
    /// Fails if the patch does not apply: the guarded code has changed, and the patch must be updated.
    pub(super) fn apply(&self, patch: &Path) -> Result<()> {
        let mut apply = Command::new("git");
        // The copy is in an ignored folder of the checkout; without the ceiling, git would use the checkout's
        // repository and skip the files.
        apply.current_dir(self.tree()).env("GIT_CEILING_DIRECTORIES", &self.folder);
        command::output(apply.arg("apply").arg(patch)).map(drop).context("the patch no longer applies")
    }

    pub(super) fn cargo(&self) -> Command {
        let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
        cargo.current_dir(self.tree());
        cargo.env("CARGO_TARGET_DIR", self.folder.join("target"));
        // Each build differs from the one before by a patch, also where CI builds everything else once.
        cargo.env("CARGO_INCREMENTAL", "1");
        // Less optimization and no debug information halve the build time of libraries; the tests of one crate need
        // neither.
        cargo.args(["--config", "profile.dev.package.\"*\".opt-level=0", "--config", "profile.dev.debug=false"]);
        cargo
    }
}

/// Removes files that a patch added or that are no longer in the checkout, and folders that become empty: cargo takes
/// an empty folder in `services/` for a member of the workspace.
fn remove_others(root: &Path, folder: &Path, wanted: &BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(root, &path, wanted)?;
            if fs::read_dir(&path).is_ok_and(|mut left| left.next().is_none()) {
                fs::remove_dir(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        } else if path.strip_prefix(root).is_ok_and(|file| !wanted.contains(file)) {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_files_are_deleted_with_their_folders() {
        let root = tempfile::tempdir().unwrap();
        for file in ["kept/a.rs", "gone/src/b.rs", "kept/c.rs"] {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        remove_others(root.path(), root.path(), &BTreeSet::from([PathBuf::from("kept/a.rs")])).unwrap();
        assert!(root.path().join("kept/a.rs").is_file() && !root.path().join("kept/c.rs").exists());
        assert!(!root.path().join("gone").exists());
    }
}
