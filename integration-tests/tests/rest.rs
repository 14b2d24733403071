//! The API through plain HTTP: REST and Connect with JSON against the all-in-one process.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use chrono::{SecondsFormat, Weekday};
use eticket_integration_tests::{Eticket, calendar, process::Launch, rest::Http};
use http::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

fn ticket(id: &str, title: &str) -> Value {
    let slot = calendar::upcoming(Weekday::Fri);
    let [start, end] = [slot.start, slot.end].map(|time| time.to_rfc3339_opts(SecondsFormat::Secs, true));
    json!({"ticketId": id, "title": title, "startTime": start, "endTime": end})
}

async fn start() -> (Eticket, Http, TempDir) {
    let data = TempDir::new().expect("a folder");
    let eticket = Eticket::start(data.path()).await;
    let http = Http::new(&eticket);
    (eticket, http, data)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "starts the binary: cargo xtask test"]
async fn tickets_are_edited_reserved_and_watched_by_rest() {
    let (eticket, http, _data) = start().await;
    let key = Uuid::new_v4().to_string();
    let registered = http.command("POST", "/v1/tickets", &[("idempotency-key", &key)], &ticket("r1", "Jazz")).await;
    let first = registered.header("etag").to_owned();
    assert!(first.starts_with('"') && first.len() > 2, "{:?}", registered.headers);
    let again = http.command("POST", "/v1/tickets", &[("idempotency-key", &key)], &ticket("r1", "Jazz")).await;
    assert_eq!(again.body, registered.body);
    let other = http.command("POST", "/v1/tickets", &[("idempotency-key", &key)], &ticket("r1", "Blues")).await;
    assert_eq!(other.refusal(), (400, "REQUEST_ID_REUSED"));

    let edit = json!({"title": "Jazz at night"});
    let edited = http.command("PATCH", "/v1/tickets/r1", &[("if-match", &first)], &edit).await;
    assert_ne!(edited.header("etag"), first);
    assert_eq!(edited.body["ticket"]["title"], "Jazz at night");
    assert_eq!(edited.body["ticket"]["startTime"], registered.body["ticket"]["startTime"]);
    let stale = http.command("PATCH", "/v1/tickets/r1", &[("if-match", &first)], &edit).await;
    assert_eq!(stale.refusal(), (409, "ETAG_MISMATCH"));
    let cleared = http.command("PATCH", "/v1/tickets/r1", &[], &json!({"title": ""})).await;
    assert_eq!(cleared.refusal(), (400, "INVALID_FIELD"), "a field in the body is changed, also to nothing");

    let watch = "/v1/views:watch?ticketIds=r1";
    let id = http.event(watch, "", |event| event["view"]["title"] == "Jazz at night").await;
    let key = Uuid::new_v4().to_string();
    let body = json!({"ticketId": "r1", "userId": "A", "userGrade": "USER_GRADE_VIP"});
    let reserved = http.command("POST", "/v1/reservations", &[("idempotency-key", &key)], &body).await.ok();
    let again = http.command("POST", "/v1/reservations", &[("idempotency-key", &key)], &body).await.ok();
    assert_eq!(again, reserved);
    let id = http.event(watch, &id, |event| event["view"]["ticketStatus"] == "TICKET_STATUS_RESERVED").await;

    let token = reserved["consistencyToken"].as_str().expect("a token");
    let view = http.get(&format!("/v1/views/r1?wait=WAIT_FOR_SETTLED&consistency_token={token}")).await.ok();
    assert_eq!((&view["view"]["userId"], &view["view"]["settled"]), (&json!("A"), &json!(true)));
    let price = http.get("/v1/prices/r1").await.ok();
    assert_eq!(price["price"]["discountedPrice"], view["view"]["discountedPrice"]);
    let quote = http.get("/v1/prices:quote?startTime=2099-01-07T10:00:00%2B09:00&userGrade=USER_GRADE_VIP").await.ok();
    assert_eq!(quote["price"]["discountedPrice"]["units"], "7000");
    let listed = http.get("/v1/users/A/reservations?page_size=1").await.ok();
    assert_eq!(listed["reservations"][0]["reservation"]["reservationId"], reserved["reservation"]["reservationId"]);
    let available = http.get("/v1/tickets/r1:checkAvailability").await.ok();
    assert_eq!((&available["available"], &available["reason"]), (&json!(false), &json!("UNAVAILABLE_REASON_RESERVED")));

    let reservation = reserved["reservation"]["reservationId"].as_str().expect("an id");
    let cancelled = http.send("POST", &format!("/v1/reservations/{reservation}:cancel"), &[], "").await.ok();
    assert_eq!(cancelled["reservation"]["status"], "RESERVATION_STATUS_CANCELLED");
    http.event(watch, &id, |event| event["view"]["ticketStatus"] == "TICKET_STATUS_AVAILABLE").await;
    let withdrawn = http.command("POST", "/v1/tickets/r1:withdraw", &[("if-match", "*")], &json!({})).await.ok();
    assert_eq!(withdrawn["ticket"]["status"], "TICKET_STATUS_WITHDRAWN");
    eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "starts the binary: cargo xtask test"]
