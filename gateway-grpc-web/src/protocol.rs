//! Detects the protocol of a request, and translates gRPC-Web (binary and text) to gRPC and back.
//!
//! tonic-web's layer is not used: it rejects content types with parameters and text with padding inside a chunk, it
//! announces the length of a body that the trailers frame makes longer, and it treats every other HTTP/1.1 request as
//! an error. This translation is outside of the layers that observe, limit and reject, because those process gRPC only.

pub(crate) mod base64_stream;
pub(crate) mod linger;
pub(crate) mod request;
pub(crate) mod response;

use bytes::Bytes;
use eticket_rpc_server::server::{is_grpc, media_type};
use http::{HeaderMap, HeaderValue, header};

use crate::transcode::request_body::frame;

/// The content type of a gRPC-Web call after its translation.
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// The flag of the frame that carries the trailers of a gRPC-Web response.
const TRAILERS_FLAG: u8 = 0b1000_0000;

/// The encoding of a gRPC-Web body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Binary,
    Text,
}

impl Encoding {
    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Binary => "application/grpc-web+proto",
            Self::Text => "application/grpc-web-text+proto",
        })
    }
}

/// A protocol of the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Grpc,
    Web { request: Encoding, response: Encoding },
}

impl Protocol {
    /// Returns the protocol of a request; `None` if the gateway does not support it.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let Some(request) = web_encoding(media_type(headers)?) else {
            return is_grpc(headers).then_some(Self::Grpc);
        };
        // gRPC-Web clients name the encoding of the response in `accept`. Without it the response has the encoding of
        // the request.
        let accepted = headers.get(header::ACCEPT).and_then(first_media_type).and_then(web_encoding);
        Some(Self::Web { request, response: accepted.unwrap_or(request) })
    }
}

/// Returns the first media type of a list, without its parameters.
fn first_media_type(value: &HeaderValue) -> Option<&str> {
    let text = value.to_str().ok()?;
    text.split([';', ',']).next().map(str::trim)
}

fn web_encoding(media_type: &str) -> Option<Encoding> {
    let rest = strip_prefix_ignoring_case(media_type, "application/grpc-web")?;
    match rest.to_ascii_lowercase().as_str() {
        "" | "+proto" => Some(Encoding::Binary),
        "-text" | "-text+proto" => Some(Encoding::Text),
        _ => None,
    }
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// Builds the last frame of a gRPC-Web response: the trailers as lines of `name:value`.
fn trailers_frame(trailers: &HeaderMap) -> Bytes {
    let length: usize = trailers.iter().map(|(name, value)| name.as_str().len() + value.len() + 3).sum();
    let mut lines = Vec::with_capacity(length);
    for (name, value) in trailers {
        for part in [name.as_str().as_bytes(), b":", value.as_bytes(), b"\r\n"] {
            lines.extend_from_slice(part);
        }
    }
    frame(TRAILERS_FLAG, &lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protocol(content_type: &'static str, accept: Option<&'static str>) -> Option<Protocol> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Some(accept) = accept {
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        }
        Protocol::from_headers(&headers)
    }

    #[test]
    fn protocols_are_detected_by_content_type() {
        use Encoding::{Binary, Text};
        let web = |request, response| Some(Protocol::Web { request, response });
        for (content_type, accept, expected) in [
            ("application/grpc", None, Some(Protocol::Grpc)),
            ("application/grpc+proto", None, Some(Protocol::Grpc)),
            ("application/grpc-web", None, web(Binary, Binary)),
            ("application/grpc-web+proto", Some("*/*"), web(Binary, Binary)),
            ("Application/gRPC-Web+Proto; charset=utf-8", None, web(Binary, Binary)),
            ("application/grpc-web-text", Some("application/grpc-web-text"), web(Text, Text)),
            ("application/grpc-web-text+proto", Some("*/*"), web(Text, Text)),
            ("application/grpc-web", Some("application/grpc-web-text, */*"), web(Binary, Text)),
            ("application/grpc-web-text", Some("application/grpc-web"), web(Text, Binary)),
            ("application/grpc-web+json", None, None),
            ("application/grpcish", None, None),
            ("application/grpc+json", None, None),
            ("application/grpc, text/plain", None, None),
            ("application/grpc-web, text/plain", None, None),
            ("text/plain; application/grpc-web", None, None),
            ("application/json", None, None),
            ("", None, None),
        ] {
            assert_eq!(protocol(content_type, accept), expected, "{content_type} {accept:?}");
        }
        assert_eq!(Protocol::from_headers(&HeaderMap::new()), None);
    }

    #[test]
    fn trailers_become_a_frame() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("5"));
        trailers.append("x", HeaderValue::from_static("1"));
        trailers.append("x", HeaderValue::from_static("2"));
        assert_eq!(&trailers_frame(&trailers)[..], b"\x80\0\0\0\x19grpc-status:5\r\nx:1\r\nx:2\r\n");
    }
}
