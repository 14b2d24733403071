//! The pricing service computes the price of each ticket with a policy that is configured as data. It consumes ticket
//! events for the start and reservation events for the holder.
//!
//! This file is the composition root, and the only file that names concrete adapters.

pub mod application;
mod config;
pub mod convert;
pub mod domain;
pub mod inbound;
pub mod outbound;
pub mod policy_file;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use eticket_base::{config as base_config, doctor::Check, exit::StartError};
use eticket_proto::pricing::pricing_service_server::{PricingServiceServer, SERVICE_NAME as PRICES};
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

pub use crate::config::Config;
use crate::{
    application::{PriceStore, PriceWriter, Prices, events::PriceStates},
    inbound::{grpc::Grpc, policy_watch::PolicyWatch},
    outbound::{messages::PROTOBUF, postgres, sqlite},
};

const MIGRATIONS: Migrations = Migrations { sqlite: &sqlite::MIGRATIONS, postgres: &postgres::MIGRATIONS };

/// The pricing service.
pub struct Pricing;

impl Service for Pricing {
    const NAME: &'static str = "pricing";
    const DEFAULTS: &'static str = include_str!("defaults.toml");
    const ABOUT: &'static str = "Computes the price of each ticket with a policy that is configured as data.";
    const NEEDS: &'static str = "bus.url: nats://host:4222[,...], or embedded (one process only)\n\
        store.url, for a store other than the SQLite file in the data folder: \
        postgres://user:password@host/database, or sqlite:PATH\n\
        policy.file, for prices other than those of the embedded policy";
    const EXAMPLE: &'static str = "eticket-pricing --data ./pricing  # with ETICKET__BUS__URL=nats://127.0.0.1:4222";
    const OPEN_BUS: Option<OpenBus> = Some(open_bus);
    const EXAMINE_BUS: Option<ExamineBus> = Some(doctor::bus);
    type Config = Config;

    fn check(config: &Config, settings: &Settings, _: Deployment) -> Result<(), base_config::Error> {
        check_store(settings)?;
        config.check()
    }

    async fn examine(examination: &Examination, config: Config) -> Vec<Check> {
        let mut checks = doctor::store(examination, MIGRATIONS).await;
        checks.push(config.policy.examine());
        checks
    }

    async fn build(context: &Context, config: Config) -> Result<Running, StartError> {
        let (shell, opened) = WriteService::open(context, Self::NAME, PRICES, MIGRATIONS).await?;
        let (store, clock) = (store_of(opened), context.clock.clone());
        let writer = PriceWriter { store: store.clone(), messages: PROTOBUF, clock: clock.clone() };
        let prices = Prices::new(store, shell.start_writer(writer));
        // Adopt a policy before the first call and the first event, so that a policy is always in force.
        let mut watch = PolicyWatch::new(prices.clone(), config.policy.file.clone(), config.policy.settle());
        watch.begin().await?;
        let events = Events {
            handler: prices.clone(),
            owner: PriceStates::new(prices.clone(), PROTOBUF, clock),
            others: &["ticket", "reservation"],
            audit: config.audit,
        };
        let tasks = shell.tasks().clone();
        let running = shell.serve(PricingServiceServer::new(Grpc { prices }), events).await?;
        tasks.spawn("policy", watch.run(config.policy.reload_interval(), tasks.stopping()));
        Ok(running)
    }
}

/// Returns the price tables on the configured store.
fn store_of(opened: OpenStore) -> Arc<dyn PriceStore> {
    match opened {
        OpenStore::Sqlite(database) => Arc::new(store::sqlite::Store::<sqlite::PriceTables>::new(database)),
        OpenStore::Postgres(database) => Arc::new(store::postgres::Store::<postgres::PriceTables>::new(database)),
    }
}
