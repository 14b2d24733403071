//! A ticket service that is slow, fails, sheds or refuses, and what the reservation service makes of it: it refuses shortly, then at
//! once, says when to try again, and recovers by itself.

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
use eticket_proto::{
    reservation::UserGrade,
    ticket::{
        self as pb, CheckAvailabilityRequest, CheckAvailabilityResponse, UnavailableReason,
        ticket_service_server::{TicketService, TicketServiceServer},
    },
};
use futures::FutureExt;
use tempfile::TempDir;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt;

/// How the ticket service behaves.
#[derive(Debug, Clone, Copy)]
enum Mood {
    Available,
    Expired,
    Fails,
    /// Never answers.
    Hangs,
}

/// Stands in for the ticket service, and does what it is told.
#[derive(Clone)]
struct Scripted {
    mood: Arc<Mutex<Mood>>,
    asked: Arc<AtomicU64>,
}

type CallResult<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl TicketService for Scripted {
    async fn check_availability(&self, _: Request<CheckAvailabilityRequest>) -> CallResult<CheckAvailabilityResponse> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mood = *self.mood.lock().expect("nobody panics with it");
        let ticket = pb::Ticket {
            end_time: Some(prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 }),
            ..pb::Ticket::default()
        };
        match mood {
            Mood::Available => Ok(Response::new(CheckAvailabilityResponse {
                available: true,
                reason: UnavailableReason::Unspecified.into(),
                ticket: Some(ticket),
            })),
            Mood::Expired => Ok(Response::new(CheckAvailabilityResponse {
                available: false,
                reason: UnavailableReason::Expired.into(),
                ticket: Some(ticket),
            })),
            Mood::Fails => Err(Status::unavailable("on purpose")),
            Mood::Hangs => futures::future::pending().await,
        }
    }

    async fn register_ticket(&self, _: Request<pb::RegisterTicketRequest>) -> CallResult<pb::RegisterTicketResponse> {
        Err(Status::unimplemented("not asked here"))
    }
    async fn update_ticket(&self, _: Request<pb::UpdateTicketRequest>) -> CallResult<pb::UpdateTicketResponse> {
        Err(Status::unimplemented("not asked here"))
    }
    async fn withdraw_ticket(&self, _: Request<pb::WithdrawTicketRequest>) -> CallResult<pb::WithdrawTicketResponse> {
        Err(Status::unimplemented("not asked here"))
    }
    async fn get_ticket(&self, _: Request<pb::GetTicketRequest>) -> CallResult<pb::GetTicketResponse> {
        Err(Status::unimplemented("not asked here"))
    }
    async fn list_tickets(&self, _: Request<pb::ListTicketsRequest>) -> CallResult<pb::ListTicketsResponse> {
        Err(Status::unimplemented("not asked here"))
    }
}

struct World {
    scripted: Scripted,
    reservation: Eticket,
    api: Api,
    _data: TempDir,
}

/// The real reservation service in front of a ticket service that does what it is told.
async fn world(open_ms: u64) -> World {
    let scripted = Scripted { mood: Arc::new(Mutex::new(Mood::Available)), asked: Arc::default() };
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
        // What a busy machine makes slow is no failure here.
        .key("upstream.ticket.breaker.slow_call_ms", "400")
        .key("upstream.ticket.breaker.open_ms", &open_ms.to_string())
        .start()
        .await;
    let api = Api::at(reservation.address("reservation"));
    World { scripted, reservation, api, _data: data }
}

impl World {
    fn mood(&self, mood: Mood) {
        *self.scripted.mood.lock().expect("nobody panics with it") = mood;
    }

    fn asked(&self) -> u64 {
        self.scripted.asked.load(Ordering::SeqCst)
    }

    async fn reserve(&self, ticket: &str) -> Result<(), Status> {
        self.api.reserve(ticket, "A", UserGrade::Silver).await.map(drop)
    }

    /// Calls until the breaker lets none through any more; answers how long it says that it stays open.
    async fn until_the_breaker_is_open(&self) -> Duration {
        eventually(SOON, "the breaker opens", async || {
            let before = self.asked();
            let refused = self.reserve("t-open").await.expect_err("the ticket service is of no use");
            overloaded(&refused);
            if self.asked() > before {
                return Err("it still asks");
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
async fn a_failing_ticket_service_is_left_alone_until_it_recovers() {
    let world = world(1_000).await;
    world.reserve("t-1").await.expect("all is well");
    world.mood(Mood::Fails);
    let delay = world.until_the_breaker_is_open().await;
    assert!(delay <= Duration::from_secs(1), "no longer than the breaker stays open: {delay:?}");
    world.mood(Mood::Available);
    eventually(SOON, "it recovers by itself", async || world.reserve("t-2").await).await;
    world.reservation.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_service_that_hangs_is_given_up_and_then_not_asked() {
    let world = world(60_000).await;
    world.mood(Mood::Hangs);
    // It never answers, so that there is an answer at all shows the deadline.
    overloaded(&world.reserve("t-1").await.expect_err("it hangs"));
    let delay = world.until_the_breaker_is_open().await;
    assert!(delay > Duration::ZERO && delay <= Duration::from_secs(60), "{delay:?}");
    world.reservation.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_refusals_of_the_business_change_nothing() {
    let world = world(60_000).await;
    world.mood(Mood::Expired);
    let refusals = futures::future::join_all((0..1000).map(|number| {
        let world = &world;
        async move { world.reserve(&format!("t-{number}")).await.expect_err("it is expired") }
    }));
    for refusal in refusals.await {
        assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::FailedPrecondition, "TICKET_EXPIRED"));
    }
    assert_eq!(world.asked(), 1000, "no refusal was retried, none was kept back");
    world.mood(Mood::Available);
    world.reserve("t-after").await.expect("the breaker is closed");
    world.reservation.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fault_layer_rehearses_an_outage_of_the_check_alone() {
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

/// An address that can be taken again and again.
fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fault_layer_rehearses_a_ticket_service_that_is_slow() {
    let (tickets, reservations) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let address = free_address();
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
        // Long, so that an answer within a part of it has not asked.
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
    assert!(began.elapsed() < Duration::from_secs(2), "at once, without a call: {:?}", began.elapsed());
    let metrics = eticket_integration_tests::aftermath::metrics(&reservation).await;
    let refusals = metrics.lines().find(|line| line.starts_with("eticket_breaker_refusals_total{upstream=\"ticket\"}"));
    assert!(refusals.is_some_and(|line| !line.ends_with(" 0")), "the breaker has kept it back: {metrics}");
    slow.stop().await;
    let ticket = ticket().start().await;
    eventually(SOON, "it recovers by itself", reserve).await;
    reservation.stop().await;
    ticket.stop().await;
}
