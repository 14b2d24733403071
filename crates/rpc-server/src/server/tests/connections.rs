//! Connections over the loopback: protocols, maximum age, bounds, shutdown.

use std::time::Duration;

use eticket_proto::operations::operations_service_client::OperationsServiceClient;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::{Code, transport::Channel};

use super::*;

async fn client(running: &Running) -> OperationsServiceClient<Channel> {
    OperationsServiceClient::connect(format!("http://{}", running.address())).await.expect("connected")
}

fn what(page_token: &str) -> ListParkedEventsRequest {
    ListParkedEventsRequest { page_token: page_token.into(), ..Default::default() }
}

#[tokio::test]
async fn both_protocols_on_one_port() {
    let fake = Fake::new(StreamKind::Waits);
    let running = server(&fake, &limits(8)).start().await.expect("started");
    let answer = client(&running).await.list_parked_events(what("by HTTP/2")).await.expect("answered");
    assert_eq!(answer.get_ref().next_page_token, "by HTTP/2");
    running.stop().await;
    let running = plain_grpc(ConnectionLimits::default()).await;
    let answer = by_http_1(&running, &http_1(LIST, "connection: close\r\n", "by HTTP/1.1")).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("by HTTP/1.1"), "{answer}");
    running.stop().await;
}

/// Starts a router that also serves gRPC over HTTP/1.1, as the gateway does behind its translation.
async fn plain_grpc(bounds: ConnectionLimits) -> Running {
    let fake = Fake::new(StreamKind::Waits);
    let routes = tonic::service::Routes::new(OperationsServiceServer::new(fake)).prepare().into_axum_router();
    let router = Router::new().fallback_service(layered("test", &limits(8), &Authentication::default(), routes));
    let shutdown = ShutdownConfig { drain_delay_ms: 0, hard_cap_ms: 20_000 };
    let server = Server::new("test", SocketAddr::from(([127, 0, 0, 1], 0)), &limits(8), &shutdown);
    server.routes(router).connection_limits(bounds).start().await.expect("started")
}

/// Builds a call over HTTP/1.1.
fn http_1(path: &str, headers: &str, page_token: &str) -> Vec<u8> {
    let message = what(page_token).encode_to_vec();
    let length = u8::try_from(message.len()).expect("short");
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/grpc\r\n{headers}content-length: {}\r\n\r\n",
        5 + length
    );
    [head.as_bytes(), &[0, 0, 0, 0, length], &message].concat()
}

/// Sends a request and returns everything that is received until the server closes the connection.
async fn by_http_1(running: &Running, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(running.address()).await.expect("connected");
    stream.write_all(request).await.expect("sent");
    let mut answer = Vec::new();
    timeout(BOUND, stream.read_to_end(&mut answer)).await.expect("it ends").expect("read");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_client_of_the_same_process_calls_without_the_network() {
    let fake = Fake::new(StreamKind::Waits);
    let running = server(&fake, &limits(8)).start().await.expect("started");
    let dialer = running.dialer().expect("plain text").clone();
    let stream = TokioIo::new(dialer.connect().expect("accepted"));
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), stream).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let response = client.send_request(list("near", &[])).await.expect("a response");
    assert_eq!(read(response.map(Body::new)).await.token(), "near");
    // The connection closes like one over the network.
    timeout(BOUND, running.stop()).await.expect("stopped");
    timeout(BOUND, connection).await.expect("closed").expect("no panic").expect("in order");
    assert!(dialer.connect().is_err(), "a server that has stopped accepts no connection");
}

