//! Applications in Go, Python, Java and Node, with stubs that are generated from the protos and the shipped service
//! config: they get through a scenario, get the reason of an error in time, and no error if a short wait helps.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::time::Duration;

use eticket_integration_tests::{
    Api, Eticket, Protocol,
    aftermath::metrics,
    api::reason,
    eventually::{SOON, eventually},
    process::Launch,
    stub::{self, LANGUAGES},
};
use eticket_proto::{
    error::ErrorReason,
    error_text::{self, Language},
    reservation::UserGrade,
};
use futures::future::join_all;
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic_types::StatusExt;

const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the clients in Go, Python, Java and Node: cargo xtask test builds them"]
async fn an_application_reserves_watches_and_resumes() {
    let data = TempDir::new().expect("a folder");
    let eticket = Eticket::start(data.path()).await;
    for language in LANGUAGES {
        let ticket = format!("of-{language}");
        let seen = stub::scenario(language, eticket.address("gateway"), &ticket, PATIENCE).await;
        let expected = json!({
            "reason": "TICKET_ALREADY_RESERVED",
            "text": error_text::text(ErrorReason::TicketAlreadyReserved, Language::Korean),
            "holder": language,
            "settled": true,
            "changed": "RESERVATION_STATUS_CANCELLED",
        });
        assert_eq!(seen, expected, "{language}");
    }
    eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the clients in Go, Python, Java and Node: cargo xtask test builds them"]
async fn an_open_breaker_returns_its_reason_immediately() {
    let data = TempDir::new().expect("a folder");
    let eticket = Launch::all_in_one(data.path())
        .key("ticket.fault.only", "CheckAvailability")
        .key("ticket.fault.error_ratio", "1")
        .key("reservation.upstream.ticket.breaker.min_calls", "1")
        // Stays open until all clients have called.
        .key("reservation.upstream.ticket.breaker.open_ms", "600000")
        .start()
        .await;
    let api = Api::new(&eticket, Protocol::Gateway);
    eventually(SOON, "the breaker opens", async || {
        let refused = api.reserve("1", "A", UserGrade::Silver).await.expect_err("the check is unavailable");
        let delay = refused.get_details_retry_info().and_then(|retry| retry.retry_delay);
        if delay > Some(Duration::from_secs(60)) { Ok(()) } else { Err(refused) }
    })
    .await;
    for language in LANGUAGES {
        let outcome = stub::call(language, eticket.address("gateway"), "reserve", "1", PATIENCE).await;
        assert_eq!(
            (outcome.code, outcome.reason.as_str()),
            (Code::Unavailable, "TICKET_SERVICE_OVERLOADED"),
            "{language}"
        );
        assert!(outcome.took < Duration::from_secs(1), "{language}: {:?}", outcome.took);
    }
    eticket.stop().await;
}

/// The deadline is longer than the server's default, so nothing else can have ended the call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the clients in Go, Python, Java and Node: cargo xtask test builds them"]
async fn a_missing_view_is_reported_before_the_callers_deadline() {
    const DEADLINE: Duration = Duration::from_secs(11);
    let data = TempDir::new().expect("a folder");
    let eticket = Eticket::start(data.path()).await;
    let gateway = eticket.address("gateway");
    let calls = LANGUAGES.map(|language| stub::call(language, gateway, "view", "never", DEADLINE));
    for (language, outcome) in LANGUAGES.iter().zip(join_all(calls).await) {
        assert_eq!(
            (outcome.code, outcome.reason.as_str()),
            (Code::DeadlineExceeded, "VIEW_NOT_CAUGHT_UP"),
            "{language}"
        );
        assert!((PATIENCE..DEADLINE).contains(&outcome.took), "{language}: {:?}", outcome.took);
    }
    eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the clients in Go, Python, Java and Node: cargo xtask test builds them"]
async fn a_rejected_call_is_retried_and_answered() {
    let data = TempDir::new().expect("a folder");
    let eticket = Launch::all_in_one(data.path())
        .key("ticket.limits.concurrency", "1")
        .key("ticket.fault.only", "GetTicket")
        .key("ticket.fault.latency_ms", "600000")
        .start()
        .await;
    let api = Api::new(&eticket, Protocol::Direct);
    for language in LANGUAGES {
        let holder = take_the_only_permit(&api).await;
        let before = shed(&eticket).await;
        let call = stub::call(language, eticket.address("gateway"), "tickets", "", PATIENCE);
        let place_becomes_free = async {
            eventually(SOON, "a call is shed", async || match shed(&eticket).await {
                count if count > before => Ok(()),
                count => Err(count),
            })
            .await;
            holder.abort();
        };
        let (outcome, ()) = tokio::join!(call, place_becomes_free);
        assert_eq!(outcome.code, Code::Ok, "{language}: {outcome:?}");
        assert!(outcome.took >= Duration::from_secs(1), "{language} sleeps the pushback: {:?}", outcome.took);
    }
    eticket.stop().await;
}

/// Starts a call that does not end by itself.
async fn take_the_only_permit(api: &Api) -> JoinHandle<()> {
    let holder = tokio::spawn({
        let api = api.clone();
        // Retries while another call has the permit.
        async move {
            while let Err(status) = api.ticket("1").await
                && reason(&status) == "SERVICE_OVERLOADED"
            {}
        }
    });
    eventually(SOON, "the only permit is taken", async || match api.withdraw("1", "").await {
        Err(status) if reason(&status) == "SERVICE_OVERLOADED" => Ok(()),
        other => Err(other.map(drop)),
    })
    .await;
    holder
}

/// Returns the number of calls that the ticket service has rejected because of its limit.
async fn shed(eticket: &Eticket) -> u64 {
    let metrics = metrics(eticket).await;
    let counts = metrics.lines().filter_map(|line| line.strip_prefix("eticket_rpc_shed_total{service=\"ticket\"} "));
    counts.map(|count| count.parse::<u64>().expect("a count")).sum()
}
