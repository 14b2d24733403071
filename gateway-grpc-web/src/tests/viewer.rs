//! The OpenAPI document, and the viewer that shows it.

use std::collections::BTreeMap;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::BodyExt;

use super::{
    World,
    web_client::{Web, plain},
};

fn get(path: &str) -> Request<Body> {
    plain("GET", path, &[], Body::empty())
}

fn compressed(path: &str) -> Request<Body> {
    plain("GET", path, &[("accept-encoding", "gzip")], Body::empty())
}

async fn bytes(response: Response<hyper::body::Incoming>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

/// The sources of each directive of a policy.
fn policy(headers: &HeaderMap) -> BTreeMap<String, String> {
    let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    let directives = policy.split("; ").map(|directive| directive.split_once(' ').unwrap());
    directives.map(|(name, sources)| (name.to_owned(), sources.to_owned())).collect()
}

#[tokio::test]
async fn the_document_is_served_as_it_is_committed() {
    let world = World::new().await;
    let web = Web::connect(&world).await;
    let response = web.send(get("/openapi.json")).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-cache");
    assert_eq!(response.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    assert_eq!(bytes(response).await, include_str!("../../openapi.json"));
    let response = web.send(compressed("/openapi.json")).await;
    assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
}

#[tokio::test]
async fn the_viewer_is_served_completely() {
    let world = World::new().await;
    let web = Web::connect(&world).await;
    let response = web.send(get("/docs")).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-cache");
    let page = bytes(response).await;
    assert_eq!(bytes(web.send(get("/docs/")).await).await, page);
    let page = String::from_utf8(page.to_vec()).unwrap();
    let is_file = |part: &&str| part.starts_with("/docs/assets/") || part.starts_with("/assets/");
    let files: Vec<_> = page.split('"').filter(is_file).collect();
    assert_eq!(files.len(), 3, "a script, styles and an icon: {page}");
    for path in files {
        let response = web.send(compressed(path)).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        assert_eq!(response.headers()[header::CACHE_CONTROL], "public, max-age=31536000, immutable", "{path}");
        if path.starts_with("/docs/") {
            assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip", "{path}");
        }
        assert!(!bytes(response).await.is_empty(), "{path}");
    }
    assert_eq!(web.send(get("/docs/assets/nothing.js")).await.status(), StatusCode::NOT_FOUND);
}

/// Swagger UI needs two exceptions. The console must not get them.
#[tokio::test]
async fn only_the_viewer_has_a_wider_policy() {
    let world = World::new().await;
    let web = Web::connect(&world).await;
    let console = policy(web.send(get("/")).await.headers());
    for path in ["/docs", "/docs/"] {
        let viewer = policy(web.send(get(path)).await.headers());
        let mut expected = console.clone();
        expected.insert("img-src".to_owned(), "'self' data:".to_owned());
        expected.insert("trusted-types".to_owned(), "default dompurify".to_owned());
        assert_eq!(viewer, expected, "{path}");
        assert!(viewer.values().all(|sources| !sources.contains("unsafe")), "{viewer:?}");
    }
    for path in ["/", "/index.html", "/docs-of-others", "/openapi.json"] {
        assert_eq!(policy(web.send(get(path)).await.headers()), console, "{path}");
    }
    assert_eq!((console["img-src"].as_str(), console["style-src"].as_str()), ("'self'", "'self'"));
}
