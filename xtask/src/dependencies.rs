//! Unused dependencies: each one in a manifest must be named by a Rust file of its package, and each one of the workspace by a manifest.
//!
//! cargo-machete finds the same by the same search, but it takes longer to build than this takes to run, and it does not look at
//! `workspace.dependencies`. A manifest excuses a dependency that only generated code names under the key that cargo-machete reads,
//! so both give the same result.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use toml::{Table, Value};

use crate::checkout::Checkout;

const TABLES: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

/// Names every dependency that nothing uses.
pub(crate) fn check(checkout: &Checkout) -> Result<()> {
    let unused = unused(checkout.root(), &checkout.files()?)?;
    if unused.is_empty() { Ok(()) } else { bail!("unused dependencies:\n{}", unused.join("\n")) }
}

fn unused(root: &Path, files: &[PathBuf]) -> Result<Vec<String>> {
    let read = |file: &Path| fs::read_to_string(root.join(file)).with_context(|| format!("in {}", file.display()));
    let (mut unused, mut named, mut of_workspace) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for manifest in files.iter().filter(|file| file.ends_with("Cargo.toml")) {
        let table: Table = toml::from_str(&read(manifest)?).with_context(|| format!("in {}", manifest.display()))?;
        of_workspace.extend(at(&table, &["workspace", "dependencies"]).into_iter().flat_map(Table::keys).cloned());
        let dependencies: BTreeSet<String> =
            TABLES.iter().filter_map(|name| at(&table, &[name])).flat_map(Table::keys).cloned().collect();
        let folder = manifest.parent().unwrap_or(Path::new(""));
        let is_source = |file: &&PathBuf| file.starts_with(folder) && file.extension().is_some_and(|end| end == "rs");
        let sources = files.iter().filter(is_source).map(|file| read(file)).collect::<Result<Vec<_>>>()?;
        let excused = excused(&table);
        for name in dependencies.difference(&excused) {
            if !sources.iter().any(|source| names(source, &name.replace('-', "_"))) {
                unused.push(format!("{}: {name}", manifest.display()));
            }
        }
        named.extend(dependencies);
    }
    unused.extend(of_workspace.difference(&named).map(|name| format!("workspace.dependencies: {name}")));
    Ok(unused)
}

fn at<'t>(table: &'t Table, path: &[&str]) -> Option<&'t Table> {
    path.iter().try_fold(table, |table, key| table.get(*key)?.as_table())
}

fn excused(manifest: &Table) -> BTreeSet<String> {
    let ignored = at(manifest, &["package", "metadata", "cargo-machete"]).and_then(|table| table.get("ignored"));
    ignored.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Whether a line that is not a comment has this word.
fn names(source: &str, word: &str) -> bool {
    let is_part = |character: char| character.is_alphanumeric() || character == '_';
    let lines = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.flat_map(|line| line.split(|character| !is_part(character))).any(|part| part == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nothing_names_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let files = [
            ("Cargo.toml", "[workspace.dependencies]\nanyhow = \"1\"\nforgotten = \"1\"\nonly-commented = \"1\"\n"),
            (
                "a/Cargo.toml",
                "[package]\nname = \"a\"\n[package.metadata.cargo-machete]\nignored = [\"generated\"]\n\
                 [dependencies]\nanyhow.workspace = true\nonly-commented.workspace = true\ngenerated = \"1\"\n\
                 [dev-dependencies]\nin-tests = \"1\"\n[build-dependencies]\nin-build = \"1\"\nelsewhere = \"1\"\n",
            ),
            ("a/src/lib.rs", "// only_commented::go()\nuse anyhow::Result; // anyhow\nfn into_elsewhere() {}\n"),
            ("a/tests/one.rs", "use in_tests as t;\n"),
            ("a/build.rs", "fn main() { in_build::run() }\n"),
            ("b/src/lib.rs", "use elsewhere::go;\n"),
        ];
        for (file, text) in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let paths = files.map(|(file, _)| PathBuf::from(file));
        let expected = ["a/Cargo.toml: elsewhere", "a/Cargo.toml: only-commented", "workspace.dependencies: forgotten"];
        assert_eq!(unused(folder.path(), &paths).unwrap(), expected);
    }
}