#[tokio::test]
async fn a_service_speaks_grpc_over_http_2_only() {
    let fake = Fake::new(StreamKind::Waits);
    let running = server(&fake, &limits(8)).start().await.expect("started");
    let call = String::from_utf8(http_1(LIST, "connection: close\r\n", "ok")).expect("text");
    for (request, expected) in [
        (call.clone(), "HTTP/1.1 505 "),
        (call.replace("application/grpc", "text/plain"), "HTTP/1.1 415 "),
        (call.replace("host: localhost\r\n", ""), "HTTP/1.1 400 "),
    ] {
        let answer = by_http_1(&running, request.as_bytes()).await;
        assert!(answer.starts_with(expected), "{request}: {answer}");
    }
    assert_eq!(*fake.under_way.borrow(), 0);
    running.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_later_than_one_that_does_not_end_its_headers() {
    let patient = Duration::from_secs(600);
    for (idle, header_read_timeout, request) in [
        (Duration::from_millis(100), patient, http_1(LIST, "", "ok")),
        (Duration::from_millis(100), patient, Vec::new()),
        (patient, Duration::from_millis(100), b"POST / HTTP/1.1\r\nhost:".to_vec()),
    ] {
        let bounds = ConnectionLimits { idle, header_read_timeout, ..ConnectionLimits::default() };
        let running = plain_grpc(bounds).await;
        // The end itself shows which timeout applies: the other one is longer than the test waits.
        let answer = by_http_1(&running, &request).await;
        assert_eq!(answer.contains("HTTP/1.1 200"), request.starts_with(b"POST /e"), "{answer}");
        running.stop().await;
    }
}

#[tokio::test]
async fn a_half_closed_client_gets_its_response() {
    let running = plain_grpc(ConnectionLimits::default()).await;
    for (path, page_token, expected) in [(LIST, "hang", "grpc-status: 4"), (LIST, "ok", "HTTP/1.1 200")] {
        let mut stream = TcpStream::connect(running.address()).await.expect("connected");
        stream.write_all(&http_1(path, "grpc-timeout: 200m\r\n", page_token)).await.expect("sent");
        stream.shutdown().await.expect("half closed");
        let mut answer = Vec::new();
        timeout(BOUND, stream.read_to_end(&mut answer)).await.expect("it ends").expect("read");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains(expected), "{page_token}: {answer}");
    }
    // A stream would continue without a reader: the client has most likely disconnected.
    let mut stream = TcpStream::connect(running.address()).await.expect("connected");
    stream.write_all(&http_1(REPUBLISH, "", "")).await.expect("sent");
    stream.shutdown().await.expect("half closed");
    let mut answer = Vec::new();
    timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.expect("it ends").ok();
    running.stop().await;
}

/// Limits with almost no grace, so that only the deadlines of the calls keep a connection open.
fn aged() -> ConnectionLimits {
    let short = Duration::from_millis(50);
    ConnectionLimits { max_age: short, max_age_grace: short, ..ConnectionLimits::default() }
}

#[tokio::test]
async fn calls_keep_their_deadlines_when_their_connection_reaches_its_age() {
    let fake = Fake::new(StreamKind::Waits);
    // The client would give up at the same moment, so this wait has the server's default deadline.
    let limits = LimitsConfig { default_deadline_ms: 1500, ..limits(8) };
    let running = server(&fake, &limits).connection_limits(aged()).start().await.expect("started");
    let (mut reads, mut streams) = (client(&running).await, client(&running).await);
    let mut work = tonic::Request::new(RepublishRequest::default());
    work.metadata_mut().insert("grpc-timeout", "1500m".parse().expect("ASCII"));
    let wait =
        tokio::spawn(async move { reads.list_parked_events(what("hang")).await.expect_err("it never responds") });
    let work = tokio::spawn(async move {
        let mut stream = streams.republish(work).await.expect("open").into_inner();
        stream.message().await.expect("ok").expect("the first message");
        stream.message().await.expect_err("there is no second")
    });
    let plain = plain_grpc(aged()).await;
    let answer = by_http_1(&plain, &http_1(LIST, "grpc-timeout: 1500m\r\n", "hang")).await;
    assert!(answer.contains("grpc-status: 4") && answer.contains("connection: close"), "{answer}");
    for status in [wait.await.expect("no panic"), work.await.expect("no panic")] {
        assert_eq!(ApiError::from_status(&status), Some(ErrorReason::DeadlineExceeded), "{status:?}");
    }
    plain.stop().await;
    running.stop().await;
}

