//! Client applications in other languages: stubs that are generated from the protos, and the service config that is
//! shipped with them.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::process::Command;
use tonic::Code;

use crate::binary::root;

/// Languages of the clients that `cargo xtask test` builds from `integration-tests/clients`.
pub const LANGUAGES: [&str; 4] = ["go", "python", "java", "node"];

/// The result of a call from the view of the application.
#[derive(Debug)]
pub struct Outcome {
    pub code: Code,
    /// The reason in `ErrorInfo`; empty without one.
    pub reason: String,
    /// The duration of the call, without process start and connection setup.
    pub took: Duration,
}

/// Starts a client that makes one call (`reserve`, `view` or `tickets`) with a deadline.
///
/// # Panics
/// If the client is not in the path, or fails by itself.
pub async fn call(language: &str, address: &str, call: &str, ticket: &str, deadline: Duration) -> Outcome {
    let outcome = run(language, address, call, ticket, deadline).await;
    let number = |name: &str| outcome[name].as_u64().expect("a number");
    Outcome {
        code: Code::from_i32(number("code").try_into().expect("a small number")),
        reason: outcome["reason"].as_str().expect("a text").to_owned(),
        took: Duration::from_millis(number("millis")),
    }
}

/// Starts a client that registers this ticket, reserves it, is refused a second reservation, reads the settled view, watches, cancels, and
/// resumes the watch. Returns what it has seen: `reason` and `text` of the refusal, `holder` and `settled` of the view, and `changed`, the
/// status of the reservation that the resumed watch sent.
///
/// # Panics
/// If the client is not in the path, or a call other than the refused one fails.
pub async fn scenario(language: &str, address: &str, ticket: &str, deadline: Duration) -> Value {
    run(language, address, "scenario", ticket, deadline).await
}

async fn run(language: &str, address: &str, call: &str, ticket: &str, deadline: Duration) -> Value {
    let config = root().join("proto/service-config.json");
    let mut client = Command::new(format!("eticket-stub-{language}"));
    client.arg(config).args([address, call, ticket]).arg(deadline.as_millis().to_string());
    let begin = Instant::now();
    let output = client.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.expect("cargo xtask test builds the clients");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{language}: {}:\n{log}", output.status);
    let outcome = serde_json::from_slice(&output.stdout).expect("JSON");
    eprintln!("{language} {call}: {outcome} after {:?} in all\n{log}", begin.elapsed());
    outcome
}
