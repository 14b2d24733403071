//! Every error reason of the contract that the all-in-one process can return, triggered as by a client, with its
//! details.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::time::Duration;

use chrono::Weekday;
use eticket_integration_tests::{
    Api, Eticket, Protocol,
    api::{TIMEOUT_WITH_REASON, reason},
    binary::root,
    calendar,
    process::Launch,
};
use eticket_local_servers::free_address;
use eticket_proto::{
    error::ErrorReason,
    error_text, headers,
    operations::{ListUnsettledRequest, ListUnsettledResponse},
    query::WaitFor,
    reservation::{ReserveTicketRequest, UserGrade},
    ticket::{GetTicketRequest, GetTicketResponse, RegisterTicketRequest, RegisterTicketResponse, UpdateTicketRequest},
    time::to_proto,
};
use eticket_rpc_server::error::ApiError;
use prost::Message;
use prost_types::FieldMask;
use tempfile::TempDir;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;
use uuid::Uuid;

struct World {
    eticket: Eticket,
    api: Api,
    _data: TempDir,
}

async fn world() -> World {
    let data = TempDir::new().expect("a folder");
    let eticket = Eticket::start(data.path()).await;
    let api = Api::new(&eticket, Protocol::Gateway);
    World { eticket, api, _data: data }
}

fn expect(answer: Result<impl std::fmt::Debug, Status>, code: Code, name: &str) -> Status {
    let status = answer.expect_err(name);
    assert_eq!((status.code(), reason(&status).as_str()), (code, name), "{status:?}");
    assert!(!status.message().is_empty(), "{name} has a message for developers");
    let localized = status.get_details_localized_message().expect("every error speaks to people");
    assert_eq!(localized.locale, "en");
    assert!(!localized.message.is_empty());
    status
}

/// Checks that the metadata of its ErrorInfo contains this id.
fn names(status: &Status, key: &str, id: &str) {
    let info = status.get_details_error_info().expect("an ErrorInfo");
    assert_eq!(info.metadata.get(key).map(String::as_str), Some(id), "{key}: {info:?}");
}

#[tokio::test]
async fn unknown_ids_are_not_found() {
    let world = world().await;
    let api = &world.api;
    let status = expect(api.ticket("nobody").await, Code::NotFound, "TICKET_NOT_FOUND");
    names(&status, "ticket_id", "nobody");
    expect(api.view("nobody", "", WaitFor::None).await, Code::NotFound, "TICKET_NOT_FOUND");
    expect(api.withdraw("nobody", "").await, Code::NotFound, "TICKET_NOT_FOUND");
    expect(api.reserve("nobody", "A", UserGrade::Gold).await, Code::NotFound, "TICKET_NOT_FOUND");
    expect(api.price("nobody").await, Code::NotFound, "PRICE_NOT_FOUND");
    let id = Uuid::now_v7().to_string();
    let status = expect(api.reservation(&id).await, Code::NotFound, "RESERVATION_NOT_FOUND");
    names(&status, "reservation_id", &id);
    expect(api.cancel(&id).await, Code::NotFound, "RESERVATION_NOT_FOUND");
}

#[tokio::test]
async fn business_rules_reject_commands() {
    let world = world().await;
    let api = &world.api;
    let slot = calendar::upcoming(Weekday::Sat);
    api.register("1", slot).await.expect("a new id is registered");
    let status = expect(api.register("1", slot).await, Code::AlreadyExists, "TICKET_ALREADY_EXISTS");
    names(&status, "ticket_id", "1");
    let reserved = api.reserve("1", "A", UserGrade::Gold).await.expect("it is available");
    let status = api.reserve("1", "B", UserGrade::Vip).await;
    names(&expect(status, Code::FailedPrecondition, "TICKET_ALREADY_RESERVED"), "ticket_id", "1");
    let id = reserved.reservation.expect("an answer has its resource").reservation_id;
    api.cancel(&id).await.expect("a holder can cancel");
    let status = expect(api.cancel(&id).await, Code::FailedPrecondition, "RESERVATION_NOT_ACTIVE");
    names(&status, "reservation_id", &id);
    names(&status, "ticket_id", "1");

    api.register("old", calendar::past(Weekday::Sat)).await.expect("an end already past is accepted");
    expect(api.reserve("old", "A", UserGrade::Gold).await, Code::FailedPrecondition, "TICKET_EXPIRED");
    let status = expect(api.withdraw("1", "no such etag").await, Code::Aborted, "ETAG_MISMATCH");
    names(&status, "ticket_id", "1");
    api.withdraw("1", "").await.expect("an admin may withdraw");
    expect(api.withdraw("1", "").await, Code::FailedPrecondition, "TICKET_WITHDRAWN");
    expect(api.reserve("1", "A", UserGrade::Gold).await, Code::FailedPrecondition, "TICKET_WITHDRAWN");
}

