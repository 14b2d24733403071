//! The scratch copy of the checkout that guards are taken out of.
//!
//! It is kept from run to run and only files that differ are written, so that cargo builds again only what a patch touches.
//! Its target folder is its own: cargo names what it builds by paths within the workspace, so that in a shared one a crate
//! without its guard would be taken for the real one.

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

    fn tree(&self) -> PathBuf {
        self.folder.join("tree")
    }

    /// Makes the copy equal to the checkout again.
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
                fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
            }
            fs::write(&copy, bytes).with_context(|| format!("cannot write {}", copy.display()))?;
        }
        remove_others(&self.tree(), &self.tree(), &wanted)
    }

    /// Takes a guard out.
    ///
    /// # Errors
    /// A patch that no longer applies: the guard has changed, and the patch must follow it.
    pub(super) fn apply(&self, patch: &Path) -> Result<()> {
        let mut apply = Command::new("git");
        // The copy lies in an ignored folder of the checkout, whose git would leave it alone.
        apply.current_dir(self.tree()).env("GIT_CEILING_DIRECTORIES", &self.folder);
        command::output(apply.arg("apply").arg(patch)).map(drop).context("the patch no longer applies")
    }

    pub(super) fn cargo(&self) -> Command {
        let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
        cargo.current_dir(self.tree());
        cargo.env("CARGO_TARGET_DIR", self.folder.join("target"));
        // Tests of one crate need no speed, and libraries that are not optimised are built in half the time. Nobody reads where in
        // the source they failed.
        cargo.args(["--config", "profile.dev.package.\"*\".opt-level=0", "--config", "profile.dev.debug=false"]);
        cargo
    }
}

/// Removes files that a patch made, or that the checkout has no more, and folders that are empty then: cargo takes `services/chassis`
/// for a member of `services/*` also where nothing is left in it.
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
    fn what_the_checkout_has_no_more_goes_with_its_folder() {
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
