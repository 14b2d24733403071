//! The web console at the gateway's address, and the viewer of the REST interface at `/docs`. Handles all requests that
//! are not gRPC.
//!
//! Both are embedded in the binary. `console.folder` replaces the console by a folder, for development.

use std::path::Path;

use axum::{Router, body::Body, response::IntoResponse, routing::get};
use eticket_rpc_server::server::media_type;
use eticket_runtime::context::LoginCodes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use include_dir::{Dir, include_dir};
use tower::{ServiceExt, service_fn};
use tower_http::{
    compression::CompressionLayer,
    services::{ServeDir, ServeFile},
};

use crate::connect::message::Codec;

/// Built by Vite and committed, so that a build of the gateway needs no Node.js.
static PAGES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/web/dist");
/// Generated from the contract by `cargo xtask openapi`.
static OPENAPI: &[u8] = include_bytes!("../openapi.json");

/// Allows only the pages' own files and calls to the gateway, and forbids embedding in frames.
macro_rules! content_security_policy {
    (images: $images:literal, trusted_types: $trusted_types:literal) => {
        HeaderValue::from_static(concat!(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src ",
            $images,
            "; connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'; \
             require-trusted-types-for 'script'; trusted-types ",
            $trusted_types,
        ))
    };
}

/// `svelte-trusted-html` is the Trusted Types policy that the console's framework uses for its templates.
const CONSOLE_POLICY: HeaderValue = content_security_policy!(images: "'self'", trusted_types: "svelte-trusted-html");
/// The images of Swagger UI are `data:` URLs in its styles. It assigns HTML as text that `DOMPurify` has sanitized; the
/// policy `default` accepts it.
const VIEWER_POLICY: HeaderValue = content_security_policy!(images: "'self' data:", trusted_types: "default dompurify");
/// For files below an `assets/` of the embedded pages; their names change with their content.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
const REVALIDATED: HeaderValue = HeaderValue::from_static("no-cache");
/// Exchanges the one-time code of a log-in link for a token. No path of the contract is like it.
const LOGIN: &str = "/login";
/// A code is shorter.
const MAX_CODE_BYTES: usize = 256;

/// The pages of the gateway.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    pages: Router,
    /// The codes of log-in links; `None` unless this is `eticket dev --tokens`.
    login: Option<LoginCodes>,
}

impl Site {
    /// Serves the console in `folder`, which must have an `index.html`; unknown paths return it too, because that
    /// console may route by path. Without a folder it serves the embedded console, which routes by the URL fragment:
    /// unknown paths are errors. The viewer and its document are the embedded ones in both cases.
    pub(crate) fn new(folder: Option<&Path>, login: Option<LoginCodes>) -> Self {
        let viewer = get(async |uri: Uri| embedded(uri.path()));
        let router = ["/docs", "/docs/", "/docs/{*file}", "/openapi.json"]
            .into_iter()
            .fold(Router::new(), |router, path| router.route(path, viewer.clone()));
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
        Self { pages: router.layer(CompressionLayer::new()), login }
    }

    pub(crate) async fn answer(&self, request: Request<Body>) -> Response<Body> {
        if request.method() == http::Method::POST && request.uri().path() == LOGIN {
            return self.log_in(request.into_body()).await;
        }
        // Most likely an RPC in an unsupported protocol; returning a page would hide the error.
        if request.method() == http::Method::POST {
            let media_type = media_type(request.headers()).unwrap_or_default();
            if Codec::of_unary(media_type).or_else(|| Codec::of_stream(media_type)).is_some() {
                return text(StatusCode::NOT_FOUND, "no method has this path; reflection lists what is served\n");
            }
            return text(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "expected a gRPC, gRPC-Web or Connect call at the path of a method, or a REST request below /v1\n",
            );
        }
        let policy = policy_of(request.uri().path());
        let Ok(mut response) = self.pages.clone().oneshot(request).await;
        let headers = response.headers_mut();
        headers.entry(header::CACHE_CONTROL).or_insert(REVALIDATED);
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        response
    }

