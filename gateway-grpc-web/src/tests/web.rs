//! Calls over gRPC-Web, binary and text, over HTTP/1.1 as browsers send them without TLS; and CORS.

use std::sync::atomic::Ordering;

use axum::body::Body;
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use eticket_proto::{
    headers,
    query::{WatchTicketViewsRequest, WatchTicketViewsResponse},
    ticket::{GetTicketRequest, GetTicketResponse},
};
use futures::stream;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use prost::Message;
use tonic::{Code, Status};

use super::{
    World, eventually,
    fake::{self, HUNDRED, ONE_THEN_SILENCE, REFUSED, TWO_THEN_REFUSED},
    web_client::{Web, WebResponse, frame, method, read, request},
};

fn ticket(ticket_id: &str) -> GetTicketRequest {
    GetTicketRequest { ticket_id: ticket_id.to_owned() }
}

fn watch(ticket_id: &str) -> WatchTicketViewsRequest {
    WatchTicketViewsRequest { ticket_ids: vec![ticket_id.to_owned()], resume_token: String::new() }
}

fn title(answer: &WebResponse) -> String {
    assert_eq!(answer.messages.len(), 1);
    GetTicketResponse::decode(answer.messages[0].clone()).unwrap().ticket.unwrap().title
}

fn assert_is_the_refusal(status: &Status) {
    let expected = fake::refusal();
    assert_eq!((status.code(), status.message()), (expected.code(), expected.message()));
    assert_eq!(status.details(), expected.details());
    assert_eq!(status.metadata().get("x-of-its-own").unwrap(), "kept");
    assert_eq!(status.metadata().get(headers::RETRY_PUSHBACK).unwrap(), "300");
}

#[tokio::test]
async fn unary_calls_and_refusals() {
    let world = World::new().await;
    let web = Web::connect(&world).await;
    for text in [false, true] {
        let answer = web.call(method::GET_TICKET, text, &ticket("t1"), &HeaderMap::new()).await;
        assert_eq!(title(&answer), "of ticket");
        assert_eq!(answer.status().code(), Code::Ok);
        assert!(answer.trailers.is_some(), "the status comes after the message");
        assert_eq!(answer.headers["x-header"], "h");
        let answer = web.call(method::GET_TICKET, text, &ticket(REFUSED), &HeaderMap::new()).await;
        assert_is_the_refusal(&answer.status());
        let answer = web.call(method::CHECK, text, &(), &HeaderMap::new()).await;
        assert_eq!(answer.status().code(), Code::Ok, "the gateway's own services too");
    }
}

#[tokio::test]
async fn streams_and_refusals_after_messages() {
    let world = World::new().await;
    let web = Web::connect(&world).await;
    for text in [false, true] {
        let answer = web.call(method::WATCH, text, &watch(TWO_THEN_REFUSED), &HeaderMap::new()).await;
        assert_eq!(answer.messages.len(), 2);
        assert_is_the_refusal(&answer.status());
        let answer = web.call(method::WATCH, text, &watch(HUNDRED), &HeaderMap::new()).await;
        assert_eq!(answer.messages.len(), 100);
        let last = WatchTicketViewsResponse::decode(answer.messages[99].clone()).unwrap().view.unwrap();
        assert_eq!((last.ticket_id.as_str(), last.title.len()), ("99", 10_000));
        assert_eq!(answer.status().code(), Code::Ok);
    }
}

#[tokio::test]
async fn a_web_stream_is_not_buffered_and_can_be_cancelled() {
    let world = World::new().await;
    for text in [false, true] {
        let web = Web::connect(&world).await;
        let framed = frame(&watch(ONE_THEN_SILENCE).encode_to_vec());
        let body = if text { BASE64_STANDARD.encode(framed).into_bytes() } else { framed };
        let mut response = web.send(request(method::WATCH, text, Body::from(body))).await;
        assert!(response.body_mut().frame().await.unwrap().unwrap().is_data());
        assert_eq!(world.upstreams.pending(), 1);
        drop((response, web));
        eventually("the upstream stops for a caller that left", async || world.upstreams.pending() == 0).await;
    }
}

