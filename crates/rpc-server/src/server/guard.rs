//! Rejects requests before any layer or handler: invalid HTTP, requests that a web page must not send, and, at a server
//! of gRPC services, everything except gRPC.
//!
//! A server on a loopback address without authentication trusts every client that reaches it. Web pages of any origin
//! can reach it through the browser of a visitor. A browser's request is therefore accepted only if it names a loopback
//! host (otherwise the owner of the page may have rebound its DNS name to this machine) and if it comes from a page of
//! the server or of a loopback origin. Browsers cannot send HTTP/2 without TLS, nor `application/grpc` without a
//! preflight request. With TLS, a rebound name does not match the certificate.

use std::net::{IpAddr, SocketAddr};

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header, request, uri::Authority};

/// Origins whose pages may call, besides the server's own and loopback origins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// All origins.
    Any,
    /// The listed origins, written as browsers send them: `https://example.org`.
    These(Vec<HeaderValue>),
}

/// Which requests of browsers a server accepts.
#[derive(Debug, Clone)]
pub struct Browsers {
    origins: Origins,
    /// Requests other than gRPC over HTTP/2 must name a loopback host, or the host of an allowed origin.
    by_loopback_names: bool,
}

impl Browsers {
    /// The rules for a server without authentication on the address `listen`.
    #[must_use]
    pub fn new(origins: Origins, listen: SocketAddr) -> Self {
        Self { origins, by_loopback_names: listen.ip().is_loopback() }
    }

    /// Accepts every host: callers have tokens, which a page of a rebound name does not get.
    #[must_use]
    pub fn by_any_name(mut self) -> Self {
        self.by_loopback_names = false;
        self
    }

    /// Returns whether a page of this origin may send this request; a page of the server's own host may.
    #[must_use]
    pub fn allow(&self, origin: &HeaderValue, head: &request::Parts) -> bool {
        self.allows(origin, host(&head.headers, head.uri.authority()))
    }

    fn allows(&self, origin: &HeaderValue, host: Option<&str>) -> bool {
        match &self.origins {
            Origins::Any => return true,
            Origins::These(these) if these.contains(origin) => return true,
            Origins::These(_) => {}
        }
        let Some(page) = origin.to_str().ok().and_then(authority_of) else { return false };
        is_loopback(page) || host.is_some_and(|host| host.eq_ignore_ascii_case(page))
    }

    fn allows_host(&self, host: &str) -> bool {
        match &self.origins {
            _ if !self.by_loopback_names || is_loopback(host) => true,
            Origins::Any => true,
            Origins::These(these) => {
                let mut known = these.iter().filter_map(|origin| authority_of(origin.to_str().ok()?));
                known.any(|known| known.eq_ignore_ascii_case(host))
            }
        }
    }

    fn refuse<B>(&self, request: &Request<B>) -> Option<Response<Body>> {
        let host = host(request.headers(), request.uri().authority());
        let mut origins = request.headers().get_all(header::ORIGIN).iter();
        let foreign = match (origins.next(), origins.next()) {
            (None, _) => false,
            (Some(origin), None) => !self.allows(origin, host),
            _ => true,
        };
        // A preflight has no effect; its handler reports that the origin is not allowed.
        if foreign && request.method() != Method::OPTIONS {
            let text =
                "pages of this origin may not call; add it to cors.allowed_origins of the gateway if they should\n";
            return Some(text_response(StatusCode::FORBIDDEN, text));
        }
        let is_grpc = request.version() == Version::HTTP_2 && is_grpc(request.headers());
        if !is_grpc && !host.is_none_or(|host| self.allows_host(host)) {
            let text = "this server responds only to localhost and loopback addresses; to call it by another name, add that \
                        origin to cors.allowed_origins of the gateway\n";
            return Some(text_response(StatusCode::FORBIDDEN, text));
        }
        None
    }
}

/// Which requests a server accepts.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    pub(crate) browsers: Browsers,
    /// Only gRPC over HTTP/2.
    pub(crate) only_grpc: bool,
}

impl Guard {
    /// Returns the response of a rejected request; `None` if the request may continue.
    pub(crate) fn refuse<B>(&self, request: &Request<B>) -> Option<Response<Body>> {
        if request.version() == Version::HTTP_11 && !has_one_host(request.headers()) {
            let text = "an HTTP/1.1 request has exactly one Host header\n";
            return Some(text_response(StatusCode::BAD_REQUEST, text));
        }
        if self.only_grpc && !is_grpc(request.headers()) {
            let text = "expected content-type application/grpc or application/grpc+proto; browsers call the gateway\n";
            return Some(text_response(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
        }
        if self.only_grpc && request.version() != Version::HTTP_2 {
            let text = "gRPC needs HTTP/2; over HTTP/1.1 call the gateway by gRPC-Web\n";
            return Some(text_response(StatusCode::HTTP_VERSION_NOT_SUPPORTED, text));
        }
        self.browsers.refuse(request)
    }
}

/// Returns the media type of a request without parameters, which every media type may have (RFC 9110, 8.3.1); `None`
/// unless there is exactly one.
#[must_use]
pub fn media_type(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let text = value.to_str().ok()?.split(';').next()?.trim();
    (!text.contains(',')).then_some(text)
}

/// Returns whether the content type is gRPC with protobuf messages.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let known = ["application/grpc", "application/grpc+proto"];
    media_type(headers).is_some_and(|given| known.iter().any(|known| given.eq_ignore_ascii_case(known)))
}

fn has_one_host(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    Authority::try_from(host.as_bytes()).is_ok()
}

/// Returns the host that the request names, with its port.
fn host<'a>(headers: &'a HeaderMap, authority: Option<&'a Authority>) -> Option<&'a str> {
    let host = headers.get(header::HOST).map(|host| host.to_str().unwrap_or_default());
    host.or_else(|| authority.map(Authority::as_str))
}

/// Returns host and port of an origin.
fn authority_of(origin: &str) -> Option<&str> {
    origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"))
}

/// Returns whether a host, with or without a port, is a loopback name or address.
fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    address.map_or(host == "localhost" || host.ends_with(".localhost"), |address| address.to_canonical().is_loopback())
}

