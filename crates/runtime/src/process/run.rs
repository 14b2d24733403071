//! Configures the servers of a program, runs them, and stops them.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use eticket_auth::config::AuthMode;
use eticket_base::{
    clock::{SharedClock, SystemClock},
    config::{
        self,
        bus::{self, EMBEDDED},
        urls::{self, StorePlace, StoreSupport},
    },
    data::DataFolder,
    exit::StartError,
    instance::instance,
    open_files, telemetry,
};
use eticket_bus::Bus;
use eticket_rpc_server::{admin::Admin, auth::Authentication, server::Running};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{
    admin_command::Listener,
    dev::Dev,
    flags::Binary,
    ready,
    service::{Configured, Deployment, ServiceFactory},
    signals,
};
use crate::{
    config::{
        ProcessSettings, Settings,
        load::{
            self, Sources,
            listen::{self, Listen},
        },
    },
    context::{self, Context, LoginCodes, Siblings},
};

/// Delay until a server that is not ready is logged, and interval of further log lines.
const READY_WARNING: Duration = Duration::from_secs(10);

/// The servers of a binary.
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) entries: Vec<ServiceFactory>,
    /// Several servers in one process, with a section each; they find each other without configured addresses.
    pub(crate) together: bool,
}

impl Program {
    /// Returns the kind of this binary.
    pub(crate) fn binary(&self) -> Binary {
        match &self.entries[..] {
            _ if self.together => Binary::Together,
            [entry] if entry.spec.store != StoreSupport::None => Binary::Service(entry.spec.name),
            _ => Binary::Gateway,
        }
    }

    /// Where admin commands find the running server. The last server receives them: with several servers, the gateway.
    pub(crate) fn listener(&self, sources: &Sources) -> Result<Listener, StartError> {
        let last = self.entries.last().ok_or_else(|| StartError::failed("there is no server"))?;
        let Listen { listen, tls } = listen::read(last.spec, self.together, sources)?;
        Ok(Listener { key: key_of(self.together.then_some(last.spec.name), "listen"), address: listen, tls })
    }

    /// Reads and checks the configuration, without opening or binding anything.
    pub(crate) fn configure(&self, sources: &Sources) -> Result<ConfiguredProgram, config::Error> {
        let specs: Vec<_> = self.entries.iter().map(|entry| entry.spec).collect();
        let (process, trees) = match (self.together, &specs[..]) {
            (false, [spec]) => load::alone(*spec, sources).map(|(process, tree)| (process, vec![tree]))?,
            _ => load::together(&specs, sources)?,
        };
        let place = if self.together { Deployment::Together } else { Deployment::Alone };
        let mut servers = Vec::new();
        for (entry, tree) in self.entries.iter().zip(trees) {
            let configured = (entry.configure)(&tree, place)?;
            let (settings, section) = (tree.settings, tree.section);
            servers.push(Server { entry: *entry, settings, section, configured });
        }
        let program = ConfiguredProgram { name: self.name.clone(), process, servers, dev: None };
        program.check_addresses()?;
        program.check_siblings()?;
        program.check_files()?;
        Ok(program)
    }
}

/// The full key of a server.
pub(super) fn key_of(section: Option<&str>, key: &str) -> String {
    section.map_or_else(|| key.to_owned(), |section| format!("{section}.{key}"))
}

/// A server with its checked configuration.
pub(super) struct Server {
    pub(super) entry: ServiceFactory,
    pub(super) settings: Settings,
    pub(super) section: Option<&'static str>,
    pub(super) configured: Configured,
}

/// A program with a valid configuration.
pub(crate) struct ConfiguredProgram {
    name: String,
    pub(super) process: ProcessSettings,
    pub(super) servers: Vec<Server>,
    dev: Option<Arc<Dev>>,
}

impl ConfiguredProgram {
    pub(super) fn with_dev(self, dev: Dev) -> Self {
        Self { dev: Some(Arc::new(dev)), ..self }
    }

    /// The first store that is configured outside of the data folder: its key and URL.
    pub(super) fn store_elsewhere(&self) -> Option<(String, &str)> {
        self.servers.iter().find_map(|server| {
            let url = server.settings.store.url.as_deref()?;
            Some((key_of(server.section, "store.url"), url))
        })
    }

    pub(super) fn bus_url(&self) -> Option<&str> {
        self.process.bus.url.as_deref()
    }

    /// Formats the effective configuration as TOML.
    pub(crate) fn effective(&self) -> Result<String, config::Error> {
        let tables: Vec<_> = self.servers.iter().map(|server| (server.section, self.table_of(server))).collect();
        load::effective(&self.process, &tables)
    }

