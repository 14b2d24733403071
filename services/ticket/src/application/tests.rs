//! Tests of the use cases over a real store: commands, events and the outbox rows that they write.

use chrono::TimeDelta;
use eticket_base::{clock::ManualClock, tasks::Tasks};
use eticket_bus::Message;
use eticket_proto::{
    event::TicketEvent,
    ticket::{RegisterTicketResponse, TicketStatus},
};
use eticket_service::{audit::republish_all, batch::Limits, consumer::EventHandler};
use eticket_store::{
    OutboxStore, ParkedStore,
    sqlite::{Database, Store},
};
use prost::Message as _;

use super::*;
use crate::outbound::{messages::PROTOBUF, sqlite};

struct Fixture {
    tickets: Tickets,
    database: Database,
    clock: Arc<ManualClock>,
    _folder: tempfile::TempDir,
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_000_000, 0).unwrap()
}

async fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(now()));
    let path = folder.path().join("ticket.db");
    let database = Database::open(&path, &sqlite::MIGRATIONS, clock.clone()).await.unwrap();
    let store = Arc::new(Store::<sqlite::TicketTables>::new(database.clone()));
    let writer = TicketWriter { store: store.clone(), messages: PROTOBUF, clock: clock.clone() };
    let writer = Batches::start("ticket", &Tasks::new(), Limits::default(), writer);
    let tickets = Tickets::new(store, writer, clock.clone());
    Fixture { tickets, database, clock, _folder: folder }
}

fn register(id: &str) -> Command {
    let schedule = Schedule::new(now(), now() + TimeDelta::hours(1)).unwrap();
    Command::Register { id: id.parse().unwrap(), title: Title::parse("a concert").unwrap(), schedule }
}

fn incoming(ticket: &str, revision: i64, held: bool) -> Incoming<ReservationChange> {
    let event =
        ReservationChange { ticket: ticket.parse().unwrap(), revision, active: held.then(ReservationId::generate) };
    let message = Message { subject: "s".into(), headers: Vec::new(), body: vec![1].into() };
    Incoming {
        event,
        message: Arc::new(message),
        event_id: format!("{ticket}/{revision}"),
        was_parked: false,
        trace: TraceContext::new_root(),
    }
}

impl Fixture {
    async fn run(&self, command: Command, id: Option<Uuid>) -> Outcome {
        let idempotency = id.map(|request_id| Idempotency { request_id, hash: [1; 32] });
        self.tickets.command(command, idempotency, TraceContext::new_root(), None).await.expect("run")
    }

    async fn ticket(&self, id: &str) -> Ticket {
        self.tickets.ticket(&id.parse().unwrap()).await.expect("read").expect("a row")
    }

    /// Returns the types and bodies of the events in the outbox, sorted by revision.
    async fn waiting(&self) -> Vec<(String, TicketEvent)> {
        let mut claim = self.database.claim_outbox(100).await.unwrap();
        let rows = claim.subjects().into_iter().flatten();
        rows.map(|row| {
            let kind = row.message.header("ce-type").unwrap().trim_start_matches("eticket.event.v1.").to_owned();
            (kind, TicketEvent::decode(row.message.body).unwrap())
        })
        .collect()
    }
}

