//! gRPC clients in four languages for the tests: generated from the protos, built and checked, with pinned versions of all
//! dependencies.
//!
//! The programs are in the `bin` folder of the tools: `eticket-stub-go`, `eticket-stub-python`, `eticket-stub-java`,
//! `eticket-stub-node`, and `eticket-caller` and `eticket-oracle`, which are also in Go.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result, anyhow};

use crate::{checkout::Checkout, command, tools};

/// The packages that the clients use: the services that they call, and what these import.
const PACKAGES: [&str; 5] = ["authorization", "ticket", "reservation", "pricing", "query"];
/// The module of the generated Go packages, as in `option go_package`.
const GO_MODULE: &str = "eticket.example/go";

/// Installs missing dependencies, builds changed clients, and runs the tests of their interceptors. The languages run in parallel, because each waits for a
/// package registry.
pub(crate) fn install(checkout: &Checkout) -> Result<()> {
    let bin = bin(checkout);
    fs::create_dir_all(&bin).with_context(|| format!("cannot create {}", bin.display()))?;
    thread::scope(|scope| {
        let others = [scope.spawn(|| java(checkout)), scope.spawn(|| node(checkout))];
        // The Python package of the gRPC tools contains the protobuf compiler that Go needs as well.
        let first = python(checkout).and_then(|()| go(checkout));
        let outcomes = others.map(|other| other.join().unwrap_or_else(|_| Err(anyhow!("a thread has panicked"))));
        outcomes.into_iter().fold(first, Result::and)
    })
}

fn python(checkout: &Checkout) -> Result<()> {
    let advice = "install Python 3.10 or newer with its venv module (on Debian: apt-get install python3-venv)";
    let source = folder(checkout, "python");
    let requirements = source.join("requirements.txt");
    let wanted = fs::read_to_string(&requirements).context("cannot read Python's requirements.txt")?;
    let environment = python_environment(checkout);
    let note = environment.join("requirements.txt");
    if fs::read_to_string(&note).ok().as_ref() != Some(&wanted) {
        command::require("python3", "--version", advice)?;
        let mut venv = checkout.command("python3");
        command::run(venv.args(["-m", "venv", "--clear"]).arg(&environment)).context(advice)?;
        let mut pip = checkout.command(text(&environment.join("bin/python"))?);
        // Only binary packages: compiling them takes ten minutes and needs a C++ compiler.
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "-r"]);
        command::run(pip.arg(&requirements))?;
        fs::write(&note, wanted).with_context(|| format!("cannot write {}", note.display()))?;
    }
    let generated = checkout.tools().join("python-generated");
    fs::create_dir_all(&generated).with_context(|| format!("cannot create {}", generated.display()))?;
    let (out, grpc_out) = (option("--python_out=", &generated), option("--grpc_python_out=", &generated));
    protoc(checkout, &[out, grpc_out])?;
    let lines = format!(
        "PYTHONPATH='{}' exec '{}' -B '{}'",
        generated.display(),
        environment.join("bin/python").display(),
        source.join("stub.py").display()
    );
    let mut tests = checkout.command(text(&environment.join("bin/python"))?);
    tests.args(["-B", "-m", "unittest", "--quiet", "session_test"]).env("PYTHONPATH", &generated).current_dir(&source);
    command::run(&mut tests)?;
    launcher(checkout, "schemathesis", &format!("exec '{}'", environment.join("bin/schemathesis").display()))?;
    launcher(checkout, "eticket-stub-python", &lines)
}

fn go(checkout: &Checkout) -> Result<()> {
    command::require("go", "version", "install Go 1.25 or newer, which builds clients of the tests")?;
    let (source, bin) = (folder(checkout, "go"), bin(checkout));
    // The generated packages are a module of their own; the go.mod of the clients replaces it by this folder, so every build needs it.
    let generated = source.join("gen");
    fs::create_dir_all(&generated).with_context(|| format!("cannot create {}", generated.display()))?;
    let module = generated.join("go.mod");
    fs::write(&module, format!("module {GO_MODULE}\n\ngo 1.25\n"))
        .with_context(|| format!("cannot write {}", module.display()))?;
    let build = |name: &str, package: &str| {
        let mut build = checkout.command("go");
        build.args(["build", "-o"]).arg(bin.join(name)).arg(package).current_dir(&source);
        command::run(&mut build)
    };
    build("protoc-gen-go", "google.golang.org/protobuf/cmd/protoc-gen-go")?;
    build("protoc-gen-go-grpc", "google.golang.org/grpc/cmd/protoc-gen-go-grpc")?;
    let mut options = Vec::new();
    for (plugin, kind) in [("protoc-gen-go", "go"), ("protoc-gen-go-grpc", "go-grpc")] {
        options.push(option("--plugin=", &bin.join(plugin)));
        options.push(option(&format!("--{kind}_out="), &generated));
        options.push(format!("--{kind}_opt=module={GO_MODULE}"));
    }
    protoc(checkout, &options)?;
    command::run(checkout.command("go").args(["test", "./session", "./oracle"]).current_dir(&source))?;
    build("eticket-stub-go", "./stub")?;
    build("eticket-caller", "./caller")?;
    build("eticket-oracle", "./oracle")
}

