//! The body of a request to an upstream. It belongs to a caller or to one of the gateway's own calls, such as a health
//! check.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tonic::Status;

use crate::call::request_body::{Fault, RequestBody};

/// Not boxed: this body is on the path of every call.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Caller(RequestBody),
    Own(tonic::body::Body),
}

impl From<tonic::body::Body> for Outgoing {
    fn from(body: tonic::body::Body) -> Self {
        Self::Own(body)
    }
}

/// Why a body has ended early. The upstream sees a reset; the caller gets the error from the response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error(transparent)]
    Caller(#[from] Fault),
    #[error("a body of the gateway's own call failed")]
    Own(#[source] Status),
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut *self {
            Self::Caller(body) => {
                Pin::new(body).poll_frame(context).map(|frame| frame.map(|frame| frame.map_err(Broken::Caller)))
            }
            Self::Own(body) => {
                Pin::new(body).poll_frame(context).map(|frame| frame.map(|frame| frame.map_err(Broken::Own)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Caller(body) => body.is_end_stream(),
            Self::Own(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Caller(body) => body.size_hint(),
            Self::Own(body) => body.size_hint(),
        }
    }
}
