//! The ticket service: owns tickets and their status, and consumes reservation events to track the holder of each
//! ticket.
//!
//! This file is the composition root, and the only file that names concrete adapters.

pub mod application;
mod config;
pub mod convert;
pub mod domain;
pub mod inbound;
pub mod outbound;

use std::sync::Arc;

use eticket_base::{config as base_config, doctor::Check, exit::StartError};
use eticket_proto::ticket::ticket_service_server::{SERVICE_NAME as TICKETS, TicketServiceServer};
use eticket_rpc_server::server::Running;
use eticket_runtime::{
    config::Settings,
    context::Context,
    examination::Examination,
    process::{Deployment, ExamineBus, OpenBus, Service},
};
use eticket_service::{
    bus::open as open_bus,
    doctor,
    store::{Migrations, OpenStore, check as check_store},
    write_service::{Events, WriteService},
};
use eticket_store as store;
use tokio_util::sync::CancellationToken;
use tower::Layer;

pub use crate::config::Config;
use crate::{
    application::{TicketStore, TicketWriter, Tickets, events::TicketStates},
    config::SweepConfig,
    inbound::{fault::FaultLayer, grpc::Grpc},
    outbound::{messages::PROTOBUF, postgres, sqlite},
};

const MIGRATIONS: Migrations = Migrations { sqlite: &sqlite::MIGRATIONS, postgres: &postgres::MIGRATIONS };

/// The ticket service.
pub struct Ticket;

impl Service for Ticket {
    const NAME: &'static str = "ticket";
    const DEFAULTS: &'static str = include_str!("defaults.toml");
    const ABOUT: &'static str = "Owns tickets and their status: registers, updates, withdraws and lists them.";
    const NEEDS: &'static str = "bus.url: nats://host:4222[,...], or embedded (one process only)\n\
        store.url, for a store other than the SQLite file in the data folder: \
        postgres://user:password@host/database, or sqlite:PATH";
    const EXAMPLE: &'static str = "eticket-ticket --data ./ticket  # with ETICKET__BUS__URL=nats://127.0.0.1:4222";
    const OPEN_BUS: Option<OpenBus> = Some(open_bus);
    const EXAMINE_BUS: Option<ExamineBus> = Some(doctor::bus);
    type Config = Config;

    fn check(config: &Config, settings: &Settings, _: Deployment) -> Result<(), base_config::Error> {
        check_store(settings)?;
        config.check()
    }

    async fn examine(examination: &Examination, _: Config) -> Vec<Check> {
        doctor::store(examination, MIGRATIONS).await
    }

    async fn build(context: &Context, config: Config) -> Result<Running, StartError> {
        let (shell, opened) = WriteService::open(context, Self::NAME, TICKETS, MIGRATIONS).await?;
        let shell = shell.keeping_records(config.idempotency.kept());
        let (store, clock) = (store_of(opened), context.clock.clone());
        let writer = TicketWriter { store: store.clone(), messages: PROTOBUF, clock: clock.clone() };
        let tickets = Tickets::new(store, shell.start_writer(writer), clock);
        let rpcs = FaultLayer::new(config.fault).layer(TicketServiceServer::new(Grpc { tickets: tickets.clone() }));
        let events = Events {
            handler: tickets.clone(),
            owner: TicketStates::new(tickets.clone(), PROTOBUF),
            others: &["reservation"],
            audit: config.audit,
        };
        let tasks = shell.tasks().clone();
        let running = shell.serve(rpcs, events).await?;
        tasks.spawn("sweeper", sweep(tickets, config.sweep, tasks.stopping()));
        Ok(running)
    }
}

/// Returns the ticket tables on the configured store.
fn store_of(opened: OpenStore) -> Arc<dyn TicketStore> {
    match opened {
        OpenStore::Sqlite(database) => Arc::new(store::sqlite::Store::<sqlite::TicketTables>::new(database)),
        OpenStore::Postgres(database) => Arc::new(store::postgres::Store::<postgres::TicketTables>::new(database)),
    }
}

/// Announces expired tickets until `stopping` is cancelled. Correctness does not depend on it: every read derives the
/// status from the clock.
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
            Err(error) => tracing::warn!(%error, "announcing expired tickets failed; trying again later"),
        }
    }
}