#[tokio::test]
async fn invalid_input_is_named_by_field() {
    let world = world().await;
    let api = &world.api;
    let slot = calendar::upcoming(Weekday::Sat);
    let turned = calendar::Slot { start: slot.end, end: slot.start };
    let field = |answer: Result<(), Status>, field: &str| {
        let status = expect(answer, Code::InvalidArgument, "INVALID_FIELD");
        let request = status.get_details_bad_request().expect("BadRequest names the field");
        assert!(request.field_violations.iter().any(|violation| violation.field == field), "{field}: {request:?}");
        assert!(status.message().contains(field), "{}", status.message());
    };
    field(api.register("not an id", slot).await.map(drop), "ticket_id");
    field(api.register(&"x".repeat(65), slot).await.map(drop), "ticket_id");
    field(api.register("1", turned).await.map(drop), "end_time");
    field(api.register_as("1", slot, "no uuid").await.map(drop), "request_id");
    field(api.ticket("").await.map(drop), "ticket_id");
    field(api.reserve("1", "", UserGrade::Gold).await.map(drop), "user_id");
    field(api.reserve("1", &"x".repeat(129), UserGrade::Gold).await.map(drop), "user_id");
    field(api.reserve("1", "line\nbreak", UserGrade::Gold).await.map(drop), "user_id");
    field(api.reserve("1", "A", UserGrade::Unspecified).await.map(drop), "user_grade");
    field(api.cancel("no uuid").await.map(drop), "reservation_id");
    let nothing = RegisterTicketRequest::default();
    let answer: Result<RegisterTicketResponse, Status> =
        api.call("eticket.ticket.v1.TicketService/RegisterTicket", nothing).await;
    let status = answer.expect_err("no field is set");
    let wrong = status.get_details_bad_request().expect("BadRequest names the fields").field_violations;
    let wrong: Vec<&str> = wrong.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(wrong, ["title", "start_time", "end_time"], "all at once");
    field(Err(status), "title");
    let reserve = ReserveTicketRequest { request_id: "x".into(), ..Default::default() };
    let expected = ["ticket_id", "user_id", "user_grade", "request_id"];
    all_fields_are_reported(api, "eticket.reservation.v1.ReservationService/ReserveTicket", reserve, &expected).await;
    let update = UpdateTicketRequest {
        ticket_id: "not an id".into(),
        update_mask: Some(FieldMask { paths: vec!["title".into(), "end_time".into()] }),
        request_id: Uuid::nil().to_string(),
        ..Default::default()
    };
    let expected = ["ticket_id", "title", "end_time", "request_id"];
    all_fields_are_reported(api, "eticket.ticket.v1.TicketService/UpdateTicket", update, &expected).await;
    // Through the gateway, operations need the header that names the service.
    let answer: Result<ListUnsettledResponse, Status> =
        api.call("eticket.operations.v1.OperationsService/ListUnsettled", ListUnsettledRequest::default()).await;
    field(answer.map(drop), headers::SERVICE);
}

/// Checks that a request reports all of these fields at once, each with its reason, and in Korean for a Korean caller.
async fn all_fields_are_reported(api: &Api, method: &'static str, message: impl Message + 'static, expected: &[&str]) {
    let mut request = Request::new(message);
    request.metadata_mut().insert("accept-language", "ko".parse().expect("a value"));
    let status = api.call_with::<_, ()>(method, request).await.expect_err("refused");
    let wrong = status.get_details_bad_request().expect("BadRequest names the fields").field_violations;
    assert_eq!(wrong.iter().map(|wrong| wrong.field.as_str()).collect::<Vec<_>>(), expected);
    for wrong in wrong {
        assert!(wrong.reason.starts_with("INVALID_") && wrong.reason != "INVALID_VALUE", "{wrong:?}");
        let text = wrong.localized_message.clone().expect("a text for people");
        assert!(text.locale == "ko" && text.message != wrong.description && !text.message.is_ascii(), "{wrong:?}");
    }
}

