//! Calls by REST over HTTP/1.1.

use std::sync::atomic::Ordering;

use axum::body::Body;
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::{
    MAX_MESSAGE_BYTES, World, eventually,
    fake::{HEADERS, REFUSED, SLOW},
    web_client::{Web, plain, read_json},
};

const JSON: (&str, &str) = ("content-type", "application/json");

struct Sent {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl Sent {
    /// The reason of the error, and its message.
    fn error(&self) -> (&str, &str) {
        let reason = self.detail("ErrorInfo").map_or("", |info| info["reason"].as_str().unwrap());
        (reason, self.body["message"].as_str().unwrap())
    }

    fn detail(&self, name: &str) -> Option<&Value> {
        let details = self.body["details"].as_array().expect("details");
        details.iter().find(|detail| detail["@type"] == format!("type.googleapis.com/google.rpc.{name}"))
    }
}

async fn send(world: &World, verb: &str, uri: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Sent {
    let response = Web::connect(world).await.send(plain(verb, uri, headers, body)).await;
    let (head, body) = read_json(response).await;
    assert_eq!(head.headers[header::CONTENT_TYPE], "application/json");
    Sent { status: head.status.as_u16(), headers: head.headers, body }
}

#[tokio::test]
async fn a_call_returns_its_response_as_json() {
    let world = World::new().await;
    let sent = send(&world, "GET", "/v1/tickets/t%2D1", &[], "").await;
    assert_eq!((sent.status, &sent.body["ticket"]["title"]), (200, &json!("of ticket")));
    assert_eq!(sent.body["ticket"]["ticketId"], "t-1");
    assert_eq!(sent.body["ticket"]["revision"], "0", "fields with their default values are there");
    assert_eq!(sent.headers["x-header"], "h");
    assert!(sent.headers.contains_key("x-correlation-id"));
    let sent = send(&world, "POST", "/v1/tickets", &[JSON], r#"{"title": "x", "ticketId": "t1"}"#).await;
    assert_eq!((sent.status, &sent.body["ticket"]["title"]), (200, &json!("x")));
    assert_eq!(
        (&sent.headers[header::ETAG], &sent.headers["eticket-consistency-token"]),
        (&"\"7\"".parse().unwrap(), &"a-token".parse().unwrap())
    );
    let with_body = [JSON, ("if-match", "\"7\""), ("idempotency-key", "a-key")];
    let sent = send(&world, "PATCH", "/v1/tickets/t1", &with_body, r#"{"title": "", "endTime": null}"#).await;
    assert_eq!(sent.body["ticket"]["title"], "t1 end_time,title 7 a-key");
}

#[tokio::test]
async fn headers_become_metadata() {
    let world = World::new().await;
    let headers = [
        ("x-correlation-id", "my-id"),
        ("x-timeout-ms", "5000"),
        ("authorization", "Bearer x"),
        ("accept-language", "ko"),
        ("eticket-wait", "applied"),
        ("cookie", "secret"),
        ("grpc-encoding", "gzip"),
        ("sec-fetch-site", "same-origin"),
        ("accept", "application/json"),
    ];
    let sent = send(&world, "GET", &format!("/v1/tickets/{HEADERS}"), &headers, "").await;
    assert_eq!((sent.status, &sent.headers["x-correlation-id"]), (200, &"my-id".parse().unwrap()));
    let seen = sent.body["ticket"]["title"].as_str().unwrap();
    for line in ["eticket-correlation-id=my-id", "authorization=Bearer x", "accept-language=ko", "eticket-wait=applied"]
    {
        assert!(seen.contains(&format!("{line}\n")), "{line}: {seen}");
    }
    assert!(seen.contains("grpc-timeout=4") || seen.contains("grpc-timeout=5000000u"), "{seen}");
    for name in ["cookie", "grpc-encoding", "sec-fetch-site", "x-timeout-ms", "accept=", "x-correlation-id"] {
        assert!(!seen.contains(name), "{name}: {seen}");
    }
}

#[tokio::test]
async fn an_error_has_the_http_status_of_its_code() {
    let world = World::new().await;
    let sent = send(&world, "GET", &format!("/v1/tickets/{REFUSED}"), &[("accept-language", "ko")], "").await;
    assert_eq!((sent.status, &sent.body["code"]), (503, &json!(14)));
    assert_eq!(sent.error().0, "STORE_UNAVAILABLE");
    assert_eq!(
        (&sent.headers[header::RETRY_AFTER], &sent.headers["x-of-its-own"]),
        (&"1".parse().unwrap(), &"kept".parse().unwrap())
    );
    assert_eq!(sent.detail("RetryInfo").unwrap()["retryDelay"], "0.300s");
    assert!(!sent.headers.keys().any(|name| name.as_str().starts_with("grpc-")), "{:?}", sent.headers);
    let sent = send(&world, "GET", &format!("/v1/tickets/{SLOW}"), &[("x-timeout-ms", "50")], "").await;
    assert_eq!((sent.status, sent.error().0), (504, "DEADLINE_EXCEEDED"));
    eventually("the upstream stops", async || world.upstreams.pending() == 0).await;
    let sent = send(&world, "GET", "/v1/tickets", &[], "").await;
    assert_eq!((sent.status, &sent.body["code"]), (501, &json!(12)));
}

#[tokio::test]
async fn wrong_requests_are_refused_before_a_service_runs_them() {
    let world = World::new().await;
    let large = format!(r#"{{"title": "{}"}}"#, "x".repeat(MAX_MESSAGE_BYTES as usize));
    let plain_text = ("content-type", "text/plain");
    for (verb, uri, headers, body, status, reason, message) in [
        ("GET", "/v1/nothing", &[][..], "", 404, "", "no method has the path /v1/nothing"),
        ("GET", "/v1", &[], "", 404, "", "no method has the path /v1"),
        ("GET", "/v1/tickets/t1:nothing", &[], "", 404, "", "no method has the path"),
        (
            "DELETE",
            "/v1/tickets/t1",
            &[],
            "",
            405,
            "",
            "the path does not have DELETE; it has GET, HEAD, OPTIONS, PATCH",
        ),
        ("POST", "/v1/tickets", &[JSON], "{", 400, "INVALID_FIELD", "body: is not JSON"),
        ("POST", "/v1/tickets", &[JSON], "[]", 400, "INVALID_FIELD", "body: must be a JSON object"),
        (
            "POST",
            "/v1/tickets",
            &[JSON],
            r#"{"titel": "x"}"#,
            400,
            "INVALID_FIELD",
            "titel: the request has no such field",
        ),
        ("POST", "/v1/tickets", &[JSON], r#"{"title": 7}"#, 400, "INVALID_FIELD", "title: "),
        ("GET", "/v1/tickets/t1?verbose=true", &[], "", 400, "INVALID_FIELD", "verbose: the request has no such field"),
        ("GET", "/v1/tickets/t1", &[("x-timeout-ms", "1s")], "", 400, "INVALID_FIELD", "x-timeout-ms: "),
        ("POST", "/v1/tickets", &[plain_text], r#"{"title": "x"}"#, 415, "INVALID_FIELD", "content-type: "),
        ("POST", "/v1/tickets", &[], r#"{"title": "x"}"#, 415, "INVALID_FIELD", "content-type: "),
        ("POST", "/v1/tickets", &[JSON, ("content-encoding", "br")], "{}", 415, "INVALID_FIELD", "content-encoding: "),
        ("POST", "/v1/tickets", &[JSON, ("content-encoding", "gzip")], "{}", 400, "INVALID_FIELD", "body: is not gzip"),
        ("POST", "/v1/tickets", &[JSON], &large, 413, "", "the body has more than the 65536 bytes"),
    ] {
        let sent = send(&world, verb, uri, headers, body.to_owned()).await;
        let (found, text) = sent.error();
        assert_eq!((sent.status, found), (status, reason), "{verb} {uri} {headers:?}: {}", sent.body);
        assert!(text.starts_with(message), "{verb} {uri}: {text}");
        assert!(sent.detail("LocalizedMessage").is_some(), "{}", sent.body);
        assert_eq!(sent.headers.contains_key(header::ALLOW), status == 405);
        let violations = sent.detail("BadRequest").map(|detail| detail["fieldViolations"].as_array().unwrap().len());
        assert_eq!(violations, (!reason.is_empty()).then_some(1), "{}", sent.body);
    }
    assert_eq!(world.upstreams.fake.begun.load(Ordering::SeqCst), 0, "no service has seen a request");
}

#[tokio::test]
async fn a_web_page_cannot_send_a_command_without_a_preflight() {
    let world = World::new().await;
    let foreign = ("origin", "https://other.example");
    let local = ("origin", "http://localhost:5173");
    for (headers, body, status) in [
        (&[JSON, foreign][..], r#"{"title": "x"}"#, StatusCode::FORBIDDEN),
        (&[("content-type", "text/plain"), foreign], r#"{"title": "x"}"#, StatusCode::FORBIDDEN),
        (&[("content-type", "text/plain"), local], r#"{"title": "x"}"#, StatusCode::UNSUPPORTED_MEDIA_TYPE),
        // Browsers send a form without a body, and old ones without an origin.
        (&[local], "", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (&[("sec-fetch-site", "cross-site")], "", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (&[JSON, ("host", "rebound.example")], r#"{"title": "x"}"#, StatusCode::FORBIDDEN),
        (&[JSON, local], r#"{"title": "x"}"#, StatusCode::OK),
        (&[], "", StatusCode::OK),
    ] {
        let before = world.upstreams.fake.begun.load(Ordering::SeqCst);
        let response = Web::connect(&world).await.send(plain("POST", "/v1/tickets", headers, body)).await;
        assert_eq!(response.status(), status, "{headers:?}");
        let reached = world.upstreams.fake.begun.load(Ordering::SeqCst) > before;
        assert_eq!(reached, status == StatusCode::OK, "{headers:?}");
    }
}

#[tokio::test]
async fn preflights_name_what_a_page_may_send() {
    let world = World::new().await;
    let asks = [
        ("origin", "http://localhost:5173"),
        ("access-control-request-method", "PATCH"),
        ("access-control-request-headers", "content-type,if-match,idempotency-key"),
    ];
    let response = Web::connect(&world).await.send(plain("OPTIONS", "/v1/tickets/t1", &asks, "")).await;
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_ascii_lowercase();
    assert!(header("access-control-allow-methods").contains("patch"));
    let connect = ["connect-protocol-version", "connect-timeout-ms"];
    for name in ["content-type", "if-match", "idempotency-key", "last-event-id", "x-timeout-ms"].iter().chain(&connect)
    {
        assert!(header("access-control-allow-headers").split(',').any(|allowed| allowed == *name), "{name}");
    }
    let get = plain("GET", "/v1/tickets/t1", &asks[..1], "");
    let response = Web::connect(&world).await.send(get).await;
    assert_eq!(response.headers()["access-control-allow-origin"], "http://localhost:5173");
    let exposed = response.headers()["access-control-expose-headers"].to_str().unwrap();
    for name in ["etag", "retry-after", "eticket-consistency-token", "x-correlation-id"] {
        assert!(exposed.split(',').any(|exposed| exposed == name), "{name}: {exposed}");
    }
}

#[tokio::test]
async fn head_and_options_are_answered() {
    let world = World::new().await;
    let response = Web::connect(&world).await.send(plain("HEAD", "/v1/tickets/t1", &[], "")).await;
    assert_eq!(
        (response.status(), &response.headers()["content-type"]),
        (StatusCode::OK, &"application/json".parse().unwrap())
    );
    assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
    let response = Web::connect(&world).await.send(plain("OPTIONS", "/v1/tickets/t1", &[], "")).await;
    assert_eq!(
        (response.status(), &response.headers()["allow"]),
        (StatusCode::NO_CONTENT, &"GET, HEAD, OPTIONS, PATCH".parse().unwrap())
    );
    let response = Web::connect(&world).await.send(plain("HEAD", "/v1/views:watch?ticketIds=x", &[], "")).await;
    assert_eq!(response.status(), StatusCode::OK);
    eventually("the upstream stops", async || world.upstreams.pending() == 0).await;
}

#[tokio::test]
async fn bodies_may_be_compressed_in_both_directions() {
    use std::io::{Read, Write};
    let world = World::new().await;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(format!(r#"{{"title": "{}"}}"#, "x".repeat(1000)).as_bytes()).unwrap();
    let headers = [JSON, ("content-encoding", "gzip"), ("accept-encoding", "gzip")];
    let request = plain("POST", "/v1/tickets", &headers, encoder.finish().unwrap());
    let response = Web::connect(&world).await.send(request).await;
    assert_eq!(
        (response.status(), &response.headers()["content-encoding"]),
        (StatusCode::OK, &"gzip".parse().unwrap())
    );
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let mut text = String::new();
    flate2::read::GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["ticket"]["title"], "x".repeat(1000));
    // A small body that becomes large.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&vec![b' '; 10 * MAX_MESSAGE_BYTES as usize]).unwrap();
    let sent = send(&world, "POST", "/v1/tickets", &headers[..2], encoder.finish().unwrap()).await;
    assert_eq!(sent.status, 413);
}

#[tokio::test]
async fn a_watch_is_a_stream_of_events() {
    let world = World::new().await;
    let web = Web::connect(&world).await;
    let watch = |id: &str| format!("/v1/views:watch?ticket_ids={id}");
    let resumed = plain("GET", &watch("resumed"), &[("last-event-id", "my-token")], "");
    let response = web.send(resumed).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["cache-control"], "no-store");
    let text = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert!(text.contains(r#""title":"after my-token""#) && text.ends_with(": heartbeat\nid: next\n\n"), "{text}");
    let response = web.send(plain("GET", &watch("two-then-refused"), &[], "")).await;
    let text = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert_eq!(text.matches("data: ").count(), 3, "{text}");
    assert!(text.contains("event: error\nretry: 300\ndata: {") && text.contains("STORE_UNAVAILABLE"), "{text}");
    let mut response = web.send(plain("GET", &watch("one-then-silence"), &[], "")).await;
    assert!(response.body_mut().frame().await.unwrap().unwrap().is_data(), "the stream is not buffered");
    assert_eq!(world.upstreams.pending(), 1);
    drop((response, web));
    eventually("the upstream stops for a caller that left", async || world.upstreams.pending() == 0).await;
}
