//! Connections over TLS, to a server of the test.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use eticket_proto::health::{HealthCheckRequest, health_client::HealthClient};
use tonic::transport::{Identity, ServerTlsConfig, server::TcpIncoming};

use super::*;

#[test]
fn an_address_is_a_host_with_a_port_or_a_url() {
    for (address, url) in [
        ("127.0.0.1:8088", "http://127.0.0.1:8088/"),
        ("[::1]:8088", "http://[::1]:8088/"),
        ("http://h:1", "http://h:1/"),
        ("http://h:1/", "http://h:1/"),
        ("https://gateway.example", "https://gateway.example/"),
    ] {
        assert_eq!(uri(address).expect(address).to_string(), url);
    }
    for address in ["", "h", "h:", ":1", "h:0", "h:70000", "u:p@h:1", "h:1/x", "ftp://h:1", "http://", "h h:1"] {
        assert_eq!(uri(address).expect_err(address).code(), 78, "{address}");
    }
}

#[test]
fn the_loopback_is_known() {
    for host in ["localhost", "127.0.0.1", "127.1.2.3", "[::1]"] {
        assert!(is_loopback(host), "{host}");
    }
    for host in ["10.0.0.1", "example.com", "localhost.example.com"] {
        assert!(!is_loopback(host), "{host}");
    }
}

fn parsed(arguments: &[&str]) -> Common {
    use clap::{Args, Command, FromArgMatches};
    let arguments = std::iter::once("x").chain(arguments.iter().copied());
    let matches = Common::augment_args(Command::new("x")).get_matches_from(arguments);
    Common::from_arg_matches(&matches).expect("valid")
}

fn common(token_file: Option<&Path>) -> Common {
    Common { token_file: token_file.map(Path::to_owned), ..parsed(&[]) }
}

#[test]
fn a_token_on_the_command_line_is_refused() {
    for arguments in [&["--token", "top-secret"][..], &["--token=top-secret"], &["--token"]] {
        let error = token(&parsed(arguments)).expect_err("refused");
        assert_eq!(error.code(), 2, "{arguments:?}");
        let text = error.report_text();
        assert!(text.contains("--token-file") && !text.contains("top-secret"), "{text}");
    }
}

#[test]
fn a_token_file_has_one_token() {
    let token_in = |content: &[u8]| {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(content).expect("written");
        token(&common(Some(file.path())))
    };
    let value = token_in(b"  abc.def\n").expect("valid").expect("a token");
    assert_eq!(value.to_str().expect("ASCII"), "Bearer abc.def");
    assert!(value.is_sensitive(), "its Debug must not show it");
    for wrong in [&b""[..], b"\n", b"two words", "토큰".as_bytes(), b"\xff"] {
        let error = token_in(wrong).expect_err("no token");
        assert_eq!(error.code(), 78);
        assert!(!format!("{error:?}").contains("words"), "the content stays out of the text: {error:?}");
    }
    assert_eq!(token(&common(Some(Path::new("/nowhere")))).expect_err("no file").code(), 78);
}

fn server(timeout: Duration, token: Option<&str>) -> Server {
    let value = |token: &str| MetadataValue::try_from(format!("Bearer {token}")).expect("ASCII");
    Server {
        address: "h:1".to_owned(),
        channel: Endpoint::from_static("http://127.0.0.1:1").connect_lazy(),
        token: token.map(value),
        timeout,
        retry: RetryLayer::new("test", RETRIES),
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_is_repeated_while_the_server_is_not_available() {
    let attempts = Arc::new(AtomicU32::new(0));
    let counted = attempts.clone();
    let call = move |_: Channel, request: Request<String>| {
        let attempt = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            let text =
                |name: &str| request.metadata().get(name).and_then(|value| value.to_str().ok().map(str::to_owned));
            assert_eq!(text("authorization").as_deref(), Some("Bearer abc"));
            assert!(
                text("accept-language").is_some() && text("grpc-timeout").is_some() && text("traceparent").is_some()
            );
            if attempt < 2 { Err(Status::unavailable("busy")) } else { Ok(Response::new(request.into_inner())) }
        }
    };
    let server = server(Duration::from_secs(10), Some("abc"));
    assert_eq!(server.call("same message".to_owned(), call).await.expect("answered"), "same message");
    assert_eq!(attempts.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_not_repeated_and_a_mute_server_is_given_up() {
    let attempts = Arc::new(AtomicU32::new(0));
    let counted = attempts.clone();
    let refuse = move |_: Channel, _: Request<()>| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Err::<Response<()>, _>(Status::failed_precondition("no")) }
    };
    assert_eq!(server(Duration::from_secs(10), None).call((), refuse).await.expect_err("refused").code(), 1);
    assert_eq!(attempts.load(Ordering::SeqCst), 1);

    let mute = |_: Channel, _: Request<()>| std::future::pending::<Result<Response<()>, Status>>();
    let error = server(Duration::from_secs(3), None).call((), mute).await.expect_err("mute");
    assert_eq!((error.code(), error.to_string().as_str()), (69, "h:1 did not respond within 3 s"));
}

#[tokio::test]
async fn https_needs_a_certificate_of_a_known_authority() {
    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let mut ca_file = tempfile::NamedTempFile::new().expect("a file");
    ca_file.write_all(key.cert.pem().as_bytes()).expect("written");
    let identity = Identity::from_pem(key.cert.pem(), key.signing_key.serialize_pem());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("https://localhost:{}", listener.local_addr().expect("bound").port());
    let (_, health) = tonic_health::server::health_reporter();
    let serving = tonic::transport::Server::builder()
        .tls_config(ServerTlsConfig::new().identity(identity))
        .expect("a valid certificate")
        .add_service(health)
        .serve_with_incoming(TcpIncoming::from(listener));
    let serving = tokio::spawn(serving);

    let mut common = Common { address, ..common(None) };
    let error = Server::connect(&common).await.expect_err("an unknown authority");
    assert_eq!(error.code(), 69);
    assert!(error.report_text().contains("--ca-file"), "{}", error.report_text());

    common.ca_file = Some(ca_file.path().to_owned());
    let server = Server::connect(&common).await.expect("a known authority");
    let call = |channel, request| async move { HealthClient::new(channel).check(request).await };
    server.call(HealthCheckRequest::default(), call).await.expect("an answer over TLS");

    common.address = "http://localhost:1".to_owned();
    assert_eq!(Server::connect(&common).await.expect_err("no TLS").code(), 78);
    serving.abort();
}
