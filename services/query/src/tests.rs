//! The service over a real file and a bus, driven step by step. No test waits for a fixed time.

mod building;
mod comparing;
mod completeness;
mod convergence;
mod history;
mod listing;
mod operating;
mod reading;
mod rebuilding;
mod sessions;
mod waiting;
mod watching;

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use eticket_base::{clock::ManualClock, tasks::Tasks};
use eticket_bus::{Bus, Message, memory::Stream as MemoryStream};
use eticket_bus_embedded::Embedded;
use eticket_proto::{
    event::{PriceEvent, ReservationEvent, TicketEvent},
    headers,
    ids::{ReservationId, TicketId, UserGrade},
    pricing as pricing_pb, reservation as reservation_pb, subjects, ticket as ticket_pb,
    time::to_proto,
    r#type::Money as MoneyPb,
};
use eticket_rpc_server::health::Health;
use eticket_store::{Work, memory::NoSteps};
use prost::Message as _;
use tokio::{
    sync::{Mutex, Notify, Semaphore},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    application::{Keys, Position, ViewRows, ViewStore, Views, changes::Changes, reader::Reader, rebuild::Rebuild},
    domain::{Event, LedgerPart, Money, PricePart, Reservation, ReservationStatus, TicketPart, View},
    inbound::{events::Protobuf, grpc::Grpc},
    outbound::{memory::MemoryViews, sqlite::SqliteViews},
};

/// Maximum time to wait for a condition. Only a failing test waits that long.
const BOUND: Duration = Duration::from_secs(20);

struct Fixture {
    _folder: tempfile::TempDir,
    bus: Arc<dyn Bus>,
    clock: Arc<ManualClock>,
    health: Health,
    reader: Reader,
    views: Views,
    tasks: Tasks,
}

impl Fixture {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bus = Arc::new(Embedded::open(&folder.path().join("bus.db")).await.unwrap());
        Self::on(folder, bus).await
    }

    /// A view with a connection to this stream.
    async fn reading(stream: &MemoryStream) -> Self {
        Self::on(tempfile::tempdir().unwrap(), Arc::new(stream.connect())).await
    }

    /// A view with its rows and stream in memory. Its calls need no other thread, so the clock can be paused.
    async fn in_memory() -> Self {
        let mut fixture = Self::reading(&MemoryStream::default()).await;
        fixture.keep_in_memory();
        fixture
    }

    async fn on(folder: tempfile::TempDir, bus: Arc<dyn Bus>) -> Self {
        let clock = Arc::new(ManualClock::new(time(0)));
        let store: Arc<dyn ViewStore> =
            Arc::new(SqliteViews::open(&folder.path().join("query.db"), clock.clone()).await.unwrap());
        let health = Health::new(["eticket.query.v1.QueryService"]).with_store().with_catching_up().with_bus();
        health.set_store(true);
        let views = Views {
            store: store.clone(),
            bus: bus.clone(),
            changes: Changes::default(),
            clock: clock.clone(),
            waits: Arc::new(Semaphore::new(64)),
            watches: Arc::new(Semaphore::new(64)),
            draining: CancellationToken::new(),
        };
        // Most tests insert rows without a reader. Tests of an incomplete view use a new `Changes`.
        views.changes.caught_up();
        let reader = Reader {
            bus: bus.clone(),
            store,
            decode: Arc::new(Protobuf),
            changes: views.changes.clone(),
            clock: clock.clone(),
            health: health.clone(),
            turn: Arc::new(Mutex::new(())),
            reattach: Arc::new(Notify::new()),
            reached_end: None,
        };
        Self { _folder: folder, bus, clock, health, reader, views, tasks: Tasks::new() }
    }

    /// Switches to another stream.
    fn turn_to(&mut self, bus: Arc<dyn Bus>) {
        self.reader.bus = bus.clone();
        self.views.bus = bus.clone();
        self.bus = bus;
    }

    /// Switches to empty rows in memory: a paused clock does not wait for the threads of a database.
    fn keep_in_memory(&mut self) {
        let store = Arc::new(MemoryViews::new(self.clock.clone(), Arc::new(NoSteps)));
        (self.reader.store, self.views.store) = (store.clone(), store);
    }

    fn store(&self) -> &dyn ViewStore {
        &*self.reader.store
    }

    fn grpc(&self) -> Grpc {
        Grpc { views: self.views.clone(), default_deadline: Duration::from_secs(10), tasks: self.tasks.clone() }
    }

    fn rebuild(&self) -> Rebuild {
        Rebuild::new(self.reader.clone(), self.tasks.clone())
    }

    async fn publish(&self, ticket: &TicketId, event: &Event) -> u64 {
        self.bus.publish(message(ticket, event)).await.unwrap()
    }

    /// Attaches and reads to the end of the stream.
    async fn read_all(&self) {
        let mut session = self.reader.attach().await.unwrap();
        let end = self.bus.state().await.unwrap().last_sequence;
        while session.progress().0 < end {
            let batch = timeout(BOUND, session.next()).await.expect("another message").unwrap();
            session.apply(batch).await.unwrap();
        }
    }

    async fn take(&self, ticket: &TicketId, events: &[Event]) {
        for event in events {
            self.publish(ticket, event).await;
        }
        self.read_all().await;
    }

    async fn view(&self, ticket: &TicketId) -> View {
        self.store().view(ticket).await.unwrap().expect("a row")
    }

    /// Overwrites the stored position.
    async fn stand_at(&self, position: Position) {
        let apply_batch = &mut |work: &mut Work<ViewRows>| work.rows.moved_to = Some(position.clone());
        self.store().commit(&Keys::default(), &[], apply_batch).await.unwrap();
    }
}

