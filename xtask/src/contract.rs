//! The protobuf contract: buf's rules, and that it is compatible with the released one.
//!
//! `proto/released.binpb` holds the descriptors of the last release. It is committed, so that a shallow clone and a source archive can
//! be checked too.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::{checkout::Checkout, command, tools};

/// The descriptors of the last release, in the folder of the contract.
const RELEASED: &str = "released.binpb";

/// Checks the contract of this checkout.
pub(crate) fn check(checkout: &Checkout) -> Result<()> {
    let buf = Buf { program: &tools::buf(checkout)?, folder: &checkout.root().join("proto") };
    buf.lint()?;
    buf.breaking()
}

/// Makes the contract of this checkout the released one, unless a client of the previous release could not use it.
pub(crate) fn update(checkout: &Checkout) -> Result<()> {
    let buf = Buf { program: &tools::buf(checkout)?, folder: &checkout.root().join("proto") };
    buf.lint()?;
    if buf.folder.join(RELEASED).is_file() {
        buf.breaking()?;
    }
    buf.build(Path::new(RELEASED))
}

/// buf in the folder of a contract.
struct Buf<'a> {
    program: &'a Path,
    folder: &'a Path,
}

impl Buf<'_> {
    fn lint(&self) -> Result<()> {
        self.run(&["lint"])
    }

    /// An image is compared with an image: the folder has two modules, which buf compares only with two others.
    fn breaking(&self) -> Result<()> {
        let folder = tempfile::tempdir().context("cannot make a folder")?;
        let current = folder.path().join("current.binpb");
        self.build(&current)?;
        self.run(&["breaking", utf8(&current)?, "--against", RELEASED])
    }

    fn build(&self, image: &Path) -> Result<()> {
        self.run(&["build", "--exclude-source-info", "--output", utf8(image)?])
    }

    /// The error holds what buf complains of.
    fn run(&self, arguments: &[&str]) -> Result<()> {
        let ran = command::captured(Command::new(self.program).args(arguments).current_dir(self.folder))?;
        if ran.status.success() {
            return Ok(());
        }
        let written = [ran.stdout, ran.stderr].concat();
        bail!("buf {}: {}\n{}", arguments[0], ran.status, String::from_utf8_lossy(&written).trim_end())
    }
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    /// A copy of the contract that a test may change.
    struct Copy {
        folder: tempfile::TempDir,
        program: PathBuf,
    }

    impl Copy {
        fn new() -> Self {
            let checkout = Checkout::find().unwrap();
            let folder = tempfile::tempdir().unwrap();
            for file in checkout.files().unwrap() {
                if let Ok(inside) = file.strip_prefix("proto") {
                    let copy = folder.path().join(inside);
                    fs::create_dir_all(copy.parent().unwrap()).unwrap();
                    fs::copy(checkout.root().join(&file), copy).unwrap();
                }
            }
            Self { folder, program: tools::buf(&checkout).unwrap() }
        }

        fn buf(&self) -> Buf<'_> {
            Buf { program: &self.program, folder: self.folder.path() }
        }

        /// Removes the one occurrence of a text.
        fn remove(&self, file: &str, text: &str) {
            let path = self.folder.path().join(file);
            let before = fs::read_to_string(&path).unwrap();
            assert_eq!(before.matches(text).count(), 1, "{text} in {file}");
            fs::write(path, before.replace(text, "")).unwrap();
        }
    }

    #[test]
    #[ignore = "needs buf: cargo xtask test installs it"]
    fn a_removed_field_is_refused() {
        let copy = Copy::new();
        copy.buf().breaking().unwrap();
        copy.remove("eticket/ticket/v1/ticket.proto", "  bool available = 1;\n");
        let refused = copy.buf().breaking().unwrap_err().to_string();
        assert!(refused.contains(r#"field "1" with name "available""#), "{refused}");
    }

    #[test]
    #[ignore = "needs buf: cargo xtask test installs it"]
    fn a_type_without_a_comment_is_refused() {
        const WHY: &str = "// Why a ticket cannot be reserved. If several apply, the first of `WITHDRAWN`, `EXPIRED`, `RESERVED` counts.\n";
        let copy = Copy::new();
        copy.buf().lint().unwrap();
        copy.remove("eticket/ticket/v1/ticket.proto", WHY);
        let refused = copy.buf().lint().unwrap_err().to_string();
        assert!(refused.contains("UnavailableReason") && refused.contains("comment"), "{refused}");
    }
}
