//! The query service: one view of tickets, reservations and prices, built from their events. This is the composition
//! root.

pub mod application;
pub mod config;
pub mod convert;
pub mod domain;
pub mod inbound;
pub mod outbound;
#[cfg(test)]
mod tests;

use std::{path::Path, sync::Arc, time::Duration};

use eticket_base::{
    config::{self as base_config, urls::StoreSupport},
    credentials::Credentials,
    doctor::Check,
    exit::StartError,
    tasks::Tasks,
};
use eticket_proto::query::query_service_server::QueryServiceServer;
use eticket_rpc_server::{health::Health, server::Running};
use eticket_runtime::{
    config::Settings,
    context::Context,
    examination::Examination,
    process::{Deployment, ExamineBus, OpenBus, Service},
};
use eticket_service::{
    audit::Comparer,
    bus::open as open_bus,
    doctor, operations,
    status::{Observed, Reporter},
};
use tokio::sync::{Mutex, Notify, Semaphore};

use crate::{
    application::{
        ViewStore, Views,
        changes::Changes,
        compare::Owners,
        completeness::{self, Completeness},
        monitor::Monitor,
        reader::Reader,
        rebuild::Rebuild,
    },
    config::{Bound, Config, Upstream, Upstreams},
    inbound::{
        events,
        grpc::Grpc,
        operations::{Connect, Operations},
    },
    outbound::{
        owners_client::{Address, Addresses, OwnersClient},
        sqlite::{self, SqliteViews},
    },
};

const SERVICES: [&str; 2] = ["eticket.query.v1.QueryService", "eticket.operations.v1.OperationsService"];

/// The query service, as a process runs it.
pub struct Query;

impl Service for Query {
    const NAME: &'static str = "query";
    const DEFAULTS: &'static str = include_str!("defaults.toml");
    const ABOUT: &'static str =
        "Shows tickets, reservations and prices in one view, which clients can wait for and watch.";
    const NEEDS: &'static str = "bus.url: nats://host:4222[,...], or embedded (one process only)\n\
        store.url, for a view file outside the data folder: sqlite:PATH\n\
        upstream.{ticket,reservation,pricing}.url, for compare-view only";
    const EXAMPLE: &'static str = "eticket-query --data ./query  # with ETICKET__BUS__URL=nats://127.0.0.1:4222";
    const STORE: StoreSupport = StoreSupport::SqliteOnly;
    const OPEN_BUS: Option<OpenBus> = Some(open_bus);
    const EXAMINE_BUS: Option<ExamineBus> = Some(doctor::bus);
    type Config = Config;

    fn check(config: &Config, settings: &Settings, _: Deployment) -> Result<(), base_config::Error> {
        config.check(&settings.limits)
    }

    async fn examine(examination: &Examination, _: Config) -> Vec<Check> {
        doctor::copy(examination, &sqlite::MIGRATIONS).await
    }

    async fn build(context: &Context, config: Config) -> Result<Running, StartError> {
        let store = open_store(context, &context.store_path()?).await?;
        let health = Health::new(SERVICES).with_store().with_catching_up().with_bus();
        let server = context.server();
        let tasks = Tasks::new();
        let bus = context.bus()?;
        let views = Views {
            store: store.clone(),
            bus: bus.clone(),
            changes: Changes::default(),
            clock: context.clock.clone(),
            waits: permits(&config.wait),
            watches: permits(&config.watch),
            draining: server.draining(),
        };
        // If the store is unavailable now, the view counts as incomplete until the reader is at the end of the stream.
        if matches!(store.has_caught_up().await, Ok(true)) {
            views.changes.caught_up();
        }
        let reader = Reader {
            bus: bus.clone(),
            store: store.clone(),
            decode: Arc::new(events::Protobuf),
            changes: views.changes.clone(),
            clock: context.clock.clone(),
            health: health.clone(),
            turn: Arc::new(Mutex::new(())),
            reattach: Arc::new(Notify::new()),
            reached_end: Some(Arc::new(Notify::new())),
        };
        let comparer = Comparer { service: Self::NAME, owners: completeness::OWNERS, bus, config: config.audit };
        let completeness = Completeness { comparer, decode: reader.decode.clone() };
        let rebuild = Rebuild::new(reader.clone(), tasks.clone()).checked_by(completeness.clone());
        let observed = Observed::new(Self::NAME);
        let operations = Operations {
            reader: reader.clone(),
            rebuild: rebuild.clone(),
            connect: connect(context, config.upstream),
            tasks: tasks.clone(),
            comparing: inbound::operations::one_comparison(),
            reporter: Reporter { health: health.clone(), observed: observed.clone(), breakers: Vec::new() },
        };
        let default_deadline = Duration::from_millis(context.settings.limits.default_deadline_ms);
        let server = server
            .service(QueryServiceServer::new(Grpc { views, default_deadline, tasks: tasks.clone() }))
            .service(operations::served(Self::NAME, operations))
            .reflection(SERVICES)
            .health(health);
        let running = server.start().await?;
        let monitor = Monitor { reader: reader.clone(), rebuild, observed };
        tasks.spawn("upkeep", monitor.run(tasks.stopping()));
        tasks.spawn("completeness", completeness.run(reader.clone(), tasks.stopping()));
        tasks.spawn("reader", reader.run(tasks.stopping()));
        Ok(running.then(move || async move {
            tasks.stop().await;
            store.close().await;
        }))
    }
}

async fn open_store(context: &Context, path: &Path) -> Result<Arc<dyn ViewStore>, StartError> {
    match SqliteViews::open(path, context.clock.clone()).await {
        Ok(store) => Ok(Arc::new(store)),
        Err(error) => {
            let what =
                format!("the view file {} cannot be opened: check its folder, or move the file away", path.display());
            Err(StartError::unavailable(what, error))
        }
    }
}

fn permits(bound: &Bound) -> Arc<Semaphore> {
    let most = usize::try_from(bound.most).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
    Arc::new(Semaphore::new(most))
}

/// Connects to the owners only when a comparison starts: in one process some owners start after this service.
fn connect(context: &Context, upstream: Upstreams) -> Arc<Connect> {
    let siblings = context.siblings.clone();
    Arc::new(move |tasks: &Tasks, credentials: Option<Credentials>| -> Arc<dyn Owners> {
        let find = |name: &str, configured: &Upstream| {
            let targets = configured.url.clone().or_else(|| siblings.targets(name))?;
            Some(Address { targets, tls: configured.tls.clone() })
        };
        let addresses = Addresses {
            ticket: find("ticket", &upstream.ticket),
            reservation: find("reservation", &upstream.reservation),
            pricing: find("pricing", &upstream.pricing),
        };
        Arc::new(OwnersClient::new(&addresses, tasks, credentials))
    })
}
