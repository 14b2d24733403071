//! Checks `compose.yaml` without containers: each binary accepts its environment, and the services find each other
//! under the configured names and ports.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::{collections::BTreeMap, fs};

use eticket_integration_tests::{binary, process::Launch};
use serde_norway::Value;

fn compose() -> Value {
    let text = fs::read_to_string(binary::root().join("compose.yaml")).expect("it is there");
    let mut value: Value = serde_norway::from_str(&text).expect("YAML");
    value.apply_merge().expect("its anchors are there");
    value
}

/// Returns the environment of each eTicket service by name.
fn ours(compose: &Value) -> BTreeMap<String, BTreeMap<String, String>> {
    let services = compose["services"].as_mapping().expect("services");
    let mut ours = BTreeMap::new();
    for (name, service) in services {
        let name = name.as_str().expect("a name");
        let Some(program) = service["command"][0].as_str().filter(|program| program.starts_with("eticket-")) else {
            continue;
        };
        assert_eq!(program, format!("eticket-{name}"));
        let environment = service["environment"].as_mapping().expect("an environment");
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        ours.insert(name.to_owned(), environment.iter().map(|(key, value)| (text(key), text(value))).collect());
    }
    ours
}

#[tokio::test]
async fn each_binary_accepts_its_environment() {
    let ours = ours(&compose());
    assert_eq!(ours.len(), 5, "{ours:?}");
    for (service, environment) in &ours {
        let mut launch = Launch::program(&format!("eticket-{service}")).argument("--check-config");
        for (variable, value) in environment {
            let key = variable.strip_prefix("ETICKET__").expect("one of ours").replace("__", ".");
            launch = launch.key(&key, value);
        }
        let exit = launch.run().await;
        assert_eq!(exit.code, Some(0), "{service}: {}", exit.log);
        assert!(exit.output.contains(&environment["ETICKET__LISTEN"]), "{service}: {}", exit.output);
    }
}

#[test]
fn addresses_match_names_and_ports_of_the_services() {
    let compose = compose();
    let ours = ours(&compose);
    let mut upstreams = 0;
    for environment in ours.values() {
        for (variable, url) in environment.iter().filter(|(variable, _)| variable.starts_with("ETICKET__UPSTREAM__")) {
            let named = variable.split("__").nth(2).expect("a name").to_lowercase();
            let port = ours[&named]["ETICKET__LISTEN"].rsplit(':').next().expect("a port");
            assert_eq!(*url, format!("http://{named}:{port}"));
            upstreams += 1;
        }
    }
    assert_eq!(upstreams, 8);
    for needed in ["postgres", "nats"] {
        assert!(!compose["services"][needed]["image"].is_null(), "{needed}");
    }
    let published = compose["services"]["gateway"]["ports"][0].as_str().expect("a port");
    assert!(published.starts_with("127.0.0.1:") && published.ends_with(":8088"), "{published}");
}

#[test]
fn the_image_has_every_binary() {
    let dockerfile = fs::read_to_string(binary::root().join("Dockerfile")).expect("it is there");
    let linked = dockerfile.split("for server in ").nth(1).and_then(|rest| rest.split(';').next()).expect("a list");
    let linked: Vec<&str> = linked.split(' ').collect();
    for service in ours(&compose()).keys() {
        assert!(linked.contains(&service.as_str()), "{service} is not among {linked:?}");
    }
    let toolchain = fs::read_to_string(binary::root().join("rust-toolchain.toml")).expect("it is there");
    let version = dockerfile.split("rust:").nth(1).and_then(|rest| rest.split('-').next()).expect("a version");
    assert!(toolchain.contains(&format!("\"{version}\"")), "{toolchain}");
    assert!(dockerfile.contains(&format!("RUSTUP_TOOLCHAIN={version}\n")), "{version}");
}
