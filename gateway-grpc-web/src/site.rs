//! The web console, which browsers show at the gateway's address. Handles all requests that are not gRPC.
//!
//! The console is embedded in the binary. `console.folder` replaces it by a folder, for development.

use std::path::Path;

use axum::{Router, body::Body, response::IntoResponse};
use http::{HeaderValue, Request, Response, StatusCode, header};
use include_dir::{Dir, include_dir};
use tower::{ServiceExt, service_fn};
use tower_http::{
    compression::CompressionLayer,
    services::{ServeDir, ServeFile},
};

/// Built by Vite and committed, so that a build of the gateway needs no Node.js.
static CONSOLE: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/web/dist");

/// Allows only the console's own files and calls to the gateway, and forbids embedding in frames. `svelte-trusted-html`
/// is the Trusted Types policy that the console's framework uses for its templates.
const CONTENT_SECURITY_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'none'; \
     frame-ancestors 'none'; base-uri 'none'; require-trusted-types-for 'script'; trusted-types svelte-trusted-html",
);
/// For files below `assets/` of the embedded console; their names change with their content.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
const REVALIDATED: HeaderValue = HeaderValue::from_static("no-cache");

/// The pages of the gateway.
#[derive(Debug, Clone)]
pub(crate) struct Site(Router);

impl Site {
    /// Serves the console in `folder`, which must have an `index.html`; unknown paths return it too, because that
    /// console may route by path. Without a folder it serves the embedded console, which routes by the URL fragment:
    /// unknown paths are errors.
    pub(crate) fn new(folder: Option<&Path>) -> Self {
        let router = Router::new();
        let router = match folder {
            Some(folder) => {
                let index = ServeFile::new(folder.join("index.html"));
                router.fallback_service(ServeDir::new(folder).fallback(index))
            }
            None => {
                let embedded = async |request: Request<Body>| Ok(embedded(request.uri().path()));
                router.fallback_service(service_fn(embedded))
            }
        };
        Self(router.layer(CompressionLayer::new()))
    }

    pub(crate) async fn answer(&self, request: Request<Body>) -> Response<Body> {
        // Most likely an RPC in an unsupported protocol; returning a page would hide the error.
        if request.method() == http::Method::POST {
            return text(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "expected a gRPC, gRPC-Web or Connect call at the path of a method, or a REST request below /v1\n",
            );
        }
        let Ok(mut response) = self.0.clone().oneshot(request).await;
        let headers = response.headers_mut();
        headers.entry(header::CACHE_CONTROL).or_insert(REVALIDATED);
        headers.insert(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY);
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        response
    }
}

fn embedded(path: &str) -> Response<Body> {
    let name = if path == "/" { "index.html" } else { path.trim_start_matches('/') };
    let Some(file) = CONSOLE.get_file(name) else {
        return text(StatusCode::NOT_FOUND, "page not found; the console is at /\n");
    };
    let media_type = mime_guess::from_path(name).first_or_octet_stream();
    let charset = if media_type.type_() == "text" { "; charset=utf-8" } else { "" };
    let caching = if name.starts_with("assets/") { IMMUTABLE } else { REVALIDATED };
    let media_type = [(header::CONTENT_TYPE, format!("{media_type}{charset}"))];
    (media_type, [(header::CACHE_CONTROL, caching)], file.contents()).into_response()
}

/// Returns a short text response for a request that is neither a call nor a page.
pub(crate) fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_console_in_a_folder_may_route_by_paths_and_change_its_files() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("assets")).unwrap();
        fs::write(folder.path().join("index.html"), "the index").unwrap();
        fs::write(folder.path().join("assets/app.js"), "a script").unwrap();
        let site = Site::new(Some(folder.path()));
        for (path, expected) in [
            ("/", "the index"),
            ("/tickets/1", "the index"),
            ("/assets/gone.js", "the index"),
            ("/assets/app.js", "a script"),
        ] {
            let response = site.answer(Request::get(path).body(Body::empty()).unwrap()).await;
            assert_eq!((response.status(), &response.headers()[header::CACHE_CONTROL]), (StatusCode::OK, &REVALIDATED));
            let body = axum::body::to_bytes(response.into_body(), 1024).await.unwrap();
            assert_eq!(body, expected, "{path}");
        }
    }
}
