//! Locates the binaries under test: in the folder `ETICKET_BINARIES`, or built once by cargo.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Returns the path of a binary, such as `eticket`, `eticket-reservation` or `examples/reserve`.
///
/// # Panics
/// If it cannot be built or does not exist.
pub fn binary(name: &str) -> PathBuf {
    // A failed build is cached too, so that no other test repeats it.
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let given = || env::var_os("ETICKET_BINARIES").map(PathBuf::from);
    let folder = FOLDER.get_or_init(|| given().map_or_else(build, Ok));
    let path = folder.as_ref().unwrap_or_else(|error| panic!("{error}")).join(name);
    assert!(path.is_file(), "{} is not there; unset ETICKET_BINARIES to have it built", path.display());
    path
}

/// Returns the root of the checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the checkout")
}

/// Builds binaries and tests together, like `cargo test --workspace`. Building only the binaries would select other
/// features and rebuild all dependencies.
fn build() -> Result<PathBuf, String> {
    cargo(&["build", "--quiet", "--workspace", "--bins", "--tests", "--examples"])?;
    let output = cargo(&["metadata", "--no-deps", "--offline", "--format-version", "1"])?;
    let metadata: serde_json::Value = serde_json::from_slice(&output).map_err(|error| error.to_string())?;
    let target = metadata["target_directory"].as_str().ok_or("cargo metadata has no target folder")?;
    Ok(Path::new(target).join("debug"))
}

/// Builds a package like `cargo run --release`, so that a later run only starts it.
///
/// # Panics
/// If the build fails.
pub fn build_release(package: &str) {
    cargo(&["build", "--quiet", "--release", "--package", package]).unwrap_or_else(|error| panic!("{error}"));
}

fn cargo(arguments: &[&str]) -> Result<Vec<u8>, String> {
    let shown = format!("cargo {}", arguments.join(" "));
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(program).args(arguments).current_dir(root()).output();
    let output = output.map_err(|error| format!("{shown}: {error}"))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(format!("{shown}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}
