//! From a configuration to servers that run, and to the end of the process.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    flags::Binary,
    ready,
    service::{Configured, Entry, Place},
};
use crate::{
    admin::Admin,
    bus::{Bus, embedded::Embedded, nats::Nats},
    clock::{SharedClock, SystemClock},
    config::{
        self, ProcessSettings, Settings,
        bus::{BusConfig, EMBEDDED},
        load::{self, Sources},
        urls::StoreSupport,
    },
    context::{self, Context, Siblings},
    data::DataFolder,
    exit::{INTERRUPTED, StartError},
    server::Running,
    tasks::Tasks,
    telemetry,
};

/// A server that is not ready for so long is worth a line in the log.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which servers a binary runs.
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) entries: Vec<Entry>,
    /// Their keys stand in sections of their own, and they find each other.
    pub(crate) together: bool,
}

impl Program {
    /// What can be said to it on the command line.
    pub(crate) fn binary(&self) -> Binary {
        match &self.entries[..] {
            _ if self.together => Binary::Together,
            [entry] if entry.shape.store != StoreSupport::None => Binary::Service(entry.shape.name),
            _ => Binary::Gateway,
        }
    }

    /// Where the server listens that takes operators' orders: the last one started, whom people call.
    pub(crate) fn listens_at(&self, sources: &Sources) -> Result<SocketAddr, StartError> {
        let last = self.entries.last().ok_or_else(|| StartError::failed("there is no server"))?;
        Ok(load::listen(last.shape, self.together, sources)?)
    }

    /// Reads and checks everything; nothing is opened or bound.
    pub(crate) fn configure(&self, sources: &Sources) -> Result<ConfiguredProgram, config::Error> {
        let shapes: Vec<_> = self.entries.iter().map(|entry| entry.shape).collect();
        let (process, trees) = match (self.together, &shapes[..]) {
            (false, [shape]) => load::alone(*shape, sources).map(|(process, tree)| (process, vec![tree]))?,
            _ => load::together(&shapes, sources)?,
        };
        let place = if self.together { Place::Together } else { Place::Alone };
        let mut servers = Vec::new();
        for (entry, tree) in self.entries.iter().zip(trees) {
            let configured = (entry.configure)(&tree, place)?;
            let (settings, section) = (tree.settings, tree.section);
            servers.push(Server { entry: *entry, settings, section, configured });
        }
        Ok(ConfiguredProgram { name: self.name.clone(), process, servers })
    }
}

/// A server with its checked configuration.
struct Server {
    entry: Entry,
    settings: Settings,
    section: Option<&'static str>,
    configured: Configured,
}

/// A program whose configuration is right.
pub(crate) struct ConfiguredProgram {
    name: String,
    process: ProcessSettings,
    servers: Vec<Server>,
}

impl ConfiguredProgram {
    /// The configuration in force, as TOML.
    pub(crate) fn effective(&self) -> Result<String, config::Error> {
        let tables: Vec<_> = self.servers.iter().map(|server| (server.section, self.table_of(server))).collect();
        load::effective(&self.process, &tables)
    }

    fn table_of(&self, server: &Server) -> toml::Table {
        let mut table = server.configured.table.clone();
        if let (Some(data), None) = (&self.process.data, &server.settings.store.url)
            && server.entry.shape.store != StoreSupport::None
        {
            let url = format!("sqlite:{}", context::usual_store(data, server.entry.shape.name).display());
            table.insert("store".to_owned(), toml::Table::from_iter([("url".to_owned(), url.into())]).into());
        }
        table
    }

    /// Runs until a signal asks to stop.
    pub(crate) fn run(self) -> Result<(), StartError> {
        telemetry::init_log(ready::format_of(&self.process.log));
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(StartError::failed)?;
        let outcome = runtime.block_on(async {
            let stop = listen_to_signals()?;
            self.serve(stop).await
        });
        // What still blocks a thread had its chance within the hard cap.
        runtime.shutdown_background();
        outcome
    }

