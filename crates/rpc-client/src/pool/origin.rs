//! The absolute URI of a request.

use http::{
    Uri,
    uri::{Authority, PathAndQuery, Scheme},
};

/// What requests to one address name as their server.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub(super) scheme: Scheme,
    pub(super) authority: Authority,
}

/// Adds scheme and authority, which HTTP/2 requires.
pub(super) fn absolute(uri: Uri, origin: &Origin) -> Uri {
    let mut parts = uri.into_parts();
    parts.scheme = Some(origin.scheme.clone());
    parts.authority = Some(origin.authority.clone());
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
    }
    // A URI with all three parts is always valid.
    Uri::from_parts(parts).unwrap_or_default()
}
