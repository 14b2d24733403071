//! How a process of each service starts.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use async_trait::async_trait;
use eticket_base::{credentials::Credentials, telemetry::TraceContext};
use eticket_pricing::{
    application::{PriceWriter, Prices, events::PriceStates},
    policy_file,
};
use eticket_proto::ids::TicketId;
use eticket_query::application::{
    ViewStore, Views,
    changes::Changes,
    completeness::{Completeness, OWNERS},
    ordered_watch::Listener,
    reader::Reader,
};
use eticket_reservation::{
    application::{Availability, CheckError, ReservationWriter, Reservations, events::ReservationStates},
    domain::Check,
};
use eticket_service::{audit::Owner, batch::Batches};
use eticket_ticket::{
    application::{TicketWriter, Tickets, events::TicketStates},
    domain::Unavailable,
};
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{Fleet, FleetInner, LIMITS, Process, Running, Slot, comparer};
use crate::simulation::{
    judge,
    scheduler::locked,
    service::Service,
    wrong::{self, Wrong},
};

impl FleetInner {
    pub(in crate::simulation) fn start(self: &Arc<Self>, service: Service, number: usize) {
        if self.process_state(service, number).is_some() {
            return;
        }
        let process_state = Process::new(self, service, number);
        self.scheduler.log(&process_state.name, "starts");
        process_state.abort_when_dead();
        match service {
            Service::Ticket => self.start_ticket(process_state, number),
            Service::Reservation => self.start_reservation(process_state, number),
            Service::Pricing => self.start_pricing(process_state, number),
            Service::Query => self.start_query(process_state, number),
        }
    }

    fn start_ticket(self: &Arc<Self>, process_state: Process, number: usize) {
        let clock = Arc::new(self.scheduler.clone());
        let taking_in: Arc<AtomicU64> = Arc::default();
        let rows = self.ticket_rows.process(clock.clone(), Arc::new(process_state.clone()));
        let rows = rows.with_outbox_limits(self.plan.outbox);
        let store = wrong::tickets(self.wrong, number, rows.clone(), taking_in.clone());
        let messages = eticket_ticket::outbound::messages::PROTOBUF;
        let writer = TicketWriter { store: store.clone(), messages, clock: clock.clone() };
        let writer = Batches::start("ticket", &process_state.tasks, LIMITS, writer);
        let tickets = Tickets::new(store, writer, clock);
        let events = self.heard(Service::Ticket, tickets.clone(), taking_in);
        let owner = Arc::new(TicketStates::new(tickets.clone(), messages));
        self.start_background(&process_state, "ticket", &rows, events, owner, &["reservation"]);
        let sweeper = tickets.clone();
        process_state.spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                // The next sweep repeats a failed one.
                let _ = sweeper.sweep().await;
            }
        });
        take_place(&self.tickets[number], tickets, process_state);
    }

    fn heard<T>(&self, service: Service, events: T, taking_in: Arc<AtomicU64>) -> wrong::Heard<T> {
        wrong::Heard { wrong: self.wrong, service, history: self.history.clone(), events, taking_in }
    }

    fn start_reservation(self: &Arc<Self>, process_state: Process, number: usize) {
        let clock = Arc::new(self.scheduler.clone());
        let rows = self.reservation_rows.process(clock.clone(), Arc::new(process_state.clone()));
        let rows = rows.with_outbox_limits(self.plan.outbox);
        let store = wrong::ledgers(self.wrong, rows.clone());
        let messages = eticket_reservation::outbound::messages::PROTOBUF;
        let writer = ReservationWriter { store: store.clone(), messages, clock: clock.clone() };
        let writer = wrong::writer(self.wrong, store.clone(), writer);
        let writer = Batches::start("reservation", &process_state.tasks, LIMITS, writer);
        let check = Arc::new(CheckByCall { fleet: Arc::downgrade(self), process_state: process_state.clone() });
        let reservations = Reservations::new(store, writer, check, clock);
        let events = self.heard(Service::Reservation, reservations.clone(), Arc::default());
        let owner = Arc::new(ReservationStates::new(reservations.clone(), messages));
        self.start_background(&process_state, "reservation", &rows, events, owner, &["ticket"]);
        take_place(&self.reservations[number], reservations, process_state);
    }

    fn start_pricing(self: &Arc<Self>, process_state: Process, number: usize) {
        let clock = Arc::new(self.scheduler.clone());
        let rows = self.price_rows.process(clock.clone(), Arc::new(process_state.clone()));
        let rows = rows.with_outbox_limits(self.plan.outbox);
        let store = Arc::new(rows.clone());
        let messages = eticket_pricing::outbound::messages::PROTOBUF;
        let writer = PriceWriter { store: store.clone(), messages, clock: clock.clone() };
        let prices = Prices::new(store, Batches::start("pricing", &process_state.tasks, LIMITS, writer));
        let events = self.heard(Service::Pricing, prices.clone(), Arc::default());
        let owner = Arc::new(PriceStates::new(prices.clone(), messages, clock));
        self.start_background(&process_state, "pricing", &rows, events, owner, &["ticket", "reservation"]);
        take_place(&self.prices[number], prices, process_state);
    }

    fn start_query(self: &Arc<Self>, process_state: Process, number: usize) {
        let rows = locked(&self.view_rows[number]).process(Arc::new(process_state.clone()));
        let store: Arc<dyn ViewStore> = Arc::new(rows);
        let (changes, clock) = (Changes::default(), Arc::new(self.scheduler.clone()));
        let reader = Reader {
            bus: process_state.link.clone(),
            store: store.clone(),
            decode: wrong::decode(self.wrong),
            changes: changes.clone(),
            clock: clock.clone(),
            health: eticket_rpc_server::health::Health::new(Vec::<String>::new()),
            turn: Arc::default(),
            reattach: Arc::new(Notify::new()),
            reached_end: self.compares().then(Arc::default),
        };
        if self.compares() {
            let completeness =
                Completeness { comparer: comparer(&process_state, "query", OWNERS), decode: reader.decode.clone() };
            process_state.spawn(completeness.run(reader.clone(), process_state.tasks.stopping()));
        }
        process_state.spawn(reader.run(process_state.tasks.stopping()));
        process_state.spawn(judged(self.clone(), number, changes.commits()));
        let semaphore = || Arc::new(Semaphore::new(64));
        let draining = CancellationToken::new();
        let bus = process_state.link.clone();
        let views = Views { store, bus, changes, clock, waits: semaphore(), watches: semaphore(), draining };
        take_place(&self.views[number], views, process_state);
    }

    /// Runs first: without a policy no ticket has a price.
    pub(super) async fn adopt_a_policy(&self) {
        let clock = Arc::new(self.scheduler.clone());
        let store = Arc::new(self.price_rows.clone());
        let messages = eticket_pricing::outbound::messages::PROTOBUF;
        let writer = PriceWriter { store: store.clone(), messages, clock };
        let tasks = eticket_base::tasks::Tasks::new();
        let prices = Prices::new(store, Batches::start("pricing", &tasks, LIMITS, writer));
        let policy = policy_file::parse(policy_file::DEFAULT).expect("the embedded policy");
        prices.offer(policy).await.expect("the store answers");
        tasks.stop().await;
    }
}

