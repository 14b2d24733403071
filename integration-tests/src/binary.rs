//! Where the binaries under test are: built by cargo once, unless `ETICKET_BINARIES` names a folder that has them.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The path of a binary, as `eticket` or `eticket-reservation`.
///
/// # Panics
/// If it cannot be built, or is not there.
pub fn binary(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| env::var_os("ETICKET_BINARIES").map_or_else(build, PathBuf::from));
    let path = folder.join(name);
    assert!(path.is_file(), "{} is not there; unset ETICKET_BINARIES to have it built", path.display());
    path
}

/// The root of the checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the checkout")
}

/// The target folder that cargo uses.
pub fn target() -> PathBuf {
    let output = cargo(&["metadata", "--no-deps", "--offline", "--format-version", "1"]);
    let metadata: serde_json::Value = serde_json::from_slice(&output).expect("cargo writes JSON");
    PathBuf::from(metadata["target_directory"].as_str().expect("cargo says its target folder"))
}

/// Binaries together with tests, as `cargo test --workspace` builds them: alone, cargo would choose other features for them,
/// and build everything a second time.
fn build() -> PathBuf {
    cargo(&["build", "--quiet", "--workspace", "--bins", "--tests"]);
    target().join("debug")
}

fn cargo(arguments: &[&str]) -> Vec<u8> {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(program).args(arguments).current_dir(root()).output().expect("cargo starts");
    let shown = arguments.join(" ");
    assert!(output.status.success(), "cargo {shown}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
