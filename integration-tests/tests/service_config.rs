//! Checks the service config that is shipped with the protos: it names existing methods, and retries only what the
//! contract allows.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::{collections::BTreeSet, fs};

use eticket_integration_tests::binary;
use prost::Message;
use prost_types::FileDescriptorSet;
use serde_json::Value;

fn config() -> Value {
    let path = binary::root().join("proto/service-config.json");
    serde_json::from_str(&fs::read_to_string(path).expect("it ships beside the protos")).expect("JSON")
}

/// Full names of the contract's services and methods, and whether each method streams.
fn methods() -> BTreeSet<(String, String, bool)> {
    let set = FileDescriptorSet::decode(eticket_proto::DESCRIPTORS).expect("descriptors");
    let mut methods = BTreeSet::new();
    for file in set.file.iter().filter(|file| file.package().starts_with("eticket.")) {
        for service in &file.service {
            for method in &service.method {
                let streams = method.server_streaming() || method.client_streaming();
                let name = format!("{}.{}", file.package(), service.name());
                methods.insert((name, method.name().to_owned(), streams));
            }
        }
    }
    methods
}

fn names(entry: &Value) -> Vec<(String, Option<String>)> {
    let names = entry["name"].as_array().expect("an entry has names").iter();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    names.map(|name| (text(&name["service"]).expect("a service"), text(&name["method"]))).collect()
}

#[test]
fn every_name_is_in_the_contract() {
    let methods = methods();
    for entry in config()["methodConfig"].as_array().expect("a list") {
        for (service, method) in names(entry) {
            let known = methods
                .iter()
                .any(|(known, name, _)| *known == service && method.as_ref().is_none_or(|method| method == name));
            assert!(known, "{service} {method:?}");
        }
    }
}

#[test]
fn only_unavailable_unary_calls_are_retried() {
    let config = config();
    let entries = config["methodConfig"].as_array().expect("a list");
    let own_entry = |service: &str, method: &str| {
        entries.iter().find(|entry| names(entry).contains(&(service.to_owned(), Some(method.to_owned()))))
    };
    let of_service = |service: &str| entries.iter().find(|entry| names(entry).contains(&(service.to_owned(), None)));
    let mut retried = 0;
    for (service, method, streams) in methods() {
        let Some(entry) = own_entry(&service, &method).or_else(|| of_service(&service)) else { continue };
        let policy = &entry["retryPolicy"];
        if policy.is_null() {
            continue;
        }
        retried += 1;
        assert!(!streams, "{service}/{method} streams: a watcher resumes with its token");
        assert_eq!(policy["retryableStatusCodes"], serde_json::json!(["UNAVAILABLE"]));
        assert!(policy["maxAttempts"].as_u64().is_some_and(|attempts| (2..=5).contains(&attempts)), "gRFC A6 allows 5");
    }
    assert!(retried >= 17, "only {retried} methods are retried");
}

/// A timeout in the service config would be independent of the caller's: clients on gRPC's C core would end the call
/// before the server can return a reason, and every client would shorten a longer deadline of its caller.
#[test]
fn it_sets_no_timeout_and_spreads_calls_over_all_addresses() {
    let config = config();
    for entry in config["methodConfig"].as_array().expect("a list") {
        assert!(entry["timeout"].is_null(), "{entry}");
    }
    assert_eq!(config["loadBalancingConfig"], serde_json::json!([{ "round_robin": {} }]));
}
