//! A client of REST and Connect with JSON, over HTTP/1.1.

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

use crate::process::Eticket;

pub type Headers<'a> = &'a [(&'a str, &'a str)];

/// A client over HTTP/1.1.
pub struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
    base: String,
}

/// A response with a JSON body.
#[derive(Debug)]
pub struct Sent {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Sent {
    /// The HTTP status, and the reason of an error.
    pub fn refusal(&self) -> (u16, &str) {
        let details = self.body["details"].as_array().map(Vec::as_slice).unwrap_or_default();
        let reason = details.iter().find_map(|detail| detail["reason"].as_str());
        (self.status, reason.unwrap_or_default())
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().expect("text")).unwrap_or_default()
    }

    /// The body of a success.
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body
    }
}

impl Http {
    pub fn new(eticket: &Eticket) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { client, base: format!("http://{}", eticket.address("gateway")) }
    }

    pub async fn open(&self, verb: &str, path: &str, headers: Headers<'_>, body: &str) -> Response<Incoming> {
        let mut request = Request::builder().method(verb).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(body.to_owned())).expect("a request");
        self.client.request(request).await.expect("a response")
    }

    pub async fn send(&self, verb: &str, path: &str, headers: Headers<'_>, body: &str) -> Sent {
        let (head, body) = self.open(verb, path, headers, body).await.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        let body = serde_json::from_slice(&body).unwrap_or_else(|_| panic!("{verb} {path} {head:?}: {body:?}"));
        Sent { status: head.status.as_u16(), headers: head.headers, body }
    }

    pub async fn get(&self, path: &str) -> Sent {
        self.send("GET", path, &[], "").await
    }

    /// Sends a command with a JSON body.
    pub async fn command(&self, verb: &str, path: &str, more: Headers<'_>, body: &Value) -> Sent {
        let headers = [&[("content-type", "application/json")], more].concat();
        self.send(verb, path, &headers, &body.to_string()).await
    }

    /// Reads events until one of them has data that fits; returns its id.
    pub async fn event(&self, path: &str, last_event_id: &str, fits: impl Fn(&Value) -> bool) -> String {
        let headers = [("last-event-id", last_event_id)];
        let headers = if last_event_id.is_empty() { &[][..] } else { &headers };
        let response = self.open("GET", path, headers, "").await;
        assert_eq!(
            (response.status(), &response.headers()["content-type"]),
            (StatusCode::OK, &"text/event-stream".parse().expect("a value"))
        );
        let (mut body, mut text, mut found) = (response.into_body(), String::new(), false);
        loop {
            while let Some((event, rest)) = text.split_once("\n\n") {
                let line = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                if let Some(data) = line("data: ") {
                    found |= fits(&serde_json::from_str(&data).expect("JSON"));
                }
                // The last message of a snapshot has the token.
                if let (true, Some(id)) = (found, line("id: ")) {
                    return id;
                }
                text = rest.to_owned();
            }
            let frame = body.frame().await.expect("the stream goes on").expect("the stream works");
            text += std::str::from_utf8(frame.data_ref().expect("data")).expect("UTF-8");
        }
    }
}
