//! Unary calls through the layers.

use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;
use tonic::Code;
use tonic_types::StatusExt;
use tower::ServiceExt;

use super::*;

async fn ask(stack: &impl Stack<Future: Send>, request: Request<Body>) -> HttpResponse {
    let Ok(response) = stack.clone().oneshot(request).await;
    read(response).await
}

fn stack(fake: &Fake, limits: &LimitsConfig) -> impl Stack<Future: Send> + use<> {
    server(fake, limits).around_services().expect("a stack")
}

#[tokio::test]
async fn a_handler_gets_caller_and_trace() {
    let stack = stack(&Fake::new(StreamKind::Waits), &limits(8));
    let answer = ask(&stack, list("caller", &[])).await;
    assert_eq!((answer.status.code(), answer.token().as_str()), (Code::Ok, "true None"));
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let headers = [("traceparent", parent.as_str()), ("eticket-correlation-id", "abc")];
    assert_eq!(ask(&stack, list("trace", &headers)).await.token(), format!("{trace} abc"));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_answered_with_its_reason() {
    let fake = Fake::new(StreamKind::Waits);
    let stack = stack(&fake, &limits(8));
    for (headers, expected) in [
        (&[("grpc-timeout", "250m")][..], Duration::from_millis(250)),
        (&[("grpc-timeout", "1M")], Duration::from_secs(60)),
        // Without a deadline of its own: the server's default applies.
        (&[], Duration::from_secs(10)),
    ] {
        let start = Instant::now();
        let answer = ask(&stack, list("hang", headers)).await;
        assert!((start.elapsed()).abs_diff(expected) < Duration::from_millis(5), "{:?}", start.elapsed());
        assert_eq!(answer.http_status, 200);
        assert_eq!(answer.status.code(), Code::DeadlineExceeded);
        assert_eq!(answer.reason(), Some(ErrorReason::DeadlineExceeded));
        assert_eq!(answer.headers["content-type"], "application/grpc");
        fake.reaches(0).await;
        let left = ask(&stack, list("left", headers)).await.token();
        assert_eq!(left, format!("{:?}", Some(expected)));
    }
    let answer = ask(&stack, list("hang", &[("grpc-timeout", "0m")])).await;
    assert_eq!(answer.status.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_malformed_timeout_is_refused_by_name() {
    let stack = stack(&Fake::new(StreamKind::Waits), &limits(8));
    for value in ["", "5", "5 seconds", "-1S", "123456789S"] {
        let answer = ask(&stack, list("ok", &[("grpc-timeout", value)])).await;
        assert_eq!(answer.http_status, 200);
        assert_eq!(answer.status.code(), Code::InvalidArgument, "{value:?}");
        let details = answer.status.get_error_details();
        let field = &details.bad_request().expect("a BadRequest").field_violations[0].field;
        assert_eq!(field, "grpc-timeout");
    }
}

#[tokio::test]
async fn a_call_above_the_limit_is_rejected_with_a_retry_delay() {
    let fake = Fake::new(StreamKind::Waits);
    let stack = stack(&fake, &limits(1));
    let first = tokio::spawn(stack.clone().oneshot(list("hang", &[])));
    fake.reaches(1).await;
    let answer = ask(&stack, list("ok", &[])).await;
    assert_eq!(answer.http_status, 200);
    assert_eq!(answer.status.code(), Code::Unavailable);
    assert_eq!(answer.reason(), Some(ErrorReason::ServiceOverloaded));
    assert!(answer.status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()));
    assert_eq!(answer.status.metadata().get("grpc-retry-pushback-ms").expect("a pushback"), "1000");
    let hurried = ask(&stack, list("ok", &[("grpc-timeout", "900m")])).await;
    assert_eq!(hurried.reason(), Some(ErrorReason::ServiceOverloaded));
    assert_eq!(
        hurried.status.metadata().get("grpc-retry-pushback-ms").expect("a pushback"),
        "-1",
        "no time left for the delay"
    );
    assert!(hurried.status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()));
    // Health calls succeed even then.
    let check = tonic_health::pb::HealthCheckRequest { service: "liveness".into() };
    let health = ask(&stack, request("/grpc.health.v1.Health/Check", &check, &[])).await;
    assert_eq!(health.status.code(), Code::Ok);
    // The first caller disconnects, which frees its permit.
    first.abort();
    assert!(first.await.is_err_and(|error| error.is_cancelled()));
    fake.reaches(0).await;
    assert_eq!(ask(&stack, list("ok", &[])).await.status.code(), Code::Ok);
}

#[tokio::test(start_paused = true)]
async fn an_expired_call_releases_its_permit() {
    let stack = stack(&Fake::new(StreamKind::Waits), &limits(1));
    for _ in 0..3 {
        let answer = ask(&stack, list("hang", &[("grpc-timeout", "10m")])).await;
        assert_eq!(answer.status.code(), Code::DeadlineExceeded, "not shed");
    }
}

#[tokio::test]
async fn a_permit_is_held_until_the_response_is_read() {
    let fake = Fake::new(StreamKind::Waits);
    let stack = stack(&fake, &limits(1));
    let Ok(response) = stack.clone().oneshot(request(REPUBLISH, &RepublishRequest::default(), &[])).await;
    assert_eq!(ask(&stack, list("ok", &[])).await.reason(), Some(ErrorReason::ServiceOverloaded));
    drop(response);
    assert_eq!(ask(&stack, list("ok", &[])).await.status.code(), Code::Ok);
}

#[tokio::test(start_paused = true)]
async fn clients_that_do_not_read_lose_their_permits() {
    let stack = stack(&Fake::new(StreamKind::Waits), &limits(2));
    let open = async |request| {
        let Ok(response) = stack.clone().oneshot(request).await;
        response
    };
    let republish = || request(REPUBLISH, &RepublishRequest::default(), &[]);
    // One client has read nothing, the other one a single message.
    let _mute = open(list("ok", &[])).await;
    let mut stalled = open(republish()).await;
    assert!(stalled.body_mut().frame().await.expect("open").is_ok());
    let shed = Some(ErrorReason::ServiceOverloaded);
    assert_eq!(ask(&stack, list("ok", &[])).await.reason(), shed);
    tokio::time::sleep(super::super::admission::IDLE).await;
    let mut both = Vec::new();
    for _ in 0..2 {
        let mut response = open(republish()).await;
        assert!(response.body_mut().frame().await.expect("the permits of idle bodies are revoked").is_ok());
        assert!(response.body_mut().frame().now_or_never().is_none(), "it polls for more");
        // As hyper does: it polls again whenever the body wakes it.
        both.push(tokio::spawn(async move { drop(response.body_mut().frame().await) }));
    }
    tokio::time::sleep(2 * super::super::admission::IDLE).await;
    assert_eq!(
        ask(&stack, list("ok", &[])).await.reason(),
        shed,
        "these bodies wait for the service, not for their clients"
    );
    for body in both {
        body.abort();
        assert!(body.await.expect_err("it waits").is_cancelled());
    }
    drop(stalled);
    let _first = open(republish()).await;
    assert_eq!(ask(&stack, list("ok", &[])).await.status.code(), Code::Ok, "each permit is released exactly once");
}

#[tokio::test]
async fn a_panic_is_internal_and_releases_its_permit() {
    let fake = Fake::new(StreamKind::Panics);
    let stack = stack(&fake, &limits(1));
    for _ in 0..2 {
        let answer = ask(&stack, list("panic", &[])).await;
        assert_eq!((answer.http_status, answer.status.code()), (200, Code::Internal));
        assert!(!answer.status.message().contains("on purpose"), "the panic text is not sent");
        fake.reaches(0).await;
        let answer = ask(&stack, request(REPUBLISH, &RepublishRequest::default(), &[])).await;
        assert_eq!((answer.messages.len(), answer.status.code()), (1, Code::Internal));
        fake.reaches(0).await;
    }
    assert_eq!(ask(&stack, list("ok", &[])).await.status.code(), Code::Ok);
}

#[tokio::test]
async fn errors_are_in_the_language_of_the_caller() {
    let stack = stack(&Fake::new(StreamKind::Refuses), &limits(8));
    for (headers, locale) in [
        (&[("accept-language", "ko-KR,ko;q=0.9,en;q=0.8")][..], "ko"),
        (&[("accept-language", "de")], "en"),
        (&[], "en"),
    ] {
        let mut timed_out: Vec<_> = headers.to_vec();
        timed_out.push(("grpc-timeout", "0m"));
        for request in [
            list("refuse", headers),
            list("panic", headers),
            list("ok", &timed_out),
            request(REPUBLISH, &RepublishRequest::default(), headers),
        ] {
            let path = request.uri().path().to_owned();
            let status = ask(&stack, request).await.status;
            let text = status.get_details_localized_message().expect("a text for people");
            assert_eq!(text.locale, locale, "{path} {status:?}");
        }
    }
}

#[tokio::test]
async fn unknown_methods_are_unimplemented() {
    let stack = stack(&Fake::new(StreamKind::Waits), &limits(8));
    let message = ListParkedEventsRequest::default();
    for path in ["/nobody.v1.Nothing/Do", "/eticket.operations.v1.OperationsService/Nothing", "/", "/x"] {
        let answer = ask(&stack, request(path, &message, &[])).await;
        assert_eq!(answer.status.code(), Code::Unimplemented, "{path}");
    }
}

#[tokio::test]
async fn a_malformed_body_fails_its_own_call_only() {
    let stack = stack(&Fake::new(StreamKind::Waits), &limits(1));
    for body in [&b"\0\0\0\0\x02\xff\xff"[..], b"\0\xff\xff\xff\xff", b"\x07garbage", b""] {
        let mut broken = list("ok", &[]);
        *broken.body_mut() = Body::from(body);
        let status = ask(&stack, broken).now_or_never().expect("at once").status;
        assert!(!matches!(status.code(), Code::Ok | Code::Unknown), "{status:?}");
        // The error has the text that the gateway uses.
        assert_eq!(status.code() == Code::ResourceExhausted, body.starts_with(b"\0\xff"), "{status:?}");
    }
    assert_eq!(ask(&stack, list("ok", &[])).await.status.code(), Code::Ok);
}

#[test]
fn calls_are_counted_by_name_and_code() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let stack = stack(&Fake::new(StreamKind::Waits), &limits(8));
            ask(&stack, list("ok", &[])).await;
            ask(&stack, list("refuse", &[])).await;
            ask(&stack, request("/invented.by.a.Caller/Name", &RepublishRequest::default(), &[])).await;
            // The caller disconnects.
            assert!(ask(&stack, list("hang", &[])).now_or_never().is_none());
        });
    });
    let text = handle.render();
    let name = "eticket.operations.v1.OperationsService/ListParkedEvents";
    for code in ["OK", "ABORTED", "CANCELLED"] {
        let line = format!("eticket_rpc_total{{service=\"test\",rpc=\"{name}\",code=\"{code}\"}} 1");
        assert!(text.contains(&line), "{line}\n{text}");
    }
    assert!(text.contains("rpc=\"unknown\",code=\"UNIMPLEMENTED\"} 1") && !text.contains("invented"), "{text}");
    assert!(text.contains("eticket_rpc_in_flight{service=\"test\"} 0"), "{text}");
}

