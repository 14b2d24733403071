//! Tests of all guards together, and over a real connection.

mod tls;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering},
};

use eticket_base::{
    in_process::{Listener, listen},
    tasks::Tasks,
    windows::Windows,
};
use futures::stream;
use tonic::transport::{Server, server::TcpIncoming};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_client::HealthClient, health_server};

use super::*;
use crate::pool::Channel;

/// Creates a client of a fake upstream that responds to each attempt as `answer` does; also returns the number of
/// attempts.
fn client<Fut: Future<Output = Result<Response<u32>, Status>> + Send + 'static>(
    config: &UpstreamConfig,
    answer: impl Fn(Request<()>, u32) -> Fut + Clone + Send + Sync + 'static,
) -> (Client<(), u32>, Arc<AtomicU32>) {
    let attempts = Arc::new(AtomicU32::new(0));
    let counted = attempts.clone();
    let call = move |request| answer(request, counted.fetch_add(1, Ordering::SeqCst));
    (Client::new("test", config, call), attempts)
}

async fn ask(client: &Client<(), u32>, time: Option<Duration>) -> (Result<u32, CallError>, Duration) {
    let start = Instant::now();
    let outcome = client.call((), time.map(|time| start + time), TraceContext::new_root(), None).await;
    (outcome, start.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_hanging_upstream_opens_the_breaker() {
    let config = UpstreamConfig::default();
    let (client, attempts) = client(&config, |_, _| std::future::pending());
    let (outcome, took) = ask(&client, None).await;
    assert!(matches!(outcome, Err(CallError::Deadline | CallError::AttemptTimeout)), "{outcome:?}");
    assert!(took <= config.deadline(), "{took:?}");
    assert_eq!(attempts.load(Ordering::SeqCst), 3, "each attempt was cut in time for another");
    let mut last = ask(&client, None).await;
    for _ in 0..20 {
        last = ask(&client, None).await;
    }
    let (outcome, took) = last;
    let retry_after = outcome.as_ref().expect_err("a refusal").retry_after();
    assert!(matches!(outcome, Err(CallError::BreakerOpen { .. })), "{outcome:?}");
    assert!(retry_after.is_some_and(|delay| delay <= Duration::from_secs(5)), "{retry_after:?}");
    assert_eq!(took, Duration::ZERO, "an open breaker rejects immediately");
}

#[tokio::test(start_paused = true)]
async fn the_breaker_recovers_by_itself() {
    let config = UpstreamConfig::default();
    let (client, attempts) = client(&config, |_, attempt| async move {
        if attempt < 20 { Err(Status::unavailable("down")) } else { Ok(Response::new(attempt)) }
    });
    while !matches!(ask(&client, None).await.0, Err(CallError::BreakerOpen { .. })) {}
    assert_eq!(attempts.load(Ordering::SeqCst), 20);
    tokio::time::advance(Duration::from_secs(5)).await;
    for expected in 20..40 {
        assert_eq!(ask(&client, None).await.0.expect("an answer"), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn the_callers_deadline_is_reported_as_such() {
    let (client, _) = client(&UpstreamConfig::default(), |_, _| std::future::pending());
    for time in [50, 300, 700, 1_200] {
        let (outcome, took) = ask(&client, Some(Duration::from_millis(time))).await;
        assert!(matches!(outcome, Err(CallError::CallerDeadline)), "{time} ms: {outcome:?}");
        assert_eq!(took, Duration::from_millis(time));
    }
}

#[tokio::test(start_paused = true)]
async fn each_attempt_sends_the_remaining_time() {
    let config = UpstreamConfig { attempt_timeout_ms: 500, ..UpstreamConfig::default() };
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let noted = seen.clone();
    let (client, _) = client(&config, move |request: Request<()>, _| {
        let timeout = request.metadata().get("grpc-timeout").and_then(|value| value.to_str().ok());
        noted.lock().expect("no panic").push(timeout.unwrap_or_default().to_owned());
        async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let mut status = Status::unavailable("busy");
            status.metadata_mut().insert(headers::RETRY_PUSHBACK, "100".parse().expect("a header"));
            Err(status)
        }
    });
    let (outcome, _) = ask(&client, Some(Duration::from_millis(800))).await;
    assert!(outcome.is_err());
    // 800, then 200 + 100 later 500, then 200 more; the attempt's own limit is 500.
    let seconds = |text: &String| match text.split_at(text.len() - 1) {
        (number, "n") => number.parse::<f64>().expect("a number") / 1e9,
        (number, "u") => number.parse::<f64>().expect("a number") / 1e6,
        (number, "m") => number.parse::<f64>().expect("a number") / 1e3,
        other => panic!("an unexpected unit: {other:?}"),
    };
    let sent: Vec<_> = seen.lock().expect("no panic").iter().map(seconds).collect();
    let expected = [0.5, 0.5, 0.2];
    assert_eq!(sent.len(), expected.len(), "{sent:?}");
    assert!(sent.iter().zip(expected).all(|(sent, expected)| (sent - expected).abs() < 0.01), "{sent:?}");
}

#[tokio::test(start_paused = true)]
async fn the_trace_goes_with_the_call() {
    let (client, _) = client(&UpstreamConfig::default(), |request: Request<()>, _| async move {
        let text = |name| request.metadata().get(name).map(|value| value.to_str().expect("text").to_owned());
        assert!(text(headers::TRACE_PARENT).expect("a trace").starts_with("00-"));
        assert_eq!(text(headers::CORRELATION_ID).as_deref(), Some("abc-1"));
        Ok(Response::new(7))
    });
    let trace = TraceContext::from_parts(None, Some("abc-1"));
    assert_eq!(client.call((), None, trace, None).await.expect("an answer"), 7);
}

#[test]
fn rejections_and_transport_failures_are_distinguished() {
    let status = |code| CallError::Status(Status::new(code, "no"));
    for code in [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled] {
        assert!(status(code).is_failure() && status(code).refusal().is_none(), "{code:?}");
    }
    for code in [Code::NotFound, Code::FailedPrecondition, Code::Unknown, Code::Internal, Code::ResourceExhausted] {
        assert!(!status(code).is_failure() && status(code).refusal().is_some(), "{code:?}");
    }
    let broken = CallError::Status(Status::from_error(std::io::Error::other("transport").into()));
    assert!(broken.is_failure(), "it has a source, so it did not come over the wire");
    assert!(CallError::AttemptTimeout.is_failure() && CallError::Deadline.is_failure());
    let (open, callers) = (CallError::BreakerOpen { retry_after: Duration::from_secs(2) }, CallError::CallerDeadline);
    assert!(!open.is_failure() && !callers.is_failure());
    assert_eq!((open.retry_after(), callers.retry_after()), (Some(Duration::from_secs(2)), None));
}

/// A health service that counts its calls and keeps the certificate of the last caller.
#[derive(Clone, Default)]
struct Backend(Arc<AtomicU32>, Arc<Mutex<Option<Vec<u8>>>>);

#[tonic::async_trait]
impl health_server::Health for Backend {
    type WatchStream = futures::stream::Empty<Result<HealthCheckResponse, Status>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let chain = request.peer_certs();
        *self.1.lock().expect("no panic") = chain.and_then(|chain| chain.first().map(|first| first.to_vec()));
        Ok(Response::new(HealthCheckResponse::default()))
    }

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

/// Serves until the sender is dropped.
fn serve(backend: Backend) -> (std::net::SocketAddr, tokio::sync::oneshot::Sender<()>) {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let address = incoming.local_addr().expect("an address");
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let service = health_server::HealthServer::new(backend);
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming_shutdown(incoming, async {
        stopped.await.ok();
    }));
    (address, stop)
}

#[tokio::test]
async fn calls_use_all_addresses_and_survive_the_loss_of_one() {
    let (first, second, tasks) = (Backend::default(), Backend::default(), Tasks::new());
    let ((one, stop_one), (two, _stop_two)) = (serve(first.clone()), serve(second.clone()));
    let targets = format!("http://{one},http://localhost:{}", two.port()).parse().expect("targets");
    let health = HealthClient::new(Channel::connect("test", &targets, None, Windows::for_streams(8), &tasks));
    let config = UpstreamConfig { deadline_ms: 10_000, attempt_timeout_ms: 5_000, ..UpstreamConfig::default() };
    let client = Client::new("test", &config, move |request| {
        let mut health = health.clone();
        async move { health.check(request).await }
    });
    let ask = async || client.call(HealthCheckRequest::default(), None, TraceContext::new_root(), None).await;
    let both = async {
        while first.0.load(Ordering::SeqCst) == 0 || second.0.load(Ordering::SeqCst) == 0 {
            ask().await.expect("an answer");
        }
    };
    tokio::time::timeout(Duration::from_secs(20), both).await.expect("both are called");
    drop(stop_one);
    let before = second.0.load(Ordering::SeqCst);
    for _ in 0..20 {
        ask().await.expect("an answer, by a retry if need be");
    }
    assert!(second.0.load(Ordering::SeqCst) > before);
    tasks.stop().await;
}

#[tokio::test]
async fn a_server_of_this_process_is_called_without_the_network() {
    let (backend, tasks, (listener, dialer)) = (Backend::default(), Tasks::new(), listen());
    let accept = async |mut listener: Listener| {
        let stream = listener.accept().await?;
        Some((Ok::<_, std::io::Error>(stream), listener))
    };
    let service = health_server::HealthServer::new(backend.clone());
    let accepted = stream::unfold(listener, accept);
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(accepted));
    // No server listens on this port.
    let targets: addresses::Targets = "http://127.0.0.1:1".parse().expect("targets");
    let channel = Channel::connect("test", &targets.in_process(dialer), None, Windows::for_streams(8), &tasks);
    HealthClient::new(channel).check(HealthCheckRequest::default()).await.expect("a response");
    assert!(backend.0.load(Ordering::SeqCst) > 0);
    tasks.stop().await;
}
