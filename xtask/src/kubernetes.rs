//! `cargo xtask kubernetes`: tests of the Helm chart on a real Kubernetes with one node, on this machine.
//!
//! Kubernetes, CoreDNS, Helm and metrics-server are built from Go modules at pinned versions, and kept in the cache of
//! the user; containerd, runc and the network plugins are packages of Debian.

mod images;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use eticket_local_servers::kubernetes;

use crate::{browser, checkout::Checkout, clients, command, console, image, tools};

const VERSION: &str = "v1.34.4";
const HELM: (&str, &str) = ("helm.sh/helm/v3/cmd/helm", "v3.22.0");
const METRICS_SERVER: (&str, &str) = ("sigs.k8s.io/metrics-server/cmd/metrics-server", "v0.9.0");
/// Packages of Debian. Each has the program after it.
const PACKAGES: [(&str, &str); 5] = [
    ("containerd", "/usr/bin/containerd"),
    ("runc", "/usr/sbin/runc"),
    ("containernetworking-plugins", "/usr/lib/cni/bridge"),
    ("iptables", "/usr/sbin/iptables"),
    ("iproute2", "/usr/sbin/ip"),
];

/// Runs the tests on a cluster of their own: all parts, or those of a slice such as `2/5`. Fails if the machine cannot
/// run one.
pub(crate) fn run(checkout: &Checkout, without_build: bool, slice: Option<String>) -> Result<()> {
    if let Some(obstacle) = obstacle(checkout)? {
        bail!("this machine cannot run a node of Kubernetes: {obstacle}");
    }
    let parts = prepare(checkout, without_build)?;
    let mut test = checkout.cargo();
    test.args(["test", "--workspace", "--locked", "--test", "kubernetes", "--", "--ignored", "--nocapture"]);
    if let Some(slice) = slice {
        test.env("KUBERNETES_SLICE", slice);
    }
    command::run(parts.set(&mut test))
}

/// Returns why this machine cannot run a node, if so. Installs missing packages first where that is possible.
pub(crate) fn obstacle(checkout: &Checkout) -> Result<Option<String>> {
    let missing: Vec<&str> =
        PACKAGES.iter().filter(|(_, file)| !Path::new(file).exists()).map(|(package, _)| *package).collect();
    if !missing.is_empty() && tools::may_install_packages() {
        tools::apt_get(checkout, &missing)?;
    }
    Ok(kubernetes::obstacle())
}

/// What the tests need: programs and images.
struct Parts {
    programs: PathBuf,
    images: PathBuf,
    path: std::ffi::OsString,
}

impl Parts {
    /// Sets the variables of the tests.
    fn set<'c>(&self, test: &'c mut Command) -> &'c mut Command {
        test.env("ETICKET_KUBERNETES", &self.programs).env("ETICKET_IMAGES", &self.images).env("PATH", &self.path)
    }
}

/// Installs and builds what the tests need.
fn prepare(checkout: &Checkout, without_build: bool) -> Result<Parts> {
    tools::postgres(checkout)?;
    let nats_server = tools::nats_server(checkout)?;
    let grpcurl = tools::grpcurl(checkout)?;
    let path = tools::path_with(&nats_server)?;
    let programs = programs(checkout)?;
    let binaries = checkout.target().join("debug");
    if !without_build {
        clients::install(checkout)?;
        console::install(checkout)?;
        browser::install(checkout)?;
        let mut build = checkout.cargo();
        build.args(["build", "--workspace", "--bins", "--tests", "--examples", "--locked"]);
        command::run(&mut build)?;
    }
    let images = checkout.target().join("kubernetes");
    // Images of an earlier run would be loaded too.
    let _ = fs::remove_dir_all(&images);
    let stripped = images.join("stripped");
    fs::create_dir_all(&stripped).with_context(|| format!("cannot create {}", stripped.display()))?;
    // Debug information would make it several times as large.
    let mut strip = checkout.command("strip");
    command::output(strip.arg("--strip-debug").arg(binaries.join("eticket")).arg("-o").arg(stripped.join("eticket")))?;
    image::run(checkout, Some(stripped.clone()), &images)?;
    fs::remove_dir_all(&stripped).with_context(|| format!("cannot remove {}", stripped.display()))?;
    images::write(&images, &images::Sources { programs: &programs, nats_server: &nats_server, grpcurl: &grpcurl })?;
    Ok(Parts { programs, images, path })
}

/// Returns the folder with the programs of Kubernetes; builds them if there is none for these sources.
fn programs(checkout: &Checkout) -> Result<PathBuf> {
    let source = checkout.root().join("integration-tests/kubernetes");
    let mut inputs = format!("{VERSION} {HELM:?} {METRICS_SERVER:?}").into_bytes();
    for file in checkout.files()?.iter().filter(|file| file.starts_with("integration-tests/kubernetes")) {
        if file.extension().is_some_and(|extension| ["go", "mod", "sum"].iter().any(|of_go| extension == *of_go)) {
            inputs.extend(
                fs::read(checkout.root().join(file)).with_context(|| format!("cannot read {}", file.display()))?,
            );
        }
    }
    let folder = cache()?.join(format!("kubernetes-{}", &image::sha256(&inputs)[..16]));
    if folder.is_dir() {
        return Ok(folder);
    }
    command::require("go", "version", "install Go 1.25 or newer, which builds Kubernetes for the tests")?;
    // Renamed once complete, so that an interrupted build leaves no folder that looks complete.
    let partial = folder.with_extension(std::process::id().to_string());
    fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
    let go = || {
        let mut go = checkout.command("go");
        go.env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "auto").current_dir(&source);
        go
    };
    let version = "k8s.io/component-base/version";
    let flags = format!("-s -w -X {version}.gitVersion={VERSION} -X {version}.gitMajor=1 -X {version}.gitMinor=34");
    let mut build = go();
    build.args(["build", "-trimpath", "-ldflags", &flags, "-o"]).arg(&partial);
    command::run(build.args(["./node", "./dns", "./volumes", "./policies"]))?;
    command::run(go().args(["test", "-trimpath", "./policies"]))?;
    for (package, version) in [HELM, METRICS_SERVER] {
        let mut install = go();
        install.args(["install", "-trimpath", "-ldflags", "-s -w"]).arg(format!("{package}@{version}"));
        command::run(install.env("GOBIN", &partial))?;
    }
    // Another run may have built it meanwhile.
    if let Err(error) = fs::rename(&partial, &folder)
        && !folder.is_dir()
    {
        return Err(error).with_context(|| format!("cannot create {}", folder.display()));
    }
    Ok(folder)
}

/// The folder of files that outlive a checkout.
fn cache() -> Result<PathBuf> {
    let own = env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let of_user = || Some(PathBuf::from(env::var_os("HOME")?).join(".cache"));
    Ok(own.or_else(of_user).context("set HOME or XDG_CACHE_HOME")?.join("eticket"))
}
