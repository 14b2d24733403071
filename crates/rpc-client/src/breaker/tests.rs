//! Tests of the breaker under paused time.

use std::sync::atomic::{AtomicU32, Ordering};

use eticket_base::telemetry::TraceContext;
use tokio::time::{advance, sleep};
use tonic::{Code, Status};
use tower::{ServiceExt, service_fn};

use super::*;

/// How the fake upstream responds to a call.
#[derive(Clone, Copy)]
enum Does {
    Answer,
    Say(Code),
    TakeLong,
    Hang,
}

struct Fixture {
    layer: BreakerLayer,
    config: BreakerConfig,
    arrived: Arc<AtomicU32>,
}

impl Fixture {
    fn new() -> Self {
        let config = BreakerConfig::default();
        Self { layer: BreakerLayer::new("test", &config), config, arrived: Arc::default() }
    }

    fn call(&self, does: Does) -> BoxFuture<'static, Result<(), CallError>> {
        let (arrived, slow) = (self.arrived.clone(), Duration::from_millis(self.config.slow_call_ms));
        let service = service_fn(move |_: Outgoing<()>| {
            arrived.fetch_add(1, Ordering::SeqCst);
            async move {
                match does {
                    Does::Answer => Ok(()),
                    Does::Say(code) => Err(CallError::Status(Status::new(code, "no"))),
                    Does::TakeLong => {
                        sleep(slow).await;
                        Ok(())
                    }
                    Does::Hang => std::future::pending().await,
                }
            }
        });
        let outgoing = Outgoing { message: (), deadline: None, trace: TraceContext::new_root(), credentials: None };
        Box::pin(self.layer.layer(service).oneshot(outgoing))
    }

    async fn calls(&self, number: u32, does: Does) {
        for _ in 0..number {
            self.call(does).await.ok();
        }
    }

    /// Returns the delay of a rejection by the breaker, and checks that the upstream did not receive the call; `None`
    /// if the breaker admits the call.
    async fn refused_for(&self) -> Option<Duration> {
        let before = self.arrived.load(Ordering::SeqCst);
        match self.call(Does::Answer).await {
            Err(CallError::BreakerOpen { retry_after }) => {
                assert_eq!(self.arrived.load(Ordering::SeqCst), before, "no call may reach the upstream");
                Some(retry_after)
            }
            _ => None,
        }
    }

    async fn open(&self) {
        self.calls(self.config.min_calls, Does::Say(Code::Unavailable)).await;
        assert_eq!(self.refused_for().await, Some(Duration::from_millis(self.config.open_ms)));
    }

    async fn half_open(&self) {
        self.open().await;
        advance(Duration::from_millis(self.config.open_ms)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn it_opens_when_the_ratio_of_enough_calls_has_failed() {
    let fixture = Fixture::new();
    fixture.calls(19, Does::Say(Code::Unavailable)).await;
    assert_eq!(fixture.refused_for().await, None, "19 calls are too few");
    // The breaker is evaluated at every outcome. This was the 20th call, and 19 of 20 have failed.
    assert_eq!(fixture.refused_for().await, Some(Duration::from_secs(5)));

    let fixture = Fixture::new();
    fixture.calls(20, Does::Answer).await;
    fixture.calls(19, Does::Say(Code::Unavailable)).await;
    assert_eq!(fixture.refused_for().await, None, "19 of 39 are less than half");
    fixture.calls(1, Does::Say(Code::Unavailable)).await;
    assert_eq!(fixture.refused_for().await, None, "20 of 41");
    fixture.calls(2, Does::Say(Code::Unavailable)).await;
    assert!(fixture.refused_for().await.is_some(), "22 of 44");
}

#[tokio::test(start_paused = true)]
async fn missing_and_slow_responses_count_as_failures() {
    for does in
        [Does::Say(Code::Unavailable), Does::Say(Code::DeadlineExceeded), Does::Say(Code::Cancelled), Does::TakeLong]
    {
        let fixture = Fixture::new();
        fixture.calls(20, does).await;
        assert!(fixture.refused_for().await.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn rejections_do_not_open_the_breaker() {
    let fixture = Fixture::new();
    for code in [
        Code::NotFound,
        Code::FailedPrecondition,
        Code::InvalidArgument,
        Code::AlreadyExists,
        Code::Aborted,
        Code::PermissionDenied,
        Code::Unauthenticated,
        Code::ResourceExhausted,
        Code::Unimplemented,
        Code::Internal,
    ] {
        fixture.calls(100, Does::Say(code)).await;
        assert_eq!(fixture.refused_for().await, None, "{code:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn old_failures_are_forgotten() {
    let fixture = Fixture::new();
    fixture.calls(19, Does::Say(Code::Unavailable)).await;
    advance(Duration::from_millis(fixture.config.window_ms)).await;
    fixture.calls(19, Does::Say(Code::Unavailable)).await;
    let guarded = fixture.layer.breaker.guarded.lock().expect("no panic");
    assert!(matches!(guarded.state, State::Closed(_)), "38 failures, never 20 within the window");
}

#[tokio::test(start_paused = true)]
async fn while_open_it_returns_the_remaining_time() {
    let fixture = Fixture::new();
    fixture.open().await;
    advance(Duration::from_millis(1_500)).await;
    assert_eq!(fixture.refused_for().await, Some(Duration::from_millis(3_500)));
}

#[tokio::test(start_paused = true)]
async fn it_closes_when_all_probes_succeed() {
    let fixture = Fixture::new();
    fixture.half_open().await;
    fixture.calls(3, Does::Answer).await;
    assert_eq!(fixture.refused_for().await, None);
    fixture.calls(15, Does::Say(Code::Unavailable)).await;
    assert_eq!(fixture.refused_for().await, None, "the window is empty again, and 15 calls are too few");
}

#[tokio::test(start_paused = true)]
async fn a_rejection_is_a_successful_probe() {
    let fixture = Fixture::new();
    fixture.half_open().await;
    fixture.calls(3, Does::Say(Code::NotFound)).await;
    assert_eq!(fixture.refused_for().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_failed_probe_opens_it_again() {
    for does in [Does::Say(Code::Unavailable), Does::TakeLong] {
        let fixture = Fixture::new();
        fixture.half_open().await;
        fixture.calls(2, Does::Answer).await;
        fixture.calls(1, does).await;
        assert_eq!(fixture.refused_for().await, Some(Duration::from_secs(5)));
    }
}

#[tokio::test(start_paused = true)]
async fn half_open_admits_a_limited_number_of_probes() {
    let fixture = Fixture::new();
    fixture.half_open().await;
    let mut probes: Vec<_> = (0..3).map(|_| fixture.call(Does::Hang)).collect();
    for probe in &mut probes {
        assert!(futures::poll!(probe).is_pending());
    }
    assert_eq!(fixture.refused_for().await, Some(Duration::from_millis(fixture.config.slow_call_ms)));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_probe_frees_its_slot() {
    let fixture = Fixture::new();
    fixture.half_open().await;
    for _ in 0..10 {
        let mut probe = fixture.call(Does::Hang);
        assert!(futures::poll!(&mut probe).is_pending(), "a slot is free for the probe");
    }
    fixture.calls(3, Does::Answer).await;
    assert_eq!(fixture.refused_for().await, None, "closed");
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_call_counts_only_if_it_was_slow() {
    let hurry = async |fixture: &Fixture, patience: u64| {
        for _ in 0..40 {
            tokio::time::timeout(Duration::from_millis(patience), fixture.call(Does::Hang)).await.ok();
        }
    };
    let fixture = Fixture::new();
    hurry(&fixture, fixture.config.slow_call_ms - 1).await;
    assert_eq!(fixture.refused_for().await, None);
    hurry(&fixture, fixture.config.slow_call_ms).await;
    assert!(fixture.refused_for().await.is_some());
}

#[tokio::test(start_paused = true)]
async fn results_of_an_earlier_state_are_ignored() {
    let fixture = Fixture::new();
    let mut late: Vec<_> = (0..30).map(|_| fixture.call(Does::TakeLong)).collect();
    for call in &mut late {
        assert!(futures::poll!(call).is_pending());
    }
    fixture.half_open().await;
    let mut probe = fixture.call(Does::Hang);
    assert!(futures::poll!(&mut probe).is_pending(), "half open, one probe under way");
    for call in late {
        call.await.expect("an answer, though slow");
    }
    assert_eq!(fixture.refused_for().await, None, "the slow ones began before it opened");
}

#[tokio::test(start_paused = true)]
async fn the_status_is_the_state() {
    let fixture = Fixture::new();
    let status = || {
        let status = fixture.layer.status();
        assert_eq!(status.upstream, "test");
        status.state()
    };
    assert_eq!(status(), BreakerState::Closed);
    fixture.open().await;
    assert_eq!(status(), BreakerState::Open);
    advance(Duration::from_millis(fixture.config.open_ms)).await;
    let mut probe = fixture.call(Does::Hang);
    assert!(futures::poll!(&mut probe).is_pending());
    assert_eq!(status(), BreakerState::HalfOpen);
}
