//! The protobuf contract: buf's rules, and that it is compatible with the released one.
//!
//! `proto/released.binpb` holds the descriptors of the last release. It is committed, so that a shallow clone and a source archive can
//! be checked too.

mod api;
mod archive;
mod descriptors;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{checkout::Checkout, command, tools};

/// What `go_package` begins with. It is nobody's domain: who generates for Go replaces it, or the module, by one of their own.
const GO_PACKAGES: &str = "eticket.example/go";

/// The descriptors of the last release, in the folder of the contract.
const RELEASED: &str = "released.binpb";

/// The reference of the API, in the root of the checkout.
const API: &str = "docs/api.md";

/// Checks the contract of this checkout.
pub(crate) fn check(checkout: &Checkout) -> Result<()> {
    let buf = Buf { program: &tools::buf(checkout)?, folder: &checkout.root().join("proto") };
    buf.lint()?;
    buf.options()?;
    buf.breaking()?;
    let page = fs::read_to_string(checkout.root().join(API)).with_context(|| format!("cannot read {API}"))?;
    ensure!(page == buf.api()?, "{API} is not what the protos say: run `cargo xtask contract --docs`");
    Ok(())
}

/// Writes the reference of the API.
pub(crate) fn docs(checkout: &Checkout) -> Result<()> {
    let buf = Buf { program: &tools::buf(checkout)?, folder: &checkout.root().join("proto") };
    fs::write(checkout.root().join(API), buf.api()?).with_context(|| format!("cannot write {API}"))
}

/// Writes the archive of a release into a folder, and prints its path.
pub(crate) fn archive(checkout: &Checkout, output: &Path) -> Result<()> {
    let buf = Buf { program: &tools::buf(checkout)?, folder: &checkout.root().join("proto") };
    let root = concat!("eticket-contract-", env!("CARGO_PKG_VERSION"));
    let archive = output.join(format!("{root}.tar.gz"));
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let image = folder.path().join("eticket.binpb");
    buf.run(&["build", "--as-file-descriptor-set", "--output", utf8(&image)?])?;
    let [image, license] = [image, checkout.root().join("LICENSE")]
        .map(|file| fs::read(&file).with_context(|| format!("cannot read {}", file.display())));
    archive::write(buf.folder, &image?, &license?, root, &archive)?;
    println!("{}", archive.display());
    Ok(())
}

