//! What a browser gets that opens the gateway's address: the console, if a folder with it is configured, else a page that
//! says what this is. All requests that are not gRPC come here.

use std::path::Path;

use axum::{Router, body::Body, response::Html, routing::get};
use http::{HeaderValue, Request, Response, StatusCode, header};
use tower::ServiceExt;
use tower_http::services::{ServeDir, ServeFile};

const PAGE: &str = include_str!("../web/index.html");

/// Nothing but what the pages bring themselves, and calls to the gateway.
const CONTENT_SECURITY_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
);

/// The pages of the gateway.
#[derive(Debug, Clone)]
pub(crate) struct Site(Router);

impl Site {
    /// With the console in `folder`, which has an `index.html`; unknown paths below it show that too, as the console routes
    /// by itself.
    pub(crate) fn new(folder: Option<&Path>) -> Self {
        let router = match folder {
            Some(folder) => Router::new()
                .fallback_service(ServeDir::new(folder).fallback(ServeFile::new(folder.join("index.html")))),
            None => Router::new().route("/", get(async || Html(PAGE))),
        };
        Self(router)
    }

    pub(crate) async fn answer(&self, request: Request<Body>) -> Response<Body> {
        // A path of an RPC in a protocol that is not served: a page would hide that.
        if request.method() == http::Method::POST {
            return text(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "expected content-type application/grpc or application/grpc-web\n",
            );
        }
        let Ok(mut response) = self.0.clone().oneshot(request).await;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY);
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }
}

/// A short answer to what is neither a call nor a page.
pub(crate) fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
