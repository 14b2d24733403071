//! The four services in one process: the real applications over real SQLite files, with a bus and a clock that the
//! schedule controls. Relays and consumers do not run by themselves; the schedule steps them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use eticket_base::{
    clock::{ManualClock, SharedClock},
    credentials::Credentials,
    tasks::Tasks,
    telemetry::TraceContext,
};
use eticket_bus::Bus;
use eticket_pricing::application::{PriceWriter, Prices, events::PriceStates};
use eticket_proto::ids::TicketId;
use eticket_query::application::{ViewStore, changes::Changes, reader::Reader};
use eticket_reservation::{
    application::{
        Availability, CheckError, ReservationStore, ReservationWriter, Reservations, events::ReservationStates,
    },
    domain::Check,
};
use eticket_rpc_server::health::Health;
use eticket_service::{
    audit::Owner,
    batch::{Batches, Limits},
    consumer::{Consumer, EventHandler},
};
use eticket_store::{
    Housekeeping,
    sqlite::{Database, Durability, Store},
};
use eticket_ticket::{
    application::{TicketWriter, Tickets, events::TicketStates},
    domain::Unavailable,
};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use super::bus::TestBus;

/// The services that write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Ticket,
    Reservation,
    Pricing,
}

impl Service {
    pub const ALL: [Self; 3] = [Self::Ticket, Self::Reservation, Self::Pricing];
}

/// The services, the bus and the clock; see the module documentation.
pub struct World {
    pub bus: TestBus,
    pub clock: Arc<ManualClock>,
    pub tickets: Tickets,
    pub reservations: Reservations,
    pub ledgers: Arc<dyn ReservationStore>,
    pub prices: Prices,
    pub views: Arc<dyn ViewStore>,
    pub ticket: Consumer<Tickets>,
    pub reservation: Consumer<Reservations>,
    pub pricing: Consumer<Prices>,
    pub query: Reader,
    pub check: Arc<DirectCheck>,
    /// Of the services, in the order of [`Service`].
    stores: [Database; 3],
    folder: tempfile::TempDir,
}

/// No data must survive a crash of the machine, and syncing every commit would dominate the run time of a schedule.
const DURABILITY: Durability = Durability::Unsynced;

impl World {
    /// Creates new stores and a new stream.
    pub async fn new(now: DateTime<Utc>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (bus, clock, tasks) = (TestBus::default(), Arc::new(ManualClock::new(now)), Tasks::new());
        let open = async |name: &str, migrations| {
            let path = folder.path().join(name);
            Database::open_with(&path, migrations, clock.clone(), DURABILITY).await.expect("a store")
        };
        let ticket_db = open("ticket.db", &eticket_ticket::outbound::sqlite::MIGRATIONS).await;
        let reservation_db = open("reservation.db", &eticket_reservation::outbound::sqlite::MIGRATIONS).await;
        let pricing_db = open("pricing.db", &eticket_pricing::outbound::sqlite::MIGRATIONS).await;

        let tickets = tickets(&ticket_db, &clock, &tasks);
        let check = Arc::new(DirectCheck { tickets: tickets.clone(), gates: Mutex::default() });
        let (reservations, ledgers) = reservations(&reservation_db, &clock, &tasks, check.clone());
        let prices = prices(&pricing_db, &clock, &tasks).await;
        let query = reader(&folder, &bus, &clock).await;

        let states = TicketStates::new(tickets.clone(), eticket_ticket::outbound::messages::PROTOBUF);
        let ticket = consumer("ticket", &bus, &clock, &ticket_db, tickets.clone(), states);
        let states = ReservationStates::new(reservations.clone(), eticket_reservation::outbound::messages::PROTOBUF);
        let reservation = consumer("reservation", &bus, &clock, &reservation_db, reservations.clone(), states);
        let messages = eticket_pricing::outbound::messages::PROTOBUF;
        let states = PriceStates::new(prices.clone(), messages, clock.clone());
        let pricing = consumer("pricing", &bus, &clock, &pricing_db, prices.clone(), states);
        let views = query.store.clone();
        Self {
            bus,
            clock,
            tickets,
            reservations,
            ledgers,
            prices,
            views,
            ticket,
            reservation,
            pricing,
            query,
            check,
            stores: [ticket_db, reservation_db, pricing_db],
            folder,
        }
    }

    /// Returns outbox and parked events of a service.
    pub fn housekeeping(&self, service: Service) -> &dyn Housekeeping {
        &self.stores[service as usize]
    }

    /// Closes and removes the stores.
    pub async fn close(self) {
        for service in Service::ALL {
            self.housekeeping(service).close().await;
        }
        self.views.close().await;
        drop(self.folder);
    }
}