/// Makes the contract of this checkout the released one, unless a client of the previous release could not use it.
pub(crate) fn update(checkout: &Checkout) -> Result<()> {
    let buf = Buf { program: &tools::buf(checkout)?, folder: &checkout.root().join("proto") };
    buf.lint()?;
    buf.options()?;
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

    /// Checks that the file options are those that buf's managed mode sets. The stubs for TypeScript contain the options of their file, so
    /// both ways must generate the same.
    fn options(&self) -> Result<()> {
        let plugin = self.program.with_file_name("protoc-gen-es");
        let plugins = format!(r#"[{{"local": ["{}"], "out": ".", "opt": ["target=js"]}}]"#, utf8(&plugin)?);
        let written = self.generate(&plugins, r#"{"enabled": false}"#)?;
        // Two packages would have the same prefix for Objective-C.
        let managed = self.generate(
            &plugins,
            &format!(
                r#"{{"enabled": true, "disable": [{{"file_option": "objc_class_prefix"}}],
                    "override": [{{"file_option": "go_package_prefix", "value": "{GO_PACKAGES}"}}]}}"#
            ),
        )?;
        let differing: Vec<_> =
            managed.iter().filter(|file| !written.contains(file)).map(|(name, _)| name.display().to_string()).collect();
        ensure!(
            !managed.is_empty() && differing.is_empty(),
            "the file options are not those of managed mode (`option go_package` and so on), as in the stubs {}",
            differing.join(", ")
        );
        Ok(())
    }

    /// Generates from the contract and returns the files.
    fn generate(&self, plugins: &str, managed: &str) -> Result<Vec<(PathBuf, Vec<u8>)>> {
        let folder = tempfile::tempdir().context("cannot make a folder")?;
        let template = format!(
            r#"{{"version": "v2", "inputs": [{{"directory": ".", "paths": ["eticket"]}}], "plugins": {plugins}, "managed": {managed}}}"#
        );
        self.run(&["generate", "--template", &template, "--output", utf8(folder.path())?])?;
        files_below(folder.path())
    }

    /// Returns the reference of the API.
    fn api(&self) -> Result<String> {
        let folder = tempfile::tempdir().context("cannot make a folder")?;
        let image = folder.path().join("image.json");
        self.run(&["build", "--path", "eticket", "--output", utf8(&image)?])?;
        let image = fs::read(&image).with_context(|| format!("cannot read {}", image.display()))?;
        api::page(&serde_json::from_slice(&image).context("buf writes descriptors as JSON")?)
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

/// Returns the files in a folder and in those in it, by their path below the folder.
fn files_below(folder: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(inside) = folders.pop() {
        for entry in fs::read_dir(&inside).with_context(|| format!("cannot read {}", inside.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                files.push((path.strip_prefix(folder)?.to_owned(), content));
            }
        }
    }
    files.sort();
    Ok(files)
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

#[cfg(test)]
mod tests {
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

    #[test]
    #[ignore = "needs buf: cargo xtask test installs it"]
    fn another_file_option_than_that_of_managed_mode_is_refused() {
        let copy = Copy::new();
        copy.buf().options().unwrap();
        copy.remove("eticket/ticket/v1/ticket.proto", "option java_multiple_files = true;\n");
        let refused = copy.buf().options().unwrap_err().to_string();
        assert!(refused.contains("ticket_pb.js") && !refused.contains("query_pb.js"), "{refused}");
        // A change of the option would move the classes of the clients.
        let refused = copy.buf().breaking().unwrap_err().to_string();
        assert!(refused.contains("java_multiple_files"), "{refused}");
    }

    #[test]
    #[ignore = "needs buf: cargo xtask test installs it"]
    fn the_reference_follows_the_comments_and_options() {
        let copy = Copy::new();
        let page = copy.buf().api().unwrap();
        for part in [
            "| ReservationService.[CancelReservation](#cancelreservation) | `POST /v1/reservations/{reservation_id}:cancel` | role `user` or `admin` |",
            "| `views` | repeated [TicketView](#ticketview) | The views of this page.",
            "| `revisions` | [TicketView.Revisions](#ticketviewrevisions) |",
            "Response, a stream of `WatchTicketViewsResponse`:",
            "| `percent` | int32 | One of `discount`. A percentage,",
        ] {
            assert!(page.contains(part), "{part} is missing");
        }
        copy.remove("eticket/ticket/v1/ticket.proto", "  // Returns one ticket. For everyone.\n");
        assert_ne!(copy.buf().api().unwrap(), page);
    }

    /// Of the plugins in buf.gen.yaml those for Go, which are also run by protoc, with options of its command line.
    #[test]
    #[ignore = "needs buf and the stubs for Go: cargo xtask test makes them"]
    fn the_template_generates_what_protoc_does() {
        let checkout = Checkout::find().unwrap();
        let copy = Copy::new();
        let template = fs::read_to_string(copy.folder.path().join("buf.gen.yaml")).unwrap();
        let (head, plugins) = template.split_once("plugins:\n").unwrap();
        let plugins: Vec<_> = plugins.split_inclusive('\n').collect();
        let plugins = plugins.chunk_by(|_, next| !next.starts_with("  - ")).map(<[&str]>::concat);
        let for_go: String = plugins.filter(|plugin| plugin.contains("out: gen/go")).collect();
        fs::write(copy.folder.path().join("buf.gen.yaml"), format!("{head}plugins:\n{for_go}")).unwrap();
        let mut generate = Command::new(&copy.program);
        generate.arg("generate").current_dir(copy.folder.path());
        generate.env("PATH", tools::path_with(&checkout.tools().join("bin/protoc-gen-go")).unwrap());
        command::output(&mut generate).unwrap();

        // The first lines name the version of protoc, which buf does not have.
        let code = |file: &[u8]| {
            let text = String::from_utf8(file.to_vec()).unwrap();
            text.lines().filter(|line| !line.starts_with("// ")).map(str::to_owned).collect::<Vec<_>>()
        };
        let by_buf = files_below(&copy.folder.path().join("gen/go")).unwrap();
        let by_protoc = files_below(&checkout.root().join("integration-tests/clients/go/gen/eticket")).unwrap();
        assert!(by_protoc.len() > 5, "{} files", by_protoc.len());
        for (name, content) in by_protoc {
            let name = Path::new("eticket").join(name);
            let (_, other) = by_buf.iter().find(|(other, _)| *other == name).unwrap();
            assert_eq!(code(other), code(&content), "{}", name.display());
        }
    }
}
