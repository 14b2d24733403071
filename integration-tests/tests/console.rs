//! Runs the web console in Chromium, served by the gateway, against the all-in-one process. The tests themselves use
//! Playwright and are in the console's sources.

use std::env;

use eticket_integration_tests::{Eticket, binary::root};
use tempfile::TempDir;
use tokio::process::Command;

/// Excludes six of the eight variants of the page tests (language, theme, width), because each takes half a minute.
const LEFT_OUT: &str = "pages: (en, dark|en, light, phone|ko, light|ko, dark, wide)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Chromium and the packages of the console: cargo xtask test"]
async fn the_console_works_in_a_browser() {
    let data = TempDir::new().expect("a folder");
    let eticket = Eticket::start(data.path()).await;
    let mut playwright = Command::new("npx");
    playwright.args(["--no-install", "playwright", "test", "--project", "console"]);
    if env::var_os("CONSOLE_PAGES").is_none_or(|pages| pages != "all") {
        playwright.args(["--grep-invert", LEFT_OUT]);
    }
    playwright
        .current_dir(root().join("gateway-grpc-web/web"))
        .env("ETICKET_GATEWAY", format!("http://{}", eticket.address("gateway")))
        .env("ETICKET_PAGES", "gateway")
        .env("ETICKET_CHROMIUM", "/usr/bin/chromium")
        .kill_on_drop(true);
    let output = playwright.output().await.expect("npx of Node.js");
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
    eticket.stop().await;
}
