//! The reservation service: who holds which ticket, the one place where exclusivity is decided. It asks the ticket service whether
//! a ticket is available, and listens to it for withdrawals; cancelling needs neither it nor the bus.
//!
//! This file is the composition root, the only one that names concrete adapters.

pub mod application;
mod config;
pub mod convert;
pub mod domain;
pub mod inbound;
pub mod outbound;

use std::sync::Arc;

use eticket_base::{config as base_config, exit::StartError};
use eticket_proto::{
    operations::operations_service_server::SERVICE_NAME as OPERATIONS,
    reservation::reservation_service_server::{ReservationServiceServer, SERVICE_NAME as RESERVATIONS},
};
use eticket_rpc_client::balance;
use eticket_rpc_server::{health::Health, server::Running};
use eticket_runtime::{
    config::Settings,
    context::Context,
    process::{Deployment, OpenBus, Service},
};
use eticket_service::{
    audit::Comparer,
    background::Background,
    batch::{Batches, Limits},
    bus::open as open_bus,
    operations::{self, Operations},
    store::{Migrations, OpenStore, check as check_store, open as open_store},
};
use eticket_store as store;

pub use crate::config::Config;
use crate::{
    application::{ReservationStore, ReservationWriter, Reservations, audit::ReservationStates},
    inbound::{
        events::{Events, FILTERS},
        grpc::Grpc,
    },
    outbound::{messages::PROTOBUF, postgres, sqlite, ticket_client::TicketClient},
};

const MIGRATIONS: Migrations = Migrations { sqlite: &sqlite::MIGRATIONS, postgres: &postgres::MIGRATIONS };

/// The reservation service.
pub struct Reservation;

impl Service for Reservation {
    const NAME: &'static str = "reservation";
    const DEFAULTS: &'static str = include_str!("defaults.toml");
    const ABOUT: &'static str = "Decides who holds which ticket: reserves and cancels.";
    const NEEDS: &'static str = "bus.url: nats://host:4222[,...], or embedded (one process only)\n\
        upstream.ticket.url: where the ticket service is, as http://127.0.0.1:8082\n\
        store.url, if it shall not be a SQLite file in the data folder: postgres://user:password@host/database, or sqlite:PATH";
    const EXAMPLE: &'static str =
        "eticket-reservation --data ./reservation  # with ETICKET__BUS__URL and ETICKET__UPSTREAM__TICKET__URL";
    const OPEN_BUS: Option<OpenBus> = Some(open_bus);
    type Config = Config;

    fn check(config: &Config, settings: &Settings, place: Deployment) -> Result<(), base_config::Error> {
        check_store(settings)?;
        config.check(place)
    }

    async fn build(context: &Context, config: Config) -> Result<Running, StartError> {
        let (bus, clock) = (context.bus()?, context.clock.clone());
        let upstream = config.upstream.ticket;
        let targets = context.upstream("ticket", upstream.url.as_ref());
        let targets = targets.ok_or_else(|| StartError::failed("the ticket service has not started"))?;
        let opened = open_store(context, MIGRATIONS).await?;
        let (housekeeping, outbox_written) = (opened.housekeeping(), opened.outbox_written());
        let health = Health::new([RESERVATIONS, OPERATIONS]).with_store().with_bus();
        let background = Background::new(Self::NAME, housekeeping.clone(), health.clone(), clock.clone())
            .keeping_records(config.idempotency.kept());

        let store = store_of(opened);
        let writer = ReservationWriter { store: store.clone(), messages: PROTOBUF, clock: clock.clone() };
        let writer = Batches::start(Self::NAME, background.writer_tasks(), Limits::default(), writer);
        let channel = balance::channel("ticket", &targets, background.intake_tasks());
        let availability = Arc::new(TicketClient::new(channel, &upstream));
        let reservations = Reservations::new(store, writer, availability, clock);
        let events = Arc::new(Events { reservations: reservations.clone() });

        let states = Arc::new(ReservationStates::new(reservations.clone(), PROTOBUF));
        let comparer = Comparer { service: Self::NAME, owners: &["ticket"], bus: bus.clone(), config: config.audit };

        let operations = Operations {
            consumer: Self::NAME,
            store: housekeeping,
            bus: bus.clone(),
            handler: events.clone(),
            tasks: background.intake_tasks().clone(),
        };
        let running = context
            .server()
            .service(ReservationServiceServer::new(Grpc { reservations }))
            .service(operations::served(Self::NAME, operations))
            .reflection([RESERVATIONS, OPERATIONS])
            .health(health)
            .start()
            .await?;
        // Only now: a port that is taken must not leave anything running.
        background.audit(states, comparer, events.clone());
        background.start(bus, outbox_written, events, FILTERS);
        Ok(running.then(|| background.stop()))
    }
}

/// The service's own tables on the store that the configuration names.
fn store_of(opened: OpenStore) -> Arc<dyn ReservationStore> {
    match opened {
        OpenStore::Sqlite(database) => Arc::new(store::sqlite::Store::<sqlite::ReservationTables>::new(database)),
        OpenStore::Postgres(database) => Arc::new(store::postgres::Store::<postgres::ReservationTables>::new(database)),
    }
}
