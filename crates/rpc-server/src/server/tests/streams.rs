//! How the layers end streams and calls that would otherwise continue: at the caller's deadline, or when the server or
//! the connection drains.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tower::ServiceExt;

use super::*;

async fn open(fake: &Fake, request: Request<Body>) -> http::Response<Body> {
    let stack = server(fake, &limits(8)).around_services().expect("a stack");
    let Ok(response) = stack.oneshot(request).await;
    response
}

fn republish(headers: &[(&'static str, &str)]) -> Request<Body> {
    request(REPUBLISH, &RepublishRequest::default(), headers)
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_at_its_callers_deadline() {
    let (fake, start) = (Fake::new(StreamKind::Waits), Instant::now());
    let answer = read(open(&fake, republish(&[("grpc-timeout", "3S")])).await).await;
    assert!(start.elapsed().abs_diff(Duration::from_secs(3)) < Duration::from_millis(5));
    assert_eq!(answer.messages.len(), 1);
    assert_eq!(answer.reason(), Some(ErrorReason::DeadlineExceeded));
    fake.reaches(0).await;
}

/// Without paused time: paused time does not advance while a task is busy.
#[tokio::test]
async fn a_stream_that_always_has_more_ends_at_its_deadline_too() {
    let fake = Fake::new(StreamKind::Endless);
    let answer = read(open(&fake, republish(&[("grpc-timeout", "50m")])).await).await;
    assert!(answer.messages.len() > 1);
    assert_eq!(answer.reason(), Some(ErrorReason::DeadlineExceeded));
    fake.reaches(0).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_a_deadline_gets_none() {
    let fake = Fake::new(StreamKind::Waits);
    let reading = tokio::spawn(read_to_end(open(&fake, republish(&[])).await));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(!reading.is_finished());
    assert_eq!(*fake.under_way.borrow(), 1);
    reading.abort();
}

#[tokio::test]
async fn a_work_stream_ends_when_no_time_is_left() {
    for kind in [StreamKind::Waits, StreamKind::Endless] {
        let (fake, token) = (Fake::new(kind), CancellationToken::new());
        let mut request = republish(&[]);
        request.extensions_mut().insert(ForcedEnd { work: token.clone(), ..ForcedEnd::default() });
        let mut response = open(&fake, request).await;
        assert!(response.body_mut().frame().await.expect("open").expect("a message").is_data());
        token.cancel();
        let answer = read(response).await;
        assert_eq!(answer.status.code(), Code::Unavailable);
        assert_eq!(answer.reason(), Some(ErrorReason::ShuttingDown));
        assert!(answer.messages.len() <= 16, "the stream ends soon");
        fake.reaches(0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_drains_asks_for_a_retry_only_within_its_deadline() {
    for (timeout, expected) in [("1M", "1000"), ("900m", "-1")] {
        let token = CancellationToken::new();
        let mut request = republish(&[("grpc-timeout", timeout)]);
        request.extensions_mut().insert(ForcedEnd { work: token.clone(), ..ForcedEnd::default() });
        let mut response = open(&Fake::new(StreamKind::Waits), request).await;
        assert!(response.body_mut().frame().await.expect("open").expect("a message").is_data());
        token.cancel();
        let answer = read(response).await;
        assert_eq!(answer.reason(), Some(ErrorReason::ShuttingDown));
        let pushback = answer.status.metadata().get("grpc-retry-pushback-ms").expect("a pushback in the trailers");
        assert_eq!(pushback, expected, "{timeout}");
    }
}

#[tokio::test]
async fn the_last_health_change_still_arrives() {
    let (token, health) = (CancellationToken::new(), Health::new([SERVICE]));
    let stack = server(&Fake::new(StreamKind::Waits), &limits(8)).health(health.clone());
    let stack = { stack }.around_services().expect("a stack");
    let watch = tonic_health::pb::HealthCheckRequest { service: String::new() };
    let mut request = request("/grpc.health.v1.Health/Watch", &watch, &[]);
    request.extensions_mut().insert(ConnectionDraining(token.clone()));
    let Ok(mut response) = stack.oneshot(request).await;
    let first = response.body_mut().frame().await.expect("open").expect("a message").into_data().expect("data");
    assert_eq!(first[..], *b"\0\0\0\0\x02\x08\x01", "SERVING");
    health.set_draining();
    token.cancel();
    let answer = read(response).await;
    assert_eq!(answer.messages, [&b"\0\0\0\0\x02\x08\x02"[..]], "NOT_SERVING");
    assert_eq!(answer.reason(), Some(ErrorReason::ShuttingDown));
}

#[tokio::test]
async fn a_unary_call_outlives_the_age_of_its_connection() {
    let (fake, server_drains, connection) =
        (Fake::new(StreamKind::Waits), CancellationToken::new(), CancellationToken::new());
    let mut request = list("wait", &[]);
    request.extensions_mut().insert(Draining(server_drains.clone()));
    request.extensions_mut().insert(ConnectionDraining(connection.clone()));
    let answer = tokio::spawn({
        let fake = fake.clone();
        async move { read(open(&fake, request).await).await }
    });
    fake.reaches(1).await;
    connection.cancel();
    tokio::task::yield_now().await;
    assert!(!answer.is_finished());
    server_drains.cancel();
    assert_eq!(answer.await.expect("read").reason(), Some(ErrorReason::ShuttingDown));
}

/// Returns how a call ends whose handler never ends it, while the tokens are cancelled one after the other.
async fn ended(request: Request<Body>, tokens: &[&CancellationToken], forced_end: &ForcedEnd) -> HttpResponse {
    let fake = Fake::new(StreamKind::Waits);
    let mut request = request;
    request.extensions_mut().insert(forced_end.clone());
    let answer = tokio::spawn({
        let fake = fake.clone();
        async move { read(open(&fake, request).await).await }
    });
    fake.reaches(1).await;
    for token in tokens {
        assert!(!answer.is_finished(), "only the last token ends the call");
        token.cancel();
        tokio::task::yield_now().await;
    }
    let answer = answer.await.expect("read");
    fake.reaches(0).await;
    answer
}

#[tokio::test]
async fn a_waiting_read_ends_before_a_command() {
    let forced_end = ForcedEnd::default();
    assert!(ended(list("hang", &[]), &[&forced_end.reads], &forced_end).await.is_shutting_down());
    let forced_end = ForcedEnd::default();
    let command = request(RESEND, &ResendParkedEventRequest { event_id: "hang".into() }, &[]);
    assert!(ended(command, &[&forced_end.reads, &forced_end.all], &forced_end).await.is_shutting_down());
}

#[tokio::test]
async fn unanswered_work_ends_too() {
    let forced_end = ForcedEnd::default();
    let request = request(REBUILD, &RebuildViewRequest::default(), &[]);
    assert!(ended(request, &[&forced_end.work], &forced_end).await.is_shutting_down());
}

#[tokio::test]
async fn a_work_stream_outlives_the_age_of_its_connection() {
    let (connection, forced_end) = (CancellationToken::new(), ForcedEnd::default());
    let mut request = request(REBUILD, &RebuildViewRequest::default(), &[]);
    request.extensions_mut().insert(ConnectionDraining(connection.clone()));
    assert!(ended(request, &[&connection, &forced_end.work], &forced_end).await.is_shutting_down());
}
