//! `cargo xtask image`: the container image as an OCI archive, made without a container engine.
//!
//! The image has one program, `eticket`, and a link to it under the name of each server; the program looks at the name
//! that it is started by. Besides it there are the shared libraries that the program needs, and no shell. The archive
//! depends only on the binary, the libraries and the commit: the same input makes the same bytes.

pub(crate) mod oci;
pub(crate) mod root;
mod sbom;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::{checkout::Checkout, command};

/// Limit of the size of the unpacked image.
const MOST: u64 = 60 * 1024 * 1024;
/// The user of the processes, as in the Dockerfile and the chart.
const USER: u64 = 10001;

/// Builds the binary in the profile `dist`, unless a folder with it is given, and writes archive and SBOM into a folder.
pub(crate) fn run(checkout: &Checkout, binaries: Option<PathBuf>, output: &Path) -> Result<()> {
    // Given binaries may be larger, with debug information.
    let (binaries, most) = match binaries {
        Some(folder) => (folder, u64::MAX),
        None => (build(checkout)?, MOST),
    };
    let version = env!("CARGO_PKG_VERSION");
    let commit = command::output(checkout.command("git").args(["log", "-1", "--format=%H %cI"]))?;
    let (revision, created) = commit.trim().split_once(' ').context("git prints a hash and a time")?;
    let sbom = sbom::of_program(checkout, version)?;
    let layers = root::layers(&binaries.join("eticket"), &sbom)?;
    let unpacked: u64 = layers.iter().map(root::Layer::size).sum();
    ensure!(unpacked <= most, "the image has {} MiB, more than {}", unpacked >> 20, most >> 20);

    fs::create_dir_all(output).with_context(|| format!("cannot create {}", output.display()))?;
    let name = format!("eticket-{version}-{}", oci::architecture()?);
    let image = oci::Image {
        name: "docker.io/library/eticket",
        tag: version,
        user: USER,
        folder: "/data",
        path: "/usr/local/bin",
        entrypoint: &[],
        command: &["eticket"],
        labels: json!({
            "org.opencontainers.image.title": "eticket",
            "org.opencontainers.image.description": "Reserves tickets: a gRPC service mesh with a gateway",
            "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
            "org.opencontainers.image.version": version,
            "org.opencontainers.image.revision": revision,
            "org.opencontainers.image.created": created,
        }),
        created,
    };
    let archive = oci::archive(&layers, &image)?;
    for (ending, content) in [("tar", &archive), ("sbom.cdx.json", &sbom)] {
        let path = output.join(format!("{name}.{ending}"));
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}  {}", oci::sha256(content), path.display());
    }
    println!("unpacked {:.1} MiB, archive {:.1} MiB", mebibytes(unpacked), mebibytes(archive.len() as u64));
    println!("load it with `docker load --input` (25 or newer), `podman load --input` or `ctr images import`");
    Ok(())
}

pub(crate) fn sha256(content: &[u8]) -> String {
    oci::sha256(content)
}

fn mebibytes(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let bytes = bytes as f64;
    bytes / f64::from(1 << 20)
}

/// Builds in a folder of its own: other flags would make cargo build everything again in the usual one. Paths of this
/// machine are left out of the binary.
pub(crate) fn build(checkout: &Checkout) -> Result<PathBuf> {
    let target = checkout.target().join("image");
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let home = home.context("neither CARGO_HOME nor HOME is set")?;
    let mut build = checkout.cargo();
    build.args(["build", "--profile", "dist", "--locked", "--package", "eticket"]);
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    build.env("CARGO_ENCODED_RUSTFLAGS", [remap(checkout.root(), "/source"), remap(&home, "/cargo")].join("\u{1f}"));
    build.env("CARGO_TARGET_DIR", &target);
    command::run(&mut build)?;
    Ok(target.join("dist"))
}
