//! REST by the `google.api.http` annotations of the contract: JSON over HTTP methods and paths.
//!
//! A request becomes the gRPC call of its method and goes through the same layers. Its response is the message as JSON,
//! a stream is server-sent events, and an error is `google.rpc.Status` with the HTTP status of its code.

mod events;
mod fields;
pub(crate) mod request;
pub(crate) mod router;
mod template;

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use eticket_proto::{error_text::Language, headers};
use eticket_rpc_server::{
    error::ApiError,
    server::{language, media_type},
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use prost_reflect::{DynamicMessage, prost::Message as _};
use tonic::{Code, Status};

pub(crate) use self::template::Unsupported;
use self::{
    request::Outside,
    router::{Binding, Found, Router},
};
use crate::transcode::{
    Contract, Method,
    exchange::{Failure, Grpc, Timeout, Unary, call, reading},
    json::{self, Defaults},
    refusal::Refusal,
};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TIMEOUT: &str = "x-timeout-ms";
const CORRELATION_ID: HeaderName = HeaderName::from_static(headers::CORRELATION_ID);
/// The name that HTTP clients use for the correlation id.
const X_CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const ETAG: &str = "etag";

/// The REST interface.
#[derive(Debug, Clone)]
pub(crate) struct Rest {
    contract: Arc<Contract>,
    router: Arc<Router>,
    max_bytes: u32,
}

impl Rest {
    /// Reads the annotations of the contract.
    ///
    /// # Errors
    /// If a path template is not supported.
    pub(crate) fn try_new(contract: Arc<Contract>, max_bytes: u32) -> Result<Self, Unsupported> {
        let router = Arc::new(Router::try_new(&contract)?);
        Ok(Self { contract, router, max_bytes })
    }

    /// Returns whether the path belongs to REST.
    pub(crate) fn owns(&self, path: &str) -> bool {
        self.router.owns(path)
    }

    /// Answers a request. Dropping the future or the body of the response ends the call.
    pub(crate) async fn answer(&self, grpc: impl Grpc, request: Request<Body>) -> Response<Body> {
        let language = language::from_headers(request.headers());
        let correlation_id = request.headers().get(&X_CORRELATION_ID).cloned();
        let is_head = request.method() == http::Method::HEAD;
        let answered = self.try_answer(grpc, request, language).await;
        let mut response = answered.unwrap_or_else(|failure| self.failed(failure));
        let headers = response.headers_mut();
        if let Some(id) = headers.get(&CORRELATION_ID).cloned().or(correlation_id) {
            headers.insert(X_CORRELATION_ID, id);
        }
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        if is_head {
            *response.body_mut() = Body::empty();
        }
        response
    }

    async fn try_answer(
        &self,
        grpc: impl Grpc,
        mut request: Request<Body>,
        language: Language,
    ) -> Result<Response<Body>, Failure> {
        let path = request.uri().path();
        let (binding, fields) = match self.router.find(request.method(), path) {
            Found::Binding(binding, fields) => (binding, fields),
            Found::OtherMethods(allow) if request.method() == http::Method::OPTIONS => return Ok(options(&allow)),
            Found::OtherMethods(allow) => return Err(not_allowed(request.method(), &allow, language)),
            Found::Nothing => return Err(not_found(path, language)),
        };
        let invalid = |error: ApiError| Failure::new(Refusal::of_fields(&error, language));
        check_content_type(&request, &binding, language)?;
        let reading =
            reading(request.headers(), self.max_bytes, language).map_err(|error| unsupported(&error, language))?;
        let query = request.uri().query().unwrap_or_default().to_owned();
        let outside = Outside::new(fields, query, request.headers_mut(), &binding);
        if let Some(timeout) = Timeout::read(request.headers_mut(), TIMEOUT).map_err(invalid)? {
            request.extensions_mut().insert(timeout);
        }
        if let Some(id) = request.headers_mut().remove(X_CORRELATION_ID) {
            request.headers_mut().entry(CORRELATION_ID).or_insert(id);
        }
        if binding.rule.body.is_empty() {
            *request.body_mut() = Body::empty();
        }
        let method = binding.method.clone();
        let translate = move |body: Bytes| {
            let message = outside.message(&binding, &body).map_err(|error| Refusal::of_fields(&error, language))?;
            Ok(message.encode_to_vec())
        };
        let answer = call(grpc, &method, request, reading, translate).await?;
        if method.streams_answers {
            return Ok(events::response(answer, method, self.contract.clone()));
        }
        succeeded(answer.unary().await?, &method)
    }

    fn failed(&self, failure: Failure) -> Response<Body> {
        let Failure { refusal, metadata } = failure;
        let mut response = Response::new(Body::from(refusal.to_json(&self.contract).to_string()));
        *response.status_mut() = refusal.http;
        *response.headers_mut() = metadata;
        let headers = response.headers_mut();
        headers.remove(headers::RETRY_PUSHBACK);
        headers.insert(header::CONTENT_TYPE, JSON);
        refusal.write_headers(headers);
        response
    }
}

/// Only JSON may carry a command. A page can send it to another origin only after a preflight request, unlike a form or
/// plain text. A command without a body has no type; browsers are then recognized by the headers that they add.
fn check_content_type(request: &Request<Body>, binding: &Binding, language: Language) -> Result<(), Failure> {
    if binding.rule.verb == http::Method::GET {
        return Ok(());
    }
    let headers = request.headers();
    let by_browser = headers.contains_key(header::ORIGIN) || headers.contains_key(SEC_FETCH_SITE);
    let is_empty = http_body::Body::is_end_stream(request.body());
    let fits = match media_type(headers) {
        Some(given) => given.eq_ignore_ascii_case("application/json"),
        None => !headers.contains_key(header::CONTENT_TYPE) && is_empty && !by_browser,
    };
    if fits {
        return Ok(());
    }
    Err(unsupported(&ApiError::invalid_field("content-type", "must be application/json"), language))
}

fn unsupported(error: &ApiError, language: Language) -> Failure {
    let mut refusal = Refusal::of_fields(error, language);
    refusal.http = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    Failure::new(refusal)
}

fn not_found(path: &str, language: Language) -> Failure {
    let path: String = path.chars().take(200).collect();
    let (english, korean) = (format!("no method has the path {path}"), "이 경로에 해당하는 메서드가 없습니다.");
    Failure::new(Refusal::of_http(StatusCode::NOT_FOUND, Code::NotFound, language, english, korean))
}

fn not_allowed(verb: &http::Method, allow: &str, language: Language) -> Failure {
    let english = format!("the path does not have {verb}; it has {allow}");
    let korean = format!("이 경로에서는 {allow}만 사용할 수 있습니다.");
    let code = Code::Unimplemented;
    let refusal = Refusal::of_http(StatusCode::METHOD_NOT_ALLOWED, code, language, english, &korean);
    Failure { refusal, metadata: allow_header(allow) }
}

fn options(allow: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    *response.headers_mut() = allow_header(allow);
    response
}

fn allow_header(allow: &str) -> HeaderMap {
    HeaderValue::from_str(allow).map(|value| HeaderMap::from_iter([(header::ALLOW, value)])).unwrap_or_default()
}

fn succeeded(unary: Unary, method: &Method) -> Result<Response<Body>, Failure> {
    let broken = || Failure::new(Status::internal("the response cannot be read").into());
    let message = DynamicMessage::decode(method.output.clone(), unary.message).map_err(|_| broken())?;
    let json = json::write(&message, Defaults::Written).map_err(|_| broken())?;
    let mut response = Response::new(Body::from(json));
    let headers = response.headers_mut();
    *headers = unary.metadata;
    headers.extend(unary.trailers);
    headers.insert(header::CONTENT_TYPE, JSON);
    if let Some(etag) = etag_of(&message) {
        headers.insert(header::ETAG, etag);
    }
    Ok(response)
}

/// Returns the etag of the resource in a response, as a strong entity tag.
fn etag_of(message: &DynamicMessage) -> Option<HeaderValue> {
    let etag = message.fields().find_map(|(_, value)| {
        let etag = value.as_message()?.get_field_by_name(ETAG)?;
        etag.as_str().filter(|etag| !etag.is_empty()).map(str::to_owned)
    })?;
    HeaderValue::try_from(format!("\"{etag}\"")).ok()
}
