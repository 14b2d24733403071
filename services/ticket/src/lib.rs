//! The ticket service: owns tickets and their status, and listens to reservations to know who holds which.
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
    ticket::ticket_service_server::{SERVICE_NAME as TICKETS, TicketServiceServer},
};
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
use tokio_util::sync::CancellationToken;
use tower::Layer;

pub use crate::config::Config;
use crate::{
    application::{TicketStore, TicketWriter, Tickets, audit::TicketStates},
    config::SweepConfig,
    inbound::{
        events::{Events, FILTERS},
        fault::FaultLayer,
        grpc::Grpc,
    },
    outbound::{messages::PROTOBUF, postgres, sqlite},
};

const MIGRATIONS: Migrations = Migrations { sqlite: &sqlite::MIGRATIONS, postgres: &postgres::MIGRATIONS };

/// The ticket service.
pub struct Ticket;

impl Service for Ticket {
    const NAME: &'static str = "ticket";
    const DEFAULTS: &'static str = include_str!("defaults.toml");
    const ABOUT: &'static str = "Keeps tickets and their status: registers, updates, withdraws and lists them.";
    const NEEDS: &'static str = "bus.url: nats://host:4222[,...], or embedded (one process only)\n\
        store.url, if it shall not be a SQLite file in the data folder: postgres://user:password@host/database, or sqlite:PATH";
    const EXAMPLE: &'static str = "eticket-ticket --data ./ticket  # with ETICKET__BUS__URL=nats://127.0.0.1:4222";
    const OPEN_BUS: Option<OpenBus> = Some(open_bus);
    type Config = Config;

    fn check(config: &Config, settings: &Settings, _: Deployment) -> Result<(), base_config::Error> {
        check_store(settings)?;
        config.check()
    }

    async fn build(context: &Context, config: Config) -> Result<Running, StartError> {
        let (bus, clock) = (context.bus()?, context.clock.clone());
        let opened = open_store(context, MIGRATIONS).await?;
        let (housekeeping, outbox_written) = (opened.housekeeping(), opened.outbox_written());
        let health = Health::new([TICKETS, OPERATIONS]).with_store().with_bus();
        let background = Background::new(Self::NAME, housekeeping.clone(), health.clone(), clock.clone())
            .keeping_records(config.idempotency.kept());

        let store = store_of(opened);
        let writer = TicketWriter { store: store.clone(), messages: PROTOBUF, clock: clock.clone() };
        let writer = Batches::start(Self::NAME, background.writer_tasks(), Limits::default(), writer);
        let tickets = Tickets::new(store, writer, clock);
        let events = Arc::new(Events { tickets: tickets.clone() });

        let states = Arc::new(TicketStates::new(tickets.clone(), PROTOBUF));
        let comparer =
            Comparer { service: Self::NAME, owners: &["reservation"], bus: bus.clone(), config: config.audit };

        let operations = Operations {
            consumer: Self::NAME,
            store: housekeeping,
            bus: bus.clone(),
            handler: events.clone(),
            tasks: background.intake_tasks().clone(),
        };
        let service = TicketServiceServer::new(Grpc { tickets: tickets.clone() });
        let running = context
            .server()
            .service(FaultLayer::new(config.fault).layer(service))
            .service(operations::served(Self::NAME, operations))
            .reflection([TICKETS, OPERATIONS])
            .health(health)
            .start()
            .await?;
        // Only now: a port that is taken must not leave anything running.
        background.audit(states, comparer, events.clone());
        background.start(bus, outbox_written, events, FILTERS);
        let sweeping = sweep(tickets, config.sweep, background.intake_tasks().stopping());
        background.intake_tasks().spawn("sweeper", sweeping);
        Ok(running.then(|| background.stop()))
    }
}

/// The service's own tables on the store that the configuration names.
fn store_of(opened: OpenStore) -> Arc<dyn TicketStore> {
    match opened {
        OpenStore::Sqlite(database) => Arc::new(store::sqlite::Store::<sqlite::TicketTables>::new(database)),
        OpenStore::Postgres(database) => Arc::new(store::postgres::Store::<postgres::TicketTables>::new(database)),
    }
}

/// Announces expired tickets until asked to stop. Nothing depends on it: the clock decides whoever asks.
async fn sweep(tickets: Tickets, config: SweepConfig, stopping: CancellationToken) {
    let mut rounds = tokio::time::interval(config.interval());
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = rounds.tick() => {}
            () = stopping.cancelled() => return,
        }
        match tickets.sweep().await {
            Ok(0) => {}
            Ok(count) => tracing::debug!(count, "announced expired tickets"),
            Err(error) => tracing::warn!(%error, "expired tickets are not announced yet"),
        }
    }
}
