//! Turns the body of a request into one gRPC message while the call runs.
//!
//! The body is read inside of the layers, so that the deadline, the admission and the authentication of the call apply
//! before a byte of it is read. An error is kept for the response, because the service only sees a reset stream.

use std::{
    error::Error,
    fmt,
    io::Read,
    sync::{Arc, OnceLock},
};

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use eticket_proto::error_text::Language;
use eticket_rpc_server::error::ApiError;
use flate2::read::MultiGzDecoder;
use futures::stream;
use http::StatusCode;
use http_body::Body as _;
use http_body_util::BodyExt;
use tonic::{Code, Status};

use super::refusal::Refusal;

/// Holds the error of a request body for the response.
pub(crate) type SharedRefusal = Arc<OnceLock<Refusal>>;

/// The request body cannot be translated. The error of the response is in a [`SharedRefusal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Untranslatable(pub(crate) Code);

impl fmt::Display for Untranslatable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the request cannot be translated to gRPC")
    }
}

impl Error for Untranslatable {}

impl Untranslatable {
    /// Finds this error in the source chain: bodies wrap the errors of their inner bodies.
    pub(crate) fn find(error: &(dyn Error + 'static)) -> Option<Self> {
        std::iter::successors(Some(error), |error| (*error).source()).find_map(|error| error.downcast_ref().copied())
    }
}

/// How a body is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    /// Limit of the body, also after decompression.
    pub(crate) max_bytes: u32,
    pub(crate) gzip: bool,
    pub(crate) language: Language,
}

/// Creates a gRPC body with the message that `translate` makes of the whole body.
pub(crate) fn translated(
    body: Body,
    reading: Reading,
    refusal: SharedRefusal,
    translate: impl FnOnce(Bytes) -> Result<Vec<u8>, Refusal> + Send + 'static,
) -> Body {
    Body::from_stream(stream::once(async move {
        let message = match read(body, reading).await {
            Ok(bytes) => translate(bytes),
            Err(error) => Err(error),
        };
        message.map(|message| frame(0, &message)).map_err(|error| {
            let code = error.status.code();
            refusal.set(error).ok();
            Untranslatable(code)
        })
    }))
}

async fn read(mut body: Body, reading: Reading) -> Result<Bytes, Refusal> {
    let limit = reading.max_bytes as usize;
    if body.size_hint().lower() > u64::from(reading.max_bytes) {
        return Err(too_large(reading));
    }
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Status::cancelled("the caller disconnected before its request was complete"))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > limit {
            return Err(too_large(reading));
        }
        whole.extend_from_slice(&data);
    }
    if reading.gzip { decompress(&whole, reading) } else { Ok(whole.freeze()) }
}

/// Decompresses gzip; an empty body needs no encoding.
///
/// # Errors
/// If the bytes are not gzip, or have more bytes than allowed: reading stops there.
pub(crate) fn decompress(bytes: &[u8], reading: Reading) -> Result<Bytes, Refusal> {
    if bytes.is_empty() {
        return Ok(Bytes::new());
    }
    let mut whole = Vec::new();
    let mut decoder = MultiGzDecoder::new(bytes).take(u64::from(reading.max_bytes) + 1);
    decoder.read_to_end(&mut whole).map_err(|_| {
        let error = ApiError::invalid_field(super::json::BODY, "is not gzip, although its encoding says so");
        Refusal::of_fields(&error, reading.language)
    })?;
    if whole.len() > reading.max_bytes as usize {
        return Err(too_large(reading));
    }
    Ok(whole.into())
}

/// The error of a body above the limit; its code is the one of a gRPC message above the limit.
pub(crate) fn too_large(reading: Reading) -> Refusal {
    let english = format!("the body has more than the {} bytes that max_message_bytes allows", reading.max_bytes);
    let korean = format!("본문이 허용된 크기({}바이트)보다 큽니다.", reading.max_bytes);
    Refusal::of_http(StatusCode::PAYLOAD_TOO_LARGE, Code::ResourceExhausted, reading.language, english, &korean)
}

/// Returns whether a body with this encoding is compressed; `None` if the encoding is unknown.
pub(crate) fn is_gzip(encoding: Option<&[u8]>) -> Option<bool> {
    match encoding {
        None | Some(b"" | b"identity") => Some(false),
        Some(b"gzip") => Some(true),
        _ => None,
    }
}

/// Wraps a message in a frame of gRPC, which is also an envelope of Connect: flags, length, message.
pub(crate) fn frame(flags: u8, message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(flags);
    // Messages of requests and responses have limits far below 4 GiB.
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    const PLAIN: Reading = Reading { max_bytes: 100, gzip: false, language: Language::English };
    const GZIP: Reading = Reading { gzip: true, ..PLAIN };

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    async fn run(body: Body, reading: Reading) -> Result<Bytes, (StatusCode, Code)> {
        let refusal = SharedRefusal::default();
        let body = translated(body, reading, refusal.clone(), |bytes| Ok(bytes.to_vec()));
        match body.collect().await {
            Ok(all) => Ok(all.to_bytes().slice(5..)),
            Err(error) => {
                let refusal = refusal.get().expect("the error of the response");
                assert_eq!(Untranslatable::find(&error), Some(Untranslatable(refusal.status.code())));
                Err((refusal.http, refusal.status.code()))
            }
        }
    }

    #[tokio::test]
    async fn a_body_is_limited_before_and_after_decompression() {
        let too_large = Err((StatusCode::PAYLOAD_TOO_LARGE, Code::ResourceExhausted));
        let (most, more) = (vec![7; 100], vec![7; 101]);
        assert_eq!(run(most.clone().into(), PLAIN).await, Ok(most.clone().into()));
        assert_eq!(run(more.clone().into(), PLAIN).await, too_large);
        let chunks = more.chunks(10).map(|chunk| Ok::<_, Untranslatable>(Bytes::copy_from_slice(chunk)));
        let chunks = Body::from_stream(stream::iter(chunks.collect::<Vec<_>>()));
        assert_eq!(run(chunks, PLAIN).await, too_large, "without a length");
        assert_eq!(run(gzip(&most).into(), GZIP).await, Ok(most.into()));
        assert_eq!(run(gzip(&vec![7; 1_000_000]).into(), Reading { max_bytes: 5_000, ..GZIP }).await, too_large);
        assert_eq!(run("not gzip".into(), GZIP).await, Err((StatusCode::BAD_REQUEST, Code::InvalidArgument)));
    }

    #[tokio::test]
    async fn a_disconnect_is_a_cancellation() {
        let broken = stream::iter([Ok(Bytes::from_static(b"{")), Err(std::io::Error::other("reset"))]);
        let error = run(Body::from_stream(broken), PLAIN).await.unwrap_err();
        assert_eq!(error.1, Code::Cancelled);
    }
}