#[tokio::test]
async fn a_single_edited_time_is_reported_as_the_invalid_one() {
    let world = world().await;
    let slot = calendar::upcoming(Weekday::Sat);
    world.api.register("1", slot).await.expect("registered");
    let only = async |start_time, end_time| {
        let request = UpdateTicketRequest { ticket_id: "1".into(), start_time, end_time, ..Default::default() };
        let method = "eticket.ticket.v1.TicketService/UpdateTicket";
        let answer = world.api.call::<_, ()>(method, request).await;
        expect(answer, Code::InvalidArgument, "INVALID_FIELD").message().to_owned()
    };
    let start = only(Some(to_proto(slot.end)), None).await;
    assert!(start.starts_with("start_time: ") && start.contains("end_time, 2"), "{start}");
    let end = only(None, Some(to_proto(slot.start))).await;
    assert!(end.starts_with("end_time: ") && end.contains("start_time, 2"), "{end}");
}

#[tokio::test]
async fn ids_are_accepted_only_in_their_returned_form() {
    let world = world().await;
    let api = &world.api;
    api.register("1", calendar::upcoming(Weekday::Sat)).await.expect("registered");
    let reserved = api.reserve("1", "A", UserGrade::Gold).await.expect("reserved").reservation.expect("a resource");
    let id = reserved.reservation_id;
    for other in [id.to_uppercase(), id.replace('-', ""), format!("{{{id}}}"), Uuid::nil().to_string()] {
        expect(api.cancel(&other).await, Code::InvalidArgument, "INVALID_FIELD");
        expect(api.reservation(&other).await, Code::InvalidArgument, "INVALID_FIELD");
    }
    let nil = Uuid::nil().to_string();
    expect(api.cancel_as(&id, &nil).await, Code::InvalidArgument, "INVALID_FIELD");
    api.cancel(&id).await.expect("cancelled");
}

#[tokio::test]
async fn a_request_id_belongs_to_one_request() {
    let world = world().await;
    let api = &world.api;
    let (slot, id) = (calendar::upcoming(Weekday::Sat), Uuid::now_v7().to_string());
    let first = api.register_as("1", slot, &id).await.expect("a new id is registered");
    assert_eq!(api.register_as("1", slot, &id).await.expect("a retry is answered"), first);
    let status = expect(api.register_as("2", slot, &id).await, Code::InvalidArgument, "REQUEST_ID_REUSED");
    names(&status, "request_id", &id);
    names(&status, "ticket_id", "2");
    let reserve = Uuid::now_v7().to_string();
    api.reserve_as("1", "A", UserGrade::Gold, &reserve).await.expect("it is available");
    let other = api.reserve_as("1", "B", UserGrade::Gold, &reserve).await;
    names(&expect(other, Code::InvalidArgument, "REQUEST_ID_REUSED"), "request_id", &reserve);
    // A rejection leaves no record, so the same id may be used again.
    let later = Uuid::now_v7().to_string();
    expect(api.register_as("1", slot, &later).await, Code::AlreadyExists, "TICKET_ALREADY_EXISTS");
    api.register_as("3", slot, &later).await.expect("nothing is remembered of a refusal");
}

#[tokio::test]
async fn foreign_tokens_are_rejected_and_waits_for_missing_views_end() {
    let world = world().await;
    let api = &world.api;
    let slot = calendar::upcoming(Weekday::Sat);
    let first = api.register("1", slot).await.expect("a new id is registered");
    let wrong = api.view("2", &first.consistency_token, WaitFor::Applied).await;
    expect(wrong, Code::InvalidArgument, "INVALID_CONSISTENCY_TOKEN");
    let altered = format!("{}x", first.consistency_token);
    expect(api.view("1", &altered, WaitFor::Applied).await, Code::InvalidArgument, "INVALID_CONSISTENCY_TOKEN");

    let mut request = Request::new(eticket_proto::query::GetTicketViewRequest {
        ticket_id: "never".to_owned(),
        consistency_token: String::new(),
        wait: WaitFor::Applied.into(),
    });
    request.set_timeout(TIMEOUT_WITH_REASON);
    let answer: Result<eticket_proto::query::GetTicketViewResponse, Status> =
        api.call_with("eticket.query.v1.QueryService/GetTicketView", request).await;
    names(&expect(answer, Code::DeadlineExceeded, "VIEW_NOT_CAUGHT_UP"), "ticket_id", "never");
}

