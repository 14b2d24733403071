//! Start and stop of eticket: exit codes, ownership of the data folder, the drain, and restarts.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::{
    fs,
    net::TcpListener,
    time::{Duration, Instant},
};

use chrono::Weekday;
use eticket_integration_tests::{
    Api, Eticket, Protocol,
    aftermath::metrics,
    api::{channel, reason},
    calendar,
    eventually::{SOON, eventually},
    process::{Launch, SERVERS, Stream},
};
use eticket_proto::{
    query::{
        GetTicketViewRequest, GetTicketViewResponse, WaitFor, WatchTicketViewsRequest,
        query_service_client::QueryServiceClient,
    },
    reservation::UserGrade,
    ticket::TicketStatus,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tonic::{Code, Request, Status};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};
use tonic_types::StatusExt;

fn folder() -> TempDir {
    TempDir::new().expect("a folder")
}

#[tokio::test]
async fn the_ready_line_names_every_address() {
    let data = folder();
    let eticket = Eticket::start(data.path()).await;
    for server in SERVERS.into_iter().chain(["admin"]) {
        let address = eticket.address(server);
        assert!(address.starts_with("127.0.0.1:") && !address.ends_with(":0"), "{server}: {address}");
        tokio::net::TcpStream::connect(address).await.expect("it answers there");
    }
    assert!(eticket.log().contains(eticket.address("gateway")), "the log has the address too:\n{}", eticket.log());
    let exit = eticket.stop().await;
    assert_eq!(exit.output.lines().count(), 1, "standard output contains only the ready line: {}", exit.output);
}

#[tokio::test]
async fn the_ready_line_of_a_standalone_server_has_its_addresses() {
    for server in SERVERS {
        let data = folder();
        let mut launch = Launch::program(&format!("eticket-{server}"))
            .key("listen", "127.0.0.1:0")
            .key("shutdown.drain_delay_ms", "0");
        if server != "gateway" {
            launch = launch.data(data.path()).key("bus.url", "embedded");
        }
        let needs: &[&str] = match server {
            "gateway" => &["ticket", "reservation", "pricing", "query"],
            "reservation" => &["ticket"],
            _ => &[],
        };
        for upstream in needs {
            launch = launch.key(&format!("upstream.{upstream}.url"), "http://127.0.0.1:1");
        }
        let alone = launch.start().await;
        let (own, admin) = (alone.address(server).to_owned(), alone.address("admin").to_owned());
        let exit = alone.stop().await;
        let line = format!("{{\"ready\":true,\"{server}\":\"{own}\",\"admin\":\"{admin}\"}}\n");
        assert_eq!(exit.output, line, "and nothing else");
    }
}

#[tokio::test]
async fn a_restart_continues_with_the_stored_state() {
    let data = folder();
    let eticket = Eticket::start(data.path()).await;
    let api = Api::new(&eticket, Protocol::Gateway);
    api.register("kept", calendar::upcoming(Weekday::Wed)).await.expect("a new id is registered");
    let reserved = api.reserve("kept", "A", UserGrade::Vip).await.expect("it is available");
    let view = api.settled("kept", &reserved.consistency_token).await;
    let ticket = api.ticket("kept").await.expect("it is there");
    eticket.stop().await;

    let eticket = Eticket::start(data.path()).await;
    let api = Api::new(&eticket, Protocol::Gateway);
    assert_eq!(api.ticket("kept").await.expect("it is still there"), ticket);
    assert_eq!(api.settled("kept", &reserved.consistency_token).await, view);
    let refusal = api.reserve("kept", "B", UserGrade::Silver).await.expect_err("it is still held");
    assert_eq!(reason(&refusal), "TICKET_ALREADY_RESERVED");
    let reservation = reserved.reservation.expect("an answer has its resource");
    let cancelled = api.cancel(&reservation.reservation_id).await.expect("a holder can cancel");
    assert_eq!(api.settled("kept", &cancelled.consistency_token).await.ticket_status(), TicketStatus::Available);
    eticket.stop().await;
}

#[tokio::test]
async fn a_data_folder_belongs_to_one_process() {
    let data = folder();
    let eticket = Eticket::start(data.path()).await;
    let second = Launch::all_in_one(data.path()).run().await;
    assert_eq!(second.code, Some(69), "{}", second.log);
    let name = data.path().to_str().expect("UTF-8");
    assert!(second.log.contains(name), "it names the folder {name}:\n{}", second.log);
    eticket.kill().await;
    // A killed process leaves no lock that blocks the next start.
    Eticket::start(data.path()).await.stop().await;
}

