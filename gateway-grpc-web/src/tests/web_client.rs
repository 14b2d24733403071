//! A minimal gRPC-Web client over HTTP/1.1, like one in a browser; it writes and parses the frames itself.

use axum::body::Body;
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::{net::TcpStream, sync::Mutex};
use tonic::Status;

use super::World;

pub(super) mod method {
    pub(in super::super) const GET_TICKET: &str = "/eticket.ticket.v1.TicketService/GetTicket";
    pub(in super::super) const REGISTER_TICKET: &str = "/eticket.ticket.v1.TicketService/RegisterTicket";
    pub(in super::super) const WATCH: &str = "/eticket.query.v1.QueryService/WatchTicketViews";
    pub(in super::super) const CHECK: &str = "/grpc.health.v1.Health/Check";
}

pub(super) struct Web {
    sender: Mutex<http1::SendRequest<Body>>,
}

/// A response, split into its frames.
#[derive(Debug)]
pub(super) struct WebResponse {
    pub(super) headers: HeaderMap,
    pub(super) messages: Vec<Bytes>,
    pub(super) trailers: Option<HeaderMap>,
}

impl WebResponse {
    /// Returns the status from the trailers frame, or else from the headers.
    pub(super) fn status(&self) -> Status {
        Status::from_header_map(self.trailers.as_ref().unwrap_or(&self.headers)).expect("a status")
    }
}

/// Wraps a message in a frame.
pub(super) fn frame(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(message);
    frame
}

/// Creates a gRPC-Web call with the given body.
pub(super) fn request(path: &str, text: bool, body: Body) -> Request<Body> {
    let content_type = if text { "application/grpc-web-text" } else { "application/grpc-web+proto" };
    Request::post(path)
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, content_type)
        .header(header::ACCEPT, content_type)
        .header("x-grpc-web", "1")
        .body(body)
        .unwrap()
}

/// Creates a request without a gRPC content type; `headers` may contain another host.
pub(super) fn plain(verb: &str, uri: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Request<Body> {
    let mut request = Request::builder().method(verb).uri(uri).body(body.into()).unwrap();
    request.headers_mut().insert(header::HOST, HeaderValue::from_static("localhost"));
    for (name, value) in headers {
        request.headers_mut().insert(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
    }
    request
}

/// The head of a response and its body as JSON.
pub(super) async fn read_json(response: Response<Incoming>) -> (http::response::Parts, serde_json::Value) {
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("a body that does not break off").to_bytes();
    let json = serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{error}: {body:?} {head:?}"));
    (head, json)
}

impl Web {
    pub(super) async fn connect(world: &World) -> Self {
        let stream = TcpStream::connect(world.address).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender: Mutex::new(sender) }
    }

    pub(super) async fn send(&self, request: Request<Body>) -> Response<Incoming> {
        let mut sender = self.sender.lock().await;
        sender.ready().await.expect("the connection is open");
        sender.send_request(request).await.expect("an answer")
    }

    pub(super) async fn call(
        &self,
        path: &str,
        text: bool,
        message: &impl Message,
        headers: &HeaderMap,
    ) -> WebResponse {
        let framed = frame(&message.encode_to_vec());
        let body = if text { BASE64_STANDARD.encode(framed).into_bytes() } else { framed };
        let mut request = request(path, text, Body::from(body));
        request.headers_mut().extend(headers.clone());
        let response = self.send(request).await;
        assert_eq!(response.status(), 200);
        let expected = if text { "application/grpc-web-text+proto" } else { "application/grpc-web+proto" };
        assert_eq!(response.headers()[header::CONTENT_TYPE], expected);
        read(response, text).await
    }
}

pub(super) async fn read(response: Response<Incoming>, text: bool) -> WebResponse {
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("a body that does not break off").to_bytes();
    let body = if text { decode_pieces(&body) } else { body.to_vec() };
    let (messages, trailers) = take_apart(&body);
    WebResponse { headers: head.headers, messages, trailers }
}

/// Decodes base64 that consists of separately padded pieces.
fn decode_pieces(text: &[u8]) -> Vec<u8> {
    let groups = text.chunks(4);
    groups.flat_map(|group| BASE64_STANDARD.decode(group).expect("base64 in groups of four")).collect()
}

fn take_apart(mut body: &[u8]) -> (Vec<Bytes>, Option<HeaderMap>) {
    let mut messages = Vec::new();
    while let Some((header, rest)) = body.split_at_checked(5) {
        let length = u32::from_be_bytes(header[1..].try_into().unwrap()) as usize;
        let (content, rest) = rest.split_at(length);
        if header[0] == 0x80 {
            assert!(rest.is_empty(), "nothing after the trailers");
            return (messages, Some(parse_trailers(content)));
        }
        assert_eq!(header[0], 0);
        messages.push(Bytes::copy_from_slice(content));
        body = rest;
    }
    assert!(body.is_empty(), "whole frames only");
    (messages, None)
}

fn parse_trailers(block: &[u8]) -> HeaderMap {
    let lines = std::str::from_utf8(block).unwrap().split_terminator("\r\n");
    lines
        .map(|line| {
            let (name, value) = line.split_once(':').expect("name:value");
            (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value.trim()).unwrap())
        })
        .collect()
}
