//! Translates a gRPC-Web request to gRPC: replaces headers, and decodes text bodies.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Request, Version, header};
use http_body::Frame;

use super::{Encoding, GRPC, base64_stream::Decoder};

/// The body is not base64, although its content type is gRPC-Web text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotBase64;

impl fmt::Display for NotBase64 {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the body is not base64, although its content type is gRPC-Web text")
    }
}

impl Error for NotBase64 {}

impl NotBase64 {
    /// Returns whether this error is in the source chain: bodies wrap the errors of their inner bodies.
    pub(crate) fn is_cause_of(error: &(dyn Error + 'static)) -> bool {
        std::iter::successors(Some(error), |error| (*error).source()).any(|error| error.is::<Self>())
    }
}

/// Returns the request as a gRPC client would have sent it.
pub(crate) fn to_grpc(mut request: Request<Body>, encoding: Encoding) -> Request<Body> {
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, GRPC);
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    match encoding {
        Encoding::Binary => request,
        Encoding::Text => request.map(|inner| Body::new(TextBody { inner, decoder: Decoder::default(), ended: false })),
    }
}

/// A base64 body that is decoded while it arrives.
#[derive(Debug)]
struct TextBody {
    inner: Body,
    decoder: Decoder,
    ended: bool,
}

impl http_body::Body for TextBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        while !this.ended {
            let decoded = match ready!(Pin::new(&mut this.inner).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) => this.decoder.decode(&chunk),
                    // gRPC requests have no trailers; those of a client are ignored.
                    Err(_) => continue,
                },
                Some(Err(error)) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    this.ended = true;
                    this.decoder.finish()
                }
            };
            match decoded {
                Ok(data) if data.is_empty() => {}
                Ok(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Err(_) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(axum::Error::new(NotBase64))));
                }
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || (self.decoder.is_aligned() && self.inner.is_end_stream())
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, prelude::BASE64_STANDARD};
    use futures::stream;
    use http_body_util::BodyExt;

    use super::*;

    async fn read(text: &str, size: usize) -> Result<Vec<u8>, axum::Error> {
        let chunks = text.as_bytes().chunks(size).map(|chunk| Ok::<_, NotBase64>(Bytes::copy_from_slice(chunk)));
        let chunks: Vec<_> = chunks.collect();
        let request = Request::post("/").body(Body::from_stream(stream::iter(chunks))).unwrap();
        let request = to_grpc(request, Encoding::Text);
        assert_eq!(request.headers()[header::CONTENT_TYPE], "application/grpc");
        Ok(request.into_body().collect().await?.to_bytes().to_vec())
    }

    #[tokio::test]
    async fn text_is_decoded_incrementally() {
        let text = BASE64_STANDARD.encode([0, 0, 0, 0, 2, 8, 1]);
        for size in 1..=text.len() {
            assert_eq!(read(&text, size).await.unwrap(), [0, 0, 0, 0, 2, 8, 1]);
        }
        assert!(read("", 1).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn invalid_base64_ends_the_body_with_an_error() {
        for text in ["****", "A", "AAAA="] {
            let error = read(text, 8).await.unwrap_err();
            assert!(NotBase64::is_cause_of(&error), "{text}");
        }
    }
}