#[tokio::test]
async fn every_change_is_published_with_the_state_of_its_revision() {
    let fixture = fixture().await;
    fixture.run(register("t-1"), None).await.expect("registered");
    assert_eq!(
        fixture.tickets.handle(vec![incoming("t-1", 1, true), incoming("t-1", 2, false)]).await,
        [Ok(()), Ok(())]
    );
    let id: TicketId = "t-1".parse().unwrap();
    fixture.run(Command::Withdraw { id, etag: String::new() }, None).await.expect("withdrawn");
    let told: Vec<_> = fixture
        .waiting()
        .await
        .into_iter()
        .map(|(kind, event)| {
            let ticket = event.ticket.expect("a ticket");
            (kind, ticket.revision, ticket.reservation_revision, ticket.status(), event.withdrawn)
        })
        .collect();
    let expected = [
        ("TicketRegistered".to_owned(), 1, 0, TicketStatus::Available, false),
        ("TicketReserved".to_owned(), 2, 1, TicketStatus::Reserved, false),
        ("TicketReleased".to_owned(), 3, 2, TicketStatus::Available, false),
        ("TicketWithdrawn".to_owned(), 4, 2, TicketStatus::Withdrawn, true),
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_stale_event_changes_and_publishes_nothing() {
    let fixture = fixture().await;
    fixture.run(register("t-1"), None).await.expect("registered");
    fixture.tickets.handle(vec![incoming("t-1", 5, true)]).await;
    let (before, told) = (fixture.ticket("t-1").await, fixture.waiting().await.len());
    assert_eq!(
        fixture.tickets.handle(vec![incoming("t-1", 5, false), incoming("t-1", 4, false)]).await,
        [Ok(()), Ok(())]
    );
    assert_eq!(fixture.ticket("t-1").await, before);
    assert_eq!(fixture.waiting().await.len(), told);
}

#[tokio::test]
async fn an_event_for_an_unknown_ticket_is_parked_until_it_can_be_applied() {
    let fixture = fixture().await;
    assert_eq!(fixture.tickets.handle(vec![incoming("t-9", 1, true)]).await, [Ok(())]);
    let parked = fixture.database.parked("", 10).await.unwrap();
    assert_eq!((parked.len(), parked[0].reason.as_str()), (1, "the ticket does not exist"));
    let again = Incoming { was_parked: true, ..incoming("t-9", 1, true) };
    fixture.tickets.handle(vec![again.clone()]).await;
    assert_eq!(fixture.database.parked("", 10).await.unwrap().len(), 1, "the ticket still does not exist");
    fixture.run(register("t-9"), None).await.expect("registered");
    fixture.tickets.handle(vec![again]).await;
    assert_eq!(fixture.database.parked("", 10).await.unwrap().len(), 0);
    assert!(fixture.ticket("t-9").await.holder.is_some());
}

#[tokio::test]
async fn a_retried_registration_without_a_ticket_id_creates_no_second_ticket() {
    let fixture = fixture().await;
    let id = Some(Uuid::new_v4());
    let first = fixture.run(register("made-by-the-server-1"), id).await.expect("registered");
    let again = fixture.run(register("made-by-the-server-2"), id).await.expect("the first response");
    assert_eq!(first.replayed(), again);
    let answer = RegisterTicketResponse::decode(again.bytes).unwrap();
    assert_eq!(answer.ticket.unwrap().ticket_id, "made-by-the-server-1");
    assert_eq!(fixture.tickets.store.count().await.unwrap(), 1);
    let refused = fixture.run(register("made-by-the-server-1"), None).await;
    assert_eq!(refused, Err(Refusal::Domain(domain::Refusal::AlreadyExists)));
}

#[tokio::test]
async fn the_sweeper_announces_each_expiry_once() {
    let fixture = fixture().await;
    fixture.run(register("t-1"), None).await.expect("registered");
    assert_eq!(fixture.tickets.sweep().await, Ok(0));
    fixture.clock.advance(TimeDelta::hours(1));
    assert_eq!(fixture.tickets.sweep().await, Ok(1));
    assert_eq!(fixture.tickets.sweep().await, Ok(0));
    let (kind, event) = fixture.waiting().await.pop().expect("an event");
    assert_eq!((kind.as_str(), event.ticket.unwrap().status()), ("TicketExpired", TicketStatus::Expired));
}

#[tokio::test]
async fn republishing_sends_every_ticket_and_raises_no_revision() {
    let fixture = fixture().await;
    for id in ["t-1", "t-2", "t-3"] {
        fixture.run(register(id), None).await.expect("registered");
    }
    fixture.tickets.handle(vec![incoming("t-2", 1, true)]).await;
    let id: TicketId = "t-3".parse().unwrap();
    fixture.run(Command::Withdraw { id, etag: String::new() }, None).await.expect("withdrawn");
    let before = fixture.waiting().await.len();
    let states = events::TicketStates::new(fixture.tickets.clone(), PROTOBUF);
    assert_eq!(republish_all(&states, &|_| ()).await, Ok(3));
    let after = fixture.waiting().await;
    assert_eq!(after.len(), before + 3);
    let updated = after.iter().filter(|(kind, _)| kind == "TicketUpdated").count();
    let withdrawn = after.iter().filter(|(kind, _)| kind == "TicketWithdrawn").count();
    assert_eq!((updated, withdrawn, fixture.ticket("t-3").await.revision), (1, 2, 2));
}

#[tokio::test]
async fn an_update_without_changes_is_not_an_edit() {
    let fixture = fixture().await;
    fixture.run(register("t-1"), None).await.expect("registered");
    let before = fixture.tickets.ticket(&"t-1".parse().unwrap()).await.unwrap().expect("a row");
    let waiting = fixture.database.outbox_depth().await.unwrap();
    let update = |etag: &str| Command::Update {
        id: "t-1".parse().unwrap(),
        etag: etag.to_owned(),
        change: domain::Change::default(),
    };
    fixture.run(update(""), None).await.expect("the unchanged ticket");
    fixture.run(update("1"), None).await.expect("the current etag");
    assert!(fixture.run(update("2"), None).await.is_err(), "an old etag fails without changes too");
    assert_eq!(fixture.tickets.ticket(&before.id).await.unwrap(), Some(before));
    assert_eq!(fixture.database.outbox_depth().await.unwrap(), waiting, "no event without a change");
}
