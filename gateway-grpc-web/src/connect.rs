//! The Connect protocol, for unary and server-streaming methods, with protobuf and JSON, at the paths of gRPC.
//!
//! An error of a unary call is JSON with the HTTP status of its code. An error of a stream is in its last envelope, also
//! if it occurs before the first message. A request that is no call, by its HTTP method or content type, gets text.
//! Unlike REST, JSON with unknown fields is accepted, because all implementations of Connect do so: a client may be newer
//! than the gateway, as with protobuf.

mod answer;
mod get;
pub(crate) mod message;

use std::sync::Arc;

use axum::body::Body;
use eticket_proto::error_text::Language;
use eticket_rpc_server::{
    error::ApiError,
    server::{language, media_type},
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use tonic::Code;

use self::message::Codec;
use crate::{
    site,
    transcode::{
        Contract, Method,
        exchange::{Failure, Grpc, Timeout, call, reading},
        refusal::Refusal,
        request_body::{Reading, is_gzip},
    },
};

const VERSION: HeaderName = HeaderName::from_static("connect-protocol-version");
const CONTENT_ENCODING: HeaderName = HeaderName::from_static("connect-content-encoding");
const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");
const TIMEOUT: &str = "connect-timeout-ms";

/// The bytes before a message in a stream: flags and length.
const ENVELOPE: u32 = 5;

/// The Connect interface.
#[derive(Debug, Clone)]
pub(crate) struct Connect {
    contract: Arc<Contract>,
    max_bytes: u32,
}

impl Connect {
    pub(crate) fn new(contract: Arc<Contract>, max_bytes: u32) -> Self {
        Self { contract, max_bytes }
    }

    /// Returns whether a path belongs to a service of the contract, although the method may be unknown.
    pub(crate) fn owns(&self, path: &str) -> bool {
        let service = path.strip_prefix('/').and_then(|path| path.split_once('/')).map(|(service, _)| service);
        service.is_some_and(|service| self.contract.pool.get_service_by_name(service).is_some())
    }

    /// Answers a request. Dropping the future or the body of the response ends the call.
    pub(crate) async fn answer(&self, grpc: impl Grpc, request: Request<Body>) -> Response<Body> {
        let language = language::from_headers(request.headers());
        let answered = match self.method(request.uri().path(), language) {
            Ok(method) if method.streams_answers => self.streaming(grpc, request, method, language).await,
            Ok(method) => self.unary(grpc, request, &method, language).await,
            Err(failure) => Err(failure.into()),
        };
        let mut response = answered.unwrap_or_else(|refused| match refused {
            Refused::Call(failure) => answer::failed(failure, &self.contract),
            Refused::Request(response) => response,
        });
        response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }

    fn method(&self, path: &str, language: Language) -> Result<Arc<Method>, Failure> {
        let unimplemented = |english: String, korean| {
            let http = StatusCode::NOT_IMPLEMENTED;
            Failure::new(Refusal::of_http(http, Code::Unimplemented, language, english, korean))
        };
        match self.contract.method(path) {
            Some(method) if method.streams_requests => {
                let english = "Connect serves unary and server-streaming methods; call this one by gRPC";
                Err(unimplemented(english.to_owned(), "이 메서드는 gRPC로 호출하세요."))
            }
            Some(method) => Ok(method.clone()),
            None => {
                let path: String = path.chars().take(200).collect();
                let english = format!("unknown method {path}; reflection lists what is served");
                Err(unimplemented(english, "이 이름의 메서드가 없습니다."))
            }
        }
    }

    async fn unary(
        &self,
        grpc: impl Grpc,
        mut request: Request<Body>,
        method: &Arc<Method>,
        language: Language,
    ) -> Result<Response<Body>, Refused> {
        let invalid = |error: ApiError| Failure::new(Refusal::of_fields(&error, language));
        let encoding = |_| unknown_compression(language);
        let mut reading = reading(request.headers(), self.max_bytes, language).map_err(encoding)?;
        let codec = match *request.method() {
            http::Method::POST => {
                let codec = media_type(request.headers()).and_then(Codec::of_unary);
                codec.ok_or_else(|| unsupported("application/json, application/proto"))?
            }
            // A page of any origin can send a GET request.
            http::Method::GET if method.reads => {
                let get = get::Get::read(request.uri().query().unwrap_or_default()).map_err(invalid)?;
                reading.gzip = get.gzip.ok_or_else(|| unknown_compression(language))?;
                *request.body_mut() = Body::from(get.message);
                get.codec
            }
            _ => return Err(not_allowed(if method.reads { "GET, POST" } else { "POST" })),
        };
        read_headers(&mut request).map_err(invalid)?;
        let translate = message::translate(codec, method, language);
        let unary = call(grpc, method, request, reading, translate).await?.unary().await?;
        Ok(answer::succeeded(unary, codec, method)?)
    }

    async fn streaming(
        &self,
        grpc: impl Grpc,
        mut request: Request<Body>,
        method: Arc<Method>,
        language: Language,
    ) -> Result<Response<Body>, Refused> {
        if request.method() != http::Method::POST {
            return Err(not_allowed("POST"));
        }
        let codec = media_type(request.headers()).and_then(Codec::of_stream);
        let codec = codec.ok_or_else(|| unsupported("application/connect+json, application/connect+proto"))?;
        // From here on, errors are in the stream.
        let begun = async {
            let invalid = |error: ApiError| Failure::new(Refusal::of_fields(&error, language));
            let encoding = request.headers().get(&CONTENT_ENCODING).map(HeaderValue::as_bytes);
            let gzip = is_gzip(encoding).ok_or_else(|| unknown_compression(language))?;
            read_headers(&mut request).map_err(invalid)?;
            let encoding = |_| unknown_compression(language);
            let reading = reading(request.headers(), self.max_bytes, language).map_err(encoding)?;
            let limits = Reading { gzip, ..reading };
            let translate = message::translate_envelope(message::translate(codec, &method, language), limits);
            let reading = Reading { max_bytes: reading.max_bytes.saturating_add(ENVELOPE), ..reading };
            call(grpc, &method, request, reading, translate).await
        };
        let begun = begun.await;
        Ok(answer::stream(begun, codec, method, self.contract.clone()))
    }
}

/// Checks the version of the protocol, and takes the timeout.
fn read_headers(request: &mut Request<Body>) -> Result<(), ApiError> {
    if request.headers().get(&VERSION).is_some_and(|version| version != "1") {
        return Err(ApiError::invalid_field(VERSION.as_str(), "must be 1"));
    }
    if let Some(timeout) = Timeout::read(request.headers_mut(), TIMEOUT)? {
        request.extensions_mut().insert(timeout);
    }
    Ok(())
}

/// Why a request has no successful response.
enum Refused {
    /// The call has failed.
    Call(Failure),
    /// The request is no call of this protocol, so nobody would read an error of it.
    Request(Response<Body>),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::Call(failure)
    }
}

/// Connect has this code for it, and lets the response name what is supported.
fn unknown_compression(language: Language) -> Failure {
    let english = "the compression must be gzip or identity".to_owned();
    let korean = "압축 방식은 gzip 또는 identity여야 합니다.";
    let refusal = Refusal::of_http(StatusCode::NOT_IMPLEMENTED, Code::Unimplemented, language, english, korean);
    let supported = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"))]);
    Failure { refusal, metadata: supported }
}

fn unsupported(accepted: &'static str) -> Refused {
    let text = format!("the content type of a call must be one of {accepted}\n");
    let mut response = site::text(StatusCode::UNSUPPORTED_MEDIA_TYPE, text);
    response.headers_mut().insert(ACCEPT_POST, HeaderValue::from_static(accepted));
    Refused::Request(response)
}

fn not_allowed(allow: &'static str) -> Refused {
    let mut response = site::text(StatusCode::METHOD_NOT_ALLOWED, format!("this method is called by {allow}\n"));
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    Refused::Request(response)
}