#[tokio::test]
async fn text_may_be_split_and_padded_anywhere() {
    let world = World::new().await;
    let web = Web::connect(&world).await;
    let framed = frame(&ticket("t1").encode_to_vec());
    let pieces: Vec<u8> = framed.chunks(4).flat_map(|piece| BASE64_STANDARD.encode(piece).into_bytes()).collect();
    assert!(pieces[..pieces.len() - 1].contains(&b'='), "padding stands inside");
    for size in [1, 2, 3, 5, 7, pieces.len()] {
        let chunks: Vec<_> = pieces.chunks(size).map(|chunk| Ok::<_, Status>(Bytes::copy_from_slice(chunk))).collect();
        let body = Body::from_stream(stream::iter(chunks));
        let answer = read(web.send(request(method::GET_TICKET, true, body)).await, true).await;
        assert_eq!(title(&answer), "of ticket", "in chunks of {size}");
    }
}

#[tokio::test]
async fn the_response_has_the_accepted_encoding() {
    let world = World::new().await;
    let web = Web::connect(&world).await;
    let body = BASE64_STANDARD.encode(frame(&ticket("t1").encode_to_vec()));
    let mut call = request(method::GET_TICKET, true, Body::from(body));
    call.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/grpc-web+proto"));
    let response = web.send(call).await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/grpc-web+proto");
    assert_eq!(title(&read(response, false).await), "of ticket");
}

#[tokio::test]
async fn connection_headers_are_not_forwarded() {
    let world = World::new().await;
    let web = Web::connect(&world).await;
    let mut extra = HeaderMap::new();
    extra.insert(header::CONNECTION, HeaderValue::from_static("keep-alive, x-hop, content-type"));
    extra.insert("x-hop", HeaderValue::from_static("1"));
    extra.insert("keep-alive", HeaderValue::from_static("timeout=5"));
    extra.insert("x-end-to-end", HeaderValue::from_static("2"));
    let title = title(&web.call(method::GET_TICKET, false, &ticket(fake::HEADERS), &extra).await);
    assert!(title.contains("x-end-to-end=2\n"), "{title}");
    for name in ["x-hop=", "keep-alive=", "connection=", "host="] {
        assert!(!title.lines().any(|line| line.starts_with(name)), "{name} in {title}");
    }
}

fn preflight(origin: &'static str) -> Request<Body> {
    Request::builder()
        .method(Method::OPTIONS)
        .uri(method::GET_TICKET)
        .header(header::HOST, "localhost")
        .header(header::ORIGIN, origin)
        .header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST")
        .header(header::ACCESS_CONTROL_REQUEST_HEADERS, "content-type,x-grpc-web")
        .body(Body::empty())
        .unwrap()
}

fn list(headers: &HeaderMap, name: header::HeaderName) -> Vec<String> {
    headers[name].to_str().unwrap().split(',').map(|entry| entry.trim().to_owned()).collect()
}

#[tokio::test]
async fn a_page_of_a_loopback_origin_may_call_and_see_the_error() {
    let world = World::new().await;
    let web = Web::connect(&world).await;
    let response = web.send(preflight("http://localhost:5173")).await;
    assert_eq!(response.status(), StatusCode::OK);
    let headers = response.headers();
    assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "http://localhost:5173");
    assert!(headers.contains_key(header::ACCESS_CONTROL_MAX_AGE));
    assert!(!headers.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS));
    let allowed = list(headers, header::ACCESS_CONTROL_ALLOW_HEADERS);
    for name in [
        "content-type",
        "x-grpc-web",
        "x-user-agent",
        "grpc-timeout",
        "authorization",
        "eticket-service",
        "traceparent",
        "eticket-correlation-id",
        "accept-language",
    ] {
        assert!(allowed.iter().any(|entry| entry == name), "{name} in {allowed:?}");
    }
    let mut origin = HeaderMap::new();
    origin.insert(header::ORIGIN, HeaderValue::from_static("http://localhost:5173"));
    let answer = web.call(method::GET_TICKET, false, &ticket(REFUSED), &origin).await;
    assert_eq!(answer.headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "http://localhost:5173");
    let exposed = list(&answer.headers, header::ACCESS_CONTROL_EXPOSE_HEADERS);
    for name in ["grpc-status", "grpc-message", "grpc-status-details-bin", "grpc-retry-pushback-ms"] {
        assert!(exposed.iter().any(|entry| entry == name), "{name} in {exposed:?}");
    }
}

