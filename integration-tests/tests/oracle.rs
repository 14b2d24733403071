//! REST against Vanguard, another implementation of the annotations: both serve the same requests for the same gateway, and must
//! respond in the same way, except for the differences that docs/rest.md lists.

use std::{process::Stdio, time::Instant};

use eticket_integration_tests::{Eticket, binary::root};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the oracle in Go: cargo xtask test builds it"]
async fn rest_responds_as_vanguard_does_or_the_difference_is_listed() {
    let data = TempDir::new().expect("a folder");
    let eticket = Eticket::start(data.path()).await;
    let begin = Instant::now();
    let mut oracle = Command::new("eticket-oracle");
    oracle.arg(eticket.address("gateway")).arg(root().join("docs/rest.md")).stdin(Stdio::null()).kill_on_drop(true);
    let output = oracle.output().await.expect("cargo xtask test builds eticket-oracle");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}:\n{log}", output.status);
    let summary: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    eprintln!("{} cases, {} with a listed difference, in {:?}", summary["cases"], summary["listed"], begin.elapsed());
    let problems: Vec<_> = summary["problems"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
    assert!(summary["cases"].as_u64() >= Some(200), "{summary}");
    eticket.stop().await;
}