    /// Exchanges the code in `body` for its token.
    async fn log_in(&self, body: Body) -> Response<Body> {
        let Some(login) = &self.login else {
            return text(StatusCode::NOT_FOUND, "this server has no log-in links; log in with a token\n");
        };
        let body = axum::body::to_bytes(body, MAX_CODE_BYTES).await.unwrap_or_default();
        let token = std::str::from_utf8(&body).ok().and_then(|code| login.exchange(code));
        let mut response = match token {
            Some(token) => text(StatusCode::OK, token),
            None => text(StatusCode::FORBIDDEN, "the log-in link is unknown, has been used, or has ended\n"),
        };
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }
}

fn policy_of(path: &str) -> HeaderValue {
    let of_viewer = path == "/docs" || path.starts_with("/docs/");
    if of_viewer { VIEWER_POLICY } else { CONSOLE_POLICY }
}

fn embedded(path: &str) -> Response<Body> {
    let name = match path {
        "/" => "index.html",
        "/docs" | "/docs/" => "docs/index.html",
        path => path.trim_start_matches('/'),
    };
    let contents = match name {
        "openapi.json" => Some(OPENAPI),
        name => PAGES.get_file(name).map(include_dir::File::contents),
    };
    let Some(contents) = contents else {
        return text(StatusCode::NOT_FOUND, "page not found; the console is at /\n");
    };
    let media_type = mime_guess::from_path(name).first_or_octet_stream();
    let charset = if media_type.type_() == "text" { "; charset=utf-8" } else { "" };
    let immutable = name.starts_with("assets/") || name.starts_with("docs/assets/");
    let caching = if immutable { IMMUTABLE } else { REVALIDATED };
    let media_type = [(header::CONTENT_TYPE, format!("{media_type}{charset}"))];
    (media_type, [(header::CACHE_CONTROL, caching)], contents).into_response()
}

/// Returns a short text response for a request that is neither a call nor a page.
pub(crate) fn text(status: StatusCode, text: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use eticket_base::clock::SystemClock;

    use super::*;

    #[tokio::test]
    async fn a_console_in_a_folder_may_route_by_paths_and_change_its_files() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("assets")).unwrap();
        fs::write(folder.path().join("index.html"), "the index").unwrap();
        fs::write(folder.path().join("assets/app.js"), "a script").unwrap();
        let site = Site::new(Some(folder.path()), None);
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

    #[tokio::test]
    async fn a_folder_replaces_the_console_but_not_the_viewer() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("docs")).unwrap();
        for file in ["index.html", "docs/index.html", "openapi.json"] {
            fs::write(folder.path().join(file), "of the folder").unwrap();
        }
        let site = Site::new(Some(folder.path()), None);
        let body = async |path: &str| {
            let response = site.answer(Request::get(path).body(Body::empty()).unwrap()).await;
            assert_eq!(response.status(), StatusCode::OK, "{path}");
            axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap()
        };
        assert_eq!(body("/").await, "of the folder");
        assert_eq!(body("/openapi.json").await, OPENAPI);
        for path in ["/docs", "/docs/"] {
            assert_eq!(body(path).await, PAGES.get_file("docs/index.html").unwrap().contents(), "{path}");
        }
    }

    async fn log_in(site: &Site, code: &str) -> (StatusCode, String) {
        let response = site.answer(Request::post(LOGIN).body(Body::from(code.to_owned())).unwrap()).await;
        assert!(site.login.is_none() || response.headers()[header::CACHE_CONTROL] == "no-store");
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 1024).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_login_code_brings_its_token_once_and_only_by_post() {
        let codes = LoginCodes::new(Arc::new(SystemClock));
        let code = codes.issue("a.b.c".to_owned()).unwrap();
        let site = Site::new(None, Some(codes));
        for wrong in ["", "unknown", &code[1..], &"x".repeat(10_000)] {
            assert_eq!(log_in(&site, wrong).await.0, StatusCode::FORBIDDEN, "{wrong}");
        }
        let read = site.answer(Request::get(format!("/login/{code}")).body(Body::empty()).unwrap()).await;
        assert_eq!(read.status(), StatusCode::NOT_FOUND);
        assert_eq!(log_in(&site, &code).await, (StatusCode::OK, "a.b.c".to_owned()));
        assert_eq!(log_in(&site, &code).await.0, StatusCode::FORBIDDEN);
    }

    #[tokio::test]
    async fn a_gateway_has_no_login_codes_by_default() {
        assert_eq!(log_in(&Site::new(None, None), "unknown").await.0, StatusCode::NOT_FOUND);
    }
}