#[tokio::test]
async fn a_store_file_belongs_to_one_process() {
    let (data, other) = (folder(), folder());
    let eticket = Eticket::start(data.path()).await;
    let hard = other.path().join("hard.db");
    fs::hard_link(data.path().join("ticket.db"), &hard).expect("a link");
    for path in [data.path().join("ticket.db"), hard] {
        let url = format!("sqlite:{}", path.display());
        let second = Launch::all_in_one(other.path()).key("ticket.store.url", &url).run().await;
        assert_eq!(second.code, Some(69), "{}", second.log);
        let name = path.to_str().expect("UTF-8");
        assert!(second.log.contains(name) && second.log.contains("in use by another process"), "{}", second.log);
    }
    eticket.stop().await;
}

#[tokio::test]
async fn commands_fail_after_the_store_file_was_removed() {
    let data = folder();
    let eticket = Eticket::start(data.path()).await;
    let api = Api::new(&eticket, Protocol::Gateway);
    let slot = calendar::upcoming(Weekday::Sat);
    api.register("before", slot).await.expect("registered");
    let (file, aside) = (data.path().join("ticket.db"), data.path().join("aside.db"));
    fs::rename(&file, &aside).expect("moved");
    let refused = api.register("lost", slot).await.expect_err("it would be lost after a restart");
    assert_eq!(reason(&refused), "STORE_UNAVAILABLE");
    let is_ready = async |expected| {
        eventually(SOON, "its health shows it", async || {
            let request = HealthCheckRequest { service: "readiness".to_owned() };
            let ticket = Api::at(eticket.address("ticket"));
            let answer: HealthCheckResponse =
                ticket.call("grpc.health.v1.Health/Check", request).await.expect("the name is known");
            if answer.status() == expected { Ok(()) } else { Err(answer.status()) }
        })
        .await;
    };
    is_ready(ServingStatus::NotServing).await;
    fs::rename(&aside, &file).expect("moved back");
    is_ready(ServingStatus::Serving).await;
    api.register("after", slot).await.expect("registered");
    eticket.stop().await;
}

#[tokio::test]
async fn a_data_folder_that_cannot_be_created_is_named() {
    let data = folder();
    let file = data.path().join("a-file");
    fs::write(&file, "").expect("it can be written");
    let exit = Launch::all_in_one(&file.join("below")).run().await;
    assert_eq!(exit.code, Some(69), "{}", exit.log);
    assert!(exit.log.contains("a-file"), "{}", exit.log);
}

#[tokio::test]
async fn a_port_in_use_is_named_in_the_error() {
    let data = folder();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let exit = Launch::all_in_one(data.path()).key("pricing.listen", &address).run().await;
    assert_eq!(exit.code, Some(69), "{}", exit.log);
    assert!(exit.log.contains(&address), "it names {address}:\n{}", exit.log);
    assert!(!exit.output.contains("ready"), "{}", exit.output);
}

#[tokio::test]
async fn each_signal_ends_it_cleanly() {
    let hangup = (!ignores_hangup()).then_some(Signal::HUP);
    for signal in [Signal::TERM, Signal::INT].into_iter().chain(hangup) {
        let data = folder();
        let eticket = Eticket::start(data.path()).await;
        eticket.signal(signal);
        let exit = eticket.exit().await;
        assert_eq!(exit.code, Some(0), "{signal:?}: {}", exit.log);
        assert!(!exit.log.contains("panicked"), "{}", exit.log);
    }
}

/// Whether this test was started with `nohup`. The processes that it starts then ignore SIGHUP, as documented.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 != 0))
}