async fn refusals_have_the_status_of_http_and_the_reason_of_grpc() {
    let (eticket, http, _data) = start().await;
    http.command("POST", "/v1/tickets", &[], &ticket("r2", "Jazz")).await.ok();
    let reserve = json!({"ticketId": "r2", "userId": "A", "userGrade": "USER_GRADE_GOLD"});
    http.command("POST", "/v1/reservations", &[], &reserve).await.ok();
    for (verb, path, body, status, reason) in [
        ("POST", "/v1/reservations", reserve, 400, "TICKET_ALREADY_RESERVED"),
        ("POST", "/v1/tickets", ticket("r2", "Jazz"), 409, "TICKET_ALREADY_EXISTS"),
        ("POST", "/v1/tickets/none:withdraw", json!({}), 404, "TICKET_NOT_FOUND"),
        ("PATCH", "/v1/tickets/r2", json!({"ticketId": "r3", "title": "x"}), 400, "INVALID_FIELD"),
        ("POST", "/v1/tickets", json!({"titel": "x"}), 400, "INVALID_FIELD"),
        ("PUT", "/v1/tickets/r2", json!({}), 405, ""),
        ("POST", "/v1/nothing", json!({}), 404, ""),
    ] {
        let sent = http.command(verb, path, &[], &body).await;
        assert_eq!(sent.refusal(), (status, reason), "{verb} {path}: {}", sent.body);
    }
    assert_eq!(http.send("DELETE", "/v1/tickets/r2", &[], "").await.header("allow"), "GET, HEAD, OPTIONS, PATCH");
    let plain = [("content-type", "text/plain")];
    assert_eq!(http.send("POST", "/v1/tickets", &plain, "{}").await.refusal(), (415, "INVALID_FIELD"));
    let large = ticket("r4", &"x".repeat(5 * 1024 * 1024));
    assert_eq!(http.command("POST", "/v1/tickets", &[], &large).await.status, 413);
    let korean = http.send("GET", "/v1/tickets/none", &[("accept-language", "ko")], "").await;
    let text = korean.body["details"].as_array().expect("details").iter().find(|detail| detail["locale"] == "ko");
    assert!(text.is_some(), "{}", korean.body);
    eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "starts the binary: cargo xtask test"]
async fn an_overloaded_gateway_says_when_to_retry() {
    let data = TempDir::new().expect("a folder");
    let eticket = Launch::all_in_one(data.path()).key("gateway.limits.concurrency", "1").start().await;
    let http = Http::new(&eticket);
    let watch = http.open("GET", "/v1/views:watch", &[], "").await;
    assert_eq!(watch.status(), StatusCode::OK);
    let refused = http.get("/v1/tickets").await;
    assert_eq!(refused.refusal(), (503, "SERVICE_OVERLOADED"));
    assert_eq!(refused.header("retry-after"), "1");
    drop(watch);
    eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "starts the binary: cargo xtask test"]
async fn tickets_are_reserved_by_connect_with_json() {
    let (eticket, http, _data) = start().await;
    let version = [("connect-protocol-version", "1")];
    let call = async |method: &str, body: Value| http.command("POST", method, &version, &body).await;
    call("/eticket.ticket.v1.TicketService/RegisterTicket", ticket("c1", "Jazz")).await.ok();
    let id = Uuid::new_v4().to_string();
    let reserve = json!({"ticketId": "c1", "userId": "A", "userGrade": "USER_GRADE_VIP", "requestId": id});
    let method = "/eticket.reservation.v1.ReservationService/ReserveTicket";
    let reserved = call(method, reserve.clone()).await.ok();
    assert_eq!(call(method, reserve).await.ok(), reserved);
    let token = reserved["consistencyToken"].as_str().expect("a token");
    let message = format!("%7B%22ticketId%22:%22c1%22,%22wait%22:3,%22consistencyToken%22:%22{token}%22%7D");
    let get = "/eticket.query.v1.QueryService/GetTicketView?connect=v1&encoding=json";
    let view = http.get(&format!("{get}&message={message}")).await.ok();
    assert_eq!((&view["view"]["userId"], &view["view"]["settled"]), (&json!("A"), &json!(true)));
    let refused = call(method, json!({"ticketId": "c1", "userId": "B", "userGrade": "USER_GRADE_VIP"})).await;
    assert_eq!((refused.status, &refused.body["code"]), (400, &json!("failed_precondition")));
    let details = refused.body["details"].as_array().expect("details");
    assert!(details.iter().any(|detail| detail["debug"]["reason"] == "TICKET_ALREADY_RESERVED"), "{}", refused.body);
    let command = format!("{method}?connect=v1&encoding=json&message=%7B%7D");
    assert_eq!(http.open("GET", &command, &[], "").await.status(), 405, "a command is no GET");
    let health = call("/grpc.health.v1.Health/Check", json!({"service": "readiness"})).await.ok();
    assert_eq!(health, json!({"status": "SERVING"}));
    eticket.stop().await;
}
