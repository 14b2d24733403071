//! Runs the commands in README.md as they are written, and checks the promised output.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::{collections::BTreeMap, fs};

use eticket_integration_tests::{binary, process::Launch, tour};
use tempfile::TempDir;

/// The main command.
const MAIN: &str = "cargo run --release -p eticket";
/// The tests.
const TEST: &str = "cargo xtask test";
/// The example client; tested by `example`.
const EXAMPLE: &str = "cargo run --example reserve -p eticket-proto";
/// The distributed form; tested by `up`.
const UP: &str = "cargo xtask up";
/// Prints the effective configuration.
const CHECK: &str = "cargo run --release -p eticket -- --check-config";

/// The page, and the one on REST, which continues it.
fn page() -> String {
    let text = |path: &str| fs::read_to_string(binary::root().join(path)).expect(path);
    text("README.md") + &text("docs/rest.md")
}

#[test]
fn every_command_of_the_page_is_tested() {
    assert_eq!(
        tour::commands(&page()),
        [MAIN, TEST, EXAMPLE, CHECK, UP],
        "add a test for each new command of the page"
    );
    // The second command is the pipeline itself, which runs this test.
    let pipeline = fs::read_to_string(binary::root().join(".ci/run")).expect("a pipeline");
    assert!(pipeline.lines().any(|line| line == TEST), "{pipeline}");
}

/// The tests that a table of the README names: `suite::test` in this folder, or `Test…` of the chart.
#[test]
fn every_test_that_the_readme_names_exists() {
    let folder = binary::root().join("integration-tests");
    let text = fs::read_to_string(binary::root().join("README.md")).expect("README.md");
    let patterns = text.split("\n## Patterns\n").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a section");
    let go: String = fs::read_dir(folder.join("chart"))
        .expect("the tests of the chart")
        .map(|entry| entry.expect("an entry").path())
        .filter(|file| file.extension().is_some_and(|extension| extension == "go"))
        .map(|file| fs::read_to_string(file).expect("text"))
        .collect();
    let rows = patterns.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---")).skip(1);
    let mut count = 0;
    for row in rows {
        let named: Vec<&str> = row.rsplit('|').nth(1).expect("a last column").split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "{row}");
        for test in named {
            count += 1;
            match test.split_once("::") {
                Some((suite, test)) => {
                    let files = [format!("tests/{suite}.rs"), format!("tests/{suite}/main.rs")];
                    let source = files.iter().find_map(|file| fs::read_to_string(folder.join(file)).ok()).expect(suite);
                    assert!(source.contains(&format!("fn {test}(")), "{suite} has no {test}");
                }
                None => assert!(go.contains(&format!("func {test}(")), "the chart has no {test}"),
            }
        }
    }
    assert!(count >= 12, "{count}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs grpcurl and curl, and builds a release: cargo xtask test"]
async fn the_readme_commands_produce_the_promised_output() {
    tokio::task::spawn_blocking(|| binary::build_release("eticket")).await.expect("built");
    let data = TempDir::new().expect("a folder");
    let folder = data.path().to_str().expect("UTF-8");

    let checked = Launch::as_shown(CHECK).key("data", folder).run().await;
    assert_eq!(checked.code, Some(0), "{}", checked.log);
    assert!(checked.output.contains("[gateway]") && checked.output.contains(folder), "{}", checked.output);

    let eticket = Launch::as_shown(MAIN).on_free_ports().key("data", folder).start().await;
    let addresses: BTreeMap<u16, String> =
        [(8081, "reservation"), (8082, "ticket"), (8083, "pricing"), (8084, "query"), (8088, "gateway")]
            .map(|(port, server)| (port, eticket.address(server).to_owned()))
            .into();
    let blocks: Vec<String> =
        tour::blocks(&page()).iter().map(|block| tour::with_addresses(block, &addresses)).collect();
    assert!(!blocks.is_empty(), "README.md has no block behind <!-- tour -->");
    let path = std::env::var_os("PATH").expect("a PATH");
    let met = tokio::task::spawn_blocking(move || tour::run(&blocks, &path)).await.expect("every promise is kept");
    assert!(met >= 10, "only {met} promises: the page has too few expectations");
    eticket.stop().await;
}
