//! The shell of a service that writes. It opens the store, holds the one writer, serves the service's own RPCs with operations, health and
//! reflection beside them, and runs the background behind the calls. A service adds what differs: its tables, its writer, its RPCs,
//! the events it handles and the states it owns.

use std::{convert::Infallible, sync::Arc, time::Duration};

use eticket_base::{exit::StartError, tasks::Tasks};
use eticket_bus::Bus;
use eticket_proto::operations::operations_service_server::SERVICE_NAME as OPERATIONS;
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
    batch::{Batches, Limits, Writer},
    config::AuditConfig,
    consumer::EventHandler,
    operations::{self, Operations},
    responses::Responses,
    store::{Migrations, OpenStore, open},
};

/// A service that writes, with its store open. Nothing is served and nothing runs but the writer until [`WriteService::serve`].
pub struct WriteService<'a> {
    context: &'a Context,
    /// The full name of the service in the contract.
    api: &'static str,
    bus: Arc<dyn Bus>,
    outbox_written: Arc<Notify>,
    background: Background,
}

/// What a service does with events, and which states it owns.
pub struct Events<H, O> {
    /// Applies the events of others.
    pub handler: H,
    /// The states that the service publishes.
    pub owner: O,
    /// The services whose states the handler keeps, by name. What it has applied is compared with theirs.
    pub others: &'static [&'static str],
    /// How that comparison is paced.
    pub audit: AuditConfig,
}

impl<'a> WriteService<'a> {
    /// Opens the store of the service `name`, whose RPCs the contract calls `api`. The service puts its own tables on the store.
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
        Ok((Self { context, api, bus, outbox_written: store.outbox_written(), background }, store))
    }

    /// Keeps the records of commands for `time`, instead of 48 hours.
    #[must_use]
    pub fn keeping_records(mut self, time: Duration) -> Self {
        self.background.records_kept = time;
        self
    }

    /// Starts the one writer of the store.
    pub fn start_writer<J, A>(&self, writer: impl Writer<J, A>) -> Batches<J, A>
    where
        J: Send + Sync + 'static,
        A: Send + 'static,
    {
        Batches::start(self.background.name, &self.background.writer, Limits::default(), writer)
    }

    /// Returns the group of tasks that end first when the service stops: for what submits to the writer by itself, or calls others.
    pub fn tasks(&self) -> &Tasks {
        &self.background.intake
    }

    /// Serves the RPCs of the service and starts its background.
    ///
    /// # Errors
    /// If the port cannot be had. Nothing of the background has started then.
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
        let Self { context, api, bus, outbox_written, background } = self;
        let (handler, owner): (_, Arc<dyn Owner>) = (Arc::new(events.handler), Arc::new(events.owner));
        let operations = Operations {
            consumer: background.name,
            store: background.store.clone(),
            bus: bus.clone(),
            handler: handler.clone(),
            owner: owner.clone(),
            tasks: background.intake.clone(),
        };
        let running = context
            .server()
            .service(Responses(rpcs))
            .service(operations::served(background.name, operations))
            .reflection([api, OPERATIONS])
            .health(background.health.clone())
            .start()
            .await?;
        // Only now: a port that is taken must not leave anything running.
        background.audit(&bus, owner.clone(), handler.clone(), events.others, events.audit);
        background.start(bus, outbox_written, handler, owner);
        Ok(running.then(|| background.stop()))
    }
}
