//! `GetTicketView`: returns at once, or when the row fulfils the condition of a token.

use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use eticket_proto::{
    error::ErrorReason,
    query::{GetTicketViewRequest, GetTicketViewResponse, WaitFor, query_service_server::QueryService},
    ticket::TicketStatus,
    token::Consistency,
};
use eticket_rpc_server::{error::ApiError, server::Deadline};
use eticket_store::{self as store, memory::Steps};
use tonic::{Request, Status};
use tonic_types::StatusExt;

use super::*;
use crate::outbound::memory::MemoryViews;

fn request(ticket: &str, token: Option<&Consistency>, wait: WaitFor) -> Request<GetTicketViewRequest> {
    let consistency_token = token.map(Consistency::encode).unwrap_or_default();
    by_admin(GetTicketViewRequest { ticket_id: ticket.to_owned(), consistency_token, wait: wait.into() })
}

async fn get(fixture: &Fixture, request: Request<GetTicketViewRequest>) -> Result<GetTicketViewResponse, Status> {
    fixture.grpc().get_ticket_view(request).await.map(tonic::Response::into_inner)
}

async fn refusal(fixture: &Fixture, request: Request<GetTicketViewRequest>) -> ErrorReason {
    let status = get(fixture, request).await.expect_err("refused");
    ApiError::from_status(&status).unwrap_or_else(|| panic!("no reason: {status}"))
}

fn reservation_token(revision: i64) -> Consistency {
    Consistency::Reservation { ticket: id("a"), revision }
}

#[tokio::test]
async fn a_row_is_found_once_it_has_a_ticket_part() {
    let fixture = Fixture::new().await;
    let [registered, priced] = free();
    fixture.take(&id("a"), &[priced]).await;
    assert_eq!(refusal(&fixture, request("a", None, WaitFor::None)).await, ErrorReason::TicketNotFound);
    fixture.take(&id("a"), &[registered]).await;
    let view = get(&fixture, request("a", None, WaitFor::Unspecified)).await.unwrap().view.unwrap();
    assert_eq!((view.ticket_status(), view.settled), (TicketStatus::Available, true));
    fixture.clock.set(time(2_000));
    let view = get(&fixture, request("a", None, WaitFor::None)).await.unwrap().view.unwrap();
    assert_eq!(view.ticket_status(), TicketStatus::Expired, "expired by the clock, without an event");
}

#[tokio::test]
async fn invalid_requests_are_refused() {
    let fixture = Fixture::new().await;
    fixture.take(&id("a"), &free()).await;
    for (request, reason) in [
        (request("", None, WaitFor::None), ErrorReason::InvalidField),
        (request("a.b", None, WaitFor::None), ErrorReason::InvalidField),
        (request("b", Some(&reservation_token(1)), WaitFor::None), ErrorReason::InvalidConsistencyToken),
        (request("b", Some(&reservation_token(1)), WaitFor::Applied), ErrorReason::InvalidConsistencyToken),
        (
            by_admin(GetTicketViewRequest {
                ticket_id: "a".to_owned(),
                consistency_token: "nonsense".to_owned(),
                wait: WaitFor::Applied.into(),
            }),
            ErrorReason::InvalidConsistencyToken,
        ),
        (
            by_admin(GetTicketViewRequest { ticket_id: "a".to_owned(), wait: 99, ..Default::default() }),
            ErrorReason::InvalidField,
        ),
    ] {
        assert_eq!(refusal(&fixture, request).await, reason);
    }
}

