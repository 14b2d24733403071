//! CORS: which pages of other origins may call the gateway, and which response headers they may read.
//!
//! Browsers hide every header that is not exposed by name: without `grpc-status` and its companions, a page would see
//! an unknown error instead of a rejection in the headers. Credentials are not allowed: the gateway uses no cookies.

use std::time::Duration;

use eticket_proto::headers;
use eticket_rpc_server::server::{Browsers, Origins};
use http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::CorsConfig;

/// How long a browser may cache a preflight response: Chromium's upper bound.
const MAX_AGE: Duration = Duration::from_secs(7200);

const ANY: &str = "*";

const REQUEST_HEADERS: [HeaderName; 25] = [
    header::ACCEPT_LANGUAGE,
    header::AUTHORIZATION,
    header::CONTENT_ENCODING,
    header::CONTENT_TYPE,
    header::IF_MATCH,
    HeaderName::from_static("baggage"),
    HeaderName::from_static("connect-accept-encoding"),
    HeaderName::from_static("connect-content-encoding"),
    HeaderName::from_static("connect-protocol-version"),
    HeaderName::from_static("connect-timeout-ms"),
    HeaderName::from_static("grpc-accept-encoding"),
    HeaderName::from_static("grpc-encoding"),
    HeaderName::from_static("grpc-timeout"),
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("last-event-id"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("x-correlation-id"),
    HeaderName::from_static("x-grpc-web"),
    HeaderName::from_static("x-timeout-ms"),
    HeaderName::from_static("x-user-agent"),
    HeaderName::from_static(headers::CONSISTENCY_TOKEN),
    HeaderName::from_static(headers::CORRELATION_ID),
    HeaderName::from_static(headers::SERVICE),
    HeaderName::from_static(headers::TRACE_PARENT),
    HeaderName::from_static(headers::WAIT),
];

const ANSWER_HEADERS: [HeaderName; 14] = [
    header::ALLOW,
    header::ETAG,
    header::WWW_AUTHENTICATE,
    HeaderName::from_static("connect-content-encoding"),
    HeaderName::from_static("x-correlation-id"),
    HeaderName::from_static("grpc-encoding"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-status-details-bin"),
    HeaderName::from_static(headers::CONSISTENCY_TOKEN),
    HeaderName::from_static(headers::CORRELATION_ID),
    HeaderName::from_static(headers::IDEMPOTENT_REPLAYED),
    HeaderName::from_static(headers::RETRY_PUSHBACK),
    header::RETRY_AFTER,
];

/// The text is not an origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected `*` or origins as https://example.org (scheme, host and port, no path), got {0:?}")]
pub(crate) struct InvalidOrigin(String);

/// Parses `cors.allowed_origins`.
///
/// # Errors
/// If an entry is neither an origin nor `*`.
pub(crate) fn origins(entries: &[String]) -> Result<Origins, InvalidOrigin> {
    if entries.iter().any(|entry| entry == ANY) {
        return Ok(Origins::Any);
    }
    entries.iter().map(|entry| parse(entry)).collect::<Result<_, _>>().map(Origins::These)
}

/// Creates the layer that returns CORS headers and answers preflights, by the same rules that the server enforces.
pub(crate) fn layer(browsers: Browsers, config: &CorsConfig) -> CorsLayer {
    let with = |own: &[HeaderName], more: &[HeaderName]| [own, more].concat();
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, head| browsers.allow(origin, head)))
        .allow_methods([Method::GET, Method::PATCH, Method::POST])
        .allow_headers(with(&REQUEST_HEADERS, &config.allowed_headers))
        .expose_headers(with(&ANSWER_HEADERS, &config.exposed_headers))
        .max_age(MAX_AGE)
}

