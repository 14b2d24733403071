//! The conformance suite of Connect against the gateway: Connect, gRPC and gRPC-Web, over HTTP/1.1 and HTTP/2. The cases
//! that may fail, and the reasons, are in docs/conformance.md.

use std::{fs, process::Stdio, time::Instant};

use eticket_integration_tests::binary::{binary, root};
use tokio::process::Command;

/// What the suite calls, and the least number of cases. A wrong configuration of the suite would leave out many cases.
const LEAST: [(&str, u32); 5] = [
    ("HTTP_VERSION_1, PROTOCOL_CONNECT", 280),
    ("HTTP_VERSION_2, PROTOCOL_CONNECT", 280),
    ("HTTP_VERSION_1, PROTOCOL_GRPC_WEB", 140),
    ("HTTP_VERSION_2, PROTOCOL_GRPC_WEB", 180),
    // With two clients: Connect's, and the one of gRPC for Go.
    ("HTTP_VERSION_2, PROTOCOL_GRPC", 360),
];

/// Returns the patterns in the table of a section.
fn listed(document: &str, section: &str) -> Vec<String> {
    let lines = document.lines().skip_while(|line| *line != section).skip(1).take_while(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.strip_prefix("| `")?.split_once("` | ")).map(|(cases, _)| cases.to_owned()).collect()
}

/// Returns the cases that failed as listed, with what the suite found.
fn failures(log: &str) -> Vec<(&str, Vec<&str>)> {
    let mut failures: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut open = false;
    for line in log.lines() {
        let begun = line.strip_prefix("INFO: ").and_then(|rest| rest.strip_suffix(" failed (as expected):"));
        open = begun.is_some() || open && line.starts_with('\t');
        match (begun, failures.last_mut()) {
            (Some(name), _) => failures.push((name, Vec::new())),
            (None, Some((_, found))) if open => found.push(line.trim().trim_start_matches("; ")),
            _ => {}
        }
    }
    failures
}

/// Whether the suite complains only about the details of an error.
fn is_about_details(found: &str) -> bool {
    let expected = found.starts_with("actual error contain ") && found.ends_with(" details; expecting 0");
    // The suite does not know the types of eTicket's details.
    let resolved = found.starts_with("connect error JSON: details[") && found.contains("\" could not be resolved: ");
    expected || resolved
}

/// Returns the number of cases of a version and a protocol.
fn cases(log: &str, config: &str) -> u32 {
    let of_config = |line: &&str| line.starts_with("Running ") && line.contains(&format!("{{{config}, "));
    log.lines().filter(of_config).filter_map(|line| line.split(' ').nth(1)?.parse::<u32>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs connectconformance: cargo xtask test installs it"]
async fn the_gateway_passes_the_suite_or_the_difference_is_listed() {
    let document = fs::read_to_string(root().join("docs/conformance.md")).expect("the page");
    let failing = listed(&document, "## Cases that fail");
    let at_times = listed(&document, "## Cases that fail at times");
    assert!(!failing.is_empty() && !at_times.is_empty(), "the page has two tables");
    let begin = Instant::now();
    let mut suite = Command::new("connectconformance");
    suite.args(["--mode", "server", "-v", "--parallel", "4", "--conf"]);
    suite.arg(root().join("integration-tests/conformance/features.yaml"));
    suite.args(failing.iter().flat_map(|cases| ["--known-failing", cases]));
    suite.args(at_times.iter().flat_map(|cases| ["--known-flaky", cases]));
    suite.arg("--").arg(binary("examples/conformance")).stdin(Stdio::null()).kill_on_drop(true);
    let output = suite.output().await.expect("cargo xtask test installs connectconformance");
    let (log, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let failed = log.lines().filter(|line| line.starts_with("FAILED: ")).count();
    assert!(output.status.success(), "{}, {failed} cases failed:\n{log}\n{errors}", output.status);
    for (config, least) in LEAST {
        let cases = cases(&log, config);
        eprintln!("{config}: {cases} cases");
        assert!(cases >= least, "{config}: {cases} of {least} cases:\n{log}");
    }
    let failures = failures(&log);
    eprintln!("{} cases with a listed difference, in {:?}", failures.len(), begin.elapsed());
    assert!(failures.len() >= failing.len(), "the log has no failures that are listed:\n{log}");
    for (name, found) in failures {
        let others: Vec<_> = found.iter().filter(|found| !found.is_empty() && !is_about_details(found)).collect();
        assert!(others.is_empty() && !found.is_empty(), "{name} fails for another reason: {found:?}");
    }
}
