//! The logs of all services for the correlation id of one request, changes of the log level at run time, and what a
//! terminal shows at the start.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::net::SocketAddr;

use chrono::Weekday;
use eticket_integration_tests::{
    Api, Eticket, Protocol, binary, calendar,
    eventually::{SOON, eventually},
    process::Launch,
};
use eticket_proto::{
    headers,
    reservation::{ReserveTicketRequest, ReserveTicketResponse, UserGrade},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Request;

/// Sends `PUT /log-level`; returns the raw response.
async fn set_level(eticket: &Eticket, level: &str) -> String {
    let mut stream = TcpStream::connect(eticket.address("admin")).await.expect("the admin server listens");
    let length = level.len();
    let request = format!(
        "PUT /log-level HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n\r\n{level}"
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut response = String::new();
    stream.read_to_string(&mut response).await.expect("a response in text");
    response
}

/// Reserves a ticket under a correlation id and waits until the view has settled.
async fn reserve(api: &Api, ticket: &str, correlation_id: &str) {
    let registered = api.register(ticket, calendar::upcoming(Weekday::Wed)).await.expect("registered");
    api.settled(ticket, &registered.consistency_token).await;
    let mut request = Request::new(ReserveTicketRequest {
        ticket_id: ticket.to_owned(),
        user_id: "A".to_owned(),
        user_grade: UserGrade::Vip.into(),
        ..ReserveTicketRequest::default()
    });
    request.metadata_mut().insert(headers::CORRELATION_ID, correlation_id.parse().expect("a header value"));
    let reserved: ReserveTicketResponse =
        api.call_with("eticket.reservation.v1.ReservationService/ReserveTicket", request).await.expect("reserved");
    api.settled(ticket, &reserved.consistency_token).await;
}

/// Returns the log lines of a correlation id: the message and the service from the fields.
fn lines_of(log: &str, correlation_id: &str) -> Vec<(String, String)> {
    let lines = log.lines().filter(|line| line.contains(correlation_id));
    let parse = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("each line is JSON");
        let found = [&line, &line["span"]].iter().any(|fields| fields["correlation_id"] == correlation_id);
        assert!(found, "the id is a field: {line}");
        let name = ["service", "reader", "consumer"].iter().find_map(|name| line[name].as_str());
        let name = name.or_else(|| line["span"]["service"].as_str()).unwrap_or_default();
        (line["message"].as_str().unwrap_or_default().to_owned(), name.to_owned())
    };
    lines.map(parse).collect()
}

#[tokio::test]
#[ignore = "needs the binary: cargo xtask test builds it"]
async fn one_reservation_is_followed_through_all_services() {
    let data = TempDir::new().expect("a folder");
    let eticket = Eticket::start(data.path()).await;
    let api = Api::new(&eticket, Protocol::Gateway);
    reserve(&api, "quiet", "before-debug").await;
    assert_eq!(lines_of(&eticket.log(), "before-debug"), [], "level info does not log single requests");

    assert!(set_level(&eticket, "verbose").await.starts_with("HTTP/1.1 400 "), "the level is invalid");
    let response = set_level(&eticket, "debug").await;
    assert!(response.starts_with("HTTP/1.1 204 "), "{response}");
    reserve(&api, "loud", "under-debug").await;
    for (message, name) in [
        ("call ended", "gateway"),
        ("call ended", "reservation"),
        ("call ended", "ticket"),
        ("published an event", "reservation"),
        ("received an event", "ticket"),
        ("received an event", "pricing"),
        ("received an event", "view"),
        ("published an event", "ticket"),
        ("published an event", "pricing"),
    ] {
        eventually(SOON, "the line", async || {
            let lines = lines_of(&eticket.log(), "under-debug");
            lines.iter().any(|line| (line.0.as_str(), line.1.as_str()) == (message, name)).then_some(()).ok_or(lines)
        })
        .await;
    }
    let response = set_level(&eticket, "info").await;
    assert!(response.starts_with("HTTP/1.1 204 "), "{response}");
    reserve(&api, "quiet-again", "after-debug").await;
    assert_eq!(lines_of(&eticket.log(), "after-debug"), []);
    eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_shows_the_addresses_and_no_log_of_the_start() {
    let data = TempDir::new().expect("a folder");
    let folder = data.path().to_str().expect("test folders are UTF-8");
    let program = binary::binary("eticket");
    let server = format!("echo pid=$$; exec {} --data {folder}", program.display());
    // `script` runs the command on a terminal and prints its output. On the end of its input it would end too.
    let command = format!("script --quiet --return --command '{server}' /dev/null");
    let eticket = Launch::as_shown(&command).on_free_ports().variable("TERM", "xterm-256color").start().await;
    let text = eventually(SOON, "the lines for people", async || {
        let output = eticket.output().replace('\r', "");
        match output.contains("Try: ") {
            true => Ok(output),
            false => Err(output),
        }
    })
    .await;
    let pid = text.lines().find_map(|line| line.strip_prefix("pid=")).expect("the shell prints it");
    let pid = pid.parse().ok().and_then(Pid::from_raw).expect("an id");
    kill_process(pid, Signal::TERM).expect("it runs");
    let exit = eticket.exit().await;
    assert_eq!(exit.code, Some(0), "{exit:?}");

    let (start, _) = text.split_once("Try: ").expect("the block ends with a command");
    let lines = start.lines().filter(|line| {
        let of_programs = line.starts_with("{\"ready\":true") || line.starts_with("pid=");
        !of_programs && !line.is_empty()
    });
    let lines: Vec<&str> = lines.collect();
    // Nothing else: no line of the log, no colours, no `Debug` of a value.
    let names = ["gateway", "reservation", "query", "pricing", "ticket", "admin"];
    assert_eq!(lines.len(), 1 + names.len(), "{text}");
    assert_eq!(lines[0], "eticket is ready", "{text}");
    for (line, name) in lines[1..].iter().zip(names) {
        let (shown, address) = line.trim_start().split_once(' ').expect("name and address");
        assert_eq!(shown, name, "{text}");
        assert!(address.trim().parse::<SocketAddr>().is_ok_and(|address| address.port() != 0), "{text}");
    }
    assert!(text.contains("Try: grpcurl -plaintext 127.0.0.1:"), "{text}");
}