    /// Runs until `stop` is cancelled.
    pub(crate) async fn serve(self, stop: CancellationToken) -> Result<(), StartError> {
        // Before anything is recorded, or it would be lost.
        telemetry::metrics();
        let data = self.process.data.as_deref().map(DataFolder::open).transpose()?;
        let bus = match &data {
            Some(data) if self.process.bus.url.is_some() => Some(open_bus(&self.process.bus, data).await?),
            _ => None,
        };
        let base = Base { data, bus, clock: Arc::new(SystemClock), siblings: Siblings::default() };
        let cap = self.servers.iter().map(|server| server.settings.shutdown.hard_cap()).max().unwrap_or_default();
        let mut started = Started { running: Vec::new(), bus: base.bus.clone() };
        let outcome = tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            outcome = self.start_all(&base, &mut started.running) => outcome,
        };
        if outcome.is_ok() {
            stop.cancelled().await;
            tracing::info!("stopping");
        }
        started.stop(cap).await;
        outcome
    }

    async fn start_all(self, base: &Base, running: &mut Vec<Running>) -> Result<(), StartError> {
        let admin = Admin::new(self.servers.iter().map(|server| server.entry.shape.name).collect());
        // It is stopped last, so that the others can be watched while they stop.
        running.push(admin.start(self.process.admin.listen).await?);
        for server in self.servers {
            let name = server.entry.shape.name;
            let context = base.context(name, server.settings, server.entry.shape.store);
            let server = (server.configured.build)(&context).await?;
            base.siblings.started(name, server.address());
            admin.started(name, server.health().cloned());
            running.push(server);
        }
        while timeout(PATIENCE, admin.ready()).await.is_err() {
            tracing::warn!(servers = admin.not_ready().join(", "), "still waiting until all are ready");
        }
        // From the one that people call to the one that nobody does; the admin has started first.
        let addresses: Vec<(&'static str, SocketAddr)> =
            running.iter().rev().map(|server| (server.name(), server.address())).collect();
        ready::tell(&self.name, &addresses, ready::format_of(&self.process.log));
        Ok(())
    }
}

async fn open_bus(config: &BusConfig, data: &DataFolder) -> Result<Arc<dyn Bus>, StartError> {
    if config.url.as_deref() != Some(EMBEDDED) {
        return Ok(Arc::new(Nats::open(config)?));
    }
    let path = data.path().join("bus.db");
    let what = || format!("the bus file {} cannot be opened: put it right, or move it away", path.display());
    match Embedded::open(&path).await {
        Ok(bus) => Ok(Arc::new(bus)),
        Err(error) => Err(StartError::unavailable(what(), error)),
    }
}

/// What all servers of a process share.
struct Base {
    data: Option<DataFolder>,
    bus: Option<Arc<dyn Bus>>,
    clock: SharedClock,
    siblings: Siblings,
}

impl Base {
    fn context(&self, name: &'static str, settings: Settings, store: StoreSupport) -> Context {
        let keeps = store != StoreSupport::None;
        Context {
            name,
            settings,
            data: self.data.clone().filter(|_| keeps),
            bus: self.bus.clone().filter(|_| keeps),
            clock: self.clock.clone(),
            siblings: self.siblings.clone(),
        }
    }
}

/// What has to be stopped, in the order of its start.
pub(super) struct Started {
    pub(super) running: Vec<Running>,
    pub(super) bus: Option<Arc<dyn Bus>>,
}

impl Started {
    /// Stops all in the opposite order within `cap`.
    pub(super) async fn stop(mut self, cap: Duration) {
        let until = Instant::now() + cap;
        let delays = self.running.iter_mut().map(Running::announce_stop);
        sleep(delays.max().unwrap_or_default().min(cap)).await;
        // The gateway is the first to stop, and waits for calls that only the others can end.
        self.running.iter().for_each(Running::end_waits);
        for server in self.running.into_iter().rev() {
            server.stop_until(until).await;
        }
        if let Some(bus) = self.bus
            && timeout_at(until, bus.close()).await.is_err()
        {
            tracing::warn!("the bus did not close in time");
        }
    }
}

/// The first signal cancels the token, a second one ends the process at once.
fn listen_to_signals() -> Result<CancellationToken, StartError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(StartError::failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::failed)?;
    let stop = CancellationToken::new();
    let asked = stop.clone();
    // Not joined: it ends with the process.
    Tasks::new().spawn("signals", async move {
        for _ in 0..2 {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if asked.is_cancelled() {
                std::process::exit(INTERRUPTED.into());
            }
            asked.cancel();
        }
    });
    Ok(stop)
}