/// The captured output of a log.
#[derive(Clone, Default)]
struct Written(Arc<std::sync::Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("unpoisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn only_our_own_failures_are_errors_in_the_log() {
    let written = Written::default();
    let writer = written.clone();
    let log = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    // While there is only one dispatcher, tracing asks that of the current thread about a new log line, and keeps the
    // result: a test on another thread, which has none, would disable the line for this test too.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    tracing::subscriber::with_default(log, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let stack = stack(&Fake::new(StreamKind::Waits), &limits(8));
            let id = [("eticket-correlation-id", "followed")];
            ask(&stack, list("user-of-the-message", &id)).await;
            ask(&stack, list("refuse", &id)).await;
            ask(&stack, list("ok", &[("grpc-timeout", "nonsense"), ("eticket-correlation-id", "followed")])).await;
            let mut malformed = list("", &id);
            *malformed.body_mut() = Body::from(&b"\0\0\0\0\x02\xff\xff"[..]);
            assert_eq!(ask(&stack, malformed).await.status.code(), tonic::Code::Internal, "tonic's own code");
            let text = String::from_utf8(written.0.lock().expect("unpoisoned").clone()).expect("UTF-8");
            assert!(!text.contains("ERROR") && !text.contains("WARN"), "{text}");
            assert!(!text.contains("user-of-the-message"), "nothing of a message is logged: {text}");
            for code in ["OK", "ABORTED", "INVALID_ARGUMENT"] {
                let line = text.lines().find(|line| line.contains(&format!("code=\"{code}\"")));
                let line = line.unwrap_or_else(|| panic!("{code} in {text}"));
                assert!(line.contains("ListParkedEvents") && line.contains("followed"), "{line}");
            }
            ask(&stack, list("panic", &id)).await;
        });
    });
    let text = String::from_utf8(written.0.lock().expect("unpoisoned").clone()).expect("UTF-8");
    let failed = text.lines().find(|line| line.contains("ERROR") && line.contains("code=\"INTERNAL\""));
    assert!(failed.is_some_and(|line| line.contains("followed")), "{text}");
}