fn text_response(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "127.0.0.1:8088";
    const EVERYWHERE: &str = "0.0.0.0:8088";

    fn guard(origins: &[&'static str], listen: &str, only_grpc: bool) -> Guard {
        let origins = Origins::These(origins.iter().map(|origin| HeaderValue::from_static(origin)).collect());
        Guard { browsers: Browsers::new(origins, listen.parse().expect("an address")), only_grpc }
    }

    /// Returns the HTTP status of a rejection; 0 if the request is accepted.
    fn refused(guard: &Guard, version: Version, headers: &[(&str, &str)]) -> u16 {
        let mut request = Request::post("/").version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        guard.refuse(&request.body(()).expect("a request")).map_or(0, |response| response.status().as_u16())
    }

    #[test]
    fn a_service_takes_grpc_over_http_2_only() {
        let guard = guard(&[], HERE, true);
        for (content_type, expected) in [
            ("application/grpc", 0),
            ("application/grpc+proto", 0),
            ("Application/gRPC; charset=utf-8", 0),
            ("application/grpc+json", 415),
            ("application/grpc-web", 415),
            ("application/grpcish", 415),
            ("application/grpc, text/plain", 415),
            ("text/plain", 415),
            ("text/plain;application/grpc", 415),
            ("", 415),
        ] {
            let headers = [("content-type", content_type), ("host", "localhost")];
            assert_eq!(refused(&guard, Version::HTTP_2, &headers), expected, "{content_type}");
            let older = if expected == 0 { 505 } else { expected };
            assert_eq!(refused(&guard, Version::HTTP_11, &headers), older, "{content_type}");
        }
        assert_eq!(refused(&guard, Version::HTTP_2, &[]), 415);
        let twice = [("content-type", "application/grpc"), ("content-type", "text/plain")];
        assert_eq!(refused(&guard, Version::HTTP_2, &twice), 415);
    }

    #[test]
    fn a_request_names_its_host() {
        let guard = guard(&[], HERE, false);
        for (hosts, expected) in
            [(&["localhost"][..], 0), (&[], 400), (&["localhost", "localhost"], 400), (&[""], 400), (&["a b"], 400)]
        {
            let headers: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            assert_eq!(refused(&guard, Version::HTTP_11, &headers), expected, "{hosts:?}");
        }
        assert_eq!(refused(&guard, Version::HTTP_10, &[]), 0, "HTTP/1.0 has none");
        assert_eq!(refused(&guard, Version::HTTP_2, &[]), 0, "HTTP/2 has it elsewhere");
    }

    #[test]
    fn a_dns_name_rebound_to_this_machine_is_rejected() {
        let (local, open) = (guard(&["https://own.example"], HERE, false), guard(&[], EVERYWHERE, false));
        for (host, expected) in [
            ("localhost:8088", 0),
            ("LOCALHOST", 0),
            ("app.localhost:1", 0),
            ("localhost.", 0),
            ("127.0.0.1:8088", 0),
            ("127.9.9.9", 0),
            ("[::1]:8088", 0),
            ("[::ffff:127.0.0.1]", 0),
            ("own.example", 0),
            ("evil.example:8088", 403),
            ("localhost.evil.example", 403),
            ("notlocalhost", 403),
            ("192.0.2.1:8088", 403),
        ] {
            assert_eq!(refused(&local, Version::HTTP_11, &[("host", host)]), expected, "{host}");
            assert_eq!(refused(&open, Version::HTTP_11, &[("host", host)]), 0, "{host}");
        }
        let grpc = [("host", "ticket.internal:8082"), ("content-type", "application/grpc")];
        assert_eq!(refused(&local, Version::HTTP_2, &grpc), 0, "browsers cannot send it");
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        let local = guard(&["https://own.example"], HERE, false);
        for (origin, expected) in [
            ("http://localhost:5173", 0),
            ("http://127.0.0.1:8088", 0),
            ("https://[::1]", 0),
            ("https://own.example", 0),
            ("https://own.example:444", 403),
            ("https://evil.example", 403),
            ("http://localhost.evil.example", 403),
            ("http://localhost@evil.example", 403),
            ("null", 403),
            ("", 403),
        ] {
            for (version, content_type) in
                [(Version::HTTP_11, "application/grpc-web"), (Version::HTTP_2, "application/grpc")]
            {
                let headers = [("host", "localhost:8088"), ("origin", origin), ("content-type", content_type)];
                assert_eq!(refused(&local, version, &headers), expected, "{origin}");
            }
        }
        let twice = [("host", "localhost"), ("origin", "http://localhost"), ("origin", "http://localhost")];
        assert_eq!(refused(&local, Version::HTTP_11, &twice), 403);
        // On a network address a server's own pages use its own name.
        let open = guard(&[], EVERYWHERE, false);
        for (origin, expected) in [("https://tickets.example", 0), ("https://evil.example", 403)] {
            let headers = [("host", "tickets.example"), ("origin", origin)];
            assert_eq!(refused(&open, Version::HTTP_11, &headers), expected, "{origin}");
        }
        let any = Guard { browsers: Browsers::new(Origins::Any, HERE.parse().expect("an address")), only_grpc: false };
        let headers = [("host", "evil.example"), ("origin", "https://evil.example")];
        assert_eq!(refused(&any, Version::HTTP_11, &headers), 0);
    }
}
