//! Error reasons that need a shortage: of time, of capacity, of an address.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::time::Duration;

use eticket_integration_tests::{
    Api, Protocol,
    api::reason,
    eventually::{SOON, eventually},
    process::Launch,
};
use eticket_proto::{
    operations::{CompareViewRequest, CompareViewResponse},
    pricing::{ListPricesRequest, ListPricesResponse},
    query::{ListTicketViewsRequest, ListTicketViewsResponse},
    reservation::{ListReservationsRequest, ListReservationsResponse},
    ticket::{GetTicketRequest, GetTicketResponse, ListTicketsRequest, ListTicketsResponse},
};
use tempfile::TempDir;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

fn expect(answer: Result<impl std::fmt::Debug, Status>, code: Code, name: &str) -> Status {
    let status = answer.expect_err(name);
    assert_eq!((status.code(), reason(&status).as_str()), (code, name), "{status:?}");
    assert!(status.get_details_localized_message().is_some(), "every error has a localized message");
    status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_deadline_is_reported_as_such() {
    let data = TempDir::new().expect("a folder");
    let eticket = Launch::all_in_one(data.path())
        .key("ticket.fault.only", "GetTicket")
        .key("ticket.fault.latency_ms", "600000")
        .start()
        .await;
    // A browser-like client, because tonic's client ends the call itself at the same moment with CANCELLED.
    for protocol in [Protocol::WebBinary, Protocol::WebText] {
        let mut request = Request::new(GetTicketRequest { ticket_id: "1".into() });
        request.set_timeout(Duration::from_millis(500));
        let answer: Result<GetTicketResponse, Status> =
            Api::new(&eticket, protocol).call_with("eticket.ticket.v1.TicketService/GetTicket", request).await;
        expect(answer, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    }
    eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_above_the_limit_gets_a_retry_delay() {
    let data = TempDir::new().expect("a folder");
    let eticket = Launch::all_in_one(data.path())
        .key("ticket.limits.concurrency", "1")
        .key("ticket.fault.only", "GetTicket")
        .key("ticket.fault.latency_ms", "600000")
        .start()
        .await;
    let api = Api::new(&eticket, Protocol::Direct);
    let holder = tokio::spawn({
        let api = api.clone();
        // Retries while the other call has the permit.
        async move {
            while let Err(status) = api.ticket("1").await
                && reason(&status) == "SERVICE_OVERLOADED"
            {}
        }
    });
    let refused = eventually(SOON, "the only permit is taken", async || match api.withdraw("1", "").await {
        Err(status) if reason(&status) == "SERVICE_OVERLOADED" => Ok(status),
        other => Err(other.map(drop)),
    })
    .await;
    assert_eq!(refused.code(), Code::Unavailable);
    let delay = refused.get_details_retry_info().and_then(|retry| retry.retry_delay).expect("a RetryInfo");
    let pushback = refused.metadata().get("grpc-retry-pushback-ms").expect("a pushback");
    assert_eq!(pushback.to_str().ok(), Some(delay.as_millis().to_string().as_str()), "{refused:?}");
    // A disconnect releases the permit.
    holder.abort();
    eventually(SOON, "the permit is free again", async || match api.withdraw("1", "").await {
        Err(status) if reason(&status) == "TICKET_NOT_FOUND" => Ok(()),
        other => Err(other.map(drop)),
    })
    .await;
    eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_page_token_is_rejected_by_every_list() {
    let data = TempDir::new().expect("a folder");
    let eticket = Launch::all_in_one(data.path()).start().await;
    let api = Api::new(&eticket, Protocol::Gateway);
    let token = || "bm9ib2R5".to_owned();
    let request = ListTicketsRequest { page_token: token(), ..ListTicketsRequest::default() };
    let answer: Result<ListTicketsResponse, Status> =
        api.call("eticket.ticket.v1.TicketService/ListTickets", request).await;
    expect(answer, Code::InvalidArgument, "INVALID_PAGE_TOKEN");
    let request = ListReservationsRequest { page_token: token(), ..ListReservationsRequest::default() };
    let answer: Result<ListReservationsResponse, Status> =
        api.call("eticket.reservation.v1.ReservationService/ListReservations", request).await;
    expect(answer, Code::InvalidArgument, "INVALID_PAGE_TOKEN");
    let request = ListPricesRequest { page_token: token(), ..ListPricesRequest::default() };
    let answer: Result<ListPricesResponse, Status> =
        api.call("eticket.pricing.v1.PricingService/ListPrices", request).await;
    expect(answer, Code::InvalidArgument, "INVALID_PAGE_TOKEN");
    let request = ListTicketViewsRequest { page_token: token(), ..ListTicketViewsRequest::default() };
    let answer: Result<ListTicketViewsResponse, Status> =
        api.call("eticket.query.v1.QueryService/ListTicketViews", request).await;
    expect(answer, Code::InvalidArgument, "INVALID_PAGE_TOKEN");
    eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_without_owner_addresses_cannot_be_compared() {
    let data = TempDir::new().expect("a folder");
    let query = Launch::program("eticket-query")
        .data(data.path())
        .key("listen", "127.0.0.1:0")
        .key("bus.url", "embedded")
        .key("shutdown.drain_delay_ms", "0")
        .start()
        .await;
    let answer: Result<CompareViewResponse, Status> = Api::at(query.address("query"))
        .call("eticket.operations.v1.OperationsService/CompareView", CompareViewRequest::default())
        .await;
    expect(answer, Code::FailedPrecondition, "UPSTREAM_NOT_CONFIGURED");
    query.stop().await;
}