/// Waits for a condition and yields to other tasks meanwhile.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + BOUND;
    while !holds().await {
        assert!(Instant::now() < end, "not within {BOUND:?}: {what}");
        tokio::task::yield_now().await;
    }
}

fn time(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

fn id(text: &str) -> TicketId {
    text.parse().unwrap()
}

fn reservation_id(number: u128) -> ReservationId {
    Uuid::from_u128(number).into()
}

fn ticket(revision: i64, reservation_revision: i64, holder: Option<u128>) -> TicketPart {
    TicketPart {
        revision,
        schedule_revision: 1,
        reservation_revision,
        title: "a title".to_owned(),
        start: time(1_000),
        end: time(2_000),
        withdrawn: false,
        holder: holder.map(reservation_id),
        update_time: time(revision),
    }
}

fn price(revision: i64, reservation_revision: i64, units: i64) -> PricePart {
    PricePart {
        revision,
        schedule_revision: 1,
        reservation_revision,
        base_price: money(10_000),
        discounted_price: money(units),
        discounts: Vec::new(),
        update_time: time(revision),
    }
}

fn money(units: i64) -> Money {
    Money { currency_code: "KRW".to_owned(), units, nanos: 0 }
}

fn reservation(ticket: &TicketId, number: u128, revision: i64, status: ReservationStatus) -> Reservation {
    Reservation {
        reservation_id: reservation_id(number),
        ticket_id: ticket.clone(),
        user_id: "ann".parse().unwrap(),
        user_grade: UserGrade::Vip,
        status,
        status_reason: String::new(),
        revision,
        reserve_time: time(100),
        update_time: time(revision),
    }
}

/// The event of a reservation, with the ledger at its revision.
fn reserved(reservation: Reservation) -> Event {
    let held = reservation.status == ReservationStatus::Reserved;
    let ledger = LedgerPart {
        revision: reservation.revision,
        active: held.then_some(reservation.reservation_id),
        closed: reservation.status == ReservationStatus::Rejected,
    };
    Event::Ledger(ledger, Some(reservation))
}

/// Events of a ticket that was registered and priced, but never reserved.
fn free() -> [Event; 2] {
    [Event::Ticket(ticket(1, 0, None)), Event::Price(price(1, 0, 10_000))]
}

/// An event as its owner publishes it.
fn message(id: &TicketId, event: &Event) -> Message {
    let money = |money: &Money| {
        Some(MoneyPb { currency_code: money.currency_code.clone(), units: money.units, nanos: money.nanos })
    };
    let (subject, name, body) = match event {
        Event::Ticket(part) => {
            let ticket = ticket_pb::Ticket {
                ticket_id: id.to_string(),
                title: part.title.clone(),
                start_time: Some(to_proto(part.start)),
                end_time: Some(to_proto(part.end)),
                reservation_id: part.holder.map(|holder| holder.to_string()).unwrap_or_default(),
                revision: part.revision,
                schedule_revision: part.schedule_revision,
                reservation_revision: part.reservation_revision,
                update_time: Some(to_proto(part.update_time)),
                ..ticket_pb::Ticket::default()
            };
            let event = TicketEvent { ticket: Some(ticket), withdrawn: part.withdrawn };
            (subjects::ticket(id), format!("ticket/{id}/{}", part.revision), event.encode_to_vec())
        }
        Event::Ledger(part, reservation) => {
            let event = ReservationEvent {
                reservation: reservation.as_ref().map(reservation_message),
                ticket_id: id.to_string(),
                ledger_revision: part.revision,
                active_reservation_id: part.active.map(|active| active.to_string()).unwrap_or_default(),
                closed: part.closed,
            };
            let (subject, name) = match reservation {
                Some(row) => (subjects::reservation(id, row.reservation_id), row.reservation_id.to_string()),
                None => (subjects::reservations_closed(id), "closed".to_owned()),
            };
            (subject, format!("reservation/{id}/{name}/{}", part.revision), event.encode_to_vec())
        }
        Event::Price(part) => {
            let discounts = part.discounts.iter().map(|discount| pricing_pb::Discount {
                rule_id: discount.rule_id.clone(),
                description: discount.description.clone(),
                amount: money(&discount.amount),
            });
            let price = pricing_pb::Price {
                ticket_id: id.to_string(),
                base_price: money(&part.base_price),
                discounted_price: money(&part.discounted_price),
                discounts: discounts.collect(),
                schedule_revision: part.schedule_revision,
                reservation_revision: part.reservation_revision,
                revision: part.revision,
                update_time: Some(to_proto(part.update_time)),
            };
            let event = PriceEvent { price: Some(price), policy_version: 1 };
            (subjects::price(id), format!("pricing/{id}/{}", part.revision), event.encode_to_vec())
        }
    };
    Message { subject, headers: vec![(headers::ID.into(), name)], body: body.into() }
}

fn reservation_message(row: &Reservation) -> reservation_pb::Reservation {
    let status = match row.status {
        ReservationStatus::Reserved => reservation_pb::ReservationStatus::Reserved,
        ReservationStatus::Cancelled => reservation_pb::ReservationStatus::Cancelled,
        ReservationStatus::Rejected => reservation_pb::ReservationStatus::Rejected,
    };
    reservation_pb::Reservation {
        reservation_id: row.reservation_id.to_string(),
        ticket_id: row.ticket_id.to_string(),
        user_id: row.user_id.to_string(),
        user_grade: row.user_grade.to_proto().into(),
        status: status.into(),
        status_reason: row.status_reason.clone(),
        revision: row.revision,
        reserve_time: Some(to_proto(row.reserve_time)),
        update_time: Some(to_proto(row.update_time)),
    }
}

/// A request as the server's layers pass it on if authentication is off.
fn by_admin<M>(message: M) -> tonic::Request<M> {
    let mut request = tonic::Request::new(message);
    request.extensions_mut().insert(eticket_rpc_server::auth::Caller::admin());
    request
}
