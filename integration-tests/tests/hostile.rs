//! Requests that no correct client sends, on every port: each one is rejected or disconnected on its own, and other
//! clients are not affected.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::Weekday;
use eticket_integration_tests::{
    Api, Eticket, Protocol, aftermath,
    api::reason,
    calendar,
    process::{Launch, SERVERS},
    raw::Raw,
};
use eticket_proto::ticket::{GetTicketRequest, RegisterTicketRequest};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use prost::Message;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::{Code, Status};

/// Each server, and a unary method that it serves.
const METHODS: [(&str, &str); 5] = [
    ("ticket", "/eticket.ticket.v1.TicketService/GetTicket"),
    ("reservation", "/eticket.reservation.v1.ReservationService/GetReservation"),
    ("pricing", "/eticket.pricing.v1.PricingService/GetPrice"),
    ("query", "/eticket.query.v1.QueryService/GetTicketView"),
    ("gateway", "/eticket.ticket.v1.TicketService/GetTicket"),
];
const GRPC: (&str, &str) = ("content-type", "application/grpc");
const BOUND: Duration = Duration::from_secs(30);

async fn start() -> (Eticket, TempDir) {
    let data = TempDir::new().expect("a folder");
    (Eticket::start(data.path()).await, data)
}

/// A plain HTTP/2 client without gRPC.
struct Http(Client<HttpConnector, Full<Bytes>>);

/// A response: the HTTP status, and the gRPC status from headers or trailers.
#[derive(Debug)]
struct HttpResponse {
    http: StatusCode,
    grpc: Option<Status>,
}

impl HttpResponse {
    fn code(&self) -> Option<Code> {
        self.grpc.as_ref().map(Status::code)
    }
}

impl Http {
    fn new() -> Self {
        Self(Client::builder(TokioExecutor::new()).http2_only(true).build_http())
    }

