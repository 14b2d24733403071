//! A ticket service that is slow, fails, is overloaded or rejects, and the reaction of the reservation service: it
//! fails after a short time, then immediately, returns a retry delay, and recovers by itself.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use eticket_integration_tests::{
    Api, Eticket, Protocol,
    api::reason,
    calendar,
    eventually::{SOON, eventually},
    process::Launch,
};
use eticket_local_servers::free_address;
use eticket_proto::{
    reservation::UserGrade,
    ticket::{
        self as pb, CheckAvailabilityRequest, CheckAvailabilityResponse, UnavailableReason,
        ticket_service_server::{TicketService, TicketServiceServer},
    },
};
use futures::{FutureExt, StreamExt, stream};
use tempfile::TempDir;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt;

/// The behaviour of the fake ticket service.
#[derive(Debug, Clone, Copy)]
enum Behaviour {
    Available,
    Expired,
    Fails,
    /// Never responds.
    Hangs,
}

/// A fake ticket service with a configurable behaviour.
#[derive(Clone)]
struct Scripted {
    behaviour: Arc<Mutex<Behaviour>>,
    asked: Arc<AtomicU64>,
}

type CallResult<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl TicketService for Scripted {
    async fn check_availability(&self, _: Request<CheckAvailabilityRequest>) -> CallResult<CheckAvailabilityResponse> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let behaviour = *self.behaviour.lock().expect("not poisoned");
        let ticket = pb::Ticket {
            end_time: Some(prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 }),
            ..pb::Ticket::default()
        };
        match behaviour {
            Behaviour::Available => Ok(Response::new(CheckAvailabilityResponse {
                available: true,
                reason: UnavailableReason::Unspecified.into(),
                ticket: Some(ticket),
            })),
            Behaviour::Expired => Ok(Response::new(CheckAvailabilityResponse {
                available: false,
                reason: UnavailableReason::Expired.into(),
                ticket: Some(ticket),
            })),
            Behaviour::Fails => Err(Status::unavailable("on purpose")),
            Behaviour::Hangs => futures::future::pending().await,
        }
    }

    async fn register_ticket(&self, _: Request<pb::RegisterTicketRequest>) -> CallResult<pb::RegisterTicketResponse> {
        Err(Status::unimplemented("not used in this test"))
    }
    async fn update_ticket(&self, _: Request<pb::UpdateTicketRequest>) -> CallResult<pb::UpdateTicketResponse> {
        Err(Status::unimplemented("not used in this test"))
    }
    async fn withdraw_ticket(&self, _: Request<pb::WithdrawTicketRequest>) -> CallResult<pb::WithdrawTicketResponse> {
        Err(Status::unimplemented("not used in this test"))
    }
    async fn get_ticket(&self, _: Request<pb::GetTicketRequest>) -> CallResult<pb::GetTicketResponse> {
        Err(Status::unimplemented("not used in this test"))
    }
    async fn list_tickets(&self, _: Request<pb::ListTicketsRequest>) -> CallResult<pb::ListTicketsResponse> {
        Err(Status::unimplemented("not used in this test"))
    }
}

struct World {
    scripted: Scripted,
    reservation: Eticket,
    api: Api,
    _data: TempDir,
}

/// The real reservation service with a fake ticket service.
async fn world(open_ms: u64) -> World {
    let scripted = Scripted { behaviour: Arc::new(Mutex::new(Behaviour::Available)), asked: Arc::default() };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address: SocketAddr = listener.local_addr().expect("bound");
    let server = tonic::transport::Server::builder().add_service(TicketServiceServer::new(scripted.clone()));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)).map(|ended| ended.expect("it serves")));
    let data = TempDir::new().expect("a folder");
    let reservation = Launch::program("eticket-reservation")
        .data(data.path())
        .key("listen", "127.0.0.1:0")
        .key("bus.url", "embedded")
        .key("shutdown.drain_delay_ms", "0")
        .key("upstream.ticket.url", &format!("http://{address}"))
        .key("upstream.ticket.deadline_ms", "2000")
        .key("upstream.ticket.attempt_timeout_ms", "500")
        .key("upstream.ticket.breaker.min_calls", "5")
        // Slowness of a busy machine must not count as a failure.
        .key("upstream.ticket.breaker.slow_call_ms", "400")
        .key("upstream.ticket.breaker.open_ms", &open_ms.to_string())
        .start()
        .await;
    let api = Api::at(reservation.address("reservation"));
    World { scripted, reservation, api, _data: data }
}

impl World {
    fn behaviour(&self, behaviour: Behaviour) {
        *self.scripted.behaviour.lock().expect("not poisoned") = behaviour;
    }

    fn asked(&self) -> u64 {
        self.scripted.asked.load(Ordering::SeqCst)
    }

    async fn reserve(&self, ticket: &str) -> Result<(), Status> {
        self.api.reserve(ticket, "A", UserGrade::Silver).await.map(drop)
    }

    /// Calls until the breaker is open; returns the delay that it reports.
    async fn until_the_breaker_is_open(&self) -> Duration {
        eventually(SOON, "the breaker opens", async || {
            let before = self.asked();
            let refused = self.reserve("t-open").await.expect_err("the ticket service fails");
            overloaded(&refused);
            if self.asked() > before {
                return Err("it still calls the ticket service");
            }
            let retry = refused.get_details_retry_info().expect("RetryInfo").retry_delay;
            Ok(retry.expect("when it will try again"))
        })
        .await
    }
}

