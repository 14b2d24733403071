//! Runs a page of another origin in Chromium against the all-in-one process, with the client libraries that pages use. The tests
//! themselves use Playwright and are in `integration-tests/browser`.

use std::{env, path::PathBuf};

use eticket_integration_tests::binary::{binary, root};
use tempfile::TempDir;
use tokio::process::Command;

#[tokio::test]
#[ignore = "needs Chromium and the packages of the page: cargo xtask test"]
async fn a_page_of_another_origin_uses_the_gateway() {
    // The controls run the page of the checkout, because their copies have no packages.
    let folder = env::var_os("ETICKET_BROWSER_TESTS");
    let folder = folder.map_or_else(|| root().join("integration-tests/browser"), PathBuf::from);
    // Two controls may run at once, and Playwright empties this folder first.
    let results = TempDir::new().expect("a folder");
    let mut playwright = Command::new("npx");
    playwright
        .args(["--no-install", "playwright", "test", "--output"])
        .arg(results.path())
        .current_dir(folder)
        .env("ETICKET_BINARY", binary("eticket"))
        .env("ETICKET_CHROMIUM", "/usr/bin/chromium")
        .kill_on_drop(true);
    let output = playwright.output().await.expect("npx of Node.js");
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
}
