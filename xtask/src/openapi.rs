//! The OpenAPI document of the REST interface, generated from the annotations and comments of the contract.
//!
//! The generator of grpc-gateway writes a document for each proto file. This module merges them and adds what the
//! annotations do not say: headers, server-sent events and the bearer token.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::{checkout::Checkout, command, tools};

/// The committed document, which the gateway embeds.
const DOCUMENT: &str = "gateway-grpc-web/openapi.json";
/// The folders of the services with REST paths, in the order of the document.
const SERVICES: [&str; 4] = ["ticket", "reservation", "pricing", "query"];

/// Checks that the committed document matches the contract.
pub(crate) fn check(checkout: &Checkout) -> Result<()> {
    let committed = fs::read_to_string(checkout.root().join(DOCUMENT)).unwrap_or_default();
    if committed == generate(checkout)? {
        return Ok(());
    }
    bail!("{DOCUMENT} does not match the contract: run cargo xtask openapi --update")
}

/// Writes the document.
pub(crate) fn update(checkout: &Checkout) -> Result<()> {
    let path = checkout.root().join(DOCUMENT);
    fs::write(&path, generate(checkout)?).with_context(|| format!("cannot write {}", path.display()))
}

fn generate(checkout: &Checkout) -> Result<String> {
    let (buf, plugin) = (tools::buf(checkout)?, tools::openapi(checkout)?);
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let template = json!({
        "version": "v2",
        // The generator needs a package of Go for each file, although it writes no Go.
        "managed": {"enabled": true, "override": [{"file_option": "go_package_prefix", "value": "eticket"}]},
        "plugins": [{"local": plugin, "out": folder.path(), "strategy": "all"}],
    });
    let mut generate = Command::new(buf);
    generate.args(["generate", "--template", &template.to_string()]).current_dir(checkout.root().join("proto"));
    for service in SERVICES {
        generate.args(["--path", &format!("eticket/{service}")]);
    }
    command::output(&mut generate)?;
    let documents = SERVICES.map(|service| read(folder.path(), service));
    let documents: Vec<_> = documents.into_iter().collect::<Result<_>>()?;
    Ok(format!("{:#}\n", merge(&documents)))
}

fn read(folder: &Path, service: &str) -> Result<Value> {
    let path = folder.join(format!("eticket/{service}/v1/{service}.openapi.json"));
    let text = fs::read_to_string(&path).with_context(|| format!("{} was not generated", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))
}

/// Merges the documents of the services into one.
fn merge(documents: &[Value]) -> Value {
    let (mut paths, mut schemas, mut tags) = (Map::new(), Map::new(), Vec::new());
    for document in documents {
        paths.extend(document["paths"].as_object().cloned().unwrap_or_default());
        schemas.extend(document["components"]["schemas"].as_object().cloned().unwrap_or_default());
        tags.extend(document["tags"].as_array().cloned().unwrap_or_default());
    }
    for operation in paths.values_mut().filter_map(Value::as_object_mut).flat_map(Map::values_mut) {
        complete(operation);
    }
    let parameters: BTreeMap<_, _> = headers().into_iter().collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "eTicket",
            "version": "v1",
            "description": "Tickets, reservations, prices and views over REST. Errors are `google.rpc.Status`.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        // A token is needed only with `auth.mode = jwt`.
        "security": [{}, {"bearer": []}],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas,
            "parameters": parameters,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    })
}

