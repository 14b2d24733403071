//! Checks the dependency rules of ARCHITECTURE.md against `cargo metadata` and the paths in the sources.

#![expect(clippy::expect_used, reason = "a test that cannot read the sources fails")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use eticket_integration_tests::source::{self, Mention};

const SERVICES: [&str; 4] = ["eticket-ticket", "eticket-reservation", "eticket-pricing", "eticket-query"];
/// The platform crates below services and gateway; they contain no business terms.
const PLATFORM: [&str; 11] = [
    "eticket-auth",
    "eticket-base",
    "eticket-bus",
    "eticket-bus-embedded",
    "eticket-bus-nats",
    "eticket-rpc-client",
    "eticket-rpc-server",
    "eticket-runtime",
    "eticket-service",
    "eticket-store",
    "eticket-tls",
];
/// The crates that the client commands may depend on: they are clients, and link no server, store or bus.
const CLIENT: (&str, [&str; 4]) =
    ("eticket-cli", ["eticket-auth", "eticket-base", "eticket-proto", "eticket-rpc-client"]);
/// Drivers that the gateway must not link, not even transitively: it has neither a store nor a bus.
const DRIVERS: [&str; 3] = ["sqlx", "rusqlite", "async-nats"];
/// Crates that may depend on everything: one starts the services, the other tests them.
const SEE_ALL: [&str; 2] = ["eticket", "eticket-integration-tests"];
/// Starts real servers; the tests of every crate may use it.
const FOR_TESTS: &str = "eticket-local-servers";

/// Modules of `eticket_proto` that contain messages.
const MESSAGES: [&str; 9] =
    ["audit", "ticket", "reservation", "pricing", "query", "operations", "event", "rpc", "type"];
/// Crates that a domain may use besides std: no I/O, no async code, no messages, no rows.
const PURE_CRATES: [&str; 6] = ["chrono", "chrono_tz", "serde", "serde_json", "thiserror", "uuid"];
/// The parts of the contract that a domain may use: identifiers, grades, and the value in a token.
const PURE_PROTO: [&[&str]; 2] = [&["ids"], &["token", "Consistency"]];
/// The parts of the contract that the platform may use: none with business terms. From `token` it may use page tokens
/// only.
const PLATFORM_PROTO: [&str; 15] = [
    "authorization",
    "audit",
    "operations",
    "error",
    "error_text",
    "field_text",
    "headers",
    "time",
    "health",
    "token",
    "DESCRIPTORS",
    "descriptor_pool",
    "ERROR_DOMAIN",
    "ERROR_DOCUMENTATION",
    "DOCTOR_DOCUMENTATION",
];

struct Package {
    name: String,
    folder: PathBuf,
    dependencies: BTreeSet<String>,
    /// Dependencies that the binary links; without those for tests and builds.
    linked: BTreeSet<String>,
}

/// A source file: its path below `src/`, and the modules of its crate, which distinguish an adapter from an item.
struct File<'a> {
    package: &'a str,
    path: &'a str,
    text: &'a str,
    dependencies: &'a BTreeSet<String>,
    modules: &'a BTreeSet<String>,
}

fn packages() -> Vec<Package> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let text = |value: &serde_json::Value| value.as_str().expect("a string").to_owned();
    let list = |value: &serde_json::Value| value.as_array().expect("a list").clone();
    let for_tests = |dependency: &serde_json::Value| dependency["kind"] == "dev" && dependency["name"] == FOR_TESTS;
    let package = |value: &serde_json::Value| {
        let dependencies = list(&value["dependencies"]);
        let counted = dependencies.iter().filter(|dependency| !for_tests(dependency));
        let linked = dependencies.iter().filter(|dependency| dependency["kind"].is_null());
        Package {
            name: text(&value["name"]),
            folder: Path::new(&text(&value["manifest_path"])).parent().expect("a manifest lies in a folder").to_owned(),
            dependencies: counted.map(|dependency| text(&dependency["name"])).collect(),
            linked: linked.map(|dependency| text(&dependency["name"])).collect(),
        }
    };
    list(&metadata["packages"]).iter().map(package).collect()
}

/// Returns the dependencies of a package on crates of this workspace that the rules forbid, including those for tests
/// and builds.
fn wrong_dependencies(name: &str, dependencies: &BTreeSet<String>) -> Vec<String> {
    let allowed: &[&str] = match name {
        name if SEE_ALL.contains(&name) => return Vec::new(),
        "eticket-proto" | FOR_TESTS => &[],
        "xtask" => &[FOR_TESTS],
        name if name == CLIENT.0 => &CLIENT.1,
        _ => &["eticket-proto"],
    };
    let platform = name != CLIENT.0 && name != "eticket-proto" && name != FOR_TESTS && name != "xtask";
    let ours = dependencies.iter().filter(|dependency| dependency.starts_with("eticket"));
    let may = |dependency: &str| allowed.contains(&dependency) || (platform && PLATFORM.contains(&dependency));
    let wrong = ours.filter(|dependency| !may(dependency));
    wrong.map(|dependency| format!("{name} depends on {dependency}")).collect()
}

