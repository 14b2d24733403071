//! Tests of the use cases over a real store: races, retries, and the conditions under which a command is refused.

mod replicas;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use eticket_base::{
    clock::{Clock, ManualClock},
    credentials::Credentials,
    tasks::Tasks,
    telemetry::TraceContext,
};
use eticket_bus::Message;
use eticket_proto::{
    ids::{ReservationId, TicketId, UserGrade},
    reservation::ReserveTicketResponse,
};
use eticket_service::{
    audit::{Owner, republish_all},
    batch::{Batches, Limits},
    consumer::{EventHandler, Incoming},
};
use eticket_store::{
    CommitExt, EncodedResponse, Housekeeping, Idempotency, RequestIdReused, Work,
    sqlite::{Database, Store},
};
use prost::Message as _;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Availability, CheckError, Keys, Outcome, Refusal, Request, ReservationRows, ReservationStore, ReservationWriter,
    Reservations, TicketChange, events::ReservationStates,
};
use crate::{
    domain::{self, Check, NewReservation, Status},
    outbound::{messages::PROTOBUF, sqlite},
};

/// Fake ticket service: returns the configured result and counts the requests.
struct TicketService {
    says: Mutex<Check>,
    asked: AtomicUsize,
}

#[async_trait]
impl Availability for TicketService {
    async fn check(
        &self,
        _: &TicketId,
        _: Option<Instant>,
        _: &TraceContext,
        _: Option<&Credentials>,
    ) -> Result<Check, CheckError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Ok(*self.says.lock().unwrap())
    }
}

struct Fixture {
    reservations: Reservations,
    store: Arc<dyn ReservationStore>,
    ticket_service: Arc<TicketService>,
    housekeeping: Arc<dyn Housekeeping>,
    clock: Arc<ManualClock>,
    _folder: Option<tempfile::TempDir>,
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_000_000, 0).unwrap()
}

fn end() -> DateTime<Utc> {
    now() + TimeDelta::hours(1)
}

async fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(now()));
    let path = folder.path().join("reservation.db");
    let database = Database::open(&path, &sqlite::MIGRATIONS, clock.clone()).await.unwrap();
    let store = Arc::new(Store::<sqlite::ReservationTables>::new(database.clone()));
    Fixture { _folder: Some(folder), ..fixture_on(store, Arc::new(database), clock) }
}

fn fixture_on(
    store: Arc<dyn ReservationStore>,
    housekeeping: Arc<dyn Housekeeping>,
    clock: Arc<ManualClock>,
) -> Fixture {
    let says = Mutex::new(Check::Available { end: end() });
    let ticket_service = Arc::new(TicketService { says, asked: AtomicUsize::new(0) });
    let writer = ReservationWriter { store: store.clone(), messages: PROTOBUF, clock: clock.clone() };
    let writer = Batches::start("reservation", &Tasks::new(), Limits::default(), writer);
    let reservations = Reservations::new(store.clone(), writer, ticket_service.clone(), clock.clone());
    Fixture { reservations, store, ticket_service, housekeeping, clock, _folder: None }
}

fn new_reservation(ticket: &str) -> NewReservation {
    let (ticket, user) = (ticket.parse().unwrap(), "user-1".parse().unwrap());
    NewReservation { id: ReservationId::generate(), ticket, user, grade: UserGrade::Silver }
}

fn request(id: Option<Uuid>) -> Request {
    let idempotency = id.map(|request_id| Idempotency { request_id, hash: [1; 32] });
    Request { idempotency, trace: TraceContext::new_root(), deadline: None, credentials: None }
}

fn id_in(outcome: &Outcome) -> ReservationId {
    let answer = ReserveTicketResponse::decode(outcome.as_ref().expect("a response").bytes.clone()).expect("decoded");
    answer.reservation.expect("a reservation").reservation_id.parse().expect("an id")
}

const HELD: Outcome = Err(Refusal::Domain(domain::Refusal::TicketAlreadyReserved));

impl Fixture {
    async fn reserve(&self, ticket: &str, id: Option<Uuid>) -> Outcome {
        self.reservations.reserve(new_reservation(ticket), request(id)).await.expect("run")
    }

