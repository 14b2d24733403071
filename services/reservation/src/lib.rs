//! The reservation service decides which reservation holds a ticket. It is the only place that enforces exclusivity. It
//! checks availability with the ticket service and consumes ticket events for withdrawals. Cancelling depends on
//! neither the ticket service nor the bus.
//!
//! This file is the composition root, and the only file that names concrete adapters.

pub mod application;
mod config;
pub mod convert;
pub mod domain;
pub mod inbound;
pub mod outbound;

use std::sync::Arc;

use eticket_base::{config as base_config, doctor::Check, exit::StartError, windows::Windows};
use eticket_proto::reservation::reservation_service_server::{ReservationServiceServer, SERVICE_NAME as RESERVATIONS};
use eticket_rpc_client::pool::Channel;
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
    application::{ReservationStore, ReservationWriter, Reservations, events::ReservationStates},
    inbound::grpc::Grpc,
    outbound::{messages::PROTOBUF, postgres, sqlite, ticket_client::TicketClient},
};

const MIGRATIONS: Migrations = Migrations { sqlite: &sqlite::MIGRATIONS, postgres: &postgres::MIGRATIONS };

/// The reservation service.
pub struct Reservation;

impl Service for Reservation {
    const NAME: &'static str = "reservation";
    const DEFAULTS: &'static str = include_str!("defaults.toml");
    const ABOUT: &'static str = "Decides which reservation holds a ticket: reserves and cancels.";
    const NEEDS: &'static str = "bus.url: nats://host:4222[,...], or embedded (one process only)\n\
        upstream.ticket.url: address of the ticket service, such as http://127.0.0.1:8082\n\
        store.url, for a store other than the SQLite file in the data folder: \
        postgres://user:password@host/database, or sqlite:PATH";
    const EXAMPLE: &'static str =
        "eticket-reservation --data ./reservation  # with ETICKET__BUS__URL and ETICKET__UPSTREAM__TICKET__URL";
    const OPEN_BUS: Option<OpenBus> = Some(open_bus);
    const EXAMINE_BUS: Option<ExamineBus> = Some(doctor::bus);
    type Config = Config;

    fn check(config: &Config, settings: &Settings, place: Deployment) -> Result<(), base_config::Error> {
        check_store(settings)?;
        config.check(place)
    }

    async fn examine(examination: &Examination, _: Config) -> Vec<Check> {
        doctor::store(examination, MIGRATIONS).await
    }

    async fn build(context: &Context, config: Config) -> Result<Running, StartError> {
        let upstream = config.upstream.ticket;
        let targets = context.upstream("ticket", upstream.url.as_ref());
        let targets = targets
            .ok_or_else(|| StartError::failed("the ticket service must start before the reservation service"))?;
        let (shell, opened) = WriteService::open(context, Self::NAME, RESERVATIONS, MIGRATIONS).await?;
        let shell = shell.keeping_records(config.idempotency.kept());
        let (store, clock) = (store_of(opened), context.clock.clone());
        let writer = ReservationWriter { store: store.clone(), messages: PROTOBUF, clock: clock.clone() };
        let tls = targets.connector(&upstream.tls, config::TICKET, shell.tasks())?;
        let windows = Windows::for_streams(context.settings.limits.streams());
        let channel = Channel::connect("ticket", &targets, tls, windows, shell.tasks());
        let availability = Arc::new(TicketClient::new(channel, &upstream));
        let shell = shell.reporting(availability.breaker());
        let reservations = Reservations::new(store, shell.start_writer(writer), availability, clock);
        let events = Events {
            handler: reservations.clone(),
            owner: ReservationStates::new(reservations.clone(), PROTOBUF),
            others: &["ticket"],
            audit: config.audit,
        };
        shell.serve(ReservationServiceServer::new(Grpc { reservations }), events).await
    }
}

/// Returns the reservation tables on the configured store.
fn store_of(opened: OpenStore) -> Arc<dyn ReservationStore> {
    match opened {
        OpenStore::Sqlite(database) => Arc::new(store::sqlite::Store::<sqlite::ReservationTables>::new(database)),
        OpenStore::Postgres(database) => Arc::new(store::postgres::Store::<postgres::ReservationTables>::new(database)),
    }
}
