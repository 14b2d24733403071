//! The processes: two of each service, each assembled as in production, on stores that its replicas share.

use std::sync::{Arc, Mutex, atomic::AtomicU64};

use async_trait::async_trait;
use eticket_base::tasks::Tasks;
use eticket_bus::{Bus, memory::Stream};
use eticket_pricing::{application::Prices, outbound::memory::PriceTables};
use eticket_query::{application::Views, outbound::memory::MemoryViews};
use eticket_reservation::{application::Reservations, outbound::memory::ReservationTables};
use eticket_rpc_server::health::Health;
use eticket_service::{
    audit::{AppliedEvents, Comparer, Owner, Responder},
    batch::Limits,
    config::AuditConfig,
    consumer::{Consumer, EventHandler},
    relay::Relay,
};
use eticket_store::{
    Error, Housekeeping, OutboxRow, ParkedStore,
    memory::{NoSteps, Steps, Store, Tables},
};
use eticket_ticket::{application::Tickets, outbound::memory::TicketTables};
use tokio_util::sync::CancellationToken;

use super::{
    history::History,
    kill_switch::KillSwitch,
    link::{Link, Transport},
    plan::{Plan, Repair},
    scheduler::{Scheduler, locked},
    service::Service,
    wrong::{self, Network, Wrong},
};

mod start;

/// Write commands of a batch: few, so that one batch rarely contains everything.
pub(super) const LIMITS: Limits = Limits { queue: 64, batch: 8 };

/// A running process.
pub(super) struct Running<H> {
    pub(super) handle: H,
    process_state: Process,
}

/// Everything that ends with a process.
#[derive(Clone)]
pub(super) struct Process {
    pub(super) name: String,
    scheduler: Scheduler,
    history: Arc<Mutex<History>>,
    service: Service,
    pub(super) kill_switch: KillSwitch,
    tasks: Tasks,
    loops: Arc<Mutex<Vec<tokio::task::AbortHandle>>>,
    link: Arc<Link>,
}

impl Process {
    fn new(fleet: &Fleet, service: Service, number: usize) -> Self {
        let kill_switch = KillSwitch::default();
        let name = format!("{service:?}-{number}").to_lowercase();
        Self {
            link: Arc::new(Link::new(name.clone(), fleet.transport.clone(), kill_switch.clone())),
            name,
            scheduler: fleet.scheduler.clone(),
            history: fleet.history.clone(),
            service,
            kill_switch,
            tasks: Tasks::new(),
            loops: Arc::default(),
        }
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        locked(&self.loops).push(tokio::spawn(work).abort_handle());
    }

    pub(super) fn bus(&self) -> &dyn Bus {
        &*self.link
    }

    /// When the process dies, aborts all its tasks at their current step.
    fn abort_when_dead(&self) {
        let process_state = self.clone();
        tokio::spawn(async move {
            process_state.kill_switch.died().await;
            process_state.scheduler.log(&process_state.name, "is dead");
            process_state.scheduler.count("a process was killed");
            process_state.tasks.stopping().cancel();
            locked(&process_state.loops).drain(..).for_each(|work| work.abort());
        });
    }
}

/// Injects faults between two steps of a store.
#[async_trait]
impl Steps for Process {
    async fn step(&self, step: &'static str) -> Result<(), Error> {
        let Self { scheduler, kill_switch, .. } = self;
        let unavailable = || Err(Error::Unavailable(sqlx::Error::PoolClosed));
        scheduler.pause().await;
        if !kill_switch.beat() {
            return unavailable();
        }
        scheduler.log(&self.name, step);
        if scheduler.fault(3) {
            scheduler.count("a store did not answer");
            return unavailable();
        }
        if step == "delete" {
            let published = std::mem::take(&mut *locked(&self.link.published));
            let mut history = locked(&self.history);
            published.iter().for_each(|(subject, revision)| history.sent(subject, *revision));
        }
        Ok(())
    }

    fn is_alive(&self) -> bool {
        self.kill_switch.is_alive()
    }

    fn wrote(&self, outbox: &[OutboxRow]) {
        let verdict = locked(&self.history).wrote(self.service, outbox);
        for row in outbox {
            let id = row.message.header("ce-id").unwrap_or_default();
            self.scheduler.log(&self.name, &format!("has committed {id}"));
        }
        if let Err(what) = verdict {
            self.scheduler.fail(what);
        }
    }
}

/// A place for a process of a service, which may be empty.
pub(super) struct Slot<H> {
    running: Mutex<Option<Running<H>>>,
}

impl<H: Clone> Slot<H> {
    fn empty() -> Self {
        Self { running: Mutex::new(None) }
    }

    pub(super) fn get(&self) -> Option<(H, Process)> {
        let running = locked(&self.running);
        let running = running.as_ref().filter(|running| running.process_state.kill_switch.is_alive());
        running.map(|running| (running.handle.clone(), running.process_state.clone()))
    }
}

/// All processes, and the state that they share.
pub(super) struct FleetInner {
    pub(super) scheduler: Scheduler,
    pub(super) plan: Plan,
    pub(super) wrong: Option<Wrong>,
    pub(super) history: Arc<Mutex<History>>,
    pub(super) transport: Transport,
    /// Cancelled when faults cease.
    pub(super) ceased: CancellationToken,
    pub(super) tickets: [Slot<Tickets>; 2],
    pub(super) reservations: [Slot<Reservations>; 2],
    pub(super) prices: [Slot<Prices>; 2],
    pub(super) views: [Slot<Views>; 2],
    ticket_rows: Store<TicketTables>,
    reservation_rows: Store<ReservationTables>,
    price_rows: Store<PriceTables>,
    view_rows: [Mutex<Arc<MemoryViews>>; 2],
}

