//! How layers answer in a service's place: whole responses before there is one, trailers in the middle of one.

use std::time::Duration;

use bytes::Bytes;
use eticket_proto::headers;
use http::{HeaderMap, HeaderValue, Response};
use http_body::Frame;
use tonic::{Code, Status};

use crate::error::pushback;

/// An error before the service has answered: HTTP 200 with the status in its headers, as gRPC's "trailers only".
pub(crate) fn only_trailers<B: Default>(status: impl Into<Status>) -> Response<B> {
    status.into().into_http()
}

/// An error after the response has begun.
pub(crate) fn trailers<E>(status: impl Into<Status>) -> Result<Frame<Bytes>, E> {
    let mut map = HeaderMap::new();
    if status.into().add_header(&mut map).is_err() {
        // Of a status with text that is no header only the code can be sent.
        map.insert(Status::GRPC_STATUS, HeaderValue::from_static("13"));
    }
    Ok(Frame::trailers(map))
}

/// The status code in headers or trailers; `None` if they carry none.
pub(crate) fn code_of(map: &HeaderMap) -> Option<Code> {
    map.get(Status::GRPC_STATUS).map(|value| Code::from_bytes(value.as_bytes()))
}

/// Replaces a `grpc-retry-pushback-ms` in headers or trailers that the caller cannot sleep within the `left` of its deadline, or that
/// is too long for any caller (services of an earlier version behind the gateway send such), by `-1`.
pub(crate) fn limit_pushback(map: &mut HeaderMap, left: Option<Duration>) {
    let Some(value) = map.get_mut(headers::RETRY_PUSHBACK) else { return };
    let delay = value.to_str().ok().and_then(|text| text.parse().ok()).map(Duration::from_millis);
    *value = delay.map_or(-1, |delay| pushback(delay, left)).into();
}

/// A message beyond the limit of its size is `RESOURCE_EXHAUSTED`, as at the gateway and everywhere else in gRPC, not `OUT_OF_RANGE`
/// as tonic has it; nothing of the contract is that.
pub(crate) fn too_large_is_exhausted<B>(mut response: Response<B>) -> Response<B> {
    if code_of(response.headers()) == Some(Code::OutOfRange) {
        response.headers_mut().insert(Status::GRPC_STATUS, HeaderValue::from_static("8"));
    }
    response
}

/// Whether the status in headers or trailers comes with details, as all of ours do.
pub(crate) fn is_explained(map: &HeaderMap) -> bool {
    map.contains_key(Status::GRPC_STATUS_DETAILS)
}

/// A code's name as the specification writes it.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