/// Adds headers, and the media type of a stream.
fn complete(operation: &mut Value) {
    let fields = operation.pointer("/requestBody/content/application~1json/schema/properties").cloned();
    let message = operation.pointer("/responses/200/content/application~1json/schema/properties/result").cloned();
    let streams = message.is_some();
    if let Some(message) = message {
        operation["responses"]["200"]["content"] = json!({"text/event-stream": {"schema": message}});
        operation["responses"]["200"]["description"] = "Server-sent events. `id` is the resume token, `data` the response \
            as JSON. An event named `error` has a `google.rpc.Status` and is the last one. A comment every 20 s keeps the \
            connection open."
            .into();
    }
    // Other than a description, a summary is plain text.
    if let Some(summary) = operation["summary"].as_str() {
        operation["summary"] = summary.replace('`', "").into();
    }
    let sent = |field: &str| fields.as_ref().is_some_and(|fields| fields.get(field).is_some());
    let mut names = vec!["AcceptLanguage", "CorrelationId", "Timeout"];
    names.extend(sent("requestId").then_some("IdempotencyKey"));
    names.extend(sent("etag").then_some("IfMatch"));
    names.extend(streams.then_some("LastEventId"));
    let references = names.into_iter().map(|name| json!({"$ref": format!("#/components/parameters/{name}")}));
    match operation["parameters"].as_array_mut() {
        Some(parameters) => parameters.extend(references),
        None => operation["parameters"] = references.collect(),
    }
}

/// The headers that are no fields of the contract.
fn headers() -> [(&'static str, Value); 6] {
    [
        ("AcceptLanguage", "Accept-Language", "The language of error texts: `en` or `ko`."),
        (
            "CorrelationId",
            "X-Correlation-Id",
            "Identifies the call in logs and events. If empty, the gateway makes one.",
        ),
        ("IdempotencyKey", "Idempotency-Key", "The `requestId`: a UUID that makes a retry safe."),
        ("IfMatch", "If-Match", "The `ETag` of the ticket, in quotes, that the command is based on; `*` for any."),
        ("LastEventId", "Last-Event-ID", "The `id` of the last event; the stream continues after it."),
        ("Timeout", "X-Timeout-Ms", "The deadline in milliseconds. A call without one, other than a watch, has 10 s."),
    ]
    .map(|(key, name, description)| {
        let kind = if key == "Timeout" { json!({"type": "integer", "minimum": 0}) } else { json!({"type": "string"}) };
        (key, json!({"name": name, "in": "header", "description": description, "schema": kind}))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(schema: &Value) -> Value {
        json!({
            "summary": "Lists by `ticket_id`.",
            "requestBody": {"content": {"application/json": {"schema": {"properties": {"etag": {}, "requestId": {}}}}}},
            "responses": {"200": {"content": {"application/json": {"schema": schema}}}},
        })
    }

    fn parameters(operation: &Value) -> Vec<&str> {
        let names = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
        names.iter().filter_map(|name| name["$ref"].as_str()?.rsplit('/').next()).collect()
    }

    #[test]
    fn commands_have_their_headers_and_a_plain_summary() {
        let reference = json!({"$ref": "#/components/schemas/x"});
        let mut operation = operation(&reference);
        complete(&mut operation);
        let expected = ["AcceptLanguage", "CorrelationId", "Timeout", "IdempotencyKey", "IfMatch"];
        assert_eq!(parameters(&operation), expected);
        assert_eq!(operation["summary"], "Lists by ticket_id.");
        assert_eq!(operation["responses"]["200"]["content"]["application/json"]["schema"], reference);
    }

    #[test]
    fn a_stream_is_server_sent_events() {
        let message = json!({"$ref": "#/components/schemas/x"});
        let mut operation = operation(&json!({"properties": {"result": message, "error": {}}}));
        complete(&mut operation);
        let content = &operation["responses"]["200"]["content"];
        assert_eq!(*content, json!({"text/event-stream": {"schema": message}}));
        assert!(parameters(&operation).contains(&"LastEventId"));
    }

    #[test]
    fn documents_become_one() {
        let one =
            json!({"paths": {"/a": {"get": operation(&json!({}))}}, "components": {"schemas": {"s": {}}}, "tags": [1]});
        let two = json!({"paths": {"/b": {"get": operation(&json!({}))}}, "components": {"schemas": {"s": {}, "t": {}}}, "tags": [2]});
        let merged = merge(&[one, two]);
        assert_eq!(merged["paths"].as_object().map(Map::len), Some(2));
        assert_eq!(merged["components"]["schemas"], json!({"s": {}, "t": {}}));
        assert_eq!(merged["tags"], json!([1, 2]));
    }
}