#[tokio::test]
async fn a_second_signal_a_second_later_ends_it_immediately() {
    let data = folder();
    let eticket = Launch::all_in_one(data.path()).key("shutdown.drain_delay_ms", "20000").start().await;
    let api = Api::new(&eticket, Protocol::Gateway);
    api.register("1", calendar::upcoming(Weekday::Tue)).await.expect("a new id is registered");
    let first = Instant::now();
    eticket.signal(Signal::INT);
    // Two signals within a second count as one; the first later signal ends the process.
    let id = eticket.id();
    let again = async || if signal_again(id, Signal::TERM) { Err("it runs") } else { Ok(()) };
    let (exit, ()) = tokio::join!(eticket.exit(), eventually(SOON, "it ends", again));
    let elapsed = first.elapsed();
    assert_eq!(exit.code, Some(130), "{}", exit.log);
    assert!(elapsed >= Duration::from_secs(1), "after {elapsed:?}");
    assert!(elapsed < Duration::from_secs(15), "immediately instead of after the drain: {elapsed:?}");
}

/// Sends a signal; returns whether the process still exists.
fn signal_again(id: u32, signal: Signal) -> bool {
    let id = i32::try_from(id).ok().and_then(Pid::from_raw).expect("an id");
    kill_process(id, signal).is_ok()
}

/// A hanging log collector does not block the process: calls are answered, and the process can be stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unread_pipe_does_not_block_the_process() {
    for stream in [Stream::Log, Stream::Output] {
        let data = folder();
        let eticket = Launch::all_in_one(data.path()).unread(stream).key("log.level", "debug").start().await;
        let api = Api::new(&eticket, Protocol::Gateway);
        api.register("1", calendar::upcoming(Weekday::Wed)).await.expect("a new id is registered");
        api.settled("1", "").await;
        assert!(metrics(&eticket).await.contains("eticket_log_lines_dropped_total"), "dropped lines are counted");
        let began = Instant::now();
        eticket.signal(Signal::TERM);
        let exit = eticket.exit().await;
        assert_eq!(exit.code, Some(0), "{stream:?}: {}", exit.log);
        assert!(began.elapsed() < Duration::from_secs(15), "{stream:?}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_low_limit_of_open_files_is_named() {
    for most in [12, 48, 255] {
        let data = folder();
        let exit = Launch::all_in_one(data.path()).with_open_files("", most).run().await;
        assert_eq!(exit.code, Some(69), "{most}: {}", exit.log);
        assert!(exit.log.contains(&format!("the limit of open files is {most},")), "{most}: {}", exit.log);
    }
}

#[tokio::test]
async fn a_low_soft_limit_of_open_files_is_raised() {
    let data = folder();
    let eticket = Launch::all_in_one(data.path()).with_open_files("S", 40).start().await;
    let metrics = metrics(&eticket).await;
    let limit = metrics.lines().find_map(|line| line.strip_prefix("process_max_fds ")).expect("it is in the metrics");
    assert!(limit.parse::<f64>().expect("a number") >= 256.0, "{limit}");
    eticket.stop().await;
}

#[tokio::test]
async fn an_address_of_another_machine_is_named() {
    let data = folder();
    // TEST-NET-1, an address that no machine has.
    let launch = Launch::all_in_one(data.path()).key("pricing.listen", "192.0.2.1:0");
    let exit = launch.key("auth.mode", "off").key("auth.allow_off_anywhere", "true").run().await;
    assert_eq!(exit.code, Some(69), "{}", exit.log);
    assert!(exit.log.contains("pricing cannot listen on 192.0.2.1:0: this machine does not have"), "{}", exit.log);
}

/// During the drain delay calls are still served, while the readiness for load balancers is already false.
#[tokio::test]
async fn the_drain_delay_gives_load_balancers_time() {
    let data = folder();
    let eticket = Launch::all_in_one(data.path()).key("shutdown.drain_delay_ms", "1500").start().await;
    let gateway = eticket.address("gateway").to_owned();
    let api = Api::new(&eticket, Protocol::Gateway);
    api.register("1", calendar::upcoming(Weekday::Tue)).await.expect("a new id is registered");
    assert_eq!(readiness(&gateway).await, Some(true));
    eticket.signal(Signal::TERM);
    eventually(SOON, "it is no longer ready", async || match readiness(&gateway).await {
        Some(false) => Ok(()),
        seen => Err(seen),
    })
    .await;
    assert!(api.ticket("1").await.is_ok(), "calls succeed during the delay");
    assert_eq!(eticket.exit().await.code, Some(0));
}

/// Directly and through the gateway, which stops before the service: the call ends with the status of the contract and
/// immediately, instead of being aborted after the share of the hard cap (25 s) that calls may use.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_calls_end_with_shutting_down() {
    for protocol in Protocol::ALL {
        let data = folder();
        let eticket = Eticket::start(data.path()).await;
        let api = Api::new(&eticket, protocol);
        let mut request = Request::new(GetTicketViewRequest {
            ticket_id: "not-there".to_owned(),
            wait: WaitFor::Applied.into(),
            ..Default::default()
        });
        request.set_timeout(Duration::from_secs(60));
        let waiting = tokio::spawn(async move {
            let method = "eticket.query.v1.QueryService/GetTicketView";
            api.call_with::<_, GetTicketViewResponse>(method, request).await
        });
        eventually(SOON, "the wait is on", async || match metrics(&eticket).await {
            seen if seen.lines().any(|line| line == "eticket_view_waits 1") => Ok(()),
            seen => Err(seen),
        })
        .await;
        let mut views = QueryServiceClient::new(channel(eticket.address("gateway")));
        let mut stream =
            views.watch_ticket_views(WatchTicketViewsRequest::default()).await.expect("begun").into_inner();
        assert!(stream.message().await.expect("open").is_some(), "an empty view still has a resume token");
        let began = Instant::now();
        eticket.signal(Signal::TERM);
        let status = waiting.await.expect("it does not panic").expect_err("there is no such view");
        is_shutting_down(&status);
        is_shutting_down(&stream.message().await.expect_err("it ends"));
        let exit = eticket.exit().await;
        assert_eq!(exit.code, Some(0), "{}", exit.log);
        assert!(began.elapsed() < Duration::from_secs(10), "{protocol:?}: {:?}:\n{}", began.elapsed(), exit.log);
        assert!(!exit.log.contains("did not finish in time"), "{}", exit.log);
    }
}