/// A command that a browser sends without a preflight, and one that needs a preflight.
#[tokio::test]
async fn a_page_of_a_foreign_origin_cannot_send_commands() {
    let world = World::new().await;
    let response = Web::connect(&world).await.send(preflight("https://evil.example")).await;
    assert!(!response.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN), "{response:?}");
    for (content_type, host, origin, expected) in [
        ("application/grpc-web", "localhost", "https://evil.example", StatusCode::FORBIDDEN),
        ("text/plain", "localhost", "null", StatusCode::FORBIDDEN),
        ("application/grpc-web", "evil.example:8088", "http://evil.example:8088", StatusCode::FORBIDDEN),
        ("text/plain", "localhost", "http://localhost:5173", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("application/grpc-web", "localhost", "http://localhost:5173", StatusCode::OK),
    ] {
        let before = world.upstreams.fake.begun.load(Ordering::SeqCst);
        let mut call = request(method::GET_TICKET, false, Body::from(frame(&ticket("t1").encode_to_vec())));
        for (name, value) in [(header::CONTENT_TYPE, content_type), (header::HOST, host), (header::ORIGIN, origin)] {
            call.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        assert_eq!(Web::connect(&world).await.send(call).await.status(), expected, "{content_type} {host} {origin}");
        let reached = world.upstreams.fake.begun.load(Ordering::SeqCst) > before;
        assert_eq!(reached, expected == StatusCode::OK, "{content_type} {host} {origin}");
    }
}

#[tokio::test]
async fn the_console_is_served_completely_and_with_its_policy() {
    let world = World::new().await;
    let web = Web::connect(&world).await;
    let get = |path: &str| {
        let request = Request::get(path).header(header::HOST, "localhost").header(header::ACCEPT_ENCODING, "gzip");
        request.body(Body::empty()).unwrap()
    };
    let response = web.send(Request::get("/").header(header::HOST, "localhost").body(Body::empty()).unwrap()).await;
    let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'self'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-cache");
    let page = response.into_body().collect().await.unwrap().to_bytes();
    let page = String::from_utf8(page.to_vec()).unwrap();
    let assets: Vec<_> = page.split('"').filter(|part| part.starts_with("/assets/")).collect();
    assert!(assets.len() >= 3, "{page}");
    for (path, media_type) in assets.iter().map(|path| (path, path.rsplit('.').next().unwrap())) {
        let response = web.send(get(path)).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let expected = match media_type {
            "js" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            _ => "image/svg+xml",
        };
        assert_eq!(response.headers()[header::CONTENT_TYPE], expected, "{path}");
        assert_eq!(response.headers()[header::CACHE_CONTROL], "public, max-age=31536000, immutable", "{path}");
        if media_type == "js" {
            assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip", "{path}");
        }
        assert!(!response.into_body().collect().await.unwrap().to_bytes().is_empty(), "{path}");
    }
    let missing = web.send(get("/assets/nothing.js")).await;
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
    assert_eq!(missing.headers()[header::CACHE_CONTROL], "no-cache", "it may be there after an upgrade");
}

#[tokio::test]
async fn the_root_is_a_page_and_other_paths_are_explained() {
    let world = World::new().await;
    let web = Web::connect(&world).await;
    let get = |path: &str| Request::get(path).header(header::HOST, "localhost").body(Body::empty()).unwrap();
    let response = web.send(get("/")).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
    assert_eq!(response.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    let page = response.into_body().collect().await.unwrap().to_bytes();
    assert!(page.starts_with(b"<!doctype html>"));
    assert_eq!(web.send(get("/nothing")).await.status(), StatusCode::NOT_FOUND);

    let mut wrong_method = request(method::GET_TICKET, false, Body::empty());
    *wrong_method.method_mut() = Method::GET;
    assert_eq!(web.send(wrong_method).await.status(), StatusCode::METHOD_NOT_ALLOWED);
    let mut json = request(method::GET_TICKET, false, Body::from("{}"));
    json.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    assert_eq!(web.send(json).await.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let mut grpc = request(method::GET_TICKET, false, Body::empty());
    grpc.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let response = web.send(grpc).await;
    assert_eq!(response.status(), StatusCode::HTTP_VERSION_NOT_SUPPORTED);
    let text = response.into_body().collect().await.unwrap().to_bytes();
    assert!(text.starts_with(b"gRPC needs HTTP/2"));
}
