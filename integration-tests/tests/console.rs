//! Runs the web console in Chromium, served by the gateway, against the all-in-one process. The tests themselves use
//! Playwright and are in the console's sources.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::env;

use eticket_integration_tests::{
    Eticket,
    binary::root,
    eventually::{SOON, eventually},
    process::Launch,
};
use tempfile::TempDir;
use tokio::process::Command;

/// Excludes six of the eight variants of the page tests (language, theme, width), because each takes half a minute.
const LEFT_OUT: &str = "pages: (en, dark|en, light, phone|ko, light|ko, dark, wide)";
/// Excludes nine of the twelve variants of the log-in pages.
const LEFT_OUT_LOG_IN: &str =
    "log-in pages: (en, light, (phone|narrow)|en, dark, (wide|phone)|ko, light|ko, dark, (wide|narrow))";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Chromium and the packages of the console: cargo xtask test"]
async fn the_console_works_in_a_browser() {
    let data = TempDir::new().expect("a folder");
    let eticket = Eticket::start(data.path()).await;
    run(&eticket, "console", without(&["--grep-invert", LEFT_OUT]), &[]).await;
    eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Chromium and the packages of the console: cargo xtask test"]
async fn the_console_logs_in_with_tokens() {
    let temporary = TempDir::new().expect("a folder");
    let folder = temporary.path().to_str().expect("test folders are UTF-8");
    let eticket = Launch::program("eticket").argument("dev").argument("--no-open").argument("--tokens");
    let eticket = eticket.variable("TMPDIR", folder).start().await;
    let links = eventually(SOON, "the link is printed", async || {
        let log = eticket.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let links: Vec<_> = lines.filter_map(|line| Some(line.get("link")?.as_str()?.to_owned())).collect();
        if links.len() == 2 { Ok(links) } else { Err(log) }
    })
    .await;
    let mut entries = std::fs::read_dir(temporary.path()).expect("it can be read");
    let data = entries.next().expect("the folder of dev").expect("an entry").path();
    let keys = data.join("keys").to_str().expect("UTF-8").to_owned();
    run(
        &eticket,
        "tokens",
        without(&["--grep-invert", LEFT_OUT_LOG_IN]),
        &[("ETICKET_KEYS", &keys), ("ETICKET_LINK", &links[1])],
    )
    .await;
    eticket.stop().await;
}

/// Returns the arguments that leave out variants, unless all are wanted.
fn without<'a>(arguments: &'a [&'a str]) -> &'a [&'a str] {
    let all = env::var_os("CONSOLE_PAGES").is_some_and(|pages| pages == "all");
    if all { &[] } else { arguments }
}

/// Runs the tests of a project of Playwright.
async fn run(eticket: &Eticket, project: &str, arguments: &[&str], variables: &[(&str, &str)]) {
    let mut playwright = Command::new("npx");
    playwright
        .args(["--no-install", "playwright", "test", "--project", project])
        .args(["--output", &format!("test-results/{project}")])
        .args(arguments)
        .current_dir(root().join("gateway-grpc-web/web"))
        .env("ETICKET_GATEWAY", format!("http://{}", eticket.address("gateway")))
        .env("ETICKET_PAGES", "gateway")
        .env("ETICKET_CHROMIUM", "/usr/bin/chromium")
        .envs(variables.iter().copied())
        .kill_on_drop(true);
    let output = playwright.output().await.expect("npx of Node.js");
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
}
