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

use eticket_chassis::{
    background::Background,
    batch::{Batches, Limits},
    client::balance,
    config::{self as chassis_config, Settings},
    context::Context,
    exit::StartError,
    health::Health,
    operations::Operations,
    process::{Place, Service},
    server::Running,
    store::{Housekeeping, sqlite::Store},
};
use eticket_proto::{
    operations::operations_service_server::{OperationsServiceServer, SERVICE_NAME as OPERATIONS},
    reservation::reservation_service_server::{ReservationServiceServer, SERVICE_NAME as RESERVATIONS},
};

pub use crate::config::Config;
use crate::{
    application::{ReservationWriter, Reservations},
    inbound::{
        events::{Events, FILTERS},
        grpc::Grpc,
    },
    outbound::{
        messages::Protobuf,
        sqlite::{MIGRATIONS, ReservationTables},
        ticket_client::TicketClient,
    },
};

/// The reservation service, to be run by the chassis.
pub struct Reservation;

impl Service for Reservation {
    const NAME: &'static str = "reservation";
    const DEFAULTS: &'static str = include_str!("defaults.toml");
    type Config = Config;

    fn check(config: &Config, _: &Settings, place: Place) -> Result<(), chassis_config::Error> {
        config.check(place)
    }

    async fn build(context: &Context, config: Config) -> Result<Running, StartError> {
        let (bus, clock) = (context.bus()?, context.clock.clone());
        let upstream = config.upstream.ticket;
        let targets = context.upstream("ticket", upstream.url.as_ref());
        let targets = targets.ok_or_else(|| StartError::failed("the ticket service has not started"))?;
        let database = context.open_sqlite(&MIGRATIONS).await?;
        let housekeeping: Arc<dyn Housekeeping> = Arc::new(database.clone());
        let health = Health::new([RESERVATIONS, OPERATIONS]).with_store().with_bus();
        let background = Background::new(Self::NAME, housekeeping.clone(), health.clone(), clock.clone());

        let store = Arc::new(Store::<ReservationTables>::new(database.clone()));
        let writer = ReservationWriter { store: store.clone(), messages: Arc::new(Protobuf), clock: clock.clone() };
        let jobs = Batches::start(Self::NAME, background.writer_tasks(), Limits::default(), Arc::new(writer));
        let channel = balance::channel("ticket", &targets, background.intake_tasks());
        let availability = Arc::new(TicketClient::new(channel, &upstream));
        let reservations = Reservations::new(store, jobs, availability, clock);
        let events = Arc::new(Events { reservations: reservations.clone() });

        let operations = Operations {
            consumer: Self::NAME,
            store: housekeeping,
            bus: bus.clone(),
            take_in: events.clone(),
            tasks: background.intake_tasks().clone(),
        };
        let running = context
            .server()
            .service(ReservationServiceServer::new(Grpc { reservations }))
            .service(OperationsServiceServer::new(operations))
            .reflection([RESERVATIONS, OPERATIONS])
            .health(health)
            .start()
            .await?;
        // Only now: a port that is taken must not leave anything running.
        background.start(bus, database.outbox_written(), events, FILTERS);
        Ok(running.then(|| background.stop()))
    }
}
