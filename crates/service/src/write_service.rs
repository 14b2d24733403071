//! The common shell of a service that writes. It opens the store, owns the writer, serves the service's own RPCs
//! together with operations, health and reflection, and runs the background tasks. The service provides its tables, its
//! writer, its RPCs, the events that it handles and the states that it owns.

use std::{convert::Infallible, sync::Arc, time::Duration};

use eticket_base::{exit::StartError, tasks::Tasks};
use eticket_bus::Bus;
use eticket_proto::operations::operations_service_server::SERVICE_NAME as OPERATIONS;
use eticket_rpc_client::breaker::BreakerLayer;
use eticket_rpc_server::{health::Health, server::Running};
use eticket_runtime::context::Context;
use tokio::sync::Notify;
use tonic::{
    body::Body,
    codegen::{Service, http},
    server::NamedService,
};

use crate::{
    audit::Owner,
    background::Background,
    batch::{Batches, Limits, Traced, Writer},
    config::AuditConfig,
    consumer::EventHandler,
    operations::{self, Operations},
    responses::Responses,
    status::Reporter,
    store::{Migrations, OpenStore, open},
};

/// A service that writes, with an open store. Only the writer runs before [`WriteService::serve`] is called.
pub struct WriteService<'a> {
    context: &'a Context,
    /// Full name of the service in the contract.
    api: &'static str,
    bus: Arc<dyn Bus>,
    outbox_written: Arc<Notify>,
    background: Background,
    breakers: Vec<BreakerLayer>,
}

/// How a service handles events, and the states that it owns.
pub struct Events<H, O> {
    /// Applies the events of other services.
    pub handler: H,
    /// Provides the states that the service publishes.
    pub owner: O,
    /// Names of the services whose states the handler keeps. They are compared with the states of their owners.
    pub others: &'static [&'static str],
    /// Configuration of that comparison.
    pub audit: AuditConfig,
}

impl<'a> WriteService<'a> {
    /// Opens the store of the service `name`, whose RPCs have the full name `api` in the contract. The service then
    /// opens its own tables on the store.
    ///
    /// # Errors
    /// If the process has no bus, or the store cannot be opened, migrated or written.
    pub async fn open(
        context: &'a Context,
        name: &'static str,
        api: &'static str,
        migrations: Migrations,
    ) -> Result<(Self, OpenStore), StartError> {
        let bus = context.bus()?;
        let store = open(context, migrations).await?;
        let health = Health::new([api, OPERATIONS]).with_store().with_bus();
        let background = Background::new(name, store.housekeeping(), health, context.clock.clone());
        Ok((
            Self { context, api, bus, outbox_written: store.outbox_written(), background, breakers: Vec::new() },
            store,
        ))
    }

    /// Adds the breaker of a client to the state that `GetStatus` returns.
    #[must_use]
    pub fn reporting(mut self, breaker: BreakerLayer) -> Self {
        self.breakers.push(breaker);
        self
    }

    /// Sets the retention of command records. The default is 48 hours.
    #[must_use]
    pub fn keeping_records(mut self, time: Duration) -> Self {
        self.background.records_kept = time;
        self
    }

    /// Starts the writer of the store.
    pub fn start_writer<J, A>(&self, writer: impl Writer<J, A>) -> Batches<J, A>
    where
        J: Traced + Send + Sync + 'static,
        A: Send + 'static,
    {
        Batches::start(self.background.name, &self.background.writer, Limits::default(), writer)
    }

    /// Returns the group of tasks that ends first when the service stops, for tasks that submit commands on their own
    /// or call other services.
    pub fn tasks(&self) -> &Tasks {
        &self.background.intake
    }

    /// Serves the RPCs of the service and starts its background tasks.
    ///
    /// # Errors
    /// If the port cannot be bound. No background task has been started then.
    pub async fn serve<S, H, O>(self, rpcs: S, events: Events<H, O>) -> Result<Running, StartError>
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
        H: EventHandler,
        O: Owner,
    {
        let Self { context, api, bus, outbox_written, background, breakers } = self;
        let (handler, owner): (_, Arc<dyn Owner>) = (Arc::new(events.handler), Arc::new(events.owner));
        let operations = Operations {
            consumer: background.name,
            store: background.store.clone(),
            bus: bus.clone(),
            handler: handler.clone(),
            owner: owner.clone(),
            tasks: background.intake.clone(),
            reporter: Reporter { health: background.health.clone(), observed: background.observed.clone(), breakers },
        };
        let running = context
            .server()
            .service(Responses(rpcs))
            .service(operations::served(background.name, operations))
            .reflection([api, OPERATIONS])
            .health(background.health.clone())
            .start()
            .await?;
        // Start the tasks only now, so that nothing runs if the port is taken.
        background.audit(&bus, owner.clone(), handler.clone(), events.others, events.audit);
        background.start(bus, outbox_written, handler, owner);
        Ok(running.then(|| background.stop()))
    }
}
