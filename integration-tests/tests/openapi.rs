//! The OpenAPI document against the gateway: schemathesis makes requests out of the document, and each response must be one that the
//! document describes.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::{fs, path::Path, process::Stdio};

use eticket_integration_tests::{Eticket, binary::root};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

/// A server error, a status, a media type, a header or a body that the document does not describe, and methods that it does not list.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
                      response_schema_conformance,unsupported_method,allow_header_conformance";

/// The server error that requests alone can cause: a wait for a ticket that does not exist ends with its deadline.
const EXPECTED: &str = "[checks]\nnot_a_server_error.expected-statuses = ['2xx', '3xx', '4xx', 504]\n";

/// Runs schemathesis on a document, with more arguments. Returns whether it passes, and its report.
async fn run(document: &Path, eticket: &Eticket, more: &[&str]) -> (bool, String) {
    let mut command = Command::new("schemathesis");
    command.arg("run").arg(document).args(["--url", &format!("http://{}", eticket.address("gateway"))]);
    // With the same seed the requests are the same. With another deadline for each call, waits would take long.
    command.args(["--seed", "1", "--header", "X-Timeout-Ms: 2000", "--checks", CHECKS]);
    // It keeps its examples in the current folder.
    command.args(["--no-color", "--generation-database", "none"]).args(more);
    command.current_dir(document.parent().expect("a folder")).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.expect("cargo xtask test installs schemathesis");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs schemathesis: cargo xtask test installs it"]
async fn every_response_is_one_that_the_document_describes() {
    let (data, folder) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let eticket = Eticket::start(data.path()).await;
    let document = folder.path().join("openapi.json");
    let text = fs::read_to_string(root().join("gateway-grpc-web/openapi.json")).expect("the document");
    fs::write(&document, &text).expect("written");
    fs::write(folder.path().join("schemathesis.toml"), EXPECTED).expect("written");
    // A watch does not end.
    let all = ["--exclude-path-regex", ":watch$", "--phases", "coverage,fuzzing", "--max-examples", "20"];
    let (passed, report) = run(&document, &eticket, &all).await;
    assert!(passed, "{report}");
    let tested: usize =
        report.lines().find_map(|line| line.trim().strip_prefix("Tested: ")?.parse().ok()).expect("a number");
    let operations = text.matches("\"operationId\"").count();
    assert_eq!(tested, operations - 1, "all but the watch: {report}");

    // The same checks notice a response that the document does not describe.
    let mut wrong: Value = serde_json::from_str(&text).expect("JSON");
    let version = &mut wrong["components"]["schemas"]["eticket.pricing.v1.PricingPolicy"]["properties"]["version"];
    assert!(version.is_object(), "the policy has a version");
    *version = json!({ "type": "string", "maxLength": 0 });
    fs::write(&document, wrong.to_string()).expect("written");
    let policy = ["--include-path", "/v1/pricingPolicy", "--phases", "fuzzing", "--max-examples", "1"];
    let (passed, report) = run(&document, &eticket, &policy).await;
    assert!(!passed && report.contains("schema"), "a version that is longer than the document allows passes: {report}");
    eticket.stop().await;
}
