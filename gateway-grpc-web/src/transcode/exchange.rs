//! One translated call: the request headers as metadata, the call through the layers, and its response.

use std::convert::Infallible;

use axum::body::Body;
use bytes::Bytes;
use eticket_proto::{error_text::Language, headers};
use eticket_rpc_server::error::ApiError;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, Version, header, request};
use tonic::Status;
use tower::Service;

use super::{
    Method,
    messages::{Messages, Next},
    refusal::Refusal,
    request_body::{Reading, SharedRefusal, is_gzip, translated},
};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Request headers that are about HTTP, the body or the page; the protocol's own headers are removed by its module.
const NOT_METADATA: [HeaderName; 16] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::EXPECT,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::PRAGMA,
    header::RANGE,
    header::REFERER,
    header::TE,
    header::UPGRADE_INSECURE_REQUESTS,
];

/// A service that handles gRPC calls.
pub(crate) trait Grpc:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}

impl<S> Grpc for S where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}

/// A call that has failed. `metadata` is what the response carries besides the status.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) refusal: Refusal,
    pub(crate) metadata: HeaderMap,
}

impl Failure {
    pub(crate) fn new(refusal: Refusal) -> Self {
        Self { refusal, metadata: HeaderMap::new() }
    }

    /// Reads the status out of headers or trailers. The error of a request body comes first.
    pub(crate) fn from_headers(mut map: HeaderMap, refused: &SharedRefusal) -> Self {
        let status = Status::from_header_map(&map);
        let refusal = refused.get().cloned().unwrap_or_else(|| match status {
            Some(status) if status.code() != tonic::Code::Ok => status.into(),
            _ => Status::internal("the response ended without its message or its status").into(),
        });
        keep_metadata(&mut map);
        Self { refusal, metadata: map }
    }
}

/// The response of a call that has begun.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) metadata: HeaderMap,
    pub(crate) messages: Messages,
}

/// The response of a unary call.
#[derive(Debug)]
pub(crate) struct Unary {
    pub(crate) metadata: HeaderMap,
    pub(crate) message: Bytes,
    pub(crate) trailers: HeaderMap,
}

/// Calls a method. `translate` makes the message of the request's body.
///
/// # Errors
/// If the call fails before the response begins.
pub(crate) async fn call(
    mut grpc: impl Grpc,
    method: &Method,
    request: Request<Body>,
    reading: Reading,
    translate: impl FnOnce(Bytes) -> Result<Vec<u8>, Refusal> + Send + 'static,
) -> Result<Answer, Failure> {
    let (mut head, body) = request.into_parts();
    prepare(&mut head, method);
    let refused = SharedRefusal::default();
    let body = translated(body, reading, refused.clone(), translate);
    let Ok(response) = grpc.call(Request::from_parts(head, body)).await;
    let (mut head, body) = response.into_parts();
    if head.headers.contains_key(Status::GRPC_STATUS) || refused.get().is_some() {
        return Err(Failure::from_headers(head.headers, &refused));
    }
    keep_metadata(&mut head.headers);
    Ok(Answer { metadata: head.headers, messages: Messages::new(body, refused) })
}

impl Answer {
    /// Reads the only message of a unary call, and its status.
    ///
    /// # Errors
    /// If the call fails.
    pub(crate) async fn unary(mut self) -> Result<Unary, Failure> {
        let read = async {
            let Next::Message(message) = self.messages.next().await? else {
                return Err(Failure::new(Status::internal("the response has no message").into()));
            };
            match self.messages.next().await? {
                Next::End(trailers) => Ok((message, trailers)),
                Next::Message(_) => Err(Failure::new(Status::internal("the response has several messages").into())),
            }
        };
        match read.await {
            Ok((message, trailers)) => Ok(Unary { metadata: self.metadata, message, trailers }),
            Err(mut failure) => {
                failure.metadata.extend(self.metadata);
                Err(failure)
            }
        }
    }
}

/// Converts the head of a request into the head of a gRPC call. The extensions stay: they belong to the layers.
fn prepare(head: &mut request::Parts, method: &Method) {
    head.uri = Uri::from(method.path.clone());
    head.method = http::Method::POST;
    head.version = Version::HTTP_2;
    let protocol: Vec<_> = head.headers.keys().filter(|name| is_of_protocol(name)).cloned().collect();
    for name in NOT_METADATA.iter().chain(&protocol) {
        head.headers.remove(name);
    }
    if let Some(timeout) = head.extensions.remove::<Timeout>() {
        head.headers.insert(GRPC_TIMEOUT, timeout.0);
    }
    head.headers.insert(header::CONTENT_TYPE, GRPC);
    head.headers.insert(header::TE, HeaderValue::from_static("trailers"));
}

