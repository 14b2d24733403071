//! The checkout, its target folder, and its files.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::command;

pub(crate) struct Checkout {
    root: PathBuf,
    target: PathBuf,
}

impl Checkout {
    /// Uses the path that cargo passes at run time, because a checkout may be moved after the build.
    pub(crate) fn find() -> Result<Self> {
        let package = env::var_os("CARGO_MANIFEST_DIR").context("run it as `cargo xtask`")?;
        let root = Path::new(&package).parent().context("xtask is in the checkout")?.to_owned();
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |folder| root.join(folder));
        Ok(Self { root, target })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// The folder of tools with pinned versions.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// Creates a command that runs in the root of the checkout.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        command
    }

    /// Creates a command for the cargo that runs this program, in the root of the checkout.
    pub(crate) fn cargo(&self) -> Command {
        self.command(&env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
    }

    /// Returns the paths, relative to the root, of all files that are or would be committed.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>> {
        let mut list = self.command("git");
        list.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let listed = command::output(&mut list)?;
        let files: Vec<PathBuf> = listed
            .split('\0')
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
            // A deleted file is listed until the deletion is committed.
            .filter(|path| self.root.join(path).is_file())
            .collect();
        ensure!(!files.is_empty(), "git lists no files in {}", self.root.display());
        Ok(files)
    }
}