    /// Returns `None` if the server reset the stream.
    async fn send(&self, address: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<HttpResponse> {
        let mut request = Request::post(format!("http://{address}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.request(request.body(Full::new(Bytes::copy_from_slice(body))).expect("a request")).await
    }

    async fn request(&self, request: Request<Full<Bytes>>) -> Option<HttpResponse> {
        let answering = async {
            let (head, body) = self.0.request(request).await.ok()?.into_parts();
            let body = body.collect().await.ok()?;
            let grpc = Status::from_header_map(&head.headers);
            let grpc = grpc.or_else(|| Status::from_header_map(body.trailers()?));
            Some(HttpResponse { http: head.status, grpc })
        };
        timeout(BOUND, answering).await.expect("it is answered or broken off")
    }
}

fn frame(flag: u8, length: u32, message: &[u8]) -> Vec<u8> {
    [&[flag][..], &length.to_be_bytes(), message].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_malformed_message_is_rejected() {
    let (eticket, _data) = start().await;
    let http = Http::new();
    let too_large = [Code::ResourceExhausted];
    let malformed = [Code::Internal, Code::InvalidArgument];
    // The gateway returns the code that gRPC's libraries return for a wrong number of messages, tonic another.
    let none = [Code::Unimplemented, Code::Internal];
    let whole = GetTicketRequest { ticket_id: "t1".to_owned() }.encode_to_vec();
    let bodies: [(&str, Vec<u8>, &[Code]); 9] = [
        ("nothing", Vec::new(), &none),
        ("half a prefix", vec![0, 0, 0], &malformed),
        ("less than is announced", frame(0, 100, &whole), &malformed),
        ("4 GiB announced", frame(0, u32::MAX, &whole), &too_large),
        ("compressed without saying how", frame(1, 4, &whole), &malformed),
        ("an unknown flag", frame(7, 4, &whole), &malformed),
        ("no message", frame(0, 8, &[0xff; 8]), &malformed),
        ("text that is not UTF-8", frame(0, 4, &[0x0a, 2, 0xff, 0xfe]), &malformed),
        ("JSON", b"{\"ticket_id\":\"t1\"}".to_vec(), &malformed),
    ];
    for (server, path) in METHODS {
        for (what, body, codes) in &bodies {
            let answer = http.send(eticket.address(server), path, &[GRPC, ("te", "trailers")], body).await;
            let answer = answer.unwrap_or_else(|| panic!("{server}, {what}: no answer"));
            let code = answer.code().unwrap_or_else(|| panic!("{server}, {what}: {answer:?}"));
            assert!(codes.contains(&code), "{server}, {what}: {answer:?}");
        }
        let good = http.send(eticket.address(server), path, &[GRPC], &frame(0, 4, &whole)).await.expect("an answer");
        assert!(matches!(good.code(), Some(Code::NotFound | Code::InvalidArgument)), "{server}: {good:?}");
    }
    aftermath::serves(&eticket).await;
    aftermath::ends_well(eticket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_services_methods_and_paths_are_rejected() {
    let (eticket, _data) = start().await;
    let http = Http::new();
    let long = format!("/{}", "x".repeat(8_000));
    let paths =
        ["/", "//", "/a.B/C", "/eticket.ticket.v1.TicketService/Nothing", "/eticket.ticket.v1.TicketService", &long];
    for (server, path) in METHODS {
        let address = eticket.address(server);
        for unknown in paths {
            let answer = http.send(address, unknown, &[GRPC], &frame(0, 0, &[])).await.expect("an answer");
            assert_eq!(answer.code(), Some(Code::Unimplemented), "{server}, {unknown}: {answer:?}");
        }
        for content_type in ["text/plain", "application/json", "application/grpc-web+json", "*"] {
            let headers = [("content-type", content_type)];
            let answer = http.send(address, path, &headers, &frame(0, 0, &[])).await.expect("an answer");
            // The gateway takes JSON for Connect, and a gRPC frame is no JSON.
            let refused = [StatusCode::UNSUPPORTED_MEDIA_TYPE, StatusCode::BAD_REQUEST].contains(&answer.http);
            assert!(refused || answer.code().is_some_and(|code| code != Code::Ok), "{server}: {answer:?}");
        }
        for method in [Method::GET, Method::PUT, Method::OPTIONS, Method::from_bytes(b"BREW").expect("a method")] {
            let request = Request::builder().method(method).uri(format!("http://{address}{path}"));
            let request = request.header(GRPC.0, GRPC.1).body(Full::new(Bytes::new())).expect("a request");
            let answer = http.request(request).await.expect("an answer");
            let refused = answer.http.is_client_error() || answer.code().is_some_and(|code| code != Code::Ok);
            assert!(refused, "{server}: {answer:?}");
        }
    }
    aftermath::serves(&eticket).await;
    aftermath::ends_well(eticket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_messages_and_headers_are_rejected() {
    let (eticket, _data) = start().await;
    for protocol in Protocol::ALL {
        let title = "x".repeat(5 << 20);
        let request = RegisterTicketRequest { ticket_id: "large".into(), title, ..Default::default() };
        let answer: Result<Raw, Status> =
            Api::new(&eticket, protocol).call("eticket.ticket.v1.TicketService/RegisterTicket", request).await;
        let status = answer.expect_err("it is too large");
        assert_eq!(status.code(), Code::ResourceExhausted, "{protocol:?}: {status:?}");
    }
    let http = Http::new();
    let body = frame(0, 4, &GetTicketRequest { ticket_id: "t1".to_owned() }.encode_to_vec());
    let (long, longer) = ("x".repeat(8_000), "x".repeat(60_000));
    for (server, path) in METHODS {
        let address = eticket.address(server);
        // More than the limit of the headers, so the server may omit a status.
        http.send(address, path, &[GRPC, ("x-long", &longer)], &body).await;
        for (name, value) in [
            ("traceparent", "00-zz-zz-zz"),
            ("traceparent", long.as_str()),
            ("eticket-correlation-id", &long),
            ("accept-language", &long),
            ("accept-language", "*;q=NaN,,;;q=-1,한국어"),
            ("user-agent", "\t"),
            ("x-bin-bin", "not base64!"),
        ] {
            let answer = http.send(address, path, &[GRPC, (name, value)], &body).await;
            let answer = answer.unwrap_or_else(|| panic!("{server}, {name}: no answer"));
            let as_usual = matches!(answer.code(), Some(Code::NotFound | Code::InvalidArgument));
            assert!(as_usual, "{server}, {name}: {answer:?}");
        }
        let encoded = http.send(address, path, &[GRPC, ("grpc-encoding", "nonsense")], &body).await.expect("an answer");
        assert_eq!(encoded.code(), Some(Code::Unimplemented), "{server}: {encoded:?}");
    }
    aftermath::serves(&eticket).await;
    aftermath::ends_well(eticket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_deadlines_are_rejected() {
    let (eticket, _data) = start().await;
    let http = Http::new();
    let body = frame(0, 4, &GetTicketRequest { ticket_id: "t1".to_owned() }.encode_to_vec());
    for (server, path) in METHODS {
        let answer = async |timeout: &str| {
            let headers = [GRPC, ("grpc-timeout", timeout)];
            http.send(eticket.address(server), path, &headers, &body).await.expect("an answer")
        };
        for timeout in ["", "S", "5", "-1S", "1.5S", "123456789S", "5s", "NaNS", "5 S", "٣S"] {
            let status = answer(timeout).await.grpc.expect("a status");
            assert_eq!(status.code(), Code::InvalidArgument, "{server}, {timeout:?}: {status:?}");
            assert_eq!(reason(&status), "INVALID_FIELD", "{server}, {timeout:?}");
            assert!(status.message().starts_with("grpc-timeout: "), "{status:?}");
        }
        for timeout in ["0n", "0S", "0H"] {
            let status = answer(timeout).await.grpc.expect("a status");
            assert_eq!((status.code(), reason(&status).as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
        }
        let status = answer("99999999H").await.grpc.expect("a status");
        assert!(matches!(status.code(), Code::NotFound | Code::InvalidArgument), "{server}: {status:?}");
    }
    aftermath::serves(&eticket).await;
    aftermath::ends_well(eticket).await;
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_ends_only_its_own_connection() {
    let (eticket, _data) = start().await;
    let after_preface = |frames: &[u8]| [PREFACE, SETTINGS, frames].concat();
    let chunked = b"POST /a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n";
    let garbage: Vec<Vec<u8>> = vec![
        b"\0\x01\x02\x03\r\n\r\n".to_vec(),
        b"GET".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n".to_vec(),
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcde".to_vec(),
        chunked.to_vec(),
        [b"GET / HTTP/1.1\r\n".as_slice(), &b"a: b\r\n".repeat(20_000)].concat(),
        vec![0xff; 100_000],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        PREFACE[..10].to_vec(),
        [PREFACE, &[0xff; 64]].concat(),
        // A frame of 16 MiB; a frame without a stream; headers that are not HPACK; a continuation without headers.
        after_preface(&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]),
        after_preface(&[0, 0, 1, 1, 4, 0, 0, 0, 0, 0x82]),
        after_preface(&[0, 0, 3, 1, 5, 0, 0, 0, 1, 0xff, 0xff, 0xff]),
        after_preface(&[0, 0, 1, 9, 4, 0, 0, 0, 1, 0x82]),
        // A window update of zero; window updates beyond the maximum; a stream that depends on itself.
        after_preface(&[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        after_preface(&[0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff].repeat(4)),
        after_preface(&[0, 0, 5, 2, 0, 0, 0, 0, 1, 0, 0, 0, 1, 16]),
        after_preface(&SETTINGS.repeat(5_000)),
    ];
    for server in SERVERS.into_iter().chain(["admin"]) {
        for bytes in &garbage {
            let mut stream = TcpStream::connect(eticket.address(server)).await.expect("it accepts");
            // The server may close the connection before everything is sent.
            stream.write_all(bytes).await.ok();
            stream.shutdown().await.ok();
            let mut answer = Vec::new();
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
            let ended = timeout(BOUND, stream.read_to_end(&mut answer)).await;
            assert!(ended.is_ok(), "{server} does not end a connection that sent {shown:?}");
            assert!(!answer.starts_with(b"HTTP/1.1 5"), "{server}, {shown:?}: {}", String::from_utf8_lossy(&answer));
        }
    }
    aftermath::serves(&eticket).await;
    aftermath::ends_well(eticket).await;
}

/// Opens connections with incomplete requests that never continue.
async fn half_open(eticket: &Eticket, count: usize) -> Vec<TcpStream> {
    let beginnings: [&[u8]; 7] = [
        b"",
        b"PRI * HT",
        b"GET / HTTP/1.1\r\nhost:",
        b"POST /eticket.ticket.v1.TicketService/GetTicket HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/grpc-web\r\ncontent-length: 100\r\n\r\n\0\0",
        PREFACE,
        &[PREFACE, SETTINGS].concat(),
        // The headers of a call without an end of the stream.
        &[PREFACE, SETTINGS, &[0, 0, 1, 1, 0, 0, 0, 0, 1, 0x83]].concat(),
    ];
    let mut open = Vec::with_capacity(count);
    for (number, server) in (0..count).zip(SERVERS.into_iter().cycle()) {
        let mut stream = TcpStream::connect(eticket.address(server)).await.expect("it accepts");
        // Seven prefixes and five servers have no common divisor, so each server gets each prefix.
        stream.write_all(beginnings[number % beginnings.len()]).await.expect("it listens");
        open.push(stream);
    }
    open
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incomplete_requests_do_not_delay_other_clients() {
    let data = TempDir::new().expect("a folder");
    let eticket = Launch::all_in_one(data.path()).key("shutdown.hard_cap_ms", "6000").start().await;
    let open = half_open(&eticket, 210).await;
    aftermath::serves(&eticket).await;
    // The connections are still open when the process is stopped.
    aftermath::ends_well(eticket).await;
    drop(open);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_headers_are_disconnected() {
    let (eticket, _data) = start().await;
    let dripping = SERVERS.into_iter().chain(["admin"]).map(|server| {
        let address = eticket.address(server).to_owned();
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.expect("it accepts");
            stream.write_all(b"GET / HTTP/1.1\r\nx-drip: ").await.expect("it listens");
            let (started, mut byte) = (Instant::now(), [0; 1024]);
            let mut drops = tokio::time::interval(Duration::from_millis(100));
            while started.elapsed() < BOUND {
                tokio::select! {
                    read = stream.read(&mut byte) => if matches!(read, Ok(0) | Err(_)) { return true },
                    _ = drops.tick() => if stream.write_all(b"x").await.is_err() { return true },
                }
            }
            false
        })
    });
    let dripping: Vec<_> = dripping.collect();
    aftermath::serves(&eticket).await;
    for cut in dripping {
        assert!(cut.await.expect("it does not panic"), "it reads headers for more than {BOUND:?}");
    }
    aftermath::ends_well(eticket).await;
}

/// The server can send one byte of each stream and never more; every stream is about to read the view's store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_without_window_do_not_block_the_view() {
    let (eticket, _data) = start().await;
    let api = Api::new(&eticket, Protocol::Direct);
    for ticket in ["one", "two", "three"] {
        let registered = api.register(ticket, calendar::upcoming(Weekday::Fri)).await.expect("registered");
        api.settled(ticket, &registered.consistency_token).await;
    }
    let address = eticket.address("query");
    let mut open = Vec::new();
    for number in 0..32 {
        let mut builder = Client::builder(TokioExecutor::new());
        let client = builder.http2_only(true).http2_initial_stream_window_size(1).build_http();
        let request = Request::post(format!("http://{address}/eticket.query.v1.QueryService/WatchTicketViews"));
        let request = request.header(GRPC.0, GRPC.1).header("te", "trailers");
        let request = request.body(Full::new(Bytes::from(frame(0, 0, &[])))).expect("a request");
        let response = timeout(BOUND, client.request(request)).await.expect("in time").expect("a head");
        assert_eq!(Status::from_header_map(response.headers()).map(|status| status.code()), None, "watch {number}");
        open.push((client, response));
    }
    aftermath::serves(&eticket).await;
    drop(open);
    aftermath::ends_well(eticket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disconnected_callers_leave_no_running_calls() {
    let (eticket, _data) = start().await;
    for protocol in [Protocol::Direct, Protocol::Gateway] {
        let api = Api::new(&eticket, protocol);
        api.register(&format!("broken-{protocol:?}"), calendar::upcoming(Weekday::Fri)).await.expect("registered");
        for round in 0..10 {
            let calls: Vec<_> = (0..40)
                .map(|number| {
                    let (api, id) = (api.clone(), format!("{protocol:?}-{round}-{number}"));
                    tokio::spawn(async move { api.register(&id, calendar::upcoming(Weekday::Fri)).await.map(drop) })
                })
                .collect();
            tokio::task::yield_now().await;
            calls.iter().for_each(|call| call.abort());
            for call in calls {
                call.await.ok();
            }
        }
    }
    aftermath::serves(&eticket).await;
    let metrics = aftermath::metrics(&eticket).await;
    let in_flight = |line: &&str| line.starts_with("eticket_rpc_in_flight") && !line.ends_with(" 0");
    assert_eq!(metrics.lines().find(in_flight), None, "no call is under way any more");
    aftermath::ends_well(eticket).await;
}