impl FleetInner {
    /// The states of a service, as one of its replicas has them.
    pub(in crate::simulation) fn owner(&self, service: Service, number: usize) -> Option<Arc<dyn Owner>> {
        use eticket_pricing::outbound::messages::PROTOBUF as PRICES;
        use eticket_reservation::outbound::messages::PROTOBUF as RESERVATIONS;
        use eticket_ticket::outbound::messages::PROTOBUF as TICKETS;
        Some(match service {
            Service::Ticket => Arc::new(TicketStates::new(self.tickets[number].get()?.0, TICKETS)),
            Service::Reservation => Arc::new(ReservationStates::new(self.reservations[number].get()?.0, RESERVATIONS)),
            Service::Pricing => {
                Arc::new(PriceStates::new(self.prices[number].get()?.0, PRICES, Arc::new(self.scheduler.clone())))
            }
            Service::Query => return None,
        })
    }
}

fn take_place<H>(slot: &Slot<H>, handle: H, process_state: Process) {
    *locked(&slot.running) = Some(Running { handle, process_state });
}

/// Checks all rows after each commit of a view.
async fn judged(fleet: Fleet, number: usize, mut commits: Listener<u64>) {
    loop {
        commits.changed().await;
        let Ok(rows) = fleet.shown(number).all_views("", i64::MAX).await else { return };
        for (ticket, view) in rows {
            if let Err(what) = judge::view(&locked(&fleet.history), &ticket, &view, fleet.wrong) {
                fleet.scheduler.fail(format!("query-{number}: {what}"));
            }
        }
    }
}

/// The availability check over the network, at any ticket process.
struct CheckByCall {
    fleet: std::sync::Weak<FleetInner>,
    process_state: Process,
}

#[async_trait]
impl Availability for CheckByCall {
    async fn check(
        &self,
        ticket: &TicketId,
        _: Option<Instant>,
        trace: &TraceContext,
        _: Option<&Credentials>,
    ) -> Result<Check, CheckError> {
        let unreachable = CheckError::Overloaded { retry_after: None };
        let fleet = self.fleet.upgrade().ok_or(unreachable)?;
        fleet.scheduler.pause().await;
        let (tickets, there) = fleet.any(&fleet.tickets).ok_or(unreachable)?;
        let found = tokio::select! {
            biased;
            () = there.kill_switch.died() => return Err(unreachable),
            found = tickets.ticket(ticket) => found.map_err(|_| unreachable)?,
        };
        let check = found.map_or(Check::NotFound, |ticket| {
            let end = ticket.schedule.end();
            locked(&fleet.history).was_checked(&trace.correlation_id, end);
            let reserved = Check::Reserved { reservation_revision: ticket.reservation_revision, end };
            let check = match ticket.check(fleet.scheduler.now()) {
                Ok(()) => Check::Available { end },
                Err(Unavailable::Withdrawn) => Check::Withdrawn,
                Err(Unavailable::Expired) => Check::Expired,
                Err(Unavailable::Reserved) => reserved,
            };
            Wrong::check(fleet.wrong, check, ticket.holder.map(|_| reserved))
        });
        fleet.scheduler.log(&self.process_state.name, &format!("hears from {} that {ticket} is {check:?}", there.name));
        fleet.scheduler.pause().await;
        Ok(check)
    }
}
