//! Calls by Connect over HTTP/1.1, unary and streaming, with JSON and protobuf.

use std::sync::atomic::Ordering;

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use bytes::{Buf, Bytes};
use eticket_proto::{
    query::{WatchTicketViewsRequest, WatchTicketViewsResponse},
    ticket::{GetTicketRequest, GetTicketResponse},
};
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use prost::Message;
use serde_json::{Value, json};
use tonic_types::ErrorInfo;

use super::{
    MAX_MESSAGE_BYTES, World, eventually,
    fake::{HEADERS, REFUSED, SLOW},
    web_client::{Web, frame, method, plain, read_json},
};

const JSON: (&str, &str) = ("content-type", "application/json");
const PROTO: (&str, &str) = ("content-type", "application/proto");
const VERSION: (&str, &str) = ("connect-protocol-version", "1");

async fn call(world: &World, path: &str, headers: &[(&str, &str)], body: &str) -> (StatusCode, HeaderMap, Value) {
    let response = Web::connect(world).await.send(plain("POST", path, headers, body.to_owned())).await;
    let (head, json) = read_json(response).await;
    assert_eq!(head.headers[header::CONTENT_TYPE], "application/json");
    (head.status, head.headers, json)
}

/// Splits the body of a stream into envelopes.
fn envelopes(mut body: Bytes) -> Vec<(u8, Bytes)> {
    let mut envelopes = Vec::new();
    while body.has_remaining() {
        let (flags, length) = (body.get_u8(), body.get_u32());
        envelopes.push((flags, body.split_to(length as usize)));
    }
    envelopes
}

