//! The Connect protocol, for unary and server-streaming methods, with protobuf and JSON, at the paths of gRPC.
//!
//! An error of a unary call is JSON with the HTTP status of its code. An error of a stream is in its last envelope, also
//! if it occurs before the first message. Unlike REST, JSON with unknown fields is accepted, because all implementations
//! of Connect do so: a client may be newer than the gateway, as with protobuf.

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
use tonic::{Code, Status};

use self::message::Codec;
use crate::transcode::{
    Contract, Method,
    exchange::{Failure, Grpc, Timeout, call, reading},
    refusal::Refusal,
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
            Err(failure) => Err(failure),
        };
        let mut response = answered.unwrap_or_else(|failure| answer::failed(failure, &self.contract));
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
    ) -> Result<Response<Body>, Failure> {
        let invalid = |error: ApiError| Failure::new(Refusal::of_fields(&error, language));
        let mut reading = reading(request.headers(), self.max_bytes, language).map_err(invalid)?;
        let codec = match *request.method() {
            http::Method::POST => {
                let codec = media_type(request.headers()).and_then(Codec::of_unary);
                codec.ok_or_else(|| unsupported("application/json, application/proto", language))?
            }
            // A page of any origin can send a GET request.
            http::Method::GET if method.reads => {
                let get = get::Get::read(request.uri().query().unwrap_or_default()).map_err(invalid)?;
                reading.gzip = get.gzip;
                *request.body_mut() = Body::from(get.message);
                get.codec
            }
            _ => return Err(not_allowed(if method.reads { "GET, POST" } else { "POST" }, language)),
        };
        read_headers(&mut request).map_err(invalid)?;
        let translate = message::translate(codec, method, language);
        let unary = call(grpc, method, request, reading, translate).await?.unary().await?;
        answer::succeeded(unary, codec, method)
    }

    async fn streaming(
        &self,
        grpc: impl Grpc,
        mut request: Request<Body>,
        method: Arc<Method>,
        language: Language,
    ) -> Result<Response<Body>, Failure> {
        if request.method() != http::Method::POST {
            return Err(not_allowed("POST", language));
        }
        let codec = media_type(request.headers()).and_then(Codec::of_stream);
        let codec =
            codec.ok_or_else(|| unsupported("application/connect+json, application/connect+proto", language))?;
        // From here on, errors are in the stream.
        let begun = async {
            let invalid = |error: ApiError| Failure::new(Refusal::of_fields(&error, language));
            let gzip = match request.headers().get(&CONTENT_ENCODING).map(HeaderValue::as_bytes) {
                None | Some(b"identity") => false,
                Some(b"gzip") => true,
                _ => {
                    return Err(invalid(ApiError::invalid_field(
                        CONTENT_ENCODING.as_str(),
                        "must be gzip or identity",
                    )));
                }
            };
            read_headers(&mut request).map_err(invalid)?;
            let reading = reading(request.headers(), self.max_bytes, language).map_err(invalid)?;
            let limits = crate::transcode::request_body::Reading { gzip, ..reading };
            let translate = message::translate_envelope(message::translate(codec, &method, language), limits);
            let reading = crate::transcode::request_body::Reading {
                max_bytes: reading.max_bytes.saturating_add(ENVELOPE),
                ..reading
            };
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

fn unsupported(accepted: &'static str, language: Language) -> Failure {
    let error = ApiError::invalid_field("content-type", format!("must be one of {accepted}"));
    let mut refusal = Refusal::of_fields(&error, language);
    refusal.http = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    Failure { refusal, metadata: HeaderMap::from_iter([(ACCEPT_POST, HeaderValue::from_static(accepted))]) }
}

fn not_allowed(allow: &'static str, language: Language) -> Failure {
    let error = Status::unimplemented(format!("the method is called by {allow}"));
    let korean = format!("{allow}(으)로 호출하세요.");
    let (http, english) = (StatusCode::METHOD_NOT_ALLOWED, error.message().to_owned());
    let refusal = Refusal::of_http(http, error.code(), language, english, &korean);
    Failure { refusal, metadata: HeaderMap::from_iter([(header::ALLOW, HeaderValue::from_static(allow))]) }
}
