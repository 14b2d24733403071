//! `cargo xtask release`: checks that a commit can be released, and makes the files of the release.
//!
//! A release is a tag `v<version>` on a commit whose workspace, chart and changelog have that version. The workflow
//! `release` runs this task for each platform.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{
    checkout::Checkout,
    command, contract, image,
    tarball::{self, Entry},
};

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Lists the checksums of all other files of a release, in the form of `sha256sum --check`.
const SUMS: &str = "SHA256SUMS";

/// A file of a release, or several that one command makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// The program for the platform of this machine
    Program,
    /// The container image and its bill of materials; on Linux
    Image,
    /// The protos, their descriptors and the service config
    Contract,
    /// The Helm chart
    Chart,
}

impl Part {
    /// What the part is, and the names of its files.
    fn describe(self) -> (String, &'static str) {
        let platform = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
        match self {
            Self::Program => {
                (format!("eticket-{VERSION}-{platform}.tar.gz"), "the program, README, LICENSE, CHANGELOG")
            }
            Self::Image => (format!("eticket-{VERSION}-<architecture>.tar, .sbom.cdx.json"), "the image and its SBOM"),
            Self::Contract => (format!("eticket-contract-{VERSION}.tar.gz"), "protos, descriptors, service config"),
            Self::Chart => (format!("eticket-chart-{VERSION}.tgz"), "the Helm chart"),
        }
    }
}

