//! The container image: the digests of its archive, and its program with the files of the image only, without a
//! container engine.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use chrono::Weekday;
use eticket_integration_tests::{
    Api, Protocol,
    binary::{binary, root},
    calendar,
    process::Launch,
};
use serde_json::Value;
use tempfile::TempDir;

/// The user of the image.
const USER: &str = "10001";

fn run(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
}

/// Returns the blob of a descriptor, after a check of its digest and size.
fn blob(archive: &Path, descriptor: &Value) -> PathBuf {
    let digest = descriptor["digest"].as_str().expect("a digest").strip_prefix("sha256:").expect("SHA-256");
    let path = archive.join("blobs/sha256").join(digest);
    let sum = run(Command::new("sha256sum").arg(&path));
    assert_eq!(sum.split_whitespace().next(), Some(digest));
    assert_eq!(Some(fs::metadata(&path).expect("a file").len()), descriptor["size"].as_u64());
    path
}

/// Makes the image and unpacks it; returns its root file system and its configuration.
fn unpacked(folder: &Path) -> (PathBuf, Value) {
    let [binaries, output, archive, image] = ["binaries", "output", "archive", "image"].map(|name| folder.join(name));
    for folder in [&binaries, &archive, &image] {
        fs::create_dir(folder).expect("a folder");
    }
    // Debug information would make it several times as large.
    run(Command::new("strip").arg("--strip-debug").arg(binary("eticket")).arg("-o").arg(binaries.join("eticket")));
    let mut make = Command::new(binary("xtask"));
    make.env("CARGO_MANIFEST_DIR", root().join("xtask")).arg("image").arg("--binaries").arg(&binaries);
    let printed = run(make.arg("--output").arg(&output));
    let tar = printed.lines().find_map(|line| line.split_whitespace().nth(1).filter(|path| path.ends_with(".tar")));
    let tar = tar.expect("the path of the archive");
    run(Command::new("tar").arg("-xf").arg(tar).arg("-C").arg(&archive));
    assert_eq!(json(&archive.join("oci-layout"))["imageLayoutVersion"], "1.0.0");
    let manifest = json(&blob(&archive, &json(&archive.join("index.json"))["manifests"][0]));
    let config = json(&blob(&archive, &manifest["config"]));
    let layers = manifest["layers"].as_array().expect("layers");
    assert_eq!(config["rootfs"]["diff_ids"].as_array().map(Vec::len), Some(layers.len()));
    for (layer, digest) in layers.iter().zip(config["rootfs"]["diff_ids"].as_array().expect("digests")) {
        let layer = blob(&archive, layer);
        let sum = run(Command::new("sh").arg("-c").arg("gzip -dc \"$0\" | sha256sum").arg(&layer));
        assert_eq!(sum.split_whitespace().next(), digest.as_str().and_then(|digest| digest.strip_prefix("sha256:")));
        run(Command::new("tar").arg("-xzf").arg(&layer).arg("-C").arg(&image));
    }
    (image, config)
}

/// A command line that runs a program of the image with its root file system, and as its user if the test may do that.
fn within(image: &Path, command: &str) -> String {
    let image = image.to_str().expect("test folders are UTF-8");
    if rustix::process::geteuid().is_root() {
        format!("chroot --userspec={USER}:{USER} {image} {command}")
    } else {
        format!("unshare --map-root-user chroot {image} {command}")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root or user namespaces, for chroot: cargo xtask test"]
async fn the_program_runs_with_the_files_of_the_image_only() {
    let folder = TempDir::new().expect("a folder");
    let (image, config) = unpacked(folder.path());
    assert_eq!((&config["config"]["User"], &config["config"]["Cmd"][0]), (&USER.into(), &"eticket".into()));
    let labels = &config["config"]["Labels"];
    assert_eq!(labels["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(labels["org.opencontainers.image.revision"].as_str().map(str::len), Some(40));
    assert!(!image.join("bin/sh").exists() && !image.join("usr/bin").exists(), "no shell");

    for server in ["ticket", "reservation", "pricing", "query", "gateway"] {
        let program = format!("/usr/local/bin/eticket-{server}");
        let exit = Launch::as_shown(&within(&image, &format!("{program} --version"))).run().await;
        let version = format!("eticket-{server} {}", env!("CARGO_PKG_VERSION"));
        assert_eq!((exit.code, exit.output.trim()), (Some(0), version.as_str()), "{}", exit.log);
    }
    // An engine provides this file.
    fs::write(image.join("etc/hosts"), "127.0.0.1 localhost\n").expect("written");
    let eticket = Launch::as_shown(&within(&image, "/usr/local/bin/eticket --data /data")).on_free_ports();
    let eticket = eticket.start().await;
    let api = Api::new(&eticket, Protocol::Gateway);
    let registered = api.register("t", calendar::upcoming(Weekday::Wed)).await.expect("registered");
    api.settled("t", &registered.consistency_token).await;
    let port = eticket.address("gateway").rsplit(':').next().expect("a port");
    let call = within(&image, &format!("/usr/local/bin/eticket view t --address localhost:{port}"));
    let exit = Launch::as_shown(&call).run().await;
    assert_eq!(exit.code, Some(0), "a name is resolved: {exit:?}");
    let exit = eticket.stop().await;
    assert_eq!(exit.code, Some(0), "{}", exit.log);
    let sbom = json(&image.join("usr/share/doc/eticket/sbom.cdx.json"));
    let components = sbom["components"].as_array().expect("a list");
    let lists = |name: &str| components.iter().any(|component| component["name"] == name);
    assert!(lists("tonic") && lists("sqlx") && !lists("proptest"), "what the program is built from");
}
