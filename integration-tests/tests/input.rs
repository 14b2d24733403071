//! Invalid values for every field of every RPC: each is rejected with the name of the field and a short text, and
//! nothing is stored.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::fmt::Debug;

use chrono::Weekday;
use eticket_integration_tests::{
    Api, Eticket, Protocol, aftermath,
    api::{TIMEOUT_WITH_REASON, channel, reason},
    calendar,
    raw::Raw,
};
use eticket_proto::{
    headers, operations as ops, pricing, query,
    query::query_service_client::QueryServiceClient,
    reservation::{self, UserGrade},
    ticket,
    token::{self, Kind},
};
use prost::Message;
use prost_types::{FieldMask, Timestamp};
use tempfile::TempDir;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

/// The range of `google.protobuf.Timestamp`.
const FIRST_SECOND: i64 = -62_135_596_800;
const LAST_SECOND: i64 = 253_402_300_799;
const MEGABYTE: usize = 1 << 20;

struct World {
    eticket: Eticket,
    apis: [Api; 2],
    _data: TempDir,
}

async fn world() -> World {
    let data = TempDir::new().expect("a folder");
    let eticket = Eticket::start(data.path()).await;
    let apis = [Api::new(&eticket, Protocol::Direct), Api::new(&eticket, Protocol::Gateway)];
    World { eticket, apis, _data: data }
}

impl World {
    /// Returns the reason of a rejection, on each protocol; the errors must be short, whatever the request contains.
    async fn refused(&self, method: &'static str, request: impl Message + Clone + Debug + 'static) -> Status {
        let mut last = None;
        for api in &self.apis {
            let answer: Result<Raw, Status> = api.call(method, request.clone()).await;
            let Err(status) = answer else { panic!("{method} takes {:.300}", format!("{request:?}")) };
            assert!(
                status.message().len() < 2_000 && status.details().len() < 8_000,
                "{method}: the error is too long"
            );
            let known = status.get_details_error_info().is_some_and(|info| info.domain == "eticket");
            assert!(known, "{method} does not say why: {status:?}, {:.300}", format!("{request:?}"));
            last = Some(status);
        }
        last.expect("there are two ways")
    }

    /// Checks that the request is rejected because of this field.
    async fn field(&self, method: &'static str, field: &str, request: impl Message + Clone + Debug + 'static) {
        let shown = format!("{method}, {field}: {:.300}", format!("{request:?}"));
        let status = self.refused(method, request).await;
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_FIELD"), "{shown}");
        let bad = status.get_details_bad_request().unwrap_or_else(|| panic!("{shown}: {status:?}"));
        assert!(bad.field_violations.iter().any(|violation| violation.field == field), "{shown}: {bad:?}");
    }

    async fn reason(&self, method: &'static str, expected: &str, request: impl Message + Clone + Debug + 'static) {
        let shown = format!("{method}: {:.300}", format!("{request:?}"));
        assert_eq!(reason(&self.refused(method, request).await), expected, "{shown}");
    }
}

fn at(seconds: i64, nanos: i32) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos })
}

/// Invalid times.
fn invalid_times() -> [Option<Timestamp>; 8] {
    [
        at(i64::MIN, 0),
        at(i64::MAX, 0),
        at(FIRST_SECOND - 1, 0),
        at(LAST_SECOND + 1, 0),
        at(0, -1),
        at(0, 1_000_000_000),
        at(0, i32::MIN),
        at(0, i32::MAX),
    ]
}

fn invalid_ids() -> Vec<String> {
    let texts = ["a.b", "a b", "*", "표", "a\0", "a\n", "../../etc/passwd", "'; drop table ticket; --"];
    texts.map(str::to_owned).into_iter().chain(["x".repeat(65), "x".repeat(MEGABYTE)]).collect()
}

/// Texts that are neither a valid title nor a valid user.
fn invalid_texts(longest: usize) -> Vec<String> {
    let texts = ["", "a\0b", "line\nbreak", "\u{7f}", "\u{85}"];
    texts.map(str::to_owned).into_iter().chain(["한".repeat(longest + 1), "x".repeat(MEGABYTE)]).collect()
}

