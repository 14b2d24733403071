//! Checks the rules for single files.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::checkout::Checkout;

const MOST_LINES: usize = 500;
/// The bundle built by Vite.
const BUNDLE: &str = "gateway-grpc-web/web/dist";

/// Checks all files that are or would be committed; the error lists all violations.
pub(crate) fn check(checkout: &Checkout) -> Result<()> {
    let files = checkout.files()?;
    let mut wrong = unnoticed_migrations(&files, |file| fs::read_to_string(checkout.root().join(file)).ok());
    for file in files {
        // Vendored, built and recorded files keep their form.
        if ["third_party", "fixtures"].iter().any(|folder| file.components().any(|part| part.as_os_str() == *folder))
            || file.starts_with(BUNDLE)
        {
            continue;
        }
        let bytes = fs::read(checkout.root().join(&file)).with_context(|| format!("cannot read {}", file.display()))?;
        if let Ok(text) = String::from_utf8(bytes) {
            wrong.extend(
                violations(&file, &text).into_iter().map(|violation| format!("{}: {violation}", file.display())),
            );
        }
    }
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("\n")) }
}

/// Folders of migrations that `sqlx::migrate!` embeds without a build script that names them: cargo would not notice a new file.
fn unnoticed_migrations(files: &[PathBuf], read: impl Fn(&Path) -> Option<String>) -> Vec<String> {
    let migrations = files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "sql"));
    let folders = migrations.filter_map(|file| file.ancestors().find(|folder| folder.ends_with("migrations")));
    let unnoticed = folders.collect::<BTreeSet<_>>().into_iter().filter(|folder| {
        let script = folder.with_file_name("build.rs");
        !read(&script).is_some_and(|text| text.contains("cargo:rerun-if-changed=migrations"))
    });
    let complaint = |folder: &Path| {
        format!("{}: the crate needs a build.rs with `cargo:rerun-if-changed=migrations`", folder.display())
    };
    unnoticed.map(complaint).collect()
}

fn violations(file: &Path, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let lock = name.ends_with("Cargo.lock") || name.ends_with("-lock.json") || name == "go.sum";
    let generated = lock
        || name == "values.schema.json"
        || ["docs/api.md", "gateway-grpc-web/openapi.json"].iter().any(|path| file == Path::new(path));
    let lines = text.lines().count();
    if !generated && lines >= MOST_LINES {
        wrong.push(format!("{lines} lines: split it, a file has fewer than {MOST_LINES}"));
    }
    if name.ends_with(".rs") && !text.starts_with("//!") {
        wrong.push("a file must start with `//!` and its purpose in one sentence".to_owned());
    }
    if name == "mod.rs" {
        wrong.push("a module must be `foo.rs` beside `foo/`, not `mod.rs`".to_owned());
    }
    if name.ends_with("-lock.json") && text.contains("\"resolved\"") {
        wrong.push(
            "a lock file must contain versions and hashes, but no download address: remove `resolved`".to_owned(),
        );
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_correct_file_has_no_violations() {
        assert!(violations(Path::new("a/b.rs"), "//! Does a thing.\n").is_empty());
        for generated in
            ["Cargo.lock", "a/go.sum", "a/values.schema.json", "docs/api.md", "gateway-grpc-web/openapi.json"]
        {
            assert!(violations(Path::new(generated), &"line\n".repeat(9000)).is_empty(), "{generated}");
        }
    }

    #[test]
    fn migrations_without_a_build_script_are_named() {
        let files = ["a/migrations/sqlite/1.sql", "a/migrations/2.sql", "b/migrations/1.sql", "c/migrations/1.sql"];
        let scripts = |file: &Path| match file.to_str() {
            Some("b/build.rs") => Some("fn main() {}".to_owned()),
            Some("c/build.rs") => Some("println!(\"cargo:rerun-if-changed=migrations\");".to_owned()),
            _ => None,
        };
        let wrong = unnoticed_migrations(&files.map(PathBuf::from), scripts);
        let starts: Vec<_> = wrong.iter().filter_map(|text| text.split(':').next()).collect();
        assert_eq!(starts, ["a/migrations", "b/migrations"], "{wrong:?}");
    }

    #[test]
    fn every_violation_is_named() {
        let long = format!("//! Long.\n{}", "\n".repeat(MOST_LINES));
        for (file, text, part) in [
            ("a.rs", long.as_str(), "split it"),
            ("a.rs", "use std::fs;\n", "must start with"),
            ("a/mod.rs", "//! Old.\n", "not `mod.rs`"),
            ("package-lock.json", "{\"resolved\": \"\"}", "remove `resolved`"),
        ] {
            let wrong = violations(Path::new(file), text);
            assert!(matches!(wrong.as_slice(), [one] if one.contains(part)), "{file}: {wrong:?}");
        }
    }
}