/// Checks the commit, and makes the parts unless `dry_run` is set. With `only` empty, all parts.
pub(crate) fn run(checkout: &Checkout, dry_run: bool, only: &[Part]) -> Result<()> {
    let folder = checkout.target().join(format!("release-{VERSION}"));
    let parts: &[Part] = if only.is_empty() { Part::value_variants() } else { only };
    let wrong = problems(&State::read(checkout)?);
    let commit = command::output(checkout.command("git").args(["rev-parse", "HEAD"]))?;
    print!("{}", plan(commit.trim(), &wrong, parts, &folder));
    if !wrong.is_empty() {
        bail!("this commit cannot be released as {VERSION}");
    }
    if dry_run {
        return Ok(());
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for part in parts {
        make(checkout, *part, &folder)?;
    }
    let sums = sums(&folder)?;
    print!("{sums}");
    fs::write(folder.join(SUMS), sums).with_context(|| format!("cannot write {SUMS}"))
}

/// What must fit together for a release.
struct State {
    /// Files that are not committed.
    changed: Vec<String>,
    /// The tags of the commit.
    tags: Vec<String>,
    changelog: String,
    chart: String,
}

impl State {
    fn read(checkout: &Checkout) -> Result<Self> {
        let lines = |arguments: &[&str]| -> Result<Vec<String>> {
            let output = command::output(checkout.command("git").args(arguments))?;
            Ok(output.lines().map(|line| line.trim().to_owned()).collect())
        };
        let text = |path: &str| fs::read_to_string(checkout.root().join(path)).with_context(|| format!("no {path}"));
        Ok(Self {
            changed: lines(&["status", "--short"])?,
            tags: lines(&["tag", "--points-at", "HEAD"])?,
            changelog: text("CHANGELOG.md")?,
            chart: text("charts/eticket/Chart.yaml")?,
        })
    }
}

/// Returns what prevents a release, each with what to do.
fn problems(state: &State) -> Vec<String> {
    let mut wrong = Vec::new();
    if !state.changed.is_empty() {
        wrong.push(format!("{} files are not committed: commit or remove them", state.changed.len()));
    }
    let tag = format!("v{VERSION}");
    if !state.tags.contains(&tag) {
        wrong.push(format!("the commit has no tag {tag}: `git tag --annotate {tag}`"));
    }
    let section =
        |line: &str| line.strip_prefix("## ").is_some_and(|title| title.split([' ', ',']).next() == Some(VERSION));
    if !state.changelog.lines().any(section) {
        wrong.push(format!("CHANGELOG.md has no section \"## {VERSION}\": rename \"Unreleased\""));
    }
    let app_version = state.chart.lines().find_map(|line| line.strip_prefix("appVersion:"));
    if app_version.map(|version| version.trim().trim_matches('"')) != Some(VERSION) {
        wrong.push(format!("appVersion in charts/eticket/Chart.yaml is not \"{VERSION}\""));
    }
    wrong
}

/// Returns what the release would be, for people.
fn plan(commit: &str, wrong: &[String], parts: &[Part], folder: &Path) -> String {
    let mut text = format!("release {VERSION} of commit {commit}\n");
    for problem in wrong {
        let _ = writeln!(text, "  FAIL  {problem}");
    }
    if wrong.is_empty() {
        text.push_str("  ok    tag, changelog and chart have this version, and everything is committed\n");
    }
    let _ = writeln!(text, "files in {}", folder.display());
    for part in parts {
        let (names, what) = part.describe();
        let _ = writeln!(text, "  {names:<52}{what}");
    }
    let _ = writeln!(text, "  {SUMS:<52}their checksums");
    text
}

fn make(checkout: &Checkout, part: Part, folder: &Path) -> Result<()> {
    let (name, _) = part.describe();
    match part {
        Part::Program => tarball::write(program(checkout)?, &format!("eticket-{VERSION}"), &folder.join(name)),
        Part::Image => image::run(checkout, None, folder),
        Part::Contract => contract::archive(checkout, folder),
        Part::Chart => tarball::write(chart(checkout)?, "eticket", &folder.join(name)),
    }
}

fn program(checkout: &Checkout) -> Result<Vec<Entry>> {
    let built = image::build(checkout)?.join("eticket");
    let mut entries = vec![Entry::program("eticket", read(&built)?)];
    for name in ["README.md", "LICENSE", "CHANGELOG.md", "UPGRADING.md"] {
        entries.push(Entry::file(name, read(&checkout.root().join(name))?));
    }
    Ok(entries)
}

/// The files of the chart. Helm accepts the archive as the output of `helm package`.
fn chart(checkout: &Checkout) -> Result<Vec<Entry>> {
    let folder = Path::new("charts/eticket");
    let files = checkout.files()?.into_iter();
    let below = files.filter_map(|file| Some((file.strip_prefix(folder).ok()?.to_owned(), file)));
    below.map(|(name, file)| Ok(Entry::file(name, read(&checkout.root().join(file))?))).collect()
}

/// Returns the checksums of all files in a folder, sorted by name.
fn sums(folder: &Path) -> Result<String> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|file| !file.ends_with(SUMS));
    files.sort();
    files.iter().try_fold(String::new(), |mut sums, file| {
        let name = file.file_name().context("a file has a name")?.to_string_lossy();
        let _ = writeln!(sums, "{}  {name}", image::sha256(&read(file)?));
        Ok(sums)
    })
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready() -> State {
        State {
            changed: Vec::new(),
            tags: vec!["latest".to_owned(), format!("v{VERSION}")],
            changelog: format!("# Changelog\n\n## {VERSION}, 2030-01-02\n"),
            chart: format!("version: 9.9.9\nappVersion: \"{VERSION}\"\n"),
        }
    }

    #[test]
    fn each_mismatch_prevents_a_release() {
        assert_eq!(problems(&ready()), Vec::<String>::new());
        let only = |state: State, part: &str| {
            let wrong = problems(&state);
            assert!(wrong.len() == 1 && wrong[0].contains(part), "{part}: {wrong:?}");
        };
        only(State { changed: vec![" M a".to_owned()], ..ready() }, "not committed");
        only(State { tags: vec!["v0.0.1".to_owned()], ..ready() }, "no tag");
        only(State { changelog: format!("## Unreleased\n## {VERSION}1\n"), ..ready() }, "CHANGELOG.md");
        only(State { chart: "appVersion: \"0.0.1\"\n".to_owned(), ..ready() }, "appVersion");
    }

    #[test]
    fn checksums_are_those_that_sha256sum_checks() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("b"), "abc").unwrap();
        fs::write(folder.path().join("a"), "").unwrap();
        fs::write(folder.path().join(SUMS), "of an earlier run").unwrap();
        let expected = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  a\n\
                        ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  b\n";
        assert_eq!(sums(folder.path()).unwrap(), expected);
    }

    #[test]
    fn the_chart_and_the_plan_are_complete() {
        let checkout = Checkout::find().unwrap();
        let names: Vec<_> = chart(&checkout).unwrap().into_iter().map(|entry| entry.path).collect();
        for name in ["Chart.yaml", "values.yaml", "values.schema.json", "templates/_helpers.tpl"] {
            assert!(names.contains(&PathBuf::from(name)), "{name}: {names:?}");
        }
        let shown = plan("abc", &["a tag".to_owned()], Part::value_variants(), Path::new("target/release-1"));
        for part in ["FAIL  a tag", "contract", "sbom", ".tgz", SUMS] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }
}