#[tokio::test]
async fn calls_beyond_the_longest_grace_end_with_shutting_down() {
    let bounds = ConnectionLimits { max_age_cap: Duration::from_millis(200), ..aged() };
    let fake = Fake::new(StreamKind::Waits);
    let patient = LimitsConfig { default_deadline_ms: 3_600_000, ..limits(8) };
    let running = server(&fake, &patient).connection_limits(bounds.clone()).start().await.expect("started");
    let (mut reads, mut commands, mut work) = (client(&running).await, client(&running).await, client(&running).await);
    let calls = [
        tokio::spawn(async move { reads.list_parked_events(what("hang")).await.map(|_| ()) }),
        tokio::spawn(async move {
            let hang = ResendParkedEventRequest { event_id: "hang".into() };
            commands.resend_parked_event(hang).await.map(|_| ())
        }),
        tokio::spawn(async move { work.rebuild_view(RebuildViewRequest::default()).await.map(|_| ()) }),
    ];
    for call in calls {
        let status = timeout(BOUND, call).await.expect("in time").expect("no panic").expect_err("it was ended");
        assert_eq!(ApiError::from_status(&status), Some(ErrorReason::ShuttingDown), "{status:?}");
    }
    let plain = plain_grpc(bounds).await;
    let answer = by_http_1(&plain, &http_1(LIST, "grpc-timeout: 1H\r\n", "hang")).await;
    assert!(answer.contains("grpc-status: 14") && answer.contains("grpc-status-details-bin"), "{answer}");
    plain.stop().await;
    running.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_named_in_the_error() {
    let fake = Fake::new(StreamKind::Waits);
    let running = server(&fake, &limits(8)).start().await.expect("started");
    let second = Server::new("second", running.address(), &limits(8), &ShutdownConfig::default());
    let error = second.start().await.expect_err("taken");
    assert_eq!(error.code(), 69);
    let text = error.to_string();
    assert!(text.contains("second") && text.contains(&running.address().to_string()), "{text}");
    running.stop().await;
}

#[tokio::test]
async fn headers_are_bounded() {
    let fake = Fake::new(StreamKind::Waits);
    let running = server(&fake, &limits(8)).start().await.expect("started");
    let mut request = tonic::Request::new(what("ok"));
    request.metadata_mut().insert("x-long", "x".repeat(200_000).parse().expect("ASCII"));
    let status = client(&running).await.list_parked_events(request).await.expect_err("refused");
    assert_ne!(status.code(), Code::Ok);
    let answer = client(&running).await.list_parked_events(what("next")).await.expect("answered");
    assert_eq!(answer.get_ref().next_page_token, "next");
    running.stop().await;
}

#[tokio::test]
async fn one_connection_can_reach_the_limit_of_calls() {
    let fake = Fake::new(StreamKind::Waits);
    let running = server(&fake, &limits(1)).start().await.expect("started");
    let client = client(&running).await;
    let mut hanging = client.clone();
    let hanging = tokio::spawn(async move { hanging.list_parked_events(what("hang")).await });
    fake.reaches(1).await;
    let status = client.clone().list_parked_events(what("ok")).await.expect_err("shed, not queued");
    assert_eq!(ApiError::from_status(&status), Some(ErrorReason::ServiceOverloaded));
    // A caller that disconnects releases its permit over the network too.
    hanging.abort();
    fake.reaches(0).await;
    assert!(client.clone().list_parked_events(what("ok")).await.is_ok());
    running.stop().await;
}

#[tokio::test]
async fn a_connection_ends_by_age_and_its_streams_end_with_shutting_down() {
    let fake = Fake::new(StreamKind::Waits);
    let aged = ConnectionLimits { max_age: Duration::from_millis(50), ..ConnectionLimits::default() };
    let running = server(&fake, &limits(8)).connection_limits(aged).start().await.expect("started");
    let channel = Channel::from_shared(format!("http://{}", running.address())).expect("a URI");
    let mut client = tonic_health::pb::health_client::HealthClient::new(channel.connect().await.expect("connected"));
    let watched = tonic_health::pb::HealthCheckRequest { service: "liveness".into() };
    let mut stream = client.watch(watched.clone()).await.expect("open").into_inner();
    stream.message().await.expect("ok").expect("the first message");
    let status = timeout(BOUND, stream.message()).await.expect("in time").expect_err("the stream ended");
    assert_eq!(ApiError::from_status(&status), Some(ErrorReason::ShuttingDown));
    // The channel reconnects.
    assert!(client.check(watched).await.is_ok());
    running.stop().await;
}

#[tokio::test]
async fn calls_under_way_finish_and_waits_end_when_the_server_stops() {
    let fake = Fake::new(StreamKind::Waits);
    let running = server(&fake, &limits(8)).start().await.expect("started");
    let (address, health) = (running.address(), running.health().expect("a health").clone());
    health.set_store(true);
    let mut client = client(&running).await;
    let mut waiting = client.clone();
    let waiting = tokio::spawn(async move { waiting.list_parked_events(what("wait")).await });
    let mut stream = client.republish(RepublishRequest::default()).await.expect("open").into_inner();
    stream.message().await.expect("ok").expect("the first message");
    fake.reaches(2).await;
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let step = |name: &'static str| {
        let (order, fake, health) = (order.clone(), fake.clone(), health.clone());
        move || async move {
            assert_eq!(*fake.under_way.borrow(), 0, "calls end before the steps");
            assert!(!health.is_ready());
            order.lock().expect("unpoisoned").push(name);
        }
    };
    let running = running.then(step("consumers")).then(step("relay")).then(step("store"));
    assert!(running.stop_until(tokio::time::Instant::now() + BOUND).await, "nothing was cut");
    assert_eq!(*order.lock().expect("unpoisoned"), ["consumers", "relay", "store"]);
    for status in [waiting.await.expect("joined").expect_err("ended"), stream.message().await.expect_err("ended")] {
        assert_eq!(ApiError::from_status(&status), Some(ErrorReason::ShuttingDown), "{status:?}");
    }
    assert!(TcpStream::connect(address).await.is_err(), "the port is closed");
}

