//! Unread data on a connection must not block other streams, and streams that are exempt from the call limit have their
//! own limit.

use std::{convert::Infallible, time::Duration};

use axum::routing::post;
use futures::stream;
use http_body::Frame;
use http_body_util::StreamBody;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use tower::ServiceExt;

use super::*;
use crate::config::EXEMPT_STREAMS;

/// The number of unread bodies. With windows of 1 MiB each they would use the whole window of a connection.
const HELD: usize = 8;
const CHUNK: usize = 16 * 1024;

/// Creates a client that sends all calls over one connection, as a proxy does.
async fn shared(running: &Running) -> http2::SendRequest<Body> {
    let stream = TcpStream::connect(running.address()).await.expect("connected");
    let (client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    client
}

fn to(path: &str, body: Body) -> Request<Body> {
    Request::post(format!("http://localhost{path}")).body(body).expect("a request")
}

#[tokio::test]
async fn an_unread_body_does_not_block_other_streams_of_its_connection() {
    let held = post(async |_request: Request<Body>| std::future::pending::<()>().await);
    let router = Router::new().route("/held", held).route("/read", post(async |body: Bytes| body));
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::new("test", listen, &limits(8), &ShutdownConfig { drain_delay_ms: 0, hard_cap_ms: 100 });
    let running = server.routes(router).start().await.expect("started");
    let client = shared(&running).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let mut calls = JoinSet::new();
    for _ in 0..HELD {
        let (mut client, sent) = (client.clone(), sent.clone());
        let chunks = stream::repeat_with(move || {
            sent.fetch_add(1, Ordering::SeqCst);
            Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[0; CHUNK])))
        });
        calls.spawn(async move { client.send_request(to("/held", Body::new(StreamBody::new(chunks)))).await.is_ok() });
    }
    let (mut before, mut quiet) = (0, 0);
    while quiet < 50 {
        let answer = client.clone().send_request(to("/read", Body::from("read")));
        let answer = timeout(Duration::from_secs(5), answer).await.expect("other streams do not block it");
        let answer = answer.expect("an answer").collect().await.expect("a body").to_bytes();
        assert_eq!(answer, "read");
        let now = sent.load(Ordering::SeqCst);
        quiet = if now == before && now >= HELD { quiet + 1 } else { 0 };
        before = now;
    }
    assert!(before * CHUNK < 4 * 1024 * 1024, "unread data is bounded: {before} chunks");
    assert!(calls.try_join_next().is_none(), "no held call has ended");
    calls.abort_all();
    running.stop().await;
}

/// Without the limit a client could open health streams without end, and each may use a window of memory.
#[tokio::test]
async fn streams_of_health_have_a_limit_of_their_own() {
    let stack = server(&Fake::new(StreamKind::Waits), &limits(1)).around_services().expect("a stack");
    let watch = || {
        let message = tonic_health::pb::HealthCheckRequest { service: "liveness".into() };
        request("/grpc.health.v1.Health/Watch", &message, &[])
    };
    let mut open = Vec::new();
    for _ in 0..EXEMPT_STREAMS {
        let Ok(response) = stack.clone().oneshot(watch()).await;
        assert!(Status::from_header_map(response.headers()).is_none(), "the stream is open");
        open.push(response);
    }
    let Ok(response) = stack.clone().oneshot(watch()).await;
    assert_eq!(read(response).await.reason(), Some(ErrorReason::ServiceOverloaded));
    let check = tonic_health::pb::HealthCheckRequest { service: "liveness".into() };
    let Ok(response) = stack.clone().oneshot(request("/grpc.health.v1.Health/Check", &check, &[])).await;
    assert_eq!(read(response).await.status.code(), tonic::Code::Ok, "unary probes still succeed");
    open.pop();
    let Ok(response) = stack.clone().oneshot(watch()).await;
    assert!(Status::from_header_map(response.headers()).is_none(), "there is room again");
}
