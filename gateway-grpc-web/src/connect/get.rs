//! Connect GET requests: the message is in the query.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use eticket_rpc_server::error::ApiError;
use percent_encoding::percent_decode_str;

use super::message::Codec;
use crate::transcode::request_body::is_gzip;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The call in a query.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Get {
    pub(crate) codec: Codec,
    /// `None` if the message is compressed in another way.
    pub(crate) gzip: Option<bool>,
    pub(crate) message: Bytes,
}

impl Get {
    /// Reads a query. Unknown parameters are ignored: caches may add them.
    ///
    /// # Errors
    /// `INVALID_FIELD` that names the parameter.
    pub(crate) fn read(query: &str) -> Result<Self, ApiError> {
        let find = |wanted: &str| {
            let mut pairs = query.split('&').map(|part| part.split_once('=').unwrap_or((part, "")));
            let (_, value) = pairs.find(|(name, _)| *name == wanted)?;
            Some(percent_decode_str(&value.replace('+', " ")).collect::<Vec<_>>())
        };
        let invalid = |name: &str, expected: &str| ApiError::invalid_field(name, expected);
        if find("connect").is_some_and(|version| version != b"v1") {
            return Err(invalid("connect", "must be v1"));
        }
        let codec = find("encoding").and_then(|name| Codec::of_name(std::str::from_utf8(&name).ok()?));
        let codec = codec.ok_or_else(|| invalid("encoding", "must be json or proto"))?;
        let gzip = is_gzip(find("compression").as_deref());
        let message = find("message").ok_or_else(|| invalid("message", "must be the request"))?;
        let message = match find("base64").as_deref() {
            None | Some(b"" | b"0") => message,
            Some(b"1") => BASE64.decode(message).map_err(|_| invalid("message", "must be URL-safe base64"))?,
            _ => return Err(invalid("base64", "must be 1 or left out")),
        };
        Ok(Self { codec, gzip, message: message.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_the_call() {
        let json = |text: &'static str| Get {
            codec: Codec::Json,
            gzip: Some(false),
            message: Bytes::from_static(text.as_bytes()),
        };
        for (query, expected) in [
            ("connect=v1&encoding=json&message=%7B%22a%22%3A1%7D", json("{\"a\":1}")),
            ("message={}&encoding=json&cache=no", json("{}")),
            ("base64=1&message=e30&encoding=json", json("{}")),
            ("base64=1&message=e30%3D&encoding=json&compression=identity", json("{}")),
            ("encoding=json&compression=br&message={}", Get { gzip: None, ..json("{}") }),
            (
                "base64=1&message=_w&encoding=proto&compression=gzip",
                Get { codec: Codec::Proto, gzip: Some(true), message: Bytes::from_static(b"\xff") },
            ),
        ] {
            assert_eq!(Get::read(query), Ok(expected), "{query}");
        }
    }

    #[test]
    fn a_wrong_parameter_is_named() {
        for (query, name) in [
            ("connect=v2&encoding=json&message={}", "connect"),
            ("message={}", "encoding"),
            ("message={}&encoding=xml", "encoding"),
            ("encoding=json", "message"),
            ("encoding=json&base64=1&message=***", "message"),
            ("encoding=json&base64=2&message=e30", "base64"),
            ("", "encoding"),
        ] {
            let error = Get::read(query).unwrap_err();
            assert!(error.to_string().starts_with(&format!("{name}: ")), "{query}: {error}");
        }
    }
}
