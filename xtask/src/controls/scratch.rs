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
use serde::Deserialize;

use crate::{checkout::Checkout, command};

pub(super) struct Scratch {
    folder: PathBuf,
}

impl Scratch {
    pub(super) fn copy(checkout: &Checkout, number: usize) -> Result<Self> {
        let scratch = Self { folder: checkout.target().join(format!("controls/{number}")) };
        scratch.take_libraries(checkout)?;
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

    /// Copies the third-party libraries that the checkout's own build has made. They are most of the work of a build
    /// that starts from nothing, and no patch changes them.
    fn take_libraries(&self, checkout: &Checkout) -> Result<()> {
        let (made, mine) = (checkout.target().join("debug"), self.folder.join("target/debug"));
        if mine.exists() || !made.join("deps").is_dir() {
            return Ok(());
        }
        let own = own_names(checkout)?;
        for folder in ["deps", "build", ".fingerprint"] {
            let mut copy = Command::new("cp");
            copy.arg("-a").arg("-t").arg(mine.join(folder));
            for entry in fs::read_dir(made.join(folder)).with_context(|| format!("cannot read {}", made.display()))? {
                let entry = entry?;
                if is_third_party(&entry.file_name().to_string_lossy(), &own) {
                    copy.arg(entry.path());
                }
            }
            fs::create_dir_all(mine.join(folder)).with_context(|| format!("cannot create {}", mine.display()))?;
            command::output(&mut copy)?;
        }
        Ok(())
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
        // The flags of third-party libraries stay those of the checkout's build, whose results are used.
        cargo.args(["--config", "profile.dev.debug=false"]);
        cargo
    }
}

/// The names that cargo gives to build results of the workspace: of packages, libraries, programs, tests and examples.
fn own_names(checkout: &Checkout) -> Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        targets: Vec<Target>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
    }
    let listed =
        command::output(checkout.cargo().args(["metadata", "--no-deps", "--locked", "--format-version", "1"]))?;
    let metadata: Metadata = serde_json::from_str(&listed).context("cargo metadata has an unknown format")?;
    let mut names = BTreeSet::new();
    for package in metadata.packages {
        names.insert(package.name);
        names.extend(package.targets.into_iter().flat_map(|target| [target.name.replace('-', "_"), target.name]));
    }
    Ok(names)
}

/// Whether a build result, such as `libtokio-0123456789abcdef.rlib`, is not of the workspace.
fn is_third_party(file: &str, own: &BTreeSet<String>) -> bool {
    let name = file.rsplit_once('-').map_or(file, |(name, _)| name);
    !own.contains(name) && !name.strip_prefix("lib").is_some_and(|name| own.contains(name))
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
    fn build_results_of_the_workspace_are_not_third_party() {
        let own = BTreeSet::from(["eticket-store", "eticket_store", "race"].map(str::to_owned));
        let results = [
            ("eticket-store-0123456789abcdef", false),
            ("libeticket_store-0123456789abcdef.rlib", false),
            ("eticket_store-0123456789abcdef", false),
            ("race-0123456789abcdef.d", false),
            ("libtokio-0123456789abcdef.rlib", true),
            ("libc-0123456789abcdef", true),
            ("liblibc-0123456789abcdef.rmeta", true),
            ("futures-util-0123456789abcdef", true),
        ];
        for (file, expected) in results {
            assert_eq!(is_third_party(file, &own), expected, "{file}");
        }
    }

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