#[tokio::test]
async fn errors_use_the_callers_language_on_every_protocol() {
    let world = world().await;
    for protocol in Protocol::ALL {
        let api = Api::new(&world.eticket, protocol);
        let mut texts = Vec::new();
        for language in ["en", "ko", "ko-KR,en;q=0.5", "fr"] {
            let mut request = Request::new(GetTicketRequest { ticket_id: "nobody".to_owned() });
            request.metadata_mut().insert("accept-language", language.parse().expect("ASCII"));
            let answer: Result<GetTicketResponse, Status> =
                api.call_with("eticket.ticket.v1.TicketService/GetTicket", request).await;
            let status = answer.expect_err("it is not there");
            assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "TICKET_NOT_FOUND"), "{protocol:?}");
            texts.push(status.get_details_localized_message().expect("every error speaks to people"));
        }
        let locales: Vec<&str> = texts.iter().map(|text| text.locale.as_str()).collect();
        assert_eq!(locales, ["en", "ko", "ko", "en"], "{protocol:?}");
        assert_ne!(texts[0].message, texts[1].message);
    }
}

/// An address without a listener.
fn nowhere() -> String {
    free_address().expect("a port").to_string()
}

fn try_again(status: &Status) {
    let retry = status.get_details_retry_info().expect("RetryInfo");
    assert!(retry.retry_delay.is_some_and(|delay| delay > Duration::ZERO), "{retry:?}");
    let pushback = status.metadata().get(headers::RETRY_PUSHBACK).expect("the trailer of gRFC A6");
    assert!(pushback.to_str().is_ok_and(|text| text.parse::<u64>().is_ok_and(|delay| delay > 0)), "{pushback:?}");
}

#[tokio::test]
async fn cancelling_works_without_the_ticket_service() {
    let data = TempDir::new().expect("a folder");
    let eticket = Eticket::start(data.path()).await;
    let api = Api::new(&eticket, Protocol::Gateway);
    let slot = calendar::upcoming(Weekday::Sat);
    api.register("1", slot).await.expect("a new id is registered");
    api.register("2", slot).await.expect("a new id is registered");
    let reserved = api.reserve("1", "A", UserGrade::Gold).await.expect("it is available");
    eticket.stop().await;

    // The reservation service alone, on the data of the all-in-one process.
    let address = nowhere();
    let alone = Launch::program("eticket-reservation")
        .data(data.path())
        .key("listen", "127.0.0.1:0")
        .key("bus.url", "embedded")
        .key("upstream.ticket.url", &format!("http://{address}"))
        .start()
        .await;
    let api = Api::at(alone.address("reservation"));
    let status = expect(api.reserve("2", "A", UserGrade::Gold).await, Code::Unavailable, "TICKET_SERVICE_OVERLOADED");
    try_again(&status);
    names(&status, "ticket_id", "2");
    let id = reserved.reservation.expect("an answer has its resource").reservation_id;
    api.cancel(&id).await.expect("cancelling needs no other service");
    alone.stop().await;
}

#[tokio::test]
async fn a_gateway_without_services_reports_unavailable_upstreams() {
    let address = format!("http://{}", nowhere());
    let mut launch = Launch::program("eticket-gateway").key("listen", "127.0.0.1:0");
    for service in ["ticket", "reservation", "pricing", "query"] {
        launch = launch.key(&format!("upstream.{service}.url"), &address);
    }
    let gateway = launch.start().await;
    for protocol in [Protocol::Gateway, Protocol::WebBinary, Protocol::WebText] {
        let status = expect(Api::new(&gateway, protocol).ticket("1").await, Code::Unavailable, "UPSTREAM_UNAVAILABLE");
        try_again(&status);
        names(&status, "upstream", "ticket");
    }
    gateway.stop().await;
}

#[test]
fn the_readme_lists_each_reason_beside_its_code() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("it is there");
    for reason in (1..1000).filter_map(|number| ErrorReason::try_from(number).ok()) {
        let code = format!("{:?}", ApiError::new(reason).code());
        let name = format!("`{}`", error_text::name(reason));
        let is_row = |line: &&str| {
            let first = line.split('|').nth(1).unwrap_or_default().trim().trim_matches('`');
            first.replace('_', "").eq_ignore_ascii_case(&code)
        };
        let row = readme.lines().filter(|line| line.starts_with("| `")).find(is_row);
        let row = row.unwrap_or_else(|| panic!("the table of errors has no row for {code}"));
        assert!(row.contains(&name), "{name} is not in: {row}");
    }
}