#[tokio::test]
async fn an_invalid_token_gets_a_specific_error() {
    let fixture = Fixture::in_memory().await;
    fixture.take(&id("a"), &free()).await;
    tokio::time::pause();
    let refused = async |ticket: &str, consistency_token: String| {
        let wait = WaitFor::Applied.into();
        let request = GetTicketViewRequest { ticket_id: ticket.to_owned(), consistency_token, wait };
        let mut request = by_admin(request);
        request.extensions_mut().insert(Deadline(Instant::now() + Duration::from_millis(50)));
        let status = get(&fixture, request).await.expect_err("refused");
        let about = status.get_details_error_info().expect("a reason").metadata.get("ticket_id").cloned();
        (ApiError::from_status(&status).expect("a reason"), status.message().to_owned(), about)
    };
    let token = reservation_token(1).encode();
    let page = eticket_proto::token::seal(eticket_proto::token::Kind::Page, b"r a 1");
    for malformed in ["nonsense".to_owned(), format!("{token}x"), token[1..].to_owned(), page] {
        let (reason, message, about) = refused("a", malformed).await;
        assert_eq!((reason, about), (ErrorReason::InvalidConsistencyToken, None), "no ticket id in the error");
        assert!(message.contains("altered, cut"), "{message}");
    }
    let (reason, message, about) = refused("b", token.clone()).await;
    assert_eq!((reason, about.as_deref()), (ErrorReason::InvalidConsistencyToken, Some("b")));
    assert!(message.contains("is of ticket a"), "{message}");
    let (reason, message, _) = refused("a", token).await;
    assert_eq!(reason, ErrorReason::ViewNotCaughtUp);
    assert!(message.contains("with the same token"), "{message}");
    let (reason, message, _) = refused("new", String::new()).await;
    assert_eq!(reason, ErrorReason::ViewNotCaughtUp);
    assert!(!message.contains("same token"), "the request had no token: {message}");
}

#[tokio::test]
async fn a_wait_ends_with_the_commit_that_fulfils_its_condition() {
    let fixture = Arc::new(Fixture::new().await);
    let a = id("a");
    fixture.take(&a, &free()).await;
    let ask = |wait| {
        let fixture = fixture.clone();
        tokio::spawn(async move { get(&fixture, request("a", Some(&reservation_token(1)), wait)).await })
    };
    let (applied, settled) = (ask(WaitFor::Applied), ask(WaitFor::Settled));
    until("two waiting calls", async || fixture.views.changes.waiting() == 2).await;
    fixture.take(&a, &[reserved(reservation(&a, 1, 1, ReservationStatus::Reserved))]).await;
    let view = timeout(BOUND, applied).await.expect("in time").unwrap().unwrap().view.unwrap();
    assert_eq!((view.revisions.unwrap().reservation, view.settled, view.user_id.as_str()), (1, false, "ann"));
    fixture.take(&a, &[Event::Price(price(2, 1, 9_000))]).await;
    assert_eq!(fixture.views.changes.waiting(), 1, "the reaction of the ticket is missing");
    fixture.take(&a, &[Event::Ticket(ticket(2, 1, Some(1)))]).await;
    let view = timeout(BOUND, settled).await.expect("in time").unwrap().unwrap().view.unwrap();
    assert!(view.settled);
    assert_eq!(view.discounted_price.unwrap().units, 9_000);
    assert_eq!(fixture.views.changes.waiting(), 0);
}

/// Commits, but reports an unknown outcome for the first few commits.
struct Unheard(AtomicU32);

#[async_trait]
impl Steps for Unheard {
    async fn step(&self, step: &'static str) -> Result<(), store::Error> {
        let fails = step == "committed"
            && self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if fails { Err(store::Error::Unavailable(sqlx::Error::PoolClosed)) } else { Ok(()) }
    }
}

#[tokio::test]
async fn a_wait_ends_even_if_the_outcome_of_the_commit_is_unknown() {
    let mut fixture = Fixture::new().await;
    // The first commit stores the new stream, the second one contains the row.
    let store = Arc::new(MemoryViews::new(fixture.clock.clone(), Arc::new(Unheard(AtomicU32::new(2)))));
    (fixture.reader.store, fixture.views.store) = (store.clone(), store);
    let fixture = Arc::new(fixture);
    assert!(fixture.reader.attach().await.is_err());
    let asked = {
        let fixture = fixture.clone();
        tokio::spawn(async move { get(&fixture, request("a", None, WaitFor::Applied)).await })
    };
    until("a waiting call", async || fixture.views.changes.waiting() == 1).await;
    fixture.publish(&id("a"), &free()[0]).await;
    let mut session = fixture.reader.attach().await.unwrap();
    let batch = session.next().await.unwrap();
    assert!(session.apply(batch).await.is_err());
    drop(session);
    assert_eq!(fixture.reader.attach().await.unwrap().progress(), (1, 1), "the message is not read again");
    timeout(BOUND, asked).await.expect("in time").unwrap().unwrap();
}