fn java(checkout: &Checkout) -> Result<()> {
    let (source, output) = (folder(checkout, "java"), checkout.tools().join("java"));
    let built = output.join("built");
    let protos = PACKAGES.map(|package| checkout.root().join("proto").join(proto(package)));
    let programs = source.join("src/main/java/eticket");
    let programs = fs::read_dir(&programs).with_context(|| format!("cannot read {}", programs.display()))?;
    let programs = programs.filter_map(Result::ok).map(|entry| entry.path());
    let inputs = [source.join("pom.xml")].into_iter().chain(protos).chain(programs);
    let newest = inputs.map(|input| tools::modified(&input)).max().flatten();
    if tools::modified(&built).is_none_or(|built| newest.is_none_or(|newest| newest > built)) {
        command::require(
            "javac",
            "-version",
            "install a JDK, 17 or newer (on Debian: apt-get install openjdk-17-jdk)",
        )?;
        command::require("mvn", "--version", "install Maven 3.8 or newer (on Debian: apt-get install maven)")?;
        let mut maven = checkout.command("mvn");
        maven.args(["--quiet", "--batch-mode", "--no-transfer-progress"]).arg(option("-Doutput=", &output));
        command::run(maven.arg("compile").current_dir(&source))?;
        let mut check = checkout.command("java");
        check.arg("-cp").arg(format!("{0}/classes:{0}/libraries/*", output.display()));
        command::run(check.arg("eticket.SessionCheck"))?;
        fs::write(&built, "").with_context(|| format!("cannot write {}", built.display()))?;
    }
    let output = output.display();
    launcher(
        checkout,
        "eticket-stub-java",
        &format!("exec java -cp '{output}/classes:{output}/libraries/*' eticket.Stub"),
    )
}

fn node(checkout: &Checkout) -> Result<()> {
    let source = folder(checkout, "node");
    tools::npm_ci(checkout, &source, "one client of the tests needs it")?;
    command::run(checkout.command("node").args(["--test", "--test-reporter=dot"]).current_dir(&source))?;
    launcher(checkout, "eticket-stub-node", &format!("exec node '{}'", source.join("stub.js").display()))
}

/// Generates code from the protos of the called services.
fn protoc(checkout: &Checkout, options: &[String]) -> Result<()> {
    let python = python_environment(checkout).join("bin/python");
    let mut packages = checkout.command(text(&python)?);
    packages.args(["-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]);
    // One of the packages contains the protos of Google.
    let packages = command::output(&mut packages)?;
    let mut protoc = checkout.command(text(&python)?);
    protoc.args(["-m", "grpc_tools.protoc", "-I.", "-I", packages.trim()]).args(options).args(PACKAGES.map(proto));
    command::run(protoc.current_dir(checkout.root().join("proto")))
}

fn proto(package: &str) -> String {
    format!("eticket/{package}/v1/{package}.proto")
}

/// Writes a script beside the other tools, so that tests start clients of all languages in the same way.
fn launcher(checkout: &Checkout, program: &str, command: &str) -> Result<()> {
    let file = bin(checkout).join(program);
    let write = || -> std::io::Result<()> {
        fs::write(&file, format!("#!/bin/sh\n{command} \"$@\"\n"))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755))
    };
    write().with_context(|| format!("cannot write {}", file.display()))
}

fn option(name: &str, path: &Path) -> String {
    format!("{name}{}", path.display())
}

fn folder(checkout: &Checkout, language: &str) -> PathBuf {
    checkout.root().join("integration-tests/clients").join(language)
}

fn python_environment(checkout: &Checkout) -> PathBuf {
    checkout.tools().join("python")
}

fn bin(checkout: &Checkout) -> PathBuf {
    checkout.tools().join("bin")
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}