    /// Checks that no two servers of this process have the same address.
    fn check_addresses(&self) -> Result<(), config::Error> {
        let servers = self.servers.iter().map(|server| (key_of(server.section, "listen"), server.settings.listen));
        let mut known = vec![("admin.listen".to_owned(), self.process.admin.listen)];
        for (key, address) in servers {
            let (ip, port) = (address.ip(), address.port());
            let conflicts = |other: &SocketAddr| {
                let same_ip = other.ip() == ip || other.ip().is_unspecified() || ip.is_unspecified();
                port != 0 && other.port() == port && same_ip && other.is_ipv4() == address.is_ipv4()
            };
            if let Some((other, taken)) = known.iter().find(|(_, other)| conflicts(other)) {
                let expected = format!("conflicts with {other} = {taken}: set different addresses");
                return Err(config::Error::new(key, Some(address.to_string()), expected));
            }
            known.push((key, address));
        }
        Ok(())
    }

    /// Checks that the servers of this process have the certificates that calls to each other need.
    fn check_siblings(&self) -> Result<(), config::Error> {
        for server in &self.servers {
            let upstreams = server.configured.table.get("upstream").and_then(toml::Value::as_table);
            for (name, section) in upstreams.into_iter().flatten() {
                // With a URL, the server has checked its keys itself.
                let sibling = self.servers.iter().find(|sibling| sibling.entry.spec.name == name);
                let Some(sibling) = sibling.filter(|_| section.get("url").is_none()) else { continue };
                let given = section.get("tls");
                let has = |key: &str| given.is_some_and(|tls| tls.get(key).is_some());
                let key = |key: &str| key_of(server.section, &format!("upstream.{name}.tls.{key}"));
                let theirs = key_of(sibling.section, "tls");
                match &sibling.settings.tls {
                    tls if !tls.is_on() && given.is_some() => {
                        let expected = format!("has no effect, because {theirs}.cert_file is not set");
                        return Err(config::Error::new(key("ca_file"), Some("a section".to_owned()), expected));
                    }
                    tls if tls.is_on() && !has("ca_file") => {
                        let expected = format!(
                            "expected the PEM file of the authorities of the certificate of {name}, which speaks TLS; set \
                             {} as well, unless that certificate has the address of {name}",
                            key("server_name")
                        );
                        return Err(config::Error::missing(key("ca_file"), expected));
                    }
                    tls if tls.client_ca_file.is_some() && !has("cert_file") => {
                        let expected = format!("expected a client certificate, because {theirs}.client_ca_file is set");
                        return Err(config::Error::missing(key("cert_file"), expected));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Checks that no two servers of this process use the same file.
    fn check_files(&self) -> Result<(), config::Error> {
        let mut known: Vec<(String, PathBuf)> = Vec::new();
        if let (Some(data), Some(EMBEDDED)) = (&self.process.data, self.process.bus.url.as_deref()) {
            known.push(("the bus".to_owned(), data.join(bus::FILE)));
        }
        for server in &self.servers {
            let (spec, url) = (server.entry.spec, server.settings.store.url.as_deref());
            let path = match (url.map(|url| urls::store_place(spec.store, url)).transpose()?, &self.process.data) {
                (Some(StorePlace::Sqlite(path)), _) => path,
                (None, Some(data)) if spec.store != StoreSupport::None => context::default_store(data, spec.name),
                _ => continue,
            };
            let path = std::path::absolute(&path).unwrap_or(path);
            let key = key_of(server.section, "store.url");
            if let Some((other, _)) =
                known.iter().find(|(_, known)| std::path::absolute(known).is_ok_and(|k| k == path))
            {
                let expected = format!("is the file of {other}: set different files");
                return Err(config::Error::new(key, Some(format!("sqlite:{}", path.display())), expected));
            }
            known.push((key, path));
        }
        Ok(())
    }

    fn table_of(&self, server: &Server) -> toml::Table {
        let mut table = server.configured.table.clone();
        if let (Some(data), None) = (&self.process.data, &server.settings.store.url)
            && server.entry.spec.store != StoreSupport::None
        {
            let url = format!("sqlite:{}", context::default_store(data, server.entry.spec.name).display());
            table.insert("store".to_owned(), toml::Table::from_iter([("url".to_owned(), url.into())]).into());
        }
        table
    }

    /// Runs until a signal requests the stop.
    pub(crate) fn run(self) -> Result<(), StartError> {
        open_files::raise_limit()?;
        telemetry::init_log(&self.process.log)?;
        let stop = signals::listen(self.hard_cap())?;
        // Its folder is removed when the servers have stopped.
        let _dev = self.dev.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(StartError::failed)?;
        if let Some(export) = self.process.export()? {
            let servers: Vec<_> = self.servers.iter().map(|server| server.entry.spec.name).collect();
            let _inside = runtime.enter();
            telemetry::spans::start(export, &servers)?;
        }
        let outcome = runtime.block_on(self.serve(stop));
        telemetry::spans::stop();
        // Tasks that still block a thread have had their time within the hard cap.
        runtime.shutdown_background();
        outcome
    }

    /// Runs until `stop` is cancelled.
    pub(crate) async fn serve(self, stop: CancellationToken) -> Result<(), StartError> {
        // Sets the time of the start.
        instance();
        // Before anything is recorded, because earlier values would be lost.
        telemetry::metrics();
        let data = self.process.data.as_deref().map(DataFolder::open).transpose()?;
        let open_bus = self.servers.iter().find_map(|server| server.entry.open_bus);
        let bus = match (&data, open_bus) {
            (Some(data), Some(open_bus)) if self.process.bus.url.is_some() => {
                Some(open_bus(&self.process.bus, data).await?)
            }
            _ => None,
        };
        let login = self.dev.as_ref().and_then(|dev| dev.login());
        let base = Base { data, bus, clock: Arc::new(SystemClock), siblings: Siblings::default(), login };
        let cap = self.hard_cap();
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

    /// The hard cap of the process: the longest of its servers.
    fn hard_cap(&self) -> Duration {
        self.servers.iter().map(|server| server.settings.shutdown.hard_cap()).max().unwrap_or_default()
    }

    async fn start_all(mut self, base: &Base, running: &mut Vec<Running>) -> Result<(), StartError> {
        let admin = Admin::new(self.servers.iter().map(|server| server.entry.spec.name).collect());
        // Stopped last, so that the stop of the others can be observed.
        running.push(admin.start(self.process.admin.listen).await?);
        let last = self.servers.last().map(|server| &server.settings);
        let encrypted = last.is_some_and(|settings| settings.tls.is_on());
        let by_token = last.is_some_and(|settings| settings.auth.mode == Some(AuthMode::Jwt));
        for server in std::mem::take(&mut self.servers) {
            let name = server.entry.spec.name;
            let tls = server.settings.tls.clone();
            let context = base.context(name, server.settings, server.entry.spec.store)?;
            let server = server.configured.server.build(&context).await?;
            base.siblings.started(name, server.address(), &tls, server.dialer());
            admin.started(name, server.health().cloned());
            running.push(server);
        }
        while timeout(READY_WARNING, admin.ready()).await.is_err() {
            tracing::warn!(servers = admin.not_ready().join(", "), "still waiting for servers to become ready");
        }
        // In reverse order of start, so that the gateway comes first; the admin server was started first.
        let addresses: Vec<(&'static str, SocketAddr)> =
            running.iter().rev().map(|server| (server.name(), server.address())).collect();
        let format = telemetry::format_of(&self.process.log);
        let first = self.dev.as_ref().zip(addresses.first());
        if let Some((dev, (_, gateway))) = first {
            dev.fill(*gateway, encrypted, by_token).await?;
        }
        ready::report(&self.name, &addresses, encrypted, format);
        if let Some((dev, (_, gateway))) = first {
            dev.show(*gateway, encrypted, format)?;
        }
        telemetry::has_started();
        Ok(())
    }
}

/// Resources that all servers of a process share.
struct Base {
    data: Option<DataFolder>,
    bus: Option<Arc<dyn Bus>>,
    clock: SharedClock,
    siblings: Siblings,
    login: Option<LoginCodes>,
}

impl Base {
    fn context(&self, name: &'static str, settings: Settings, store: StoreSupport) -> Result<Context, StartError> {
        let authentication = Authentication::start(&settings.auth)?;
        let is_stateful = store != StoreSupport::None;
        Ok(Context {
            name,
            settings,
            authentication,
            data: self.data.clone().filter(|_| is_stateful),
            bus: self.bus.clone().filter(|_| is_stateful),
            clock: self.clock.clone(),
            siblings: self.siblings.clone(),
            login: self.login.clone(),
        })
    }
}

/// What must be stopped, in the order of the start.
pub(super) struct Started {
    pub(super) running: Vec<Running>,
    pub(super) bus: Option<Arc<dyn Bus>>,
}

impl Started {
    /// Stops everything in reverse order, within `cap`.
    pub(super) async fn stop(mut self, cap: Duration) {
        let until = Instant::now() + cap;
        let delays = self.running.iter_mut().map(Running::announce_stop);
        sleep(delays.max().unwrap_or_default().min(cap)).await;
        // The gateway stops first, and waits for calls that only the servers behind it can end.
        self.running.iter().for_each(Running::end_waits);
        for server in self.running.into_iter().rev() {
            server.stop_until(until).await;
        }
        if let Some(bus) = self.bus
            && timeout_at(until, bus.close()).await.is_err()
        {
            tracing::warn!("the bus was not closed within shutdown.hard_cap_ms");
        }
    }
}