#[tokio::test]
async fn a_wait_includes_an_unknown_ticket() {
    let fixture = Arc::new(Fixture::new().await);
    let asked = {
        let fixture = fixture.clone();
        tokio::spawn(async move { get(&fixture, request("new", None, WaitFor::Applied)).await })
    };
    until("a waiting call", async || fixture.views.changes.waiting() == 1).await;
    fixture.take(&id("new"), &free()).await;
    let view = timeout(BOUND, asked).await.expect("in time").unwrap().unwrap().view.unwrap();
    assert_eq!(view.ticket_id, "new");
}

#[tokio::test]
async fn a_lagging_view_returns_its_error_before_the_deadline() {
    let fixture = Fixture::in_memory().await;
    fixture.take(&id("a"), &free()).await;
    tokio::time::pause();
    let deadline = Instant::now() + Duration::from_millis(300);
    let mut asked = request("a", Some(&reservation_token(1)), WaitFor::Applied);
    asked.extensions_mut().insert(Deadline(deadline));
    let status = get(&fixture, asked).await.expect_err("no reservation");
    assert!(Instant::now() < deadline, "the reason must still reach the client");
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    assert_eq!(ApiError::from_status(&status), Some(ErrorReason::ViewNotCaughtUp));
    assert_eq!(fixture.views.changes.waiting(), 0, "no waiter is left");
}

#[tokio::test]
async fn waits_end_when_the_server_drains() {
    let fixture = Arc::new(Fixture::new().await);
    let asked = {
        let fixture = fixture.clone();
        tokio::spawn(async move { refusal(&fixture, request("a", None, WaitFor::Settled)).await })
    };
    until("a waiting call", async || fixture.views.changes.waiting() == 1).await;
    fixture.views.draining.cancel();
    assert_eq!(timeout(BOUND, asked).await.expect("in time").unwrap(), ErrorReason::ShuttingDown);
}

#[tokio::test]
async fn the_number_of_waiting_calls_is_bounded() {
    let mut fixture = Fixture::new().await;
    fixture.take(&id("a"), &free()).await;
    fixture.views.waits = Arc::new(Semaphore::new(0));
    let waits = request("a", Some(&reservation_token(1)), WaitFor::Applied);
    assert_eq!(refusal(&fixture, waits).await, ErrorReason::ServiceOverloaded);
    let answered = get(&fixture, request("a", None, WaitFor::Settled)).await;
    assert!(answered.is_ok(), "a call that need not wait succeeds: {answered:?}");
}

#[tokio::test]
async fn a_waiting_call_reads_again_after_an_exchange() {
    let fixture = Arc::new(Fixture::new().await);
    let a = id("a");
    fixture.take(&a, &free()).await;
    let asked = {
        let fixture = fixture.clone();
        tokio::spawn(async move { get(&fixture, request("a", Some(&reservation_token(1)), WaitFor::Applied)).await })
    };
    until("a waiting call", async || fixture.views.changes.waiting() == 1).await;
    // The row arrives through a rebuild, so no commit of the reader notifies the waiter.
    fixture.publish(&a, &reserved(reservation(&a, 1, 1, ReservationStatus::Reserved))).await;
    let mut progress = fixture.rebuild().start();
    timeout(
        BOUND,
        progress.wait_for(|progress| matches!(progress, crate::application::rebuild::Progress::Done { .. })),
    )
    .await
    .expect("in time")
    .unwrap();
    let view = timeout(BOUND, asked).await.expect("in time").unwrap().unwrap().view.unwrap();
    assert_eq!(view.revisions.unwrap().reservation, 1);
}