    async fn cancel(&self, id: ReservationId) -> Outcome {
        self.reservations.cancel(id, request(None)).await.expect("run")
    }

    async fn withdraw(&self, ticket: &str) {
        let event = TicketChange { ticket: ticket.parse().unwrap(), revision: 2, withdrawn: true };
        let message = Arc::new(Message::default());
        let incoming =
            Incoming { event, message, event_id: "e".into(), was_parked: false, trace: TraceContext::new_root() };
        assert_eq!(self.reservations.handle(vec![incoming]).await, [Ok(())]);
    }

    async fn waiting(&self) -> Vec<(String, i64)> {
        let mut claim = self.housekeeping.claim_outbox(1_000).await.unwrap();
        let rows = claim.subjects().into_iter().flatten();
        rows.map(|row| (row.message.header("ce-type").unwrap_or_default().to_owned(), row.revision)).collect()
    }
}

#[tokio::test]
async fn one_of_a_hundred_concurrent_reservations_succeeds() {
    let fixture = fixture().await;
    let outcomes = futures::future::join_all((0..100).map(|_| fixture.reserve("hot", None))).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == HELD).count(), 99);
    assert_eq!(fixture.waiting().await.len(), 1, "one event per effect");
}

#[tokio::test]
async fn a_retry_returns_the_first_response_even_if_the_ticket_is_held() {
    let fixture = fixture().await;
    let id = Some(Uuid::new_v4());
    let first = fixture.reserve("t-1", id).await;
    // The ticket already shows this reservation: RESERVED refers to the caller's own reservation.
    *fixture.ticket_service.says.lock().unwrap() = Check::Reserved { reservation_revision: 1, end: end() };
    assert_eq!(fixture.reserve("t-1", id).await, first.map(EncodedResponse::replayed));
    assert_eq!(fixture.waiting().await.len(), 1);
}

#[tokio::test]
async fn concurrent_attempts_have_one_effect_and_one_response() {
    let fixture = fixture().await;
    for round in 0..20 {
        let (id, ticket) = (Some(Uuid::new_v4()), format!("t-{round}"));
        let (one, two) = tokio::join!(fixture.reserve(&ticket, id), fixture.reserve(&ticket, id));
        assert_eq!(id_in(&one), id_in(&two));
    }
    assert_eq!(fixture.waiting().await.len(), 20);
}

#[tokio::test]
async fn a_request_id_of_another_request_is_refused() {
    let fixture = fixture().await;
    let id = Uuid::new_v4();
    fixture.reserve("t-1", Some(id)).await.expect("reserved");
    let other = Request { idempotency: Some(Idempotency { request_id: id, hash: [2; 32] }), ..request(None) };
    let refused = fixture.reservations.reserve(new_reservation("t-2"), other.clone()).await.expect("run");
    assert_eq!(refused, Err(Refusal::RequestIdReused));
    let refused = fixture.reservations.cancel(ReservationId::generate(), other).await.expect("run");
    assert_eq!(refused, Err(Refusal::RequestIdReused));
}

#[tokio::test]
async fn a_refusal_by_the_ledger_needs_no_availability_check() {
    let fixture = fixture().await;
    fixture.reserve("t-1", None).await.expect("reserved");
    let asked = fixture.ticket_service.asked.load(Ordering::SeqCst);
    assert_eq!(fixture.reserve("t-1", None).await, HELD);
    assert_eq!(fixture.ticket_service.asked.load(Ordering::SeqCst), asked);
}

#[tokio::test]
async fn a_cancelled_ticket_can_be_reserved_again_immediately() {
    let fixture = fixture().await;
    let first = id_in(&fixture.reserve("t-1", None).await);
    fixture.cancel(first).await.expect("cancelled");
    *fixture.ticket_service.says.lock().unwrap() = Check::Reserved { reservation_revision: 1, end: end() };
    let second = id_in(&fixture.reserve("t-1", None).await);
    assert_ne!(first, second);
    assert_eq!(fixture.cancel(first).await, Err(Refusal::Domain(domain::Refusal::ReservationNotActive)));
    let held = fixture.reservations.reservation(second).await.expect("read").expect("a row");
    assert_eq!((held.status, held.revision), (Status::Reserved, 3));
}