#[tokio::test]
async fn an_unknown_service_or_method_is_named() {
    let stack = stack(&Fake::new(StreamKind::Waits), &limits(8));
    for (path, expected) in [
        ("/eticket.operations.v1.OperationsService/Nothing", "unknown method Nothing of service"),
        ("/grpc.health.v1.Health/Nothing", "unknown method Nothing of service grpc.health.v1.Health"),
        ("/grpc.reflection.v1.ServerReflection/Nothing", "unknown method Nothing of service"),
        ("/eticket.ticket.v1.TicketService/GetTicket", "unknown service eticket.ticket.v1.TicketService"),
        ("/nobody.v1.Nothing/Do", "unknown service nobody.v1.Nothing"),
        ("/nothing", "the path /nothing is not /SERVICE/METHOD"),
    ] {
        let answer = ask(&stack, request(path, &(), &[])).await;
        assert_eq!(answer.status.code(), Code::Unimplemented, "{path}");
        assert!(answer.status.message().starts_with(expected), "{path}: {:?}", answer.status);
        let raw = answer.headers["grpc-message"].to_str().expect("ASCII");
        assert!(raw.contains(' ') && !raw.contains("%20"), "only what must be is encoded: {raw}");
    }
}

#[tokio::test]
async fn all_lines_of_accept_language_count() {
    let stack = stack(&Fake::new(StreamKind::Waits), &limits(8));
    for (lines, expected) in [
        (&["de", "ko"][..], "ko"),
        (&["en;q=0.1", "ko;q=0.9"], "ko"),
        (&["ko;q=0.1", "en;Q=0.9"], "en"),
        (&["ko; q=0.5", "en-GB;q = 0.4"], "ko"),
        (&["\u{fc}", "ko"], "ko"),
    ] {
        let headers: Vec<_> = lines.iter().map(|line| ("accept-language", *line)).collect();
        let answer = ask(&stack, list("refuse", &headers)).await;
        let message = answer.status.get_details_localized_message().expect("a message for people");
        assert_eq!(message.locale, expected, "{lines:?}");
    }
}
