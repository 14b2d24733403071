//! A request to an upstream: whom it is for, and its body, which is a caller's or that of a call of the gateway's own, such as one
//! for health.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{
    Uri,
    uri::{Authority, Scheme},
};
use http_body::{Body, Frame, SizeHint};
use tonic::Status;

use crate::call::request_body::{Fault, RequestBody};

/// Without a box around it, as every call has one.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Caller(RequestBody),
    Own(tonic::body::Body),
}

/// Why a body has ended early. The caller is told by other means; the upstream sees a reset.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error(transparent)]
    Caller(#[from] Fault),
    #[error("a call of the gateway's own")]
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

/// HTTP/2 wants to know whom a request is for.
pub(super) fn absolute(uri: Uri, authority: &Authority) -> Uri {
    let mut parts = uri.into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority.clone());
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    }
    // With all three parts it is one.
    Uri::from_parts(parts).unwrap_or_default()
}
