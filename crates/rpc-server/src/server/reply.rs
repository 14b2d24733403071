//! Responses that layers create in place of a service: whole responses, or trailers after the response has begun.

use std::time::Duration;

use bytes::Bytes;
use eticket_proto::headers;
use http::{HeaderMap, HeaderValue, Response};
use http_body::Frame;
use tonic::{Code, Status};

use super::methods;
use crate::error::pushback;

/// Returns an error before the response has begun: HTTP 200 with the status in the headers ("trailers only" in gRPC).
pub(crate) fn only_trailers<B: Default>(status: impl Into<Status>) -> Response<B> {
    status.into().into_http()
}

/// Returns an error after the response has begun.
pub(crate) fn trailers<E>(status: impl Into<Status>) -> Result<Frame<Bytes>, E> {
    let mut map = HeaderMap::new();
    if status.into().add_header(&mut map).is_err() {
        // If the text of a status is not a valid header, only the code is sent.
        map.insert(Status::GRPC_STATUS, HeaderValue::from_static("13"));
    }
    Ok(Frame::trailers(map))
}

/// Reads the status code of headers or trailers; `None` without one.
pub(crate) fn code_of(map: &HeaderMap) -> Option<Code> {
    map.get(Status::GRPC_STATUS).map(|value| Code::from_bytes(value.as_bytes()))
}

/// Replaces `grpc-retry-pushback-ms` by `-1` if the delay does not fit into the time `left` until the caller's
/// deadline, or if it is too long for any caller. Services of an earlier version behind the gateway send such delays.
pub(crate) fn limit_pushback(map: &mut HeaderMap, left: Option<Duration>) {
    let Some(value) = map.get_mut(headers::RETRY_PUSHBACK) else { return };
    let delay = value.to_str().ok().and_then(|text| text.parse().ok()).map(Duration::from_millis);
    *value = delay.map_or(-1, |delay| pushback(delay, left)).into();
}

/// Converts the status of a message above the size limit to `RESOURCE_EXHAUSTED`, as the gateway and other gRPC
/// implementations report it, instead of tonic's `OUT_OF_RANGE`. The contract itself never uses `OUT_OF_RANGE`.
pub(crate) fn too_large_is_exhausted<B>(mut response: Response<B>) -> Response<B> {
    if code_of(response.headers()) == Some(Code::OutOfRange) {
        response.headers_mut().insert(Status::GRPC_STATUS, HeaderValue::from_static("8"));
    }
    response
}

/// Rewrites `grpc-message` so that only the bytes that the specification names are percent-encoded: those outside of
/// 0x20 to 0x7e, and `%`. tonic also encodes spaces and others, which clients that do not decode display as they are.
pub(crate) fn decode_message(map: &mut HeaderMap) {
    let Some(value) = map.get_mut(Status::GRPC_MESSAGE) else { return };
    let encoded = value.as_bytes();
    let mut message = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((first, after)) = rest.split_first() {
        let decoded = after.get(..2).filter(|_| *first == b'%').and_then(hex).filter(|byte| is_plain(*byte));
        // HTTP strips spaces at both ends.
        let is_end = message.is_empty() || after.len() == 2;
        match decoded {
            Some(b' ') if is_end => {
                message.push(*first);
                rest = after;
            }
            Some(byte) => {
                message.push(byte);
                rest = &after[2..];
            }
            None => {
                message.push(*first);
                rest = after;
            }
        }
    }
    if message != encoded
        && let Ok(decoded) = HeaderValue::from_bytes(&message)
    {
        *value = decoded;
    }
}

fn hex(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn is_plain(byte: u8) -> bool {
    (0x20..=0x7e).contains(&byte) && byte != b'%'
}

/// Names the unknown service or method; tonic only returns `UNIMPLEMENTED`.
pub(crate) fn name_unknown(map: &mut HeaderMap, path: &str) {
    let path: String = path.chars().take(200).collect();
    let message = match path.strip_prefix('/').and_then(|path| path.split_once('/')) {
        Some((service, method)) if methods::is_service(service) && methods::find(&path).is_none() => {
            format!("unknown method {method} of service {service}; reflection lists what is served")
        }
        Some((service, _)) => format!("unknown service {service}; reflection lists what is served here"),
        None => format!("the path {path} is not /SERVICE/METHOD; reflection lists what is served"),
    };
    // A path is ASCII, so the text is a valid header.
    Status::unimplemented(message).add_header(map).ok();
}

/// Returns whether the status in headers or trailers has details, as all statuses of this project do.
pub(crate) fn is_explained(map: &HeaderMap) -> bool {
    map.contains_key(Status::GRPC_STATUS_DETAILS)
}

/// Returns the name of a code as the specification writes it.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_encoded_as_the_specification_says() {
        for (text, expected) in [
            ("plain", "plain"),
            ("a \"b\" <c> {d}? #`", "a \"b\" <c> {d}? #`"),
            ("100 % of it", "100 %25 of it"),
            ("%41", "%2541"),
            (" ends ", "%20ends%20"),
            ("a\nb", "a%0Ab"),
            ("한", "%ED%95%9C"),
        ] {
            let mut map = HeaderMap::new();
            Status::not_found(text).add_header(&mut map).expect("a header");
            decode_message(&mut map);
            assert_eq!(map[Status::GRPC_MESSAGE], expected, "{text:?}");
            let read = Status::from_header_map(&map).expect("a status");
            assert_eq!(read.message(), text);
        }
        let mut odd = HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-message"),
            HeaderValue::from_static("5%, 100%"),
        )]);
        decode_message(&mut odd);
        assert_eq!(odd[Status::GRPC_MESSAGE], "5%, 100%");
    }

    #[test]
    fn an_unknown_service_or_method_is_named() {
        for (path, expected) in [
            (
                "/eticket.ticket.v1.TicketService/Nothing",
                "unknown method Nothing of service eticket.ticket.v1.TicketService;",
            ),
            ("/eticket.ticket.v1.TicketService/GetTicket", "unknown service eticket.ticket.v1.TicketService;"),
            ("/a.B/C", "unknown service a.B;"),
            ("/", "the path / is not /SERVICE/METHOD;"),
        ] {
            let mut map = HeaderMap::new();
            name_unknown(&mut map, path);
            let status = Status::from_header_map(&map).expect("a status");
            assert_eq!(status.code(), Code::Unimplemented);
            assert!(status.message().starts_with(expected), "{status:?}");
        }
    }
}