fn tickets(database: &Database, clock: &Arc<ManualClock>, tasks: &Tasks) -> Tickets {
    let store = Arc::new(Store::<eticket_ticket::outbound::sqlite::TicketTables>::new(database.clone()));
    let messages = eticket_ticket::outbound::messages::PROTOBUF;
    let writer = TicketWriter { store: store.clone(), messages, clock: clock.clone() };
    let writer = Batches::start("ticket", tasks, Limits::default(), writer);
    Tickets::new(store, writer, clock.clone())
}

fn reservations(
    database: &Database,
    clock: &Arc<ManualClock>,
    tasks: &Tasks,
    check: Arc<DirectCheck>,
) -> (Reservations, Arc<dyn ReservationStore>) {
    let store = Arc::new(Store::<eticket_reservation::outbound::sqlite::ReservationTables>::new(database.clone()));
    let messages = eticket_reservation::outbound::messages::PROTOBUF;
    let writer = ReservationWriter { store: store.clone(), messages, clock: clock.clone() };
    let writer = Batches::start("reservation", tasks, Limits::default(), writer);
    (Reservations::new(store.clone(), writer, check, clock.clone()), store)
}

async fn prices(database: &Database, clock: &Arc<ManualClock>, tasks: &Tasks) -> Prices {
    use eticket_pricing::{
        outbound::{messages::PROTOBUF, sqlite::PriceTables},
        policy_file,
    };
    let store = Arc::new(Store::<PriceTables>::new(database.clone()));
    let writer = PriceWriter { store: store.clone(), messages: PROTOBUF, clock: clock.clone() };
    let prices = Prices::new(store, Batches::start("pricing", tasks, Limits::default(), writer));
    let policy = policy_file::parse(policy_file::DEFAULT).expect("the embedded policy");
    prices.offer(policy).await.expect("the store answers");
    prices
}

async fn reader(folder: &tempfile::TempDir, bus: &TestBus, clock: &Arc<ManualClock>) -> Reader {
    let clock: SharedClock = clock.clone();
    let path = folder.path().join("query.db");
    let store = eticket_query::outbound::sqlite::SqliteViews::open(&path, clock.clone()).await.expect("a store");
    Reader {
        bus: Arc::new(bus.clone()),
        store: Arc::new(store),
        decode: Arc::new(eticket_query::inbound::events::Protobuf),
        changes: Changes::default(),
        clock,
        health: health(),
        turn: Arc::default(),
        reattach: Arc::new(Notify::new()),
        reached_end: None,
    }
}

fn health() -> Health {
    Health::new(Vec::<String>::new())
}

fn consumer<H: EventHandler>(
    name: &'static str,
    bus: &TestBus,
    clock: &Arc<ManualClock>,
    database: &Database,
    handler: H,
    states: impl Owner,
) -> Consumer<H> {
    let bus: Arc<dyn Bus> = Arc::new(bus.clone());
    let (store, handler, owner) = (Arc::new(database.clone()), Arc::new(handler), Arc::new(states));
    Consumer { name, bus, store, handler, owner, clock: clock.clone(), health: health() }
}

struct Gate {
    arrived: oneshot::Sender<()>,
    go_on: oneshot::Receiver<()>,
}

/// The availability check as a direct call. A call may be paused after its check, so that other commands run between
/// check and commit.
pub struct DirectCheck {
    tickets: Tickets,
    /// By the correlation id of the call.
    gates: Mutex<HashMap<String, Gate>>,
}

impl DirectCheck {
    /// Pauses the call of this trace after its check. The receiver completes when the call is paused; the sender
    /// resumes it.
    pub fn hold_up(&self, trace: &TraceContext) -> (oneshot::Receiver<()>, oneshot::Sender<()>) {
        let ((arrived, has_arrived), (go, go_on)) = (oneshot::channel(), oneshot::channel());
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        gates.insert(trace.correlation_id.clone(), Gate { arrived, go_on });
        (has_arrived, go)
    }
}

#[async_trait]
impl Availability for DirectCheck {
    async fn check(
        &self,
        ticket: &TicketId,
        _: Option<Instant>,
        trace: &TraceContext,
        _: Option<&Credentials>,
    ) -> Result<Check, CheckError> {
        let found = self.tickets.ticket(ticket).await.expect("the store answers");
        let check = found.map_or(Check::NotFound, |ticket| {
            let end = ticket.schedule.end();
            match ticket.check(self.tickets.now()) {
                Ok(()) => Check::Available { end },
                Err(Unavailable::Withdrawn) => Check::Withdrawn,
                Err(Unavailable::Expired) => Check::Expired,
                Err(Unavailable::Reserved) => {
                    Check::Reserved { reservation_revision: ticket.reservation_revision, end }
                }
            }
        });
        let gate = self.gates.lock().unwrap_or_else(PoisonError::into_inner).remove(&trace.correlation_id);
        if let Some(Gate { arrived, go_on }) = gate {
            // The receiver is gone if the schedule has ended early.
            let _ = arrived.send(());
            let _ = go_on.await;
        }
        Ok(check)
    }
}
