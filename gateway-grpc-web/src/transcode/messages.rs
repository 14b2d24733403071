//! Takes the messages and the status out of a gRPC response.

use axum::body::Body;
use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt;
use tonic::Status;

use super::{
    exchange::{Failure, keep_metadata},
    request_body::SharedRefusal,
};

/// Limit of one message. Services keep a page below 2 MiB, so only a broken response reaches it.
const MOST_BYTES: usize = 64 * 1024 * 1024;

/// The response of a call after its headers. Dropping it ends the call.
#[derive(Debug)]
pub(crate) struct Messages {
    body: Body,
    buffer: BytesMut,
    refusal: SharedRefusal,
}

impl Messages {
    pub(crate) fn new(body: Body, refusal: SharedRefusal) -> Self {
        Self { body, buffer: BytesMut::new(), refusal }
    }

    /// Returns the next message, or the trailers after the last one.
    ///
    /// # Errors
    /// If the call has ended with an error status.
    ///
    /// # Cancellation
    /// Cancelling loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Next, Failure> {
        loop {
            if let Some(message) = take_message(&mut self.buffer).map_err(|status| Failure::new(status.into()))? {
                return Ok(Next::Message(message));
            }
            let Some(Ok(frame)) = self.body.frame().await else { return Err(self.end(HeaderMap::new())) };
            match frame.into_data() {
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => {
                    let mut trailers = frame.into_trailers().unwrap_or_default();
                    let is_ok =
                        Status::from_header_map(&trailers).is_some_and(|status| status.code() == tonic::Code::Ok);
                    let whole = self.refusal.get().is_none() && self.buffer.is_empty();
                    if !is_ok || !whole {
                        return Err(self.end(trailers));
                    }
                    keep_metadata(&mut trailers);
                    return Ok(Next::End(trailers));
                }
            }
        }
    }

    fn end(&self, trailers: HeaderMap) -> Failure {
        Failure::from_headers(trailers, &self.refusal)
    }
}

/// A part of a response.
#[derive(Debug)]
pub(crate) enum Next {
    Message(Bytes),
    /// The call has succeeded; the metadata in its trailers.
    End(HeaderMap),
}

/// Takes a whole message out of the buffer; `None` until it has arrived.
fn take_message(buffer: &mut BytesMut) -> Result<Option<Bytes>, Status> {
    let Some((flag, length)) =
        buffer.first_chunk::<5>().map(|[flag, length @ ..]| (*flag, u32::from_be_bytes(*length)))
    else {
        return Ok(None);
    };
    if flag != 0 || length as usize > MOST_BYTES {
        return Err(Status::internal("a message of the response has an unknown flag or is too large"));
    }
    if buffer.len() < 5 + length as usize {
        return Ok(None);
    }
    buffer.advance(5);
    Ok(Some(buffer.split_to(length as usize).freeze()))
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http::HeaderValue;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tonic::Code;

    use super::*;

    fn messages(chunks: &[&'static [u8]], status: Option<&'static str>) -> Messages {
        let mut frames: Vec<_> = chunks.iter().map(|chunk| Frame::data(Bytes::from_static(chunk))).collect();
        if let Some(status) = status {
            let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static(status))]);
            frames.push(Frame::trailers(trailers));
        }
        let body = StreamBody::new(stream::iter(frames.into_iter().map(Ok::<_, Status>)));
        Messages::new(Body::new(body), SharedRefusal::default())
    }

    /// Returns the messages and the code at the end.
    async fn read(mut messages: Messages) -> (Vec<Bytes>, Code) {
        let mut read = Vec::new();
        loop {
            match messages.next().await {
                Ok(Next::Message(message)) => read.push(message),
                Ok(Next::End(_)) => return (read, Code::Ok),
                Err(failure) => return (read, failure.refusal.status.code()),
            }
        }
    }

    #[tokio::test]
    async fn messages_are_found_however_they_are_cut() {
        for chunks in [&[&b"\0\0\0\0\x01a\0\0\0\0\x02bc"[..]][..], &[b"\0\0\0", b"\0\x01", b"a\0\0\0\0\x02b", b"c"]] {
            let (read, code) = read(messages(chunks, Some("0"))).await;
            assert_eq!((read, code), (vec![Bytes::from_static(b"a"), Bytes::from_static(b"bc")], Code::Ok));
        }
    }

    #[tokio::test]
    async fn a_broken_response_is_an_error() {
        for (chunks, status, code) in [
            (&[&b"\0\0\0\0\x01a"[..]][..], Some("5"), Code::NotFound),
            (&[b"\0\0\0\0\x02a"], Some("0"), Code::Internal),
            (&[b"\0\0\0\0\x01a"], None, Code::Internal),
            (&[b"\x01\0\0\0\x01a"], Some("0"), Code::Internal),
            (&[b"\0\xff\xff\xff\xffa"], Some("0"), Code::Internal),
        ] {
            assert_eq!(read(messages(chunks, status)).await.1, code, "{chunks:?}");
        }
    }
}
