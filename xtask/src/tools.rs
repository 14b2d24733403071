//! Tools that are installed once, with pinned versions, into the target folder or `node_modules`.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{checkout::Checkout, command};

const ACTIONLINT: &str = "v1.7.12";
const CARGO_DENY: &str = "0.20.2";
/// An older version has nearly the same cases, and takes ten times as long.
const CONFORMANCE: &str = "v1.0.7";
/// The path of Debian's package.
const CHROMIUM: &str = "/usr/bin/chromium";
const GRPCURL: &str = "v1.9.4";
const NATS_SERVER: &str = "v2.12.3";
const OPENAPI: &str = "v2.33.0";
const ZIZMOR: &str = "1.32.0";

/// Returns cargo-deny, and builds it if it is missing, which takes some minutes.
pub(crate) fn cargo_deny(checkout: &Checkout) -> Result<PathBuf> {
    let program = checkout.tools().join("bin/cargo-deny");
    let wanted = format!("cargo-deny {CARGO_DENY}");
    if program.is_file() && command::output(checkout.command(path(&program)?).arg("--version"))?.trim() == wanted {
        return Ok(program);
    }
    // Without optimization: the program runs for less than a second, and its build would take minutes.
    let mut install = checkout.cargo();
    install.env("CARGO_PROFILE_DEV_DEBUG", "false");
    install.args(["install", "--debug", "--locked", "--quiet", "--force"]);
    install.args(["cargo-deny", "--version", CARGO_DENY, "--root"]);
    command::run(install.arg(checkout.tools()))?;
    Ok(program)
}

/// Returns buf in the version of `proto/package-lock.json`.
pub(crate) fn buf(checkout: &Checkout) -> Result<PathBuf> {
    let folder = checkout.root().join("proto");
    let program = folder.join("node_modules/.bin/buf");
    npm_ci(checkout, &folder, "it installs buf")?;
    Ok(program)
}

/// Installs the packages of a package-lock.json into the `node_modules` beside it.
pub(crate) fn npm_ci(checkout: &Checkout, folder: &Path, why: &str) -> Result<()> {
    // npm writes this file when it installs; a newer lock file requires another installation.
    let installed = modified(&folder.join("node_modules/.package-lock.json"));
    if installed.is_some() && installed >= modified(&folder.join("package-lock.json")) {
        return Ok(());
    }
    command::require("npm", "--version", &format!("install Node.js 20 or newer, which includes npm: {why}"))?;
    command::run(checkout.command("npm").args(["ci", "--no-progress"]).current_dir(folder))
}

/// Returns grpcurl, for tests that use the system through it.
pub(crate) fn grpcurl(checkout: &Checkout) -> Result<PathBuf> {
    go_install(checkout, "grpcurl", "github.com/fullstorydev/grpcurl/cmd/grpcurl", GRPCURL)
}

/// Returns connectconformance, the conformance suite of Connect.
pub(crate) fn connectconformance(checkout: &Checkout) -> Result<PathBuf> {
    go_install(checkout, "connectconformance", "connectrpc.com/conformance/cmd/connectconformance", CONFORMANCE)
}

/// Returns actionlint, for the workflows of the pipeline.
pub(crate) fn actionlint(checkout: &Checkout) -> Result<PathBuf> {
    go_install(checkout, "actionlint", "github.com/rhysd/actionlint/cmd/actionlint", ACTIONLINT)
}

/// Returns the plugin of buf that generates OpenAPI documents.
pub(crate) fn openapi(checkout: &Checkout) -> Result<PathBuf> {
    let package = "github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-openapiv3";
    go_install(checkout, "protoc-gen-openapiv3", package, OPENAPI)
}

/// Returns nats-server; Debian's version is too old.
pub(crate) fn nats_server(checkout: &Checkout) -> Result<PathBuf> {
    go_install(checkout, "nats-server", "github.com/nats-io/nats-server/v2", NATS_SERVER)
}

/// Returns promtool, for the tests of alerts and of the dashboard: one that is installed, else the one of Debian's package `prometheus`, which is
/// unpacked and not installed, because it would start a server.
pub(crate) fn promtool(checkout: &Checkout) -> Result<PathBuf> {
    const NAME: &str = "promtool";
    if command::require(NAME, "--version", "").is_ok() {
        return Ok(PathBuf::from(NAME));
    }
    let program = checkout.tools().join("bin").join(NAME);
    if program.is_file() {
        return Ok(program);
    }
    if !Path::new("/usr/bin/apt-get").is_file() {
        bail!("promtool is missing: install Prometheus 2.42 or newer (on Debian: apt-get install prometheus)");
    }
    let folder = checkout.tools().join("prometheus");
    // Files of an interrupted run would be unpacked too.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    if may_install_packages() {
        command::run(checkout.command("apt-get").args(["update", "--quiet"]))?;
    }
    // As root, apt would download as another user, who may not be able to write here.
    let download = ["download", "--quiet", "--option", "APT::Sandbox::User=root", "prometheus"];
    command::run(checkout.command("apt-get").args(download).current_dir(&folder))?;
    let files = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let package = files.filter_map(Result::ok).map(|file| file.path()).find(|file| file.extension().is_some());
    let package = package.context("apt-get has downloaded no package")?;
    command::run(checkout.command("dpkg-deb").arg("--extract").arg(package).arg(&folder))?;
    fs::create_dir_all(checkout.tools().join("bin")).context("cannot make the folder of tools")?;
    fs::copy(folder.join("usr/bin/promtool"), &program).context("the package prometheus has no promtool")?;
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    Ok(program)
}