/// Returns the drivers that a package links through crates of this workspace.
fn linked_drivers(name: &str, packages: &[Package]) -> Vec<&'static str> {
    let mut reached = BTreeSet::from([name]);
    let mut waiting = vec![name];
    while let Some(next) = waiting.pop() {
        let Some(package) = packages.iter().find(|package| package.name == next) else { continue };
        waiting.extend(package.linked.iter().map(String::as_str).filter(|dependency| reached.insert(dependency)));
    }
    DRIVERS.into_iter().filter(|driver| reached.contains(driver)).collect()
}

/// Returns the forbidden paths in a file.
fn wrong_mentions(file: &File<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    if SERVICES.contains(&file.package) && layer(file.path) == "domain" && source::has_word(file.text, "async") {
        wrong.push(format!("{}/{}: the domain is synchronous", file.package, file.path));
    }
    for mention in source::mentions(file.text) {
        let path = resolved(file, &mention);
        if let Some(rule) = broken_rule(file, &path.iter().map(String::as_str).collect::<Vec<_>>()) {
            wrong.push(format!("{}/{}:{} names {}: {rule}", file.package, file.path, mention.line, path.join("::")));
        }
    }
    wrong
}

fn broken_rule(file: &File<'_>, path: &[&str]) -> Option<&'static str> {
    if PLATFORM.contains(&file.package) {
        let business = path[0] == "eticket_proto"
            && path.len() > 1
            && (!PLATFORM_PROTO.contains(&path[1]) || path.contains(&"Consistency"));
        return business.then_some("the platform contains no business terms");
    }
    if !SERVICES.contains(&file.package) {
        return None;
    }
    match path[0] {
        "crate" => wrong_way(file, path),
        "eticket_proto" => wrong_contract(file, path),
        "sqlx" | "rusqlite" if !is_store(file.path) => Some("rows stop at store adapters"),
        name if layer(file.path) == "domain" => {
            let foreign = file.dependencies.contains(&name.replace('_', "-")) || file.dependencies.contains(name);
            (foreign && !PURE_CRATES.contains(&name)).then_some("the domain has no I/O")
        }
        "tonic" | "prost" | "prost_types" if layer(file.path) == "application" => {
            Some("the application uses no transport")
        }
        _ => None,
    }
}

/// Checks domain ← application ← inbound, outbound ← lib. Other modules, such as config, are on the level of the
/// application.
fn wrong_way(file: &File<'_>, path: &[&str]) -> Option<&'static str> {
    let target = path.get(1).copied().unwrap_or_default();
    let allowed: &[&str] = match layer(file.path) {
        "lib" | "main" => return None,
        "domain" => &["domain"],
        "application" => &["domain", "application"],
        own @ ("inbound" | "outbound") if target == own => return other_adapter(file, path),
        _ if target == "inbound" || target == "outbound" => &[],
        _ => return None,
    };
    // Only modules have a layer; an item of lib.rs, such as `crate::Ticket`, belongs to the composition root.
    (!allowed.contains(&target)).then_some("domain ← application ← inbound, outbound ← lib, and never in reverse")
}

fn other_adapter(file: &File<'_>, path: &[&str]) -> Option<&'static str> {
    let own = module_path(file.path);
    let (Some(adapter), Some(own)) = (path.get(2), own.get(1)) else { return None };
    let is_module = file.modules.contains(&format!("{}/{adapter}", path[1]));
    (is_module && adapter != own).then_some("adapters do not depend on each other")
}

fn wrong_contract(file: &File<'_>, path: &[&str]) -> Option<&'static str> {
    let rest = &path[1..];
    let module = rest.first().copied().unwrap_or_default();
    match layer(file.path) {
        "domain" if PURE_PROTO.iter().any(|allowed| rest.starts_with(allowed)) => None,
        "domain" => Some("the domain uses only ids, grades and the token value of the contract"),
        _ if !MESSAGES.contains(&module) => None,
        // Conversions between domain and contract, which inbound and outbound/messages.rs use.
        "inbound" | "convert" => None,
        // The composition root uses the generated servers, but no message.
        "lib" if rest.get(1).is_some_and(|module| module.ends_with("_server")) => None,
        "outbound" if is_client(file.path) || module_path(file.path).get(1).is_some_and(|own| own == "messages") => {
            None
        }
        _ => Some("only inbound, outbound/messages.rs and clients use message types"),
    }
}

fn layer(path: &str) -> &str {
    let first = path.split('/').next().unwrap_or_default();
    first.strip_suffix(".rs").unwrap_or(first)
}

fn is_store(path: &str) -> bool {
    layer(path) == "outbound"
        && module_path(path).get(1).is_some_and(|own| own.starts_with("sqlite") || own.starts_with("postgres"))
}

fn is_client(path: &str) -> bool {
    module_path(path).get(1).is_some_and(|own| own.ends_with("_client"))
}

/// `outbound/sqlite/rows.rs` → `["outbound", "sqlite", "rows"]`; empty for the crate's root.
fn module_path(path: &str) -> Vec<String> {
    let path = path.strip_suffix(".rs").unwrap_or(path);
    if path == "lib" || path == "main" { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
}

/// Returns the path from `crate`, or from the other crate that it begins with.
fn resolved(file: &File<'_>, mention: &Mention) -> Vec<String> {
    let mut module = module_path(file.path);
    let mut rest = mention.path.as_slice();
    let mut relative = false;
    while let Some(first) = rest.first() {
        match first.as_str() {
            "self" if !relative => {}
            "super" => drop(module.pop()),
            _ => break,
        }
        relative = true;
        rest = &rest[1..];
    }
    let own_crate = file.package.replace('-', "_");
    let from: Vec<String> = match rest.first() {
        _ if relative => std::iter::once("crate".to_owned()).chain(module).collect(),
        Some(first) if *first == own_crate => {
            rest = &rest[1..];
            vec!["crate".to_owned()]
        }
        // Only in lib.rs may a path to a module omit `crate`.
        _ => Vec::new(),
    };
    from.into_iter().chain(rest.iter().cloned()).collect()
}

/// Returns all sources below a folder, without files of test modules.
fn sources(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(folder).expect("below the folder").to_string_lossy().into_owned();
                found.insert(name, fs::read_to_string(&path).expect("a readable source"));
            }
        }
    }
    found.retain(|name, _| !name.split('/').any(|part| part == "tests" || part == "tests.rs"));
    found
}

fn check(package: &str, dependencies: &BTreeSet<String>, files: &BTreeMap<String, String>) -> Vec<String> {
    let modules = files.keys().map(|path| path.trim_end_matches(".rs").to_owned()).collect();
    let file = |(path, text)| wrong_mentions(&File { package, path, text, dependencies, modules: &modules });
    files.iter().map(|(path, text)| (path.as_str(), text.as_str())).flat_map(file).collect()
}

#[test]
fn services_depend_on_each_other_only_through_proto() {
    let packages = packages();
    for service in SERVICES.into_iter().chain([CLIENT.0]) {
        assert!(packages.iter().any(|package| package.name == service), "{service} is gone: update this test");
    }
    let wrong: Vec<_> =
        packages.iter().flat_map(|package| wrong_dependencies(&package.name, &package.dependencies)).collect();
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn the_gateway_links_neither_store_nor_bus() {
    let packages = packages();
    assert_eq!(linked_drivers("eticket-gateway", &packages), [""; 0]);
    assert_eq!(linked_drivers("eticket-ticket", &packages), DRIVERS, "the search finds the drivers of a service");
}

#[test]
fn sources_follow_the_dependency_rules() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for package in packages().iter().filter(|package| !SEE_ALL.contains(&package.name.as_str())) {
        let files = sources(&package.folder.join("src"));
        seen += files.len();
        wrong.extend(check(&package.name, &package.dependencies, &files));
    }
    assert!(seen > 20, "only {seen} sources were found");
    assert_eq!(wrong, Vec::<String>::new(), "{} sources were read", seen);
}

/// The negative control of the tests above: every forbidden dependency is detected.
#[test]
fn each_forbidden_dependency_is_detected() {
    let dependencies = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(wrong_dependencies("eticket-ticket", &dependencies(&["eticket-query"])).len(), 1);
    for server in ["eticket-ticket", "eticket-rpc-server", "eticket-store"] {
        assert_eq!(wrong_dependencies("eticket-cli", &dependencies(&[server])).len(), 1);
    }
    for package in PLATFORM {
        assert_eq!(wrong_dependencies(package, &dependencies(&["eticket-ticket"])).len(), 1);
    }
    assert_eq!(wrong_dependencies("eticket-ticket", &dependencies(&["eticket-service", "tonic"])), [""; 0]);
    let package = |name: &str, names: &[&str]| Package {
        name: name.to_owned(),
        folder: PathBuf::new(),
        dependencies: dependencies(names),
        linked: dependencies(names),
    };
    let through = [package("a", &["b"]), package("b", &["c"]), package("c", &["sqlx"]), package("d", &["e"])];
    assert_eq!(linked_drivers("a", &through), ["sqlx"]);
    assert_eq!(linked_drivers("d", &through), [""; 0]);

    let known = dependencies(&["tokio", "tonic", "sqlx", "rusqlite", "eticket-proto", "chrono"]);
    let wrong = |package: &str, path: &str, text: &str| {
        let mut files: BTreeMap<String, String> =
            ["inbound/grpc.rs", "inbound/events.rs", "outbound/sqlite.rs", "outbound/messages.rs", "domain.rs"]
                .map(|path| (path.to_owned(), String::new()))
                .into();
        files.insert(path.to_owned(), text.to_owned());
        check(package, &known, &files).len()
    };
    for (package, path, text) in [
        ("eticket-ticket", "domain.rs", "use crate::application::Command;"),
        ("eticket-ticket", "domain/ticket.rs", "use super::super::outbound::sqlite::Store;"),
        ("eticket-ticket", "domain.rs", "fn a() { let b = tokio::spawn(c); }"),
        ("eticket-ticket", "domain.rs", "pub async fn a() {}"),
        ("eticket-ticket", "domain.rs", "use eticket_proto::{ids::TicketId, ticket::Ticket};"),
        ("eticket-ticket", "application.rs", "use crate::inbound::grpc;"),
        ("eticket-ticket", "application.rs", "use tonic::Status;"),
        ("eticket-ticket", "application.rs", "use eticket_proto::ticket;"),
        ("eticket-ticket", "inbound/grpc.rs", "use crate::outbound::sqlite::Store;"),
        ("eticket-ticket", "inbound/grpc.rs", "use super::events;"),
        ("eticket-ticket", "inbound/grpc.rs", "use sqlx::Row;"),
        ("eticket-ticket", "application.rs", "use rusqlite::Row;"),
        ("eticket-ticket", "outbound/sqlite.rs", "use eticket_proto::ticket::Ticket;"),
        ("eticket-ticket", "outbound/sqlite.rs", "use super::messages::encode;"),
        ("eticket-ticket", "outbound/messages.rs", "use eticket_ticket::inbound::grpc;"),
        ("eticket-ticket", "convert.rs", "use crate::outbound::messages;"),
        ("eticket-ticket", "domain.rs", "use crate::convert::status;"),
        ("eticket-ticket", "lib.rs", "use eticket_proto::ticket::Ticket;"),
        ("eticket-ticket", "config.rs", "use crate::outbound::sqlite;"),
        ("eticket-service", "relay.rs", "use eticket_proto::ids::TicketId;"),
        ("eticket-rpc-server", "paging.rs", "use eticket_proto::token::{Kind, Consistency};"),
    ] {
        assert_eq!(wrong(package, path, text), 1, "{package}/{path}: {text}");
    }
    for (package, path, text) in [
        ("eticket-ticket", "domain.rs", "use chrono::Utc; use eticket_proto::ids::TicketId; use self::ticket::State;"),
        ("eticket-ticket", "application.rs", "use crate::domain::Ticket; use eticket_service::batch;"),
        ("eticket-ticket", "inbound/grpc.rs", "use crate::application::Command; use eticket_proto::ticket::Ticket;"),
        ("eticket-ticket", "convert.rs", "use crate::domain::Ticket; use eticket_proto::ticket::TicketStatus;"),
        ("eticket-ticket", "outbound/postgres.rs", "use sqlx::Row; use self::rows::Ticket;"),
        ("eticket-ticket", "outbound/sqlite.rs", "use rusqlite::Row; use self::rows::Ticket;"),
        ("eticket-ticket", "outbound/messages.rs", "use eticket_proto::event::TicketEvent;"),
        ("eticket-reservation", "outbound/ticket_client.rs", "use eticket_proto::ticket::CheckAvailabilityRequest;"),
        ("eticket-ticket", "lib.rs", "use crate::{inbound::grpc, outbound::sqlite};"),
        ("eticket-ticket", "lib.rs", "eticket_proto::ticket::ticket_service_server::SERVICE_NAME"),
        ("eticket-bus-nats", "lib.rs", "use async_nats::jetstream; use eticket_proto::headers;"),
    ] {
        assert_eq!(wrong(package, path, text), 0, "{package}/{path}: {text}");
    }
}