fn overloaded(status: &Status) {
    assert_eq!(
        (status.code(), reason(status).as_str()),
        (Code::Unavailable, "TICKET_SERVICE_OVERLOADED"),
        "{status:?}"
    );
    assert!(status.get_details_retry_info().is_some_and(|retry| retry.retry_delay.is_some()), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_ticket_service_is_not_called_until_it_recovers() {
    let world = world(1_000).await;
    world.reserve("t-1").await.expect("all is well");
    world.behaviour(Behaviour::Fails);
    let delay = world.until_the_breaker_is_open().await;
    assert!(delay <= Duration::from_secs(1), "no longer than the breaker stays open: {delay:?}");
    world.behaviour(Behaviour::Available);
    eventually(SOON, "it recovers by itself", async || world.reserve("t-2").await).await;
    world.reservation.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_ticket_service_times_out_and_opens_the_breaker() {
    let world = world(60_000).await;
    world.behaviour(Behaviour::Hangs);
    // The fake never responds, so a response shows that the deadline works.
    overloaded(&world.reserve("t-1").await.expect_err("it hangs"));
    let delay = world.until_the_breaker_is_open().await;
    assert!(delay > Duration::ZERO && delay <= Duration::from_secs(60), "{delay:?}");
    world.reservation.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn business_rejections_do_not_open_the_breaker() {
    let world = world(60_000).await;
    world.behaviour(Behaviour::Expired);
    let refusals = stream::iter(0..1000).map(|number| {
        let world = &world;
        async move { world.reserve(&format!("t-{number}")).await.expect_err("it is expired") }
    });
    // All at once would wait for the store longer than a busy machine allows.
    for refusal in refusals.buffer_unordered(32).collect::<Vec<_>>().await {
        assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::FailedPrecondition, "TICKET_EXPIRED"));
    }
    assert_eq!(world.asked(), 1000, "no rejection was retried, and the breaker stayed closed");
    world.behaviour(Behaviour::Available);
    world.reserve("t-after").await.expect("the breaker is closed");
    world.reservation.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fault_layer_simulates_failing_checks() {
    let data = TempDir::new().expect("a folder");
    let eticket = Launch::all_in_one(data.path())
        .key("ticket.fault.only", "CheckAvailability")
        .key("ticket.fault.error_ratio", "1.0")
        .start()
        .await;
    let api = Api::new(&eticket, Protocol::Gateway);
    let registered = api.register("1", calendar::upcoming(chrono::Weekday::Mon)).await.expect("not concerned");
    api.settled("1", &registered.consistency_token).await;
    overloaded(&api.reserve("1", "A", UserGrade::Gold).await.expect_err("the check fails"));
    api.ticket("1").await.expect("not concerned");
    eticket.stop().await;

    let eticket = Eticket::start(data.path()).await;
    Api::new(&eticket, Protocol::Gateway).reserve("1", "A", UserGrade::Gold).await.expect("the rehearsal is over");
    eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fault_layer_simulates_a_slow_ticket_service() {
    let (tickets, reservations) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let address = free_address().expect("a port").to_string();
    let ticket = || {
        let launch = Launch::program("eticket-ticket").data(tickets.path()).key("listen", &address);
        launch.key("bus.url", "embedded").key("shutdown.drain_delay_ms", "0")
    };
    let slow = ticket().key("fault.only", "CheckAvailability").key("fault.latency_ms", "600000").start().await;
    Api::at(&address).register("1", calendar::upcoming(chrono::Weekday::Mon)).await.expect("not concerned");
    let reservation = Launch::program("eticket-reservation")
        .data(reservations.path())
        .key("listen", "127.0.0.1:0")
        .key("bus.url", "embedded")
        .key("shutdown.drain_delay_ms", "0")
        .key("upstream.ticket.url", &format!("http://{address}"))
        // Long, so that a faster response proves that no call was made.
        .key("upstream.ticket.deadline_ms", "4000")
        .key("upstream.ticket.attempt_timeout_ms", "4000")
        .key("upstream.ticket.breaker.min_calls", "3")
        .key("upstream.ticket.breaker.open_ms", "5000")
        .start()
        .await;
    let api = Api::at(reservation.address("reservation"));
    let reserve = async || api.reserve("1", "A", UserGrade::Gold).await;
    for refused in futures::future::join_all((0..3).map(|_| reserve())).await {
        overloaded(&refused.expect_err("it is too slow"));
    }
    let began = std::time::Instant::now();
    overloaded(&reserve().await.expect_err("the breaker is open"));
    assert!(began.elapsed() < Duration::from_secs(2), "immediately, without a call: {:?}", began.elapsed());
    let metrics = eticket_integration_tests::aftermath::metrics(&reservation).await;
    let refusals = metrics.lines().find(|line| line.starts_with("eticket_breaker_refusals_total{upstream=\"ticket\"}"));
    assert!(refusals.is_some_and(|line| !line.ends_with(" 0")), "the breaker has rejected it: {metrics}");
    slow.stop().await;
    let ticket = ticket().start().await;
    eventually(SOON, "it recovers by itself", reserve).await;
    reservation.stop().await;
    ticket.stop().await;
}
