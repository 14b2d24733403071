//! The response body on its way to the caller; it always ends with a status.
//!
//! If an upstream breaks off, the caller gets trailers, which every client can read, instead of a reset stream. Over
//! HTTP/1.1 that would be a closed connection, which browsers report like any network error.

use std::{
    convert::Infallible,
    error::Error,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tonic::Status;

use super::CallContext;

/// The body as it was received.
#[derive(Debug)]
pub(crate) enum Inner {
    Upstream(Incoming),
    /// The body of one of the gateway's own services.
    Own(tonic::body::Body),
}

type Polled = Result<Frame<Bytes>, Box<dyn Error>>;

impl Default for Inner {
    fn default() -> Self {
        Self::Own(tonic::body::Body::empty())
    }
}

impl Inner {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Polled>> {
        match self {
            Self::Upstream(body) => {
                Pin::new(body).poll_frame(context).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            }
            Self::Own(body) => {
                Pin::new(body).poll_frame(context).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    fn is_end(&self) -> bool {
        match self {
            Self::Upstream(body) => body.is_end_stream(),
            Self::Own(body) => body.is_end_stream(),
        }
    }
}

/// A response body. An empty body belongs to a response with its status in the headers.
#[derive(Debug, Default)]
pub(crate) struct ResponseBody {
    inner: Inner,
    /// None once the body has ended.
    call_context: Option<CallContext>,
    /// The status came with the headers; no trailers follow.
    has_status: bool,
}

impl ResponseBody {
    pub(crate) fn wrap(response: Response<Inner>, call_context: CallContext) -> Response<Self> {
        let (mut head, inner) = response.into_parts();
        // The body may end differently from the announced length.
        head.headers.remove(header::CONTENT_LENGTH);
        let has_status = head.headers.contains_key(Status::GRPC_STATUS);
        let call_context = (!has_status || !inner.is_end()).then_some(call_context);
        Response::from_parts(head, Self { inner, call_context, has_status })
    }
}

/// Converts a status into trailers; if its text is not a valid header, only the code is sent.
fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from(status.code() as i32));
    }
    trailers
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        let Some(call_context) = &this.call_context else { return Poll::Ready(None) };
        let end = match ready!(this.inner.poll(context)) {
            Some(Ok(frame)) if frame.is_data() => return Poll::Ready(Some(Ok(frame))),
            Some(Ok(frame)) => Some(frame),
            Some(Err(error)) => Some(Frame::trailers(trailers(&call_context.broken(Some(&*error))))),
            None if this.has_status => None,
            None => Some(Frame::trailers(trailers(&call_context.broken(None)))),
        };
        this.call_context = None;
        Poll::Ready(end.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.call_context.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() { SizeHint::with_exact(0) } else { SizeHint::default() }
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body_util::{BodyExt, StreamBody};
    use tonic::Code;

    use super::*;
    use crate::call::request_body::Fault;

    fn answer(frames: Vec<Result<Frame<Bytes>, Status>>, call_context: CallContext) -> Response<ResponseBody> {
        let body = tonic::body::Body::new(StreamBody::new(stream::iter(frames)));
        ResponseBody::wrap(Response::new(Inner::Own(body)), call_context)
    }

    fn message() -> Result<Frame<Bytes>, Status> {
        Ok(Frame::data(Bytes::from_static(b"\0\0\0\0\x01a")))
    }

    async fn status_of(response: Response<ResponseBody>) -> Status {
        let all = response.into_body().collect().await.unwrap();
        Status::from_header_map(all.trailers().expect("trailers")).expect("a status")
    }

    #[tokio::test]
    async fn a_complete_response_is_unchanged() {
        let mut trailers = HeaderMap::new();
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("7"));
        trailers.insert("x-of-its-own", HeaderValue::from_static("kept"));
        let response = answer(vec![message(), Ok(Frame::trailers(trailers.clone()))], CallContext::default());
        let all = response.into_body().collect().await.unwrap();
        assert_eq!(all.trailers(), Some(&trailers));
        assert_eq!(&all.to_bytes()[..], b"\0\0\0\0\x01a");

        let refused = ResponseBody::wrap(
            Status::not_found("gone").into_http::<tonic::body::Body>().map(Inner::Own),
            CallContext::default(),
        );
        assert_eq!(refused.headers()[Status::GRPC_STATUS], "5");
        assert!(refused.body().is_end_stream());
        assert!(refused.into_body().collect().await.unwrap().trailers().is_none());
    }

    #[tokio::test]
    async fn a_truncated_response_ends_with_a_status() {
        let broken = answer(vec![message(), Err(Status::unknown("reset"))], CallContext::default());
        assert_eq!(status_of(broken).await.code(), Code::Internal);
        assert_eq!(status_of(answer(vec![message()], CallContext::default())).await.code(), Code::Internal);
        let call_context = CallContext::default();
        call_context.fault.set(Fault::CutOff).unwrap();
        assert_eq!(
            status_of(answer(vec![Err(Status::unknown("reset"))], call_context)).await.code(),
            Code::InvalidArgument
        );
    }
}