/// Returns zizmor, which looks for weaknesses of workflows.
pub(crate) fn zizmor(checkout: &Checkout) -> Result<PathBuf> {
    let advice = "install Python 3.10 or newer with its venv module (on Debian: apt-get install python3-venv)";
    let environment = checkout.tools().join(format!("zizmor-{ZIZMOR}"));
    let program = environment.join("bin/zizmor");
    if program.is_file() {
        return Ok(program);
    }
    command::require("python3", "--version", advice)?;
    command::run(checkout.command("python3").args(["-m", "venv", "--clear"]).arg(&environment)).context(advice)?;
    let mut pip = checkout.command(path(&environment.join("bin/python"))?);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]);
    command::run(pip.arg(format!("zizmor=={ZIZMOR}")))?;
    Ok(program)
}

/// Returns the search path with the folder of this tool first.
pub(crate) fn path_with(tool: &Path) -> Result<OsString> {
    let bin = tool.parent().context("a program is in a folder")?.to_owned();
    let rest = env::var_os("PATH").unwrap_or_default();
    Ok(env::join_paths(std::iter::once(bin).chain(env::split_paths(&rest)))?)
}

/// Returns a program built by `go install`.
fn go_install(checkout: &Checkout, name: &str, package: &str, version: &str) -> Result<PathBuf> {
    let bin = checkout.tools().join("bin");
    let program = bin.join(name);
    // Programs built by `go install` do not always report their version, so it is stored in a file.
    let note = checkout.tools().join(format!("{name}.version"));
    if program.is_file() && fs::read_to_string(&note).is_ok_and(|noted| noted == version) {
        return Ok(program);
    }
    command::require("go", "version", &format!("install Go 1.25 or newer, which builds {name}"))?;
    fs::create_dir_all(&bin).with_context(|| format!("cannot create {}", bin.display()))?;
    let mut install = checkout.command("go");
    install.arg("install").arg(format!("{package}@{version}"));
    // A tool may need a newer Go than the installed one, which then downloads it; some distributions turn that off.
    command::run(install.env("GOBIN", &bin).env("GOTOOLCHAIN", "auto"))?;
    fs::write(&note, version).with_context(|| format!("cannot write {}", note.display()))?;
    Ok(program)
}

/// Ensures that the PostgreSQL server programs are installed; installs Debian's package if possible.
pub(crate) fn postgres(checkout: &Checkout) -> Result<()> {
    if eticket_local_servers::postgres::installed() {
        return Ok(());
    }
    if !may_install_packages() {
        bail!("PostgreSQL 15 or newer is missing: install it (on Debian: apt-get install postgresql)");
    }
    apt_get(checkout, &["postgresql", "postgresql-contrib"])
}

/// Ensures that Chromium is installed; installs Debian's package if possible.
pub(crate) fn chromium(checkout: &Checkout) -> Result<()> {
    if Path::new(CHROMIUM).is_file() {
        return Ok(());
    }
    // Without fonts, Korean text would have no width.
    let packages = ["chromium", "fonts-noto-cjk", "fonts-noto-core"];
    if !may_install_packages() {
        bail!("Chromium is missing: install it as {CHROMIUM} (on Debian: apt-get install {})", packages.join(" "));
    }
    apt_get(checkout, &packages)
}

/// Whether this is Debian and the user is root.
pub(crate) fn may_install_packages() -> bool {
    PathBuf::from("/usr/bin/apt-get").is_file() && eticket_local_servers::postgres::runs_as_root()
}

/// Installs Debian packages.
pub(crate) fn apt_get(checkout: &Checkout, packages: &[&str]) -> Result<()> {
    let mut update = checkout.command("apt-get");
    command::run(update.args(["update", "--quiet"]))?;
    let mut install = checkout.command("apt-get");
    install.args(["install", "--quiet", "--yes", "--no-install-recommends"]).args(packages);
    command::run(install.env("DEBIAN_FRONTEND", "noninteractive"))
}

pub(crate) fn modified(file: &Path) -> Option<std::time::SystemTime> {
    fs::metadata(file).and_then(|metadata| metadata.modified()).ok()
}

fn path(program: &Path) -> Result<&str> {
    program.to_str().with_context(|| format!("{} is not UTF-8", program.display()))
}
