//! The query service: one view of tickets, reservations and prices, built from their events. The composition root.

pub mod application;
pub mod config;
pub mod convert;
pub mod domain;
pub mod inbound;
pub mod outbound;

use std::{sync::Arc, time::Duration};

use eticket_chassis::{
    config::{self as chassis_config, Settings, urls::StoreSupport},
    context::Context,
    exit::StartError,
    health::Health,
    process::{Place, Service},
    server::Running,
    tasks::Tasks,
};
use eticket_proto::query::query_service_server::QueryServiceServer;
use tokio::sync::{Mutex, Notify, Semaphore};

use crate::{
    application::{ViewStore, Views, changes::Changes, reader::Reader},
    inbound::{events, grpc::Grpc},
    outbound::sqlite::SqliteViews,
};

const SERVICE: &str = "eticket.query.v1.QueryService";

/// The query service, to be run.
pub struct Query;

impl Service for Query {
    const NAME: &'static str = "query";
    const DEFAULTS: &'static str = include_str!("defaults.toml");
    const STORE: StoreSupport = StoreSupport::SqliteOnly;
    type Config = config::Config;

    fn check(config: &config::Config, _: &Settings, _: Place) -> Result<(), chassis_config::Error> {
        config.check()
    }

    async fn build(context: &Context, config: config::Config) -> Result<Running, StartError> {
        let (path, bus) = (context.store_path()?, context.bus()?);
        let cannot = || format!("the view's file {} cannot be opened: put it right, or move it away", path.display());
        let store: Arc<dyn ViewStore> = match SqliteViews::open(&path, context.clock.clone()).await {
            Ok(store) => Arc::new(store),
            Err(error) => return Err(StartError::unavailable(cannot(), error)),
        };
        let health = Health::new([SERVICE]).with_store().with_catching_up().with_bus();
        health.set_store(true);
        let server = context.server();
        let views = Views {
            store: store.clone(),
            changes: Changes::default(),
            clock: context.clock.clone(),
            waits: Arc::new(Semaphore::new(usize::try_from(config.wait.most).unwrap_or(usize::MAX))),
            draining: server.draining(),
        };
        let reader = Reader {
            bus,
            store: store.clone(),
            decode: Arc::new(events::Protobuf),
            changes: views.changes.clone(),
            clock: context.clock.clone(),
            health: health.clone(),
            turn: Arc::new(Mutex::new(())),
            reattach: Arc::new(Notify::new()),
        };
        let default_deadline = Duration::from_millis(context.settings.limits.default_deadline_ms);
        let server = server
            .service(QueryServiceServer::new(Grpc { views, default_deadline }))
            .reflection([SERVICE])
            .health(health);
        let running = server.start().await?;
        let tasks = Tasks::new();
        tasks.spawn("reader", reader.run(tasks.stopping()));
        Ok(running.then(move || async move {
            tasks.stop().await;
            store.close().await;
        }))
    }
}
