//! The software bill of materials of the program: the crates that it is built from, as CycloneDX 1.5.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{checkout::Checkout, command};

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    /// `None` for a crate of the checkout.
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// `None` for a dependency at run time; otherwise `build` or `dev`.
    kind: Option<String>,
}

/// Returns the bill of materials of the program `eticket` as JSON.
pub(super) fn of_program(checkout: &Checkout, version: &str) -> Result<Vec<u8>> {
    let mut metadata = checkout.cargo();
    metadata.args(["metadata", "--locked", "--format-version", "1", "--filter-platform"]);
    metadata.arg(format!("{}-unknown-linux-gnu", std::env::consts::ARCH));
    let metadata: Metadata =
        serde_json::from_str(&command::output(&mut metadata)?).context("cargo metadata prints no metadata")?;
    let document = document(&metadata, version).context("the package eticket is not in the workspace")?;
    Ok(format!("{document:#}\n").into_bytes())
}

fn document(metadata: &Metadata, version: &str) -> Option<Value> {
    let program = metadata.packages.iter().find(|package| package.name == "eticket" && package.source.is_none())?;
    let used = used(&metadata.resolve, &program.id);
    let packages: HashMap<&str, &Package> =
        metadata.packages.iter().map(|package| (package.id.as_str(), package)).collect();
    // By name and version, so that the order does not depend on paths.
    let sorted: BTreeMap<(&str, &str), &Package> = used
        .keys()
        .filter_map(|id| packages.get(id))
        .map(|package| ((package.name.as_str(), package.version.as_str()), *package))
        .collect();
    let components = sorted.values().filter(|package| package.id != program.id).map(|package| component(package));
    let dependencies = sorted.values().map(|package| {
        let on = used[package.id.as_str()].iter().filter_map(|id| packages.get(id)).map(|package| url(package));
        json!({ "ref": url(package), "dependsOn": on.collect::<BTreeSet<_>>() })
    });
    Some(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application", "bom-ref": url(program), "name": "eticket", "version": version,
                "licenses": licenses(program),
            },
        },
        "components": components.collect::<Vec<_>>(),
        "dependencies": dependencies.collect::<Vec<_>>(),
    }))
}

/// Returns the packages that a package needs at run time, itself included, each with those that it needs directly.
fn used<'a>(resolve: &'a Resolve, program: &'a str) -> HashMap<&'a str, Vec<&'a str>> {
    let nodes: HashMap<&str, &Node> = resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let mut used = HashMap::new();
    let mut open = vec![program];
    while let Some(id) = open.pop() {
        if used.contains_key(id) {
            continue;
        }
        let dependencies = nodes.get(id).map(|node| &node.deps[..]).unwrap_or_default();
        let needed = dependencies.iter().filter(|dependency| dependency.dep_kinds.iter().any(|it| it.kind.is_none()));
        let needed: Vec<&str> = needed.map(|dependency| dependency.pkg.as_str()).collect();
        open.extend(&needed);
        used.insert(id, needed);
    }
    used
}

fn component(package: &Package) -> Value {
    json!({
        "type": "library", "bom-ref": url(package), "name": package.name, "version": package.version,
        "purl": url(package), "licenses": licenses(package),
    })
}

fn licenses(package: &Package) -> Value {
    // Old crates separate alternatives by a slash, which is no SPDX expression.
    package.license.as_ref().map_or(json!([]), |license| json!([{ "expression": license.replace('/', " OR ") }]))
}

/// The package URL, which also identifies a component within the document.
fn url(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_used_at_run_time_is_listed() {
        let package = |name: &str, source: Option<&str>| json!({ "id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0", "source": source });
        let needs = |name: &str, kind: Value| json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] });
        let metadata = json!({
            "packages": [
                package("eticket", None), package("used", Some("registry")), package("tester", Some("registry")),
                package("deep", Some("registry")), package("xtask", None),
            ],
            "resolve": { "nodes": [
                { "id": "eticket", "deps": [needs("used", Value::Null), needs("tester", json!("dev"))] },
                { "id": "used", "deps": [needs("deep", Value::Null), needs("tester", json!("build"))] },
                { "id": "deep", "deps": [] }, { "id": "tester", "deps": [] }, { "id": "xtask", "deps": [] },
            ] },
        });
        let metadata: Metadata = serde_json::from_value(metadata).expect("metadata");
        let document = document(&metadata, "2.0.0").expect("a document");
        let names: Vec<_> = document["components"].as_array().expect("a list").iter().map(|it| &it["name"]).collect();
        assert_eq!(names, ["deep", "used"]);
        assert_eq!(document["components"][0]["purl"], "pkg:cargo/deep@1.0.0");
        assert_eq!(document["components"][0]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(document["metadata"]["component"]["version"], "2.0.0");
        assert_eq!(document["dependencies"][1]["dependsOn"], json!(["pkg:cargo/used@1.0.0"]));
    }
}