#[tokio::test]
async fn unary_calls_with_both_codecs() {
    let world = World::new().await;
    let (status, headers, json) = call(&world, method::GET_TICKET, &[JSON, VERSION], r#"{"ticketId": "t1"}"#).await;
    assert_eq!((status, &json["ticket"]["title"]), (StatusCode::OK, &json!("of ticket")));
    assert_eq!(headers["x-header"], "h");
    let body = GetTicketRequest { ticket_id: "t1".to_owned() }.encode_to_vec();
    let response = Web::connect(&world).await.send(plain("POST", method::GET_TICKET, &[PROTO], body)).await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/proto");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(GetTicketResponse::decode(body).unwrap().ticket.unwrap().title, "of ticket");
    let (status, _, json) = call(&world, method::CHECK, &[JSON], "{}").await;
    assert_eq!((status, json), (StatusCode::OK, json!({"status": "SERVING"})), "the gateway's own services too");
    let operations = "/eticket.operations.v1.OperationsService/ListParkedEvents";
    let (_, _, json) = call(&world, operations, &[JSON, ("eticket-service", "pricing")], "{}").await;
    assert_eq!(json, json!({"nextPageToken": "pricing"}));
    let status = "/eticket.operations.v1.OperationsService/GetStatus";
    let (_, _, json) = call(&world, status, &[JSON, ("eticket-service", "pricing")], "{}").await;
    let address = world.upstreams.addresses()[crate::Backend::Pricing as usize].to_string();
    let replica = json!({"service": "pricing", "address": address, "ready": true});
    assert_eq!(json, json!({"replicas": [replica]}));
    let (status, _, json) = call(&world, operations, &[JSON], "{}").await;
    assert_eq!((status, &json["code"]), (StatusCode::BAD_REQUEST, &json!("invalid_argument")));
}

#[tokio::test]
async fn an_error_is_json_with_its_details() {
    let world = World::new().await;
    let body = format!(r#"{{"ticketId": "{REFUSED}"}}"#);
    let (status, headers, json) = call(&world, method::GET_TICKET, &[JSON], &body).await;
    assert_eq!((status, &json["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("unavailable")));
    assert_eq!(
        (&headers[header::RETRY_AFTER], &headers["x-of-its-own"]),
        (&"1".parse().unwrap(), &"kept".parse().unwrap())
    );
    let details = json["details"].as_array().unwrap();
    let info = details.iter().find(|detail| detail["type"] == "google.rpc.ErrorInfo").expect("an ErrorInfo");
    assert_eq!(info["debug"]["reason"], "STORE_UNAVAILABLE");
    let value = BASE64_STANDARD_NO_PAD.decode(info["value"].as_str().unwrap()).unwrap();
    let decoded = tonic_types::pb::ErrorInfo::decode(&value[..]).unwrap();
    assert_eq!(ErrorInfo::from(decoded).reason, "STORE_UNAVAILABLE");
    let body = format!(r#"{{"ticketId": "{SLOW}"}}"#);
    let (status, _, json) = call(&world, method::GET_TICKET, &[JSON, ("connect-timeout-ms", "50")], &body).await;
    assert_eq!((status, &json["code"]), (StatusCode::GATEWAY_TIMEOUT, &json!("deadline_exceeded")));
}

#[tokio::test]
async fn wrong_requests_are_refused_before_a_service_runs_them() {
    let world = World::new().await;
    let large = format!(r#"{{"title": "{}"}}"#, "x".repeat(MAX_MESSAGE_BYTES as usize));
    let unknown = "/eticket.ticket.v1.TicketService/Nothing";
    for (path, headers, body, status, code) in [
        (method::REGISTER_TICKET, &[JSON][..], "{", 400, "invalid_argument"),
        (method::REGISTER_TICKET, &[JSON], r#"{"title": 7}"#, 400, "invalid_argument"),
        (method::REGISTER_TICKET, &[JSON, ("connect-protocol-version", "2")], "{}", 400, "invalid_argument"),
        (method::REGISTER_TICKET, &[JSON, ("connect-timeout-ms", "1s")], "{}", 400, "invalid_argument"),
        (method::REGISTER_TICKET, &[JSON, ("content-encoding", "gzip")], "{}", 400, "invalid_argument"),
        (method::REGISTER_TICKET, &[JSON, ("content-encoding", "br")], "{}", 501, "unimplemented"),
        (method::REGISTER_TICKET, &[JSON], &large, 413, "resource_exhausted"),
        (unknown, &[JSON], "{}", 501, "unimplemented"),
    ] {
        let is_unknown_encoding = headers.contains(&("content-encoding", "br"));
        let (found, headers, json) = call(&world, path, headers, body).await;
        assert_eq!((found.as_u16(), &json["code"]), (status, &json!(code)), "{path} {body:.60}: {json}");
        let accepted = headers.get(header::ACCEPT_ENCODING).map(|encodings| encodings.to_str().unwrap());
        assert_eq!(accepted, is_unknown_encoding.then_some("gzip"));
    }
    assert_eq!(world.upstreams.fake.begun.load(Ordering::SeqCst), 0, "no service has seen a request");
    let (status, _, json) = call(&world, method::REGISTER_TICKET, &[JSON], r#"{"title": "x", "future": 1}"#).await;
    assert_eq!((status, &json["ticket"]["title"]), (StatusCode::OK, &json!("x")), "a newer client may call");
}

/// Whoever sends such a request may not know Connect, so the response is no error of Connect.
#[tokio::test]
async fn a_request_that_is_no_call_gets_text() {
    let world = World::new().await;
    let stream = ("content-type", "application/connect+json");
    for (path, headers, status, said) in [
        (method::REGISTER_TICKET, &[stream][..], 415, "application/json, application/proto"),
        (method::REGISTER_TICKET, &[("content-type", "image/jpeg")], 415, "application/json, application/proto"),
        (method::REGISTER_TICKET, &[], 415, "application/json, application/proto"),
        (method::WATCH, &[JSON], 415, "application/connect+json, application/connect+proto"),
        ("/eticket.nothing.v1.Nothing/Get", &[PROTO], 404, "reflection lists what is served"),
        ("/eticket.nothing.v1.Nothing/Get", &[stream], 404, "reflection lists what is served"),
        ("/eticket.nothing.v1.Nothing/Get", &[("content-type", "image/jpeg")], 415, "Connect"),
    ] {
        let response = Web::connect(&world).await.send(plain("POST", path, headers, "{}")).await;
        let (head, body) = response.into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        assert_eq!(head.status.as_u16(), status, "{path} {headers:?}: {text}");
        assert_eq!(head.headers[header::CONTENT_TYPE], "text/plain; charset=utf-8");
        assert!(text.contains(said), "{text}");
        let owned = !path.contains("nothing");
        assert_eq!(head.headers.get("accept-post").is_some_and(|accepted| accepted == said), owned);
    }
    assert_eq!(world.upstreams.fake.begun.load(Ordering::SeqCst), 0, "no service has seen a request");
}

#[tokio::test]
async fn a_stream_takes_one_message_in_a_known_compression() {
    let world = World::new().await;
    let web = Web::connect(&world).await;
    let message = frame(b"{}");
    for (encoding, body, code) in [
        ("identity", Vec::new(), "unimplemented"),
        ("identity", [message.clone(), message.clone()].concat(), "unimplemented"),
        ("br", message.clone(), "unimplemented"),
        ("identity", [&[1][..], &message[1..]].concat(), "internal"),
        ("identity", message[..6].to_vec(), "invalid_argument"),
    ] {
        let headers = [("content-type", "application/connect+json"), ("connect-content-encoding", encoding)];
        let response = web.send(plain("POST", method::WATCH, &headers, body.clone())).await;
        let parts = envelopes(response.into_body().collect().await.unwrap().to_bytes());
        let end: Value = serde_json::from_slice(&parts[0].1).unwrap();
        assert_eq!((parts[0].0, &end["error"]["code"]), (2, &json!(code)), "{encoding} {body:?}");
    }
}

#[tokio::test]
async fn only_methods_without_side_effects_are_called_by_get() {
    let world = World::new().await;
    let get = |path: &str, query: &str| plain("GET", &format!("{path}?{query}"), &[], "");
    let query = "connect=v1&encoding=json&message=%7B%22ticketId%22%3A%22t1%22%7D";
    let (head, json) = read_json(Web::connect(&world).await.send(get(method::GET_TICKET, query)).await).await;
    assert_eq!((head.status, &json["ticket"]["title"]), (StatusCode::OK, &json!("of ticket")));
    let before = world.upstreams.fake.begun.load(Ordering::SeqCst);
    for (path, query, status, allow) in [
        (method::REGISTER_TICKET, "connect=v1&encoding=json&message=%7B%7D", 405, Some("POST")),
        (method::WATCH, "connect=v1&encoding=json&message=%7B%7D", 405, Some("POST")),
        (method::GET_TICKET, "connect=v1&encoding=json", 400, None),
        (method::GET_TICKET, "", 400, None),
    ] {
        let response = Web::connect(&world).await.send(get(path, query)).await;
        assert_eq!(response.status().as_u16(), status, "{path} {query}");
        assert_eq!(response.headers().get(header::ALLOW).map(|allow| allow.to_str().unwrap()), allow);
    }
    assert_eq!(world.upstreams.fake.begun.load(Ordering::SeqCst), before, "no service has seen a request");
}

#[tokio::test]
async fn a_page_of_a_foreign_origin_cannot_send_json_commands() {
    let world = World::new().await;
    for (content_type, origin, status) in [
        (JSON, "https://other.example", StatusCode::FORBIDDEN),
        (PROTO, "https://other.example", StatusCode::FORBIDDEN),
        (("content-type", "text/plain"), "http://localhost:1", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (("content-type", "multipart/form-data"), "http://localhost:1", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (JSON, "http://localhost:1", StatusCode::OK),
    ] {
        let request = plain("POST", method::REGISTER_TICKET, &[content_type, ("origin", origin)], "{}");
        assert_eq!(Web::connect(&world).await.send(request).await.status(), status, "{content_type:?} {origin}");
    }
    assert_eq!(world.upstreams.fake.begun.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn streams_end_with_their_status() {
    let world = World::new().await;
    let web = Web::connect(&world).await;
    let watch = |content_type: &str, message: &[u8]| {
        plain("POST", method::WATCH, &[("content-type", content_type), VERSION], frame(message))
    };
    let message = br#"{"ticketIds": ["two-then-refused"]}"#;
    let response = web.send(watch("application/connect+json", message)).await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/connect+json");
    let parts = envelopes(response.into_body().collect().await.unwrap().to_bytes());
    assert_eq!(parts.iter().map(|(flags, _)| *flags).collect::<Vec<_>>(), [0, 0, 2]);
    let view: Value = serde_json::from_slice(&parts[0].1).unwrap();
    assert_eq!(view, json!({"view": {"ticketId": "1"}}));
    let end: Value = serde_json::from_slice(&parts[2].1).unwrap();
    assert_eq!((&end["error"]["code"], &end["metadata"]["x-of-its-own"]), (&json!("unavailable"), &json!(["kept"])));
    assert!(end["metadata"].as_object().unwrap().keys().all(|name| !name.starts_with("grpc-status")), "{end}");

    let request = WatchTicketViewsRequest { ticket_ids: vec!["hundred".to_owned()], ..Default::default() };
    let response = web.send(watch("application/connect+proto", &request.encode_to_vec())).await;
    let parts = envelopes(response.into_body().collect().await.unwrap().to_bytes());
    assert_eq!((parts.len(), &parts[100]), (101, &(2, Bytes::from_static(b"{}"))));
    let view = WatchTicketViewsResponse::decode(parts[99].1.clone()).unwrap().view.unwrap();
    assert_eq!(view.ticket_id, "99");

    // Errors before the first message are in the stream too.
    let response = web.send(watch("application/connect+json", b"{")).await;
    assert_eq!(response.status(), StatusCode::OK);
    let parts = envelopes(response.into_body().collect().await.unwrap().to_bytes());
    let end: Value = serde_json::from_slice(&parts[0].1).unwrap();
    assert_eq!((parts[0].0, &end["error"]["code"]), (2, &json!("invalid_argument")));

    let mut response = web.send(watch("application/connect+json", br#"{"ticketIds": ["one-then-silence"]}"#)).await;
    assert!(response.body_mut().frame().await.unwrap().unwrap().is_data(), "the stream is not buffered");
    drop((response, web));
    eventually("the upstream stops for a caller that left", async || world.upstreams.pending() == 0).await;
}

#[tokio::test]
async fn headers_of_the_protocol_are_no_metadata() {
    let world = World::new().await;
    let headers = [JSON, VERSION, ("connect-timeout-ms", "5000"), ("x-own", "1"), ("grpc-timeout", "1n")];
    let (status, _, json) =
        call(&world, method::GET_TICKET, &headers, &format!(r#"{{"ticketId": "{HEADERS}"}}"#)).await;
    let seen = json["ticket"]["title"].as_str().unwrap();
    assert_eq!(status, StatusCode::OK);
    assert!(seen.contains("x-own=1\n") && seen.contains("grpc-timeout=") && !seen.contains("connect-"), "{seen}");
}
