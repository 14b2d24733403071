//! Responses of Connect: a message or an error with headers, or a stream of envelopes with its status in the last one.

use std::sync::Arc;

use axum::body::Body;
use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use serde_json::{Map, Value, json};
use tonic::{Code, Status};

use super::message::Codec;
use crate::transcode::{
    Contract, Method,
    exchange::{Answer, Failure, Unary},
    messages::{Messages, Next},
    refusal::Refusal,
    request_body::frame,
};

/// The flag of the last envelope of a stream.
const END: u8 = 0b10;

/// Returns the response of a unary call.
///
/// # Errors
/// If the message cannot be read.
pub(crate) fn succeeded(unary: Unary, codec: Codec, method: &Method) -> Result<Response<Body>, Failure> {
    let message = codec.encode(unary.message, method).map_err(Failure::new)?;
    let mut response = Response::new(Body::from(message));
    let headers = response.headers_mut();
    *headers = unary.metadata;
    for (name, value) in &unary.trailers {
        if let Ok(name) = HeaderName::try_from(format!("trailer-{name}")) {
            headers.append(name, value.clone());
        }
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(codec.unary_type()));
    Ok(response)
}

/// Returns the error of a unary call: always JSON, whatever the codec is.
pub(crate) fn failed(failure: Failure, contract: &Contract) -> Response<Body> {
    let Failure { refusal, metadata } = failure;
    let mut response = Response::new(Body::from(error(&refusal, contract).to_string()));
    *response.status_mut() = refusal.http;
    *response.headers_mut() = metadata;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(Codec::Json.unary_type()));
    refusal.write_headers(response.headers_mut());
    response
}

/// Returns the response of a server-streaming call. Dropping its body ends the call.
pub(crate) fn stream(
    begun: Result<Answer, Failure>,
    codec: Codec,
    method: Arc<Method>,
    contract: Arc<Contract>,
) -> Response<Body> {
    let (metadata, state) = match begun {
        Ok(answer) => (answer.metadata, State::Open(answer.messages)),
        Err(failure) => (HeaderMap::new(), State::Failed(failure)),
    };
    let envelopes = Envelopes { state, codec, method, contract };
    let body = stream::unfold(envelopes, |mut envelopes| async move {
        let envelope = envelopes.next().await?;
        Some((Ok::<_, Status>(envelope), envelopes))
    });
    let mut response = Response::new(Body::from_stream(body));
    *response.headers_mut() = metadata;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(codec.stream_type()));
    response
}

struct Envelopes {
    state: State,
    codec: Codec,
    method: Arc<Method>,
    contract: Arc<Contract>,
}

enum State {
    Open(Messages),
    Failed(Failure),
    Ended,
}

impl Envelopes {
    async fn next(&mut self) -> Option<Bytes> {
        let end = match &mut self.state {
            State::Ended => return None,
            State::Open(messages) => match messages.next().await {
                Ok(Next::Message(message)) => match self.codec.encode(message, &self.method) {
                    Ok(message) => return Some(frame(0, &message)),
                    Err(refusal) => Err(Failure::new(refusal)),
                },
                Ok(Next::End(trailers)) => Ok(trailers),
                Err(failure) => Err(failure),
            },
            State::Failed(_) => match std::mem::replace(&mut self.state, State::Ended) {
                State::Failed(failure) => Err(failure),
                State::Open(_) | State::Ended => return None,
            },
        };
        self.state = State::Ended;
        Some(frame(END, end_of_stream(end, &self.contract).to_string().as_bytes()))
    }
}

fn end_of_stream(end: Result<HeaderMap, Failure>, contract: &Contract) -> Value {
    let mut last = Map::new();
    let metadata = match end {
        Ok(trailers) => trailers,
        Err(failure) => {
            last.insert("error".to_owned(), error(&failure.refusal, contract));
            failure.metadata
        }
    };
    let mut texts = Map::new();
    for name in metadata.keys() {
        let values = metadata.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        texts.insert(name.to_string(), values.collect::<Vec<_>>().into());
    }
    if !texts.is_empty() {
        last.insert("metadata".to_owned(), Value::Object(texts));
    }
    Value::Object(last)
}

/// Returns an error in the JSON of Connect.
fn error(refusal: &Refusal, contract: &Contract) -> Value {
    let details: Vec<_> = refusal
        .details()
        .iter()
        .map(|detail| {
            let value = BASE64_STANDARD_NO_PAD.encode(&detail.value);
            let mut json = json!({"type": detail.type_name(), "value": value});
            if let (Some(fields), Value::Object(object)) = (detail.fields(contract), &mut json) {
                object.insert("debug".to_owned(), fields);
            }
            json
        })
        .collect();
    json!({"code": code_name(refusal.status.code()), "message": refusal.status.message(), "details": details})
}

/// The name of a code in Connect. `OK` is no error, so it has none.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Cancelled => "canceled",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
        Code::Ok | Code::Unknown => "unknown",
    }
}
