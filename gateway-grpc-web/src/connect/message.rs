//! The messages of Connect requests: codecs and envelopes.

use std::{cmp::Ordering, sync::Arc};

use bytes::Bytes;
use eticket_proto::error_text::Language;
use eticket_rpc_server::error::ApiError;
use http::StatusCode;
use prost_reflect::{DynamicMessage, prost::Message as _};
use tonic::{Code, Status};

use crate::transcode::{
    Method,
    json::{self, BODY, Defaults, UnknownFields, Wrong},
    refusal::Refusal,
    request_body::{Reading, decompress, too_large},
};

/// The flag of a compressed message.
const COMPRESSED: u8 = 0b01;

/// The encoding of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    Json,
    Proto,
}

impl Codec {
    pub(crate) fn of_unary(media_type: &str) -> Option<Self> {
        Self::of_name(media_type.to_ascii_lowercase().strip_prefix("application/")?)
    }

    pub(crate) fn of_stream(media_type: &str) -> Option<Self> {
        Self::of_name(media_type.to_ascii_lowercase().strip_prefix("application/connect+")?)
    }

    pub(crate) fn of_name(name: &str) -> Option<Self> {
        match name {
            "json" => Some(Self::Json),
            "proto" => Some(Self::Proto),
            _ => None,
        }
    }

    pub(crate) fn unary_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Proto => "application/proto",
        }
    }

    pub(crate) fn stream_type(self) -> &'static str {
        match self {
            Self::Json => "application/connect+json",
            Self::Proto => "application/connect+proto",
        }
    }

    /// Encodes a message of a response.
    ///
    /// # Errors
    /// If the bytes are not a message of the method's type.
    pub(crate) fn encode(self, message: Bytes, method: &Method) -> Result<Bytes, Refusal> {
        if self == Self::Proto {
            return Ok(message);
        }
        let broken = || Refusal::from(Status::internal("a message of the response cannot be read"));
        let message = DynamicMessage::decode(method.output.clone(), message).map_err(|_| broken())?;
        json::write(&message, Defaults::LeftOut).map(Bytes::from).map_err(|_| broken())
    }
}

/// Returns the function that turns the body of a request into its message.
pub(crate) fn translate(
    codec: Codec,
    method: &Arc<Method>,
    language: Language,
) -> impl FnOnce(Bytes) -> Result<Vec<u8>, Refusal> + Send + 'static {
    let method = method.clone();
    move |body| {
        if codec == Codec::Proto {
            return Ok(body.into());
        }
        let read = || {
            let mut wrong = Wrong::default();
            let message = json::read(json::parse(&body)?, &method.input, UnknownFields::Ignored, &mut wrong);
            wrong.into_result()?;
            message.ok_or_else(|| ApiError::invalid_field(BODY, "does not fit the request"))
        };
        read().map(|message| message.encode_to_vec()).map_err(|error| Refusal::of_fields(&error, language))
    }
}

/// Takes the only message out of the body of a server-streaming call.
pub(crate) fn translate_envelope(
    translate: impl FnOnce(Bytes) -> Result<Vec<u8>, Refusal> + Send + 'static,
    reading: Reading,
) -> impl FnOnce(Bytes) -> Result<Vec<u8>, Refusal> + Send + 'static {
    move |body| {
        let wrong =
            |description: &str| Refusal::of_fields(&ApiError::invalid_field(BODY, description), reading.language);
        // Connect has the codes of gRPC for these faults.
        let another_number = |english: &str| {
            let (http, korean) = (StatusCode::NOT_IMPLEMENTED, "본문에는 메시지가 하나만 있어야 합니다.");
            Refusal::of_http(http, Code::Unimplemented, reading.language, english.to_owned(), korean)
        };
        let Some([flags, length @ ..]) = body.first_chunk::<5>() else {
            return Err(match body.is_empty() {
                true => another_number("the body has no message; the method takes one"),
                false => wrong("must be one enveloped message"),
            });
        };
        let (message, length) = (body.slice(5..), u32::from_be_bytes(*length));
        if length > reading.max_bytes {
            return Err(too_large(reading));
        }
        match message.len().cmp(&(length as usize)) {
            Ordering::Less => return Err(wrong("must be one whole enveloped message")),
            Ordering::Greater => return Err(another_number("the body has several messages; the method takes one")),
            Ordering::Equal => {}
        }
        match *flags {
            0 => translate(message),
            COMPRESSED if reading.gzip => translate(decompress(&message, reading)?),
            COMPRESSED => {
                let english = "a message is compressed, but no header says how".to_owned();
                let korean = "메시지가 압축되었지만 압축 방식을 알리는 헤더가 없습니다.";
                let http = StatusCode::INTERNAL_SERVER_ERROR;
                Err(Refusal::of_http(http, Code::Internal, reading.language, english, korean))
            }
            _ => Err(wrong("has an envelope with unknown flags")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READING: Reading = Reading { max_bytes: 100, gzip: false, language: Language::English };

    #[test]
    fn media_types_name_codec_and_kind() {
        for (media_type, unary, stream) in [
            ("application/json", Some(Codec::Json), None),
            ("Application/Proto", Some(Codec::Proto), None),
            ("application/connect+json", None, Some(Codec::Json)),
            ("application/connect+proto", None, Some(Codec::Proto)),
            ("application/connect+xml", None, None),
            ("text/json", None, None),
        ] {
            assert_eq!((Codec::of_unary(media_type), Codec::of_stream(media_type)), (unary, stream), "{media_type}");
        }
    }

    #[test]
    fn a_body_has_one_envelope() {
        let take = |body: &'static [u8]| {
            let translate = translate_envelope(|message| Ok(message.to_vec()), READING);
            translate(Bytes::from_static(body)).map_err(|refusal| refusal.status.code())
        };
        assert_eq!(take(b"\0\0\0\0\x02ab"), Ok(b"ab".to_vec()));
        assert_eq!(take(b"\0\0\0\0\0"), Ok(Vec::new()));
        for (body, code) in [
            (&b"\0\0\0"[..], Code::InvalidArgument),
            (b"\0\0\0\0\x02a", Code::InvalidArgument),
            (b"\x02\0\0\0\0", Code::InvalidArgument),
            (b"", Code::Unimplemented),
            (b"\0\0\0\0\x01a\0\0\0\0\0", Code::Unimplemented),
            (b"\x01\0\0\0\0", Code::Internal),
            (b"\0\xff\xff\xff\xff", Code::ResourceExhausted),
        ] {
            assert_eq!(take(body), Err(code), "{body:?}");
        }
    }
}