/// Parses an origin and normalizes it to the form that browsers send, because origins are compared as text.
fn parse(origin: &str) -> Result<HeaderValue, InvalidOrigin> {
    let invalid = || InvalidOrigin(origin.to_owned());
    let host = ["http://", "https://"].iter().find_map(|scheme| origin.strip_prefix(scheme)).ok_or_else(invalid)?;
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".:-[]_".contains(&byte);
    if host.is_empty() || !host.bytes().all(plain) {
        return Err(invalid());
    }
    HeaderValue::from_str(origin).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use tower::{Layer, ServiceExt, service_fn};

    use super::*;

    /// Returns the CORS permission for a page of `origin` that calls a gateway on `listen`.
    async fn allowed(entries: &[&str], listen: &str, origin: &str) -> Option<String> {
        let entries: Vec<_> = entries.iter().map(|entry| (*entry).to_owned()).collect();
        let browsers = Browsers::new(origins(&entries).unwrap(), listen.parse().unwrap());
        let layer = layer(browsers, &CorsConfig::default());
        let service = layer.layer(service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(()))));
        let request = Request::post("/").header(header::HOST, "tickets.example").header(header::ORIGIN, origin);
        let response = service.oneshot(request.body(()).unwrap()).await.unwrap();
        let value = response.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN)?;
        Some(value.to_str().unwrap().to_owned())
    }

    #[tokio::test]
    async fn pages_of_the_server_of_the_loopback_and_of_the_list_may_call() {
        let (here, there) = ("127.0.0.1:8088", "0.0.0.0:8088");
        let (listed, other) = ("https://own.example", "https://other.example");
        for (entries, listen, origin, expected) in [
            (&[][..], here, other, None),
            (&[], there, other, None),
            (&[], here, "http://localhost:5173", Some("http://localhost:5173")),
            (&[], there, "https://tickets.example", Some("https://tickets.example")),
            (&["*"], there, other, Some(other)),
            (&[listed], there, listed, Some(listed)),
            (&[listed], there, other, None),
            (&[listed], here, other, None),
        ] {
            assert_eq!(allowed(entries, listen, origin).await.as_deref(), expected, "{entries:?} {listen} {origin}");
        }
    }

    #[tokio::test]
    async fn pages_may_send_and_read_the_tokens_of_their_session_and_configured_headers() {
        let names = ["x-tenant", "x-limit"].map(HeaderName::from_static);
        let config = CorsConfig {
            allowed_headers: vec![names[0].clone()],
            exposed_headers: vec![names[1].clone()],
            ..CorsConfig::default()
        };
        let layer = layer(Browsers::new(Origins::Any, "127.0.0.1:8088".parse().unwrap()), &config);
        let service = layer.layer(service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(()))));
        let preflight = Request::builder()
            .method(Method::OPTIONS)
            .header(header::ORIGIN, "https://own.example")
            .header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST");
        let call = Request::post("/").header(header::ORIGIN, "https://own.example");
        for (request, header, names) in [
            (preflight, header::ACCESS_CONTROL_ALLOW_HEADERS, [headers::CONSISTENCY_TOKEN, headers::WAIT, "x-tenant"]),
            (
                call,
                header::ACCESS_CONTROL_EXPOSE_HEADERS,
                [headers::CONSISTENCY_TOKEN, headers::IDEMPOTENT_REPLAYED, "x-limit"],
            ),
        ] {
            let response = service.clone().oneshot(request.body(()).unwrap()).await.unwrap();
            let listed = response.headers()[&header].to_str().unwrap();
            assert!(
                names.iter().all(|name| listed.split(',').any(|listed| listed.trim() == *name)),
                "{header}: {listed}"
            );
        }
    }

    #[test]
    fn only_origins_are_accepted() {
        for origin in ["http://localhost:5173", "https://example.org", "http://127.0.0.1:8088", "http://[::1]:80"] {
            assert_eq!(parse(origin).unwrap(), origin);
        }
        for origin in ["", "example.org", "https://", "https://example.org/", "https://Example.org", "null", "ftp://x"]
        {
            assert_eq!(parse(origin), Err(InvalidOrigin(origin.to_owned())));
        }
    }
}