fn invalid_tokens() -> Vec<String> {
    let other_kind = token::seal(Kind::Consistency, b"r t 1");
    let texts = ["x", "!!!!", "AAAA", "한국어", "\0", &other_kind, "='=", "%00"];
    texts.map(str::to_owned).into_iter().chain(["A".repeat(5_000), "x".repeat(MEGABYTE)]).collect()
}

fn registration() -> ticket::RegisterTicketRequest {
    ticket::RegisterTicketRequest {
        ticket_id: "1".into(),
        title: "t".into(),
        start_time: at(0, 0),
        end_time: at(1, 0),
        request_id: String::new(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_fields_of_tickets_are_named() {
    let world = world().await;
    let register = "eticket.ticket.v1.TicketService/RegisterTicket";
    for ticket_id in invalid_ids() {
        world.field(register, "ticket_id", ticket::RegisterTicketRequest { ticket_id, ..registration() }).await;
    }
    for title in invalid_texts(200) {
        world.field(register, "title", ticket::RegisterTicketRequest { title, ..registration() }).await;
    }
    for time in invalid_times().into_iter().chain([None]) {
        let request = ticket::RegisterTicketRequest { start_time: time, ..registration() };
        world.field(register, "start_time", request).await;
        world.field(register, "end_time", ticket::RegisterTicketRequest { end_time: time, ..registration() }).await;
    }
    for end_time in [at(0, 0), at(-1, 999_999_999), at(0, 999)] {
        // Times are truncated to microseconds: an end that differs by less is not after the start.
        world.field(register, "end_time", ticket::RegisterTicketRequest { end_time, ..registration() }).await;
    }
    for request_id in ["x".to_owned(), "1".repeat(36), "x".repeat(MEGABYTE)] {
        world.field(register, "request_id", ticket::RegisterTicketRequest { request_id, ..registration() }).await;
    }

    world.apis[0].register("real", calendar::upcoming(Weekday::Sun)).await.expect("registered");
    let update = "eticket.ticket.v1.TicketService/UpdateTicket";
    let change = || ticket::UpdateTicketRequest { ticket_id: "real".into(), title: "new".into(), ..Default::default() };
    for path in ["", "price", "title,end_time", "ticket.title", "\0", &"x".repeat(MEGABYTE)] {
        let update_mask = Some(FieldMask { paths: vec!["title".into(), path.to_owned()] });
        world.field(update, "update_mask", ticket::UpdateTicketRequest { update_mask, ..change() }).await;
    }
    for (path, field) in [("end_time", "end_time"), ("start_time", "start_time"), ("*", "start_time")] {
        let update_mask = Some(FieldMask { paths: vec![path.to_owned()] });
        world.field(update, field, ticket::UpdateTicketRequest { update_mask, ..change() }).await;
    }
    for end_time in invalid_times().into_iter().chain([at(0, 0)]) {
        world.field(update, "end_time", ticket::UpdateTicketRequest { end_time, ..change() }).await;
    }
    let withdraw = "eticket.ticket.v1.TicketService/WithdrawTicket";
    for etag in ["0", "-1", "1 ", "\0", &"9".repeat(MEGABYTE)] {
        let etag = etag.to_owned();
        world.reason(update, "ETAG_MISMATCH", ticket::UpdateTicketRequest { etag: etag.clone(), ..change() }).await;
        let request = ticket::WithdrawTicketRequest { ticket_id: "real".into(), etag, ..Default::default() };
        world.reason(withdraw, "ETAG_MISMATCH", request).await;
    }
    for id in invalid_ids().into_iter().chain([String::new()]) {
        let (get, check) =
            ("eticket.ticket.v1.TicketService/GetTicket", "eticket.ticket.v1.TicketService/CheckAvailability");
        world.field(get, "ticket_id", ticket::GetTicketRequest { ticket_id: id.clone() }).await;
        world.field(check, "ticket_id", ticket::CheckAvailabilityRequest { ticket_id: id.clone() }).await;
        world.field(update, "ticket_id", ticket::UpdateTicketRequest { ticket_id: id.clone(), ..change() }).await;
        let request = ticket::WithdrawTicketRequest { ticket_id: id, ..Default::default() };
        world.field(withdraw, "ticket_id", request).await;
    }
    let kept = world.apis[0].ticket("real").await.expect("it is there");
    assert_eq!((kept.title.as_str(), kept.etag.as_str(), kept.revision), ("Ticket real", "1", 1));
    aftermath::serves(&world.eticket).await;
    aftermath::ends_well(world.eticket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_fields_of_reservations_prices_and_operations_are_named() {
    let world = world().await;
    let reserve = "eticket.reservation.v1.ReservationService/ReserveTicket";
    let wish = || reservation::ReserveTicketRequest {
        ticket_id: "1".into(),
        user_id: "A".into(),
        user_grade: UserGrade::Gold.into(),
        request_id: String::new(),
    };
    for user_id in invalid_texts(128) {
        world.field(reserve, "user_id", reservation::ReserveTicketRequest { user_id, ..wish() }).await;
    }
    for ticket_id in invalid_ids() {
        world.field(reserve, "ticket_id", reservation::ReserveTicketRequest { ticket_id, ..wish() }).await;
    }
    for user_grade in [0, 4, -1, i32::MIN, i32::MAX] {
        world.field(reserve, "user_grade", reservation::ReserveTicketRequest { user_grade, ..wish() }).await;
    }
    let request = reservation::ReserveTicketRequest { request_id: "no uuid".into(), ..wish() };
    world.field(reserve, "request_id", request).await;
    let (get, cancel) = (
        "eticket.reservation.v1.ReservationService/GetReservation",
        "eticket.reservation.v1.ReservationService/CancelReservation",
    );
    let uuid = "01890a5d-ac96-774b-bcce-b302099a8057";
    let spellings = [format!("{{{uuid}}}"), format!("urn:uuid:{uuid}"), uuid.replace('-', ""), format!("{uuid}0")];
    for reservation_id in invalid_ids().into_iter().chain(spellings).chain([String::new()]) {
        let id = reservation_id.clone();
        world.field(get, "reservation_id", reservation::GetReservationRequest { reservation_id }).await;
        let request = reservation::CancelReservationRequest { reservation_id: id, ..Default::default() };
        world.field(cancel, "reservation_id", request).await;
    }

    let quote = "eticket.pricing.v1.PricingService/QuotePrice";
    for start_time in invalid_times().into_iter().chain([None]) {
        let request = pricing::QuotePriceRequest { start_time, user_grade: UserGrade::Vip.into() };
        world.field(quote, "start_time", request).await;
    }
    for user_grade in [4, -1, i32::MIN] {
        let request = pricing::QuotePriceRequest { start_time: at(0, 0), user_grade };
        world.field(quote, "user_grade", request).await;
    }
    let price = "eticket.pricing.v1.PricingService/GetPrice";
    for ticket_id in invalid_ids() {
        world.field(price, "ticket_id", pricing::GetPriceRequest { ticket_id }).await;
    }
    operations(&world).await;
    aftermath::serves(&world.eticket).await;
    aftermath::ends_well(world.eticket).await;
}

async fn operations(world: &World) {
    let list = "eticket.operations.v1.OperationsService/ListParkedEvents";
    let resend = "eticket.operations.v1.OperationsService/ResendParkedEvent";
    for service in ["ticket", "reservation", "pricing", "query"] {
        let api = Api::at(world.eticket.address(service));
        let refused = async |method, request: Raw| -> Status {
            let answer: Result<Raw, Status> = api.call(method, request).await;
            let status = answer.expect_err("it is refused");
            assert!(status.message().len() < 2_000 && status.details().len() < 8_000, "{status:?}");
            status
        };
        let page = |page_size, page_token: &str| {
            let page_token = page_token.to_owned();
            Raw(ops::ListParkedEventsRequest { page_size, page_token }.encode_to_vec())
        };
        assert_eq!(reason(&refused(list, page(-1, "")).await), "INVALID_FIELD", "{service}");
        for token in invalid_tokens() {
            assert_eq!(reason(&refused(list, page(0, &token)).await), "INVALID_PAGE_TOKEN", "{service}");
        }
        for event_id in ["none".to_owned(), "x".repeat(MEGABYTE), "'; delete from parked; --".to_owned()] {
            let request = Raw(ops::ResendParkedEventRequest { event_id }.encode_to_vec());
            assert_eq!(reason(&refused(resend, request).await), "INVALID_FIELD", "{service}");
        }
    }
    for name in ["", "nobody", "TICKET", "ticket,query", &"x".repeat(7_000)] {
        let mut request = Request::new(ops::ListParkedEventsRequest::default());
        request.metadata_mut().insert(headers::SERVICE, name.parse().expect("ASCII"));
        let answer: Result<Raw, Status> = world.apis[1].call_with(list, request).await;
        let status = answer.expect_err("it is refused");
        assert_eq!(reason(&status), "INVALID_FIELD", "{name:.20}: {status:?}");
        assert!(status.message().contains(headers::SERVICE), "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_fields_of_lists_are_named() {
    let world = world().await;
    for number in 0..3 {
        let registered = world.apis[0].register(&format!("t{number}"), calendar::upcoming(Weekday::Sun)).await;
        let token = registered.expect("registered").consistency_token;
        world.apis[0].settled(&format!("t{number}"), &token).await;
        world.apis[0].reserve(&format!("t{number}"), "A", UserGrade::Gold).await.expect("reserved");
    }
    let lists: [(&'static str, Lister); 6] = [
        ("eticket.ticket.v1.TicketService/ListTickets", |page_size, page_token| {
            Raw(ticket::ListTicketsRequest { page_size, page_token, ..Default::default() }.encode_to_vec())
        }),
        ("eticket.reservation.v1.ReservationService/ListReservations", |page_size, page_token| {
            Raw(reservation::ListReservationsRequest { page_size, page_token, ..Default::default() }.encode_to_vec())
        }),
        ("eticket.pricing.v1.PricingService/ListPrices", |page_size, page_token| {
            Raw(pricing::ListPricesRequest { page_size, page_token }.encode_to_vec())
        }),
        ("eticket.query.v1.QueryService/ListTicketViews", |page_size, page_token| {
            Raw(query::ListTicketViewsRequest { page_size, page_token, ..Default::default() }.encode_to_vec())
        }),
        ("eticket.query.v1.QueryService/ListUserReservations", |page_size, page_token| {
            let user_id = "A".to_owned();
            Raw(query::ListUserReservationsRequest { user_id, page_size, page_token }.encode_to_vec())
        }),
        ("eticket.query.v1.QueryService/GetTicketHistory", |page_size, page_token| {
            let ticket_id = "t0".to_owned();
            Raw(query::GetTicketHistoryRequest { ticket_id, page_size, page_token }.encode_to_vec())
        }),
    ];
    let mut tokens = Vec::new();
    for (method, list) in lists {
        for page_size in [-1, i32::MIN] {
            world.field(method, "page_size", list(page_size, String::new())).await;
        }
        for token in invalid_tokens() {
            world.reason(method, "INVALID_PAGE_TOKEN", list(0, token)).await;
        }
        let all: Raw = world.apis[0].call(method, list(i32::MAX, String::new())).await.expect("it is coerced");
        assert!(!all.0.is_empty());
        tokens.push(next_page_token(&world, method, list(1, String::new())).await);
    }
    for (at, (method, list)) in lists.into_iter().enumerate() {
        for (of, token) in tokens.iter().enumerate() {
            if at != of {
                world.reason(method, "INVALID_PAGE_TOKEN", list(0, token.clone())).await;
            }
        }
        // A valid checksum with a key that no list has returned.
        let genuine = token::open(Kind::Page, &tokens[at]).expect("it was given out");
        let keys: [&[u8]; 8] =
            [b"", b"\xff\xfe", b"[]", b"[1e999]", b"9999999999999999999 x", b"-1 -1", b"'", &[b'x'; 2_000]];
        for key in keys {
            let forged = token::seal(Kind::Page, &[&genuine[..8], key].concat());
            for api in &world.apis {
                let answer: Result<Raw, Status> = api.call(method, list(0, forged.clone())).await;
                let reason = answer.as_ref().err().map(reason);
                assert!(reason.is_none_or(|reason| reason == "INVALID_PAGE_TOKEN"), "{method}, {key:?}: {answer:?}");
            }
        }
    }
    filters(&world).await;
    aftermath::serves(&world.eticket).await;
    aftermath::ends_well(world.eticket).await;
}

type Lister = fn(i32, String) -> Raw;

/// Field numbers of the page requests differ, but the token is the last string of each response.
async fn next_page_token(world: &World, method: &'static str, request: Raw) -> String {
    let answer: Raw = world.apis[0].call(method, request).await.expect("a page");
    let field_2 = 0x12;
    let start = answer.0.iter().rposition(|byte| *byte == field_2).expect("there is another page");
    String::from_utf8(answer.0[start + 2..].to_vec()).expect("a token is text")
}

async fn filters(world: &World) {
    let views = "eticket.query.v1.QueryService/ListTicketViews";
    let all = query::ListTicketViewsRequest::default;
    for filter in [5, -1, i32::MAX] {
        world.field(views, "filter_status", query::ListTicketViewsRequest { filter_status: filter, ..all() }).await;
        let request = ticket::ListTicketsRequest { filter_status: filter, ..Default::default() };
        world.field("eticket.ticket.v1.TicketService/ListTickets", "filter_status", request).await;
        let request = reservation::ListReservationsRequest { filter_status: filter, ..Default::default() };
        let reservations = "eticket.reservation.v1.ReservationService/ListReservations";
        world.field(reservations, "filter_status", request).await;
    }
    for order in [
        "nonsense",
        "start_time down",
        "start_time desc desc",
        "start_time,start_time",
        ",",
        "ticket_id,",
        "start_time; drop table view",
        "\0",
        &"start_time,".repeat(100_000),
    ] {
        let order_by = order.to_owned();
        world.field(views, "order_by", query::ListTicketViewsRequest { order_by, ..all() }).await;
    }
    for time in invalid_times() {
        let request = query::ListTicketViewsRequest { start_time_from: time, ..all() };
        world.field(views, "start_time_from", request).await;
        world.field(views, "start_time_to", query::ListTicketViewsRequest { start_time_to: time, ..all() }).await;
    }
    for user in invalid_texts(128).into_iter().filter(|user| !user.is_empty()) {
        let request = query::ListTicketViewsRequest { filter_user_id: user.clone(), ..all() };
        world.field(views, "filter_user_id", request).await;
        let request = query::ListUserReservationsRequest { user_id: user, ..Default::default() };
        world.field("eticket.query.v1.QueryService/ListUserReservations", "user_id", request).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_fields_of_views_and_watches_are_named() {
    let world = world().await;
    let registered = world.apis[0].register("real", calendar::upcoming(Weekday::Sun)).await.expect("registered");
    world.apis[0].settled("real", &registered.consistency_token).await;
    let get = "eticket.query.v1.QueryService/GetTicketView";
    let real = || query::GetTicketViewRequest { ticket_id: "real".into(), ..Default::default() };
    for wait in [4, -1, i32::MIN, i32::MAX] {
        world.field(get, "wait", query::GetTicketViewRequest { wait, ..real() }).await;
    }
    for ticket_id in invalid_ids() {
        world.field(get, "ticket_id", query::GetTicketViewRequest { ticket_id, ..real() }).await;
    }
    let forged = ["", "r", "r real", "r real x", "r real 1 2", "t real 1", "t real 1 1 1 1", "x real 1"];
    let forged = forged.map(|payload| token::seal(Kind::Consistency, payload.as_bytes()));
    for consistency_token in invalid_tokens().into_iter().chain(forged) {
        let request = query::GetTicketViewRequest { consistency_token, ..real() };
        world.reason(get, "INVALID_CONSISTENCY_TOKEN", request).await;
    }
    // Well-formed tokens with revisions that are never reached or are invalid.
    let waits = [format!("r real {}", i64::MAX), format!("t real {} {} 1", i64::MAX, i64::MIN)].map(|payload| {
        let consistency_token = token::seal(Kind::Consistency, payload.as_bytes());
        let wait = query::WaitFor::Settled.into();
        let mut request = Request::new(query::GetTicketViewRequest { consistency_token, wait, ..real() });
        request.set_timeout(TIMEOUT_WITH_REASON);
        world.apis[0].call_with::<_, Raw>(get, request)
    });
    for answer in futures::future::join_all(waits).await {
        assert_eq!(reason(&answer.expect_err("it never comes")), "VIEW_NOT_CAUGHT_UP");
    }
    watches(&world).await;
    aftermath::serves(&world.eticket).await;
    aftermath::ends_well(world.eticket).await;
}

async fn watches(world: &World) {
    for server in ["query", "gateway"] {
        let mut client = QueryServiceClient::new(channel(world.eticket.address(server)));
        let mut field = async |ticket_ids: Vec<String>, resume_token: String, field: &str| {
            let request = query::WatchTicketViewsRequest { ticket_ids, resume_token };
            let status = client.watch_ticket_views(request).await.expect_err(field);
            assert_eq!(reason(&status), "INVALID_FIELD", "{field}: {status:?}");
            let bad = status.get_details_bad_request().expect("it names the field");
            assert_eq!(bad.field_violations[0].field, field);
        };
        for token in invalid_tokens().into_iter().chain([token::seal(Kind::Resume, b"short")]) {
            field(Vec::new(), token, "resume_token").await;
        }
        for id in invalid_ids() {
            field(vec!["real".into(), id], String::new(), "ticket_ids[1]").await;
        }
        field(vec!["real".into(); 1_001], String::new(), "ticket_ids").await;

        // A position that the stream never had, by its epoch or beyond its end, starts with a snapshot.
        let mut watch = async |payload: &[u8]| {
            let resume_token = if payload.is_empty() { String::new() } else { token::seal(Kind::Resume, payload) };
            let request = query::WatchTicketViewsRequest { ticket_ids: vec!["real".into()], resume_token };
            client.watch_ticket_views(request).await.expect("it watches").into_inner()
        };
        let first = watch(&[]).await.message().await.expect("a snapshot").expect("of one row");
        let place = token::open(Kind::Resume, &first.resume_token).expect("the last row has it");
        for epoch in [&b"another"[..], &place[8..]] {
            let other = watch(&[&u64::MAX.to_be_bytes()[..], epoch].concat()).await.message().await;
            assert_eq!(other.expect("a snapshot").expect("of one row").view, first.view);
        }
    }
}

/// The first and the last valid time, through all services.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_and_the_last_valid_time_are_accepted() {
    let world = world().await;
    let [api, _] = &world.apis;
    let (first, last) = (at(FIRST_SECOND, 0), at(LAST_SECOND, 999_999_999));
    for (id, start_time, end_time) in [
        ("all", first, last),
        ("first", first, at(FIRST_SECOND, 1_000)),
        ("last", at(LAST_SECOND, 999_998_000), last),
        ("turn", at(-1, 999_999_000), at(0, 0)),
    ] {
        let request = ticket::RegisterTicketRequest { ticket_id: id.into(), start_time, end_time, ..registration() };
        let answer: ticket::RegisterTicketResponse =
            api.call("eticket.ticket.v1.TicketService/RegisterTicket", request).await.expect("it is a time");
        let view = api.settled(id, &answer.consistency_token).await;
        assert_eq!((view.start_time, view.settled), (start_time, true), "{id}");
        let reserved = api.reserve(id, "A", UserGrade::Vip).await;
        match id {
            "all" | "last" => {
                let view = api.settled(id, &reserved.expect("its end is to come").consistency_token).await;
                assert_eq!(view.user_id, "A", "{id}");
            }
            _ => assert_eq!(reason(&reserved.expect_err("its end is past")), "TICKET_EXPIRED", "{id}"),
        }
    }
    let request = query::ListTicketViewsRequest { start_time_from: first, start_time_to: last, ..Default::default() };
    let answer: query::ListTicketViewsResponse =
        api.call("eticket.query.v1.QueryService/ListTicketViews", request).await.expect("a page");
    let ids: Vec<_> = answer.views.iter().map(|view| view.ticket_id.as_str()).collect();
    assert_eq!(ids, ["all", "first", "turn", "last"]);
    aftermath::serves(&world.eticket).await;
    aftermath::ends_well(world.eticket).await;
}