/// Clones share the fleet.
pub(super) type Fleet = Arc<FleetInner>;

impl FleetInner {
    pub(super) async fn new(scheduler: Scheduler, plan: Plan, wrong: Option<Wrong>) -> Fleet {
        let clock: Arc<Scheduler> = Arc::new(scheduler.clone());
        let history: Arc<Mutex<History>> = Arc::default();
        let stream = Stream::default();
        stream.keep_per_subject(plan.kept);
        stream.sync_after(plan.sync_interval);
        let transport = Transport {
            scheduler: scheduler.clone(),
            stream,
            losses: plan.losses,
            under_way: Arc::new(AtomicU64::new(0)),
            network: Arc::new(Network::new(history.clone())),
            wrong,
        };
        let views = || Mutex::new(Arc::new(MemoryViews::new(clock.clone(), Arc::new(NoSteps))));
        let fleet = Self {
            plan,
            wrong,
            history,
            transport,
            ceased: CancellationToken::new(),
            tickets: [Slot::empty(), Slot::empty()],
            reservations: [Slot::empty(), Slot::empty()],
            prices: [Slot::empty(), Slot::empty()],
            views: [Slot::empty(), Slot::empty()],
            ticket_rows: Store::new(clock.clone()),
            reservation_rows: Store::new(clock.clone()),
            price_rows: Store::new(clock.clone()),
            view_rows: [views(), views()],
            scheduler,
        };
        fleet.adopt_a_policy().await;
        Arc::new(fleet)
    }

    /// Returns the rows of a view without faults.
    pub(super) fn shown(&self, number: usize) -> MemoryViews {
        locked(&self.view_rows[number]).process(Arc::new(NoSteps))
    }

    /// The number of rows in the outbox of a service, and its parked messages, without any fault.
    pub(super) fn housekeeping(&self, service: Service) -> (usize, Box<dyn ParkedStore>) {
        fn both<R: Tables>(rows: &Store<R>) -> (usize, Box<dyn ParkedStore>) {
            (rows.outbox_rows(), Box::new(rows.clone()))
        }
        match service {
            Service::Ticket => both(&self.ticket_rows),
            Service::Reservation => both(&self.reservation_rows),
            Service::Pricing => both(&self.price_rows),
            Service::Query => (0, Box::new(self.shown(0))),
        }
    }

    /// Returns whether services compare themselves with the owners.
    fn compares(&self) -> bool {
        self.plan.repair == Repair::Compare
    }

    /// Starts all processes that are not running, and cancels the planned deaths of the others.
    pub(super) fn start_all(self: &Arc<Self>) {
        for service in Service::ALL {
            for number in 0..2 {
                self.process_state(service, number).iter().for_each(|process_state| process_state.kill_switch.spare());
                self.start(service, number);
            }
        }
    }

    /// Returns the process in this slot, if one is running.
    pub(super) fn process_state(&self, service: Service, number: usize) -> Option<Process> {
        match service {
            Service::Ticket => self.tickets[number].get().map(|(_, process_state)| process_state),
            Service::Reservation => self.reservations[number].get().map(|(_, process_state)| process_state),
            Service::Pricing => self.prices[number].get().map(|(_, process_state)| process_state),
            Service::Query => self.views[number].get().map(|(_, process_state)| process_state),
        }
    }

    /// Deletes the file of a view while its process is not running.
    pub(super) fn delete_view(&self, number: usize) {
        let mut rows = locked(&self.view_rows[number]);
        rows.delete();
        *rows = Arc::new(rows.process(Arc::new(NoSteps)));
        self.transport.network.forget(&format!("query-{number}"));
    }

    /// Returns any running process.
    pub(super) fn any<H: Clone>(&self, slots: &[Slot<H>; 2]) -> Option<(H, Process)> {
        let running: Vec<(H, Process)> = slots.iter().filter_map(Slot::get).collect();
        self.scheduler.pick(&running).cloned()
    }
}

/// Settings of the comparison: faster than in production, because a simulation is short.
const COMPARED: AuditConfig = AuditConfig { rows_per_second: 1_000, confirm_after_ms: 3_000 };

fn comparer(process_state: &Process, service: &'static str, owners: &'static [&'static str]) -> Comparer {
    Comparer { service, owners, bus: process_state.link.clone(), config: COMPARED }
}

impl FleetInner {
    /// Consumer and relay of a process, as the background of a service has them; and the comparison, if this run compares.
    fn start_background<H: EventHandler, R: Tables>(
        &self,
        process_state: &Process,
        name: &'static str,
        rows: &Store<R>,
        events: H,
        owner: Arc<dyn Owner>,
        others: &'static [&'static str],
    ) {
        let (handler, outbox_written) = (Arc::new(events), rows.outbox_written());
        let bus: Arc<dyn Bus> = process_state.link.clone();
        let store: Arc<dyn Housekeeping> = Arc::new(rows.clone());
        let health = Health::new(Vec::<String>::new());
        let consumer = Consumer {
            name,
            bus: bus.clone(),
            store: store.clone(),
            handler: handler.clone(),
            owner: wrong::republished(self.wrong, owner.clone()),
            clock: Arc::new(process_state.scheduler.clone()),
            health: health.clone(),
        };
        process_state.spawn(consumer.run(process_state.tasks.stopping()));
        if self.compares() {
            let responder = Responder { service: name, bus: bus.clone(), owner, store: store.clone() };
            process_state.spawn(responder.run(process_state.tasks.stopping()));
            let replica = Arc::new(AppliedEvents { handler, store: store.clone() });
            process_state.spawn(comparer(process_state, name, others).run(replica, process_state.tasks.stopping()));
        }
        process_state.spawn(Relay::new(name, bus, store, outbox_written, health).run(process_state.tasks.stopping()));
    }
}