#[tokio::test]
async fn calls_that_do_not_end_are_aborted_at_the_cap() {
    let fake = Fake::new(StreamKind::Waits);
    let patient = LimitsConfig { default_deadline_ms: 3_600_000, ..limits(8) };
    let running = server(&fake, &patient).start().await.expect("started");
    let mut client = client(&running).await;
    let hanging = tokio::spawn(async move { client.list_parked_events(what("hang")).await });
    fake.reaches(1).await;
    let closed = Arc::new(AtomicUsize::new(0));
    let count = closed.clone();
    let running = running.then(move || async move {
        count.fetch_add(1, Ordering::SeqCst);
    });
    let start = std::time::Instant::now();
    assert!(!running.stop_until(tokio::time::Instant::now() + Duration::from_millis(500)).await);
    assert!(start.elapsed() < BOUND);
    assert!(timeout(BOUND, hanging).await.expect("cut").expect("joined").is_err());
    fake.reaches(0).await;
    assert_eq!(closed.load(Ordering::SeqCst), 1, "the hooks have their share of the time");
}

#[tokio::test]
async fn a_silent_client_does_not_delay_the_stop() {
    let fake = Fake::new(StreamKind::Waits);
    let bounds = ConnectionLimits { header_read_timeout: Duration::from_millis(100), ..ConnectionLimits::default() };
    let running = server(&fake, &limits(8)).connection_limits(bounds).start().await.expect("started");
    let silent = TcpStream::connect(running.address()).await.expect("connected");
    let mut half = TcpStream::connect(running.address()).await.expect("connected");
    half.write_all(b"POST / HT").await.expect("sent");
    client(&running).await.list_parked_events(what("ok")).await.expect("the others are accepted");
    assert!(running.stop_until(tokio::time::Instant::now() + BOUND).await, "nothing was cut");
    drop((silent, half));
}

#[tokio::test]
async fn a_client_that_does_not_acknowledge_goaway_does_not_delay_the_stop() {
    let fake = Fake::new(StreamKind::Waits);
    let patient = ConnectionLimits { ping_interval: BOUND, ..ConnectionLimits::default() };
    let running = server(&fake, &limits(8)).connection_limits(patient).start().await.expect("started");
    let mut mute = TcpStream::connect(running.address()).await.expect("connected");
    // The preface and empty settings: an HTTP/2 client that then sends nothing more, not even the acknowledgement of
    // GOAWAY.
    mute.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("sent");
    mute.read_exact(&mut [0; 9]).await.expect("the server's settings");
    assert!(running.stop_until(tokio::time::Instant::now() + Duration::from_secs(10)).await, "no call was cut");
    drop(mute);
}

#[tokio::test]
async fn reflection_answers_in_both_versions() {
    use tonic_reflection::pb::{v1, v1alpha};
    let fake = Fake::new(StreamKind::Waits);
    let running = server(&fake, &limits(8)).start().await.expect("started");
    let channel = Channel::from_shared(format!("http://{}", running.address())).expect("a URI");
    let channel = channel.connect().await.expect("connected");
    macro_rules! names {
        ($version:ident) => {{
            use $version::{
                ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
                server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
            };
            let message_request = Some(MessageRequest::ListServices(String::new()));
            let request = ServerReflectionRequest { message_request, ..Default::default() };
            let mut client = ServerReflectionClient::new(channel.clone());
            let answers = client.server_reflection_info(tokio_stream::iter([request])).await.expect("open");
            match answers.into_inner().message().await.expect("ok").expect("an answer").message_response {
                Some(MessageResponse::ListServicesResponse(list)) => {
                    list.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
                }
                other => panic!("{other:?}"),
            }
        }};
    }
    for names in [names!(v1), names!(v1alpha)] {
        for name in [SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"] {
            assert!(names.iter().any(|known| known == name), "{name} in {names:?}");
        }
    }
    running.stop().await;
}

/// No connected client sees a broken connection: an unanswered read-only call ends early, a command when no time is
/// left.
#[tokio::test]
async fn calls_that_hang_end_with_shutting_down() {
    let fake = Fake::new(StreamKind::Waits);
    let running = server(&fake, &limits(8)).start().await.expect("started");
    let (mut reads, mut commands) = (client(&running).await, client(&running).await);
    let read = tokio::spawn(async move { reads.list_parked_events(what("hang")).await.map(|_| ()) });
    let hang = ResendParkedEventRequest { event_id: "hang".into() };
    let command = tokio::spawn(async move { commands.resend_parked_event(hang).await.map(|_| ()) });
    fake.reaches(2).await;
    let stopping = tokio::spawn(running.stop_until(tokio::time::Instant::now() + Duration::from_secs(5)));
    for call in [read, command] {
        let status = call.await.expect("no panic").expect_err("it was ended");
        assert_eq!(ApiError::from_status(&status), Some(ErrorReason::ShuttingDown), "{status:?}");
        assert!(status.get_details_retry_info().is_some());
    }
    assert!(!timeout(BOUND, stopping).await.expect("in time").expect("no panic"), "a command was ended");
}
