//! Translates a gRPC response to gRPC-Web: the trailers become the last frame of the body, and the body is base64 if
//! the client accepts text.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::Bytes;
use http::{Response, header};
use http_body::{Frame, SizeHint};

use super::{Encoding, base64_stream, trailers_frame};

/// Translates a response. A status in the headers stays there: clients look there first, and such a response has no
/// body that a proxy could truncate.
pub(crate) fn to_web(response: Response<Body>, encoding: Encoding) -> Response<Body> {
    let (mut head, inner) = response.into_parts();
    head.headers.remove(header::CONTENT_LENGTH);
    head.headers.insert(header::CONTENT_TYPE, encoding.content_type());
    Response::from_parts(head, Body::new(WebBody { inner, encoding, ended: false }))
}

#[derive(Debug)]
struct WebBody {
    inner: Body,
    encoding: Encoding,
    ended: bool,
}

impl http_body::Body for WebBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        let Some(frame) = ready!(Pin::new(&mut this.inner).poll_frame(context)?) else {
            this.ended = true;
            return Poll::Ready(None);
        };
        let data = frame.into_data().unwrap_or_else(|frame| {
            this.ended = true;
            frame.into_trailers().map(|trailers| trailers_frame(&trailers)).unwrap_or_default()
        });
        Poll::Ready(Some(Ok(Frame::data(match this.encoding {
            Encoding::Binary => data,
            Encoding::Text => base64_stream::encode(&data),
        }))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // The inner body's hint is valid only for an empty body: base64 and the trailers frame make it longer.
        if self.is_end_stream() { SizeHint::with_exact(0) } else { SizeHint::default() }
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http::{HeaderMap, HeaderValue};
    use http_body::Body as _;
    use http_body_util::{BodyExt, StreamBody};
    use tonic::Status;

    use super::*;

    fn answer() -> Response<Body> {
        let mut trailers = HeaderMap::new();
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
        let frames = [Frame::data(Bytes::from_static(b"\0\0\0\0\x01a")), Frame::trailers(trailers)];
        let body = StreamBody::new(stream::iter(frames.map(Ok::<_, Status>)));
        let mut response = Response::new(Body::new(body));
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("6"));
        response
    }

    #[tokio::test]
    async fn trailers_become_the_last_frame() {
        let response = to_web(answer(), Encoding::Binary);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/grpc-web+proto");
        assert!(!response.headers().contains_key(header::CONTENT_LENGTH), "the body has become longer");
        assert_eq!(response.body().size_hint().exact(), None);
        let all = response.into_body().collect().await.unwrap();
        assert!(all.trailers().is_none());
        assert_eq!(&all.to_bytes()[..], b"\0\0\0\0\x01a\x80\0\0\0\x0fgrpc-status:0\r\n");
    }

    #[tokio::test]
    async fn text_is_encoded_frame_by_frame() {
        let response = to_web(answer(), Encoding::Text);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/grpc-web-text+proto");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let mut decoder = base64_stream::Decoder::default();
        assert_eq!(&decoder.decode(&body).unwrap()[..], b"\0\0\0\0\x01a\x80\0\0\0\x0fgrpc-status:0\r\n");
    }

    #[tokio::test]
    async fn a_status_in_the_headers_is_the_whole_answer() {
        let response = to_web(Status::not_found("gone").into_http(), Encoding::Binary);
        assert_eq!(response.headers()[Status::GRPC_STATUS], "5");
        assert!(response.body().is_end_stream());
        assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
    }
}