fn is_shutting_down(status: &Status) {
    assert_eq!((status.code(), reason(status)), (Code::Unavailable, "SHUTTING_DOWN".to_owned()), "{status:?}");
    let delay = status.get_details_retry_info().and_then(|info| info.retry_delay).expect("a RetryInfo");
    let pushback = status.metadata().get("grpc-retry-pushback-ms").expect("a pushback");
    assert_eq!(pushback.to_str().ok(), Some(delay.as_millis().to_string().as_str()));
}

/// Commands that were accepted before a signal are answered or rejected with an error of the contract, and acknowledged
/// commands are kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_under_load_loses_nothing() {
    let data = folder();
    let eticket = Eticket::start(data.path()).await;
    let api = Api::new(&eticket, Protocol::Gateway);
    let workers: Vec<_> = (0..16)
        .map(|worker| {
            let api = api.clone();
            tokio::spawn(async move {
                let mut kept = Vec::new();
                for turn in 0.. {
                    let id = format!("{worker}-{turn}");
                    match api.register(&id, calendar::upcoming(Weekday::Mon)).await {
                        Ok(_) => kept.push(id),
                        Err(status) => return (kept, status),
                    }
                }
                unreachable!("it is stopped before the range ends")
            })
        })
        .collect();
    eventually(SOON, "the load is on", async || api.ticket("0-20").await).await;
    let exit = eticket.stop().await;
    assert!(!exit.log.contains("panicked"), "{}", exit.log);
    let mut kept = Vec::new();
    for worker in workers {
        let (acknowledged, status) = worker.await.expect("a worker does not panic");
        // A response of the server must be an error of the contract; other errors come from the client's own transport.
        let of_transport =
            std::error::Error::source(&status).is_some_and(|cause| cause.is::<tonic::transport::Error>());
        assert!(of_transport || status.code() == Code::Unavailable, "{status:?}");
        kept.extend(acknowledged);
    }

    let eticket = Eticket::start(data.path()).await;
    let api = Api::new(&eticket, Protocol::Gateway);
    for id in &kept {
        assert!(api.settled(id, "").await.settled, "{id} was acknowledged");
    }
    assert!(kept.len() > 16, "{} registrations", kept.len());
    eticket.stop().await;
}

/// Returns the readiness of a server; `None` if it does not respond.
async fn readiness(address: &str) -> Option<bool> {
    use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};
    let request = HealthCheckRequest { service: "readiness".to_owned() };
    let answer: HealthCheckResponse = Api::at(address).call("grpc.health.v1.Health/Check", request).await.ok()?;
    Some(answer.status() == ServingStatus::Serving)
}