/// Returns whether a header belongs to a protocol or is set by browsers, so that it is no metadata.
fn is_of_protocol(name: &HeaderName) -> bool {
    ["grpc-", "connect-", "sec-", "access-control-"].iter().any(|prefix| name.as_str().starts_with(prefix))
}

/// The caller's timeout as an extension of a request, in the form of `grpc-timeout`.
#[derive(Debug, Clone)]
pub(crate) struct Timeout(HeaderValue);

impl Timeout {
    /// Reads milliseconds out of a header.
    ///
    /// # Errors
    /// `INVALID_FIELD` that names the header.
    pub(crate) fn read(headers: &mut HeaderMap, name: &'static str) -> Result<Option<Self>, ApiError> {
        let Some(value) = headers.remove(name) else { return Ok(None) };
        let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let milliseconds: Option<u64> = digits.filter(|text| text.len() <= 10).and_then(|text| text.parse().ok());
        let Some(milliseconds) = milliseconds else {
            return Err(ApiError::invalid_field(name, "must be 1 to 10 digits: milliseconds"));
        };
        // `grpc-timeout` has at most eight digits.
        let text = match milliseconds {
            0..=99_999_999 => format!("{milliseconds}m"),
            _ => format!("{}S", milliseconds / 1000),
        };
        Ok(HeaderValue::try_from(text).ok().map(Self))
    }
}

/// Leaves only metadata in the headers or trailers of a response.
pub(crate) fn keep_metadata(map: &mut HeaderMap) {
    let other: Vec<_> = map
        .keys()
        .filter(|name| {
            let is_pushback = name.as_str() == headers::RETRY_PUSHBACK;
            is_of_protocol(name) && !is_pushback
                || [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::TRAILER, header::DATE].contains(name)
        })
        .cloned()
        .collect();
    for name in other {
        map.remove(name);
    }
}

/// The language and the limits for reading the body of a request.
pub(crate) fn reading(headers: &HeaderMap, max_bytes: u32, language: Language) -> Result<Reading, ApiError> {
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    // RFC 9110, 8.4.1.3: x-gzip is the same.
    let first = encodings.next().map(HeaderValue::as_bytes).map(|name| if name == b"x-gzip" { b"gzip" } else { name });
    let gzip = is_gzip(first).filter(|_| encodings.next().is_none());
    let gzip = gzip.ok_or_else(|| ApiError::invalid_field("content-encoding", "must be gzip or identity"))?;
    Ok(Reading { max_bytes, gzip, language })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([("x-timeout-ms".parse().unwrap(), HeaderValue::from_static(value))])
    }

    #[test]
    fn a_timeout_becomes_that_of_grpc() {
        for (value, expected) in [("0", "0m"), ("250", "250m"), ("99999999", "99999999m"), ("9999999999", "9999999S")] {
            let mut headers = header(value);
            let timeout = Timeout::read(&mut headers, "x-timeout-ms").unwrap().unwrap();
            assert_eq!((timeout.0, headers.len()), (HeaderValue::from_static(expected), 0));
        }
        for value in ["", "-1", "1s", "1.5", "99999999999", "+1"] {
            let error = Timeout::read(&mut header(value), "x-timeout-ms").unwrap_err();
            assert!(error.to_string().starts_with("x-timeout-ms: "), "{value}: {error}");
        }
        assert!(Timeout::read(&mut HeaderMap::new(), "x-timeout-ms").unwrap().is_none());
    }

    #[test]
    fn metadata_of_a_response_has_nothing_of_the_protocol() {
        let names = [
            "grpc-status",
            "grpc-message",
            "content-type",
            "x-own",
            "eticket-consistency-token",
            headers::RETRY_PUSHBACK,
        ];
        let mut map: HeaderMap =
            names.iter().map(|name| (name.parse().unwrap(), HeaderValue::from_static("1"))).collect();
        keep_metadata(&mut map);
        let mut kept: Vec<_> = map.keys().map(HeaderName::as_str).collect();
        kept.sort_unstable();
        assert_eq!(kept, ["eticket-consistency-token", headers::RETRY_PUSHBACK, "x-own"]);
    }
}