#[tokio::test]
async fn the_end_is_checked_again_at_the_commit() {
    let fixture = fixture().await;
    fixture.clock.set(end());
    let refused = Err(Refusal::Domain(domain::Refusal::TicketExpired));
    assert_eq!(fixture.reserve("t-1", None).await, refused);
}

#[tokio::test]
async fn a_withdrawal_rejects_the_holder_and_prevents_reservations() {
    let fixture = fixture().await;
    let held = id_in(&fixture.reserve("t-1", None).await);
    fixture.withdraw("t-1").await;
    fixture.withdraw("t-1").await;
    fixture.withdraw("t-2").await;
    let rejected = fixture.reservations.reservation(held).await.expect("read").expect("a row");
    assert_eq!((rejected.status, rejected.revision), (Status::Rejected, 2));
    for ticket in ["t-1", "t-2"] {
        let refused = Err(Refusal::Domain(domain::Refusal::TicketWithdrawn));
        assert_eq!(fixture.reserve(ticket, None).await, refused, "{ticket}");
    }
    let mut events = fixture.waiting().await;
    events.sort();
    let name = |kind: &str| format!("eticket.event.v1.{kind}");
    assert_eq!(
        events,
        [(name("ReservationPlaced"), 1), (name("ReservationRejected"), 2), (name("ReservationsClosed"), 1)]
    );
    assert_eq!(fixture.clock.now(), now());
}

#[tokio::test]
async fn commands_of_one_batch_take_consecutive_revisions() {
    let fixture = fixture().await;
    let mut held = id_in(&fixture.reserve("t-1", None).await);
    for round in 0..10 {
        // Both commands are queued at the same time, so most rounds run as one batch.
        let (cancelled, made) = tokio::join!(fixture.cancel(held), fixture.reserve("t-1", None));
        cancelled.expect("cancelled");
        held = match made {
            Ok(_) => id_in(&made),
            Err(_) => id_in(&fixture.reserve("t-1", None).await),
        };
        let reservation = fixture.reservations.reservation(held).await.expect("read").expect("a row");
        assert_eq!(reservation.revision, 3 + 2 * round);
    }
    assert_eq!(fixture.waiting().await.len(), 21, "one outbox row per command");
}

#[tokio::test]
async fn republishing_raises_no_revision_and_sends_everything() {
    let fixture = fixture().await;
    let first = id_in(&fixture.reserve("t-1", None).await);
    fixture.cancel(first).await.expect("cancelled");
    fixture.reserve("t-1", None).await.expect("reserved");
    fixture.withdraw("t-2").await;
    let before = fixture.waiting().await.len();
    let states = ReservationStates::new(fixture.reservations.clone(), PROTOBUF);
    assert_eq!(republish_all(&states, &|_| ()).await, Ok(3));
    let after = fixture.waiting().await;
    // Republishing adds a row even though a row of that revision is still in the outbox.
    assert_eq!(after.len(), before + 3);
    assert_eq!(after.iter().map(|(_, revision)| revision).max(), Some(&3));
    assert_eq!(states.count().await, Ok(3));
}

#[tokio::test]
async fn a_retry_returns_the_bytes_that_a_newer_version_recorded() {
    let fixture = fixture().await;
    let id = Uuid::new_v4();
    let first = fixture.reserve("t-1", Some(id)).await.expect("reserved");
    assert_eq!(first.type_name.as_deref(), Some("eticket.reservation.v1.ReserveTicketResponse"));
    assert_eq!(fixture.reserve("t-1", Some(id)).await, Ok(first.replayed()));
    // The response was recorded by a version with more fields. It must be returned without decoding.
    let idempotency = Idempotency { request_id: Uuid::new_v4(), hash: [1; 32] };
    let newer = EncodedResponse { type_name: None, bytes: vec![0x78, 7].into(), replayed: false };
    let record = |work: &mut Work<ReservationRows>| {
        work.run::<RequestIdReused>(Some(idempotency), |_| Ok(newer.clone())).expect("the first");
    };
    fixture.store.commit_with(&Keys::default(), &[idempotency.request_id], record).await.expect("committed");
    assert_eq!(fixture.reserve("t-2", Some(idempotency.request_id)).await, Ok(newer.replayed()));
}
