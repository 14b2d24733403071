//! The distributed form under test: replicas of each service in their own processes, with a PostgreSQL and a
//! nats-server of the test.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use eticket_local_servers::{
    layout::{self, GATEWAY, Ground, Process, SERVICES},
    nats::Nats,
    postgres::{Postgres, Settings},
};
use futures::future::join_all;
use tempfile::TempDir;
use tokio::task::spawn_blocking;

use crate::{Api, Eticket, Exit, Protocol, bench::database::COUNT_STATEMENTS, eventually::SOON, process::Launch};

/// The composition of a mesh.
#[derive(Debug, Clone)]
pub struct Plan {
    replicas: BTreeMap<&'static str, usize>,
    on_sqlite: Vec<&'static str>,
    keys: Vec<(&'static str, String, String)>,
    variables: Vec<(String, String)>,
    store_url: Option<String>,
    bus_url: Option<String>,
    older: Option<PathBuf>,
}

impl Default for Plan {
    fn default() -> Self {
        // The timeouts of the tests decide what is too slow; on a busy machine the breaker must not open first.
        let patient = |key: &str, value: &str| ("reservation", key.to_owned(), value.to_owned());
        let keys = vec![
            patient("upstream.ticket.deadline_ms", "8000"),
            patient("upstream.ticket.attempt_timeout_ms", "4000"),
            patient("upstream.ticket.breaker.slow_call_ms", "4000"),
        ];
        let (replicas, on_sqlite) = (BTreeMap::new(), Vec::new());
        Self { replicas, on_sqlite, keys, variables: Vec::new(), store_url: None, bus_url: None, older: None }
    }
}

impl Plan {
    /// Sets the number of replicas of each service.
    #[must_use]
    pub fn replicas(mut self, count: usize) -> Self {
        self.replicas.extend(SERVICES.map(|service| (service, count)));
        self
    }

    /// Sets the number of gateways.
    #[must_use]
    pub fn gateways(mut self, count: usize) -> Self {
        self.replicas.insert(GATEWAY, count);
        self
    }

    /// Puts a service on SQLite, which allows one replica only.
    #[must_use]
    pub fn on_sqlite(mut self, service: &'static str) -> Self {
        self.on_sqlite.push(service);
        self
    }

    /// Sets a configuration key of one service.
    #[must_use]
    pub fn key(mut self, service: &'static str, key: &str, value: &str) -> Self {
        self.keys.push((service, key.to_owned(), value.to_owned()));
        self
    }

    /// Sets a variable of the environment of every process.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets another address of PostgreSQL, such as that of a proxy.
    #[must_use]
    pub fn store_at(mut self, url: String) -> Self {
        self.store_url = Some(url);
        self
    }

    /// Sets another address of NATS.
    #[must_use]
    pub fn bus_at(mut self, url: String) -> Self {
        self.bus_url = Some(url);
        self
    }

    /// Starts each process the first time from the binaries in this folder: those of an older release.
    #[must_use]
    pub fn first_from(mut self, folder: Option<PathBuf>) -> Self {
        self.older = folder;
        self
    }

    fn count(&self, service: &str) -> usize {
        if self.on_sqlite.contains(&service) { 1 } else { self.replicas.get(service).copied().unwrap_or(1) }
    }
}

/// One process of a service. It keeps its address across restarts.
pub struct Replica {
    launch: Launch,
    /// The folder of an older release, for the first start.
    older: Option<PathBuf>,
    address: String,
    data: Option<PathBuf>,
    process: Option<Eticket>,
}

impl Replica {
    fn new(process: Process, plan: &Plan) -> Self {
        let launch = Launch::program(&format!("eticket-{}", process.service)).key("shutdown.drain_delay_ms", "0");
        let launch = process.keys.iter().fold(launch, |launch, (key, value)| launch.key(key, value));
        let own = plan.keys.iter().filter(|(of, ..)| *of == process.service);
        let launch = own.fold(launch, |launch, (_, key, value)| launch.key(key, value));
        let launch = plan.variables.iter().fold(launch, |launch, (name, value)| launch.variable(name, value));
        let data = process.keys.get("data").map(PathBuf::from);
        Self { launch, older: plan.older.clone(), address: process.address, data, process: None }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns the running process.
    ///
    /// # Panics
    /// If it is not running.
    pub fn process(&self) -> &Eticket {
        self.process.as_ref().expect("it runs")
    }

    /// Starts the process and waits until it is ready.
    pub async fn start(&mut self) {
        self.start_within(SOON).await;
    }

    /// Like [`Self::start`], for a process that has much to do before it is ready.
    pub async fn start_within(&mut self, bound: Duration) {
        let launch = self.launch.clone();
        let launch = self.older.take().into_iter().fold(launch, |launch, folder| launch.in_folder(&folder));
        self.process = Some(launch.start_within(bound).await);
    }

    /// Deletes the data folder, so that the next start is like that of a new replica.
    ///
    /// # Panics
    /// If the process runs, or has no data folder.
    pub fn forget(&mut self) {
        assert!(self.process.is_none(), "it runs");
        fs::remove_dir_all(self.data.as_ref().expect("a data folder")).expect("deleted");
    }

    /// Kills the process with SIGKILL.
    ///
    /// # Panics
    /// If it is not running.
    pub async fn kill(&mut self) {
        self.process.take().expect("it runs").kill().await;
    }

    /// Stops the process and waits until it has exited.
    ///
    /// # Panics
    /// If it is not running, or does not exit cleanly.
    pub async fn stop(&mut self) -> Exit {
        self.process.take().expect("it runs").stop().await
    }
}

/// PostgreSQL and NATS.
pub struct Infrastructure {
    pub postgres: Postgres,
    pub nats: Nats,
}

impl Infrastructure {
    /// Starts both for tests: commits survive a crash of the server, but not of the machine.
    ///
    /// # Panics
    /// If either is not installed or does not start.
    pub async fn start() -> Self {
        Self::start_with(false, &[], Nats::start_late).await
    }

    /// Like [`Self::start`], with a bus that older releases can use.
    ///
    /// # Panics
    /// Like [`Self::start`].
    pub async fn for_older() -> Self {
        Self::start_with(false, &[], Nats::start).await
    }

    /// Starts both with commits synced to the disk and statements counted, for measurements.
    ///
    /// # Panics
    /// Like [`Self::start`].
    pub async fn synced() -> Self {
        Self::start_with(true, &[COUNT_STATEMENTS], Nats::start_late).await
    }

    /// Like [`Self::synced`], with a line of `postgresql.conf` instead of the one that counts statements.
    ///
    /// # Panics
    /// Like [`Self::start`].
    pub async fn synced_with(line: &'static str) -> Self {
        Self::start_with(true, &[line], Nats::start_late).await
    }

    /// Like [`Self::synced`], with a bus that older releases can use.
    ///
    /// # Panics
    /// Like [`Self::start`].
    pub async fn synced_for_older() -> Self {
        Self::start_with(true, &[COUNT_STATEMENTS], Nats::start).await
    }

    async fn start_with(synced: bool, lines: &[&'static str], nats: fn() -> anyhow::Result<Nats>) -> Self {
        // Each service has a few connections, and a test has many services.
        let lines = ["max_connections = 300"].iter().chain(lines).map(|line| (*line).to_owned()).collect();
        let started = spawn_blocking(move || {
            let settings = Settings { lines, synced, ..Settings::default() };
            Ok::<_, anyhow::Error>(Self { postgres: Postgres::start_with(&settings)?, nats: nats()? })
        });
        started.await.expect("starting does not panic").expect("PostgreSQL and nats-server start")
    }
}

/// A running mesh.
pub struct Mesh {
    pub servers: BTreeMap<&'static str, Vec<Replica>>,
    pub infrastructure: Infrastructure,
    _folder: TempDir,
}

impl Mesh {
    /// Starts a mesh with its own servers.
    pub async fn start(plan: Plan) -> Self {
        let infrastructure = match &plan.older {
            Some(_) => Infrastructure::for_older().await,
            None => Infrastructure::start().await,
        };
        Self::start_on(infrastructure, plan).await
    }

    /// Starts a mesh on these servers.
    ///
    /// # Panics
    /// If a process does not become ready.
    pub async fn start_on(infrastructure: Infrastructure, plan: Plan) -> Self {
        let folder = TempDir::new().expect("a folder");
        let (postgres, nats) = (infrastructure.postgres.url("postgres"), infrastructure.nats.url());
        let ground = Ground {
            store_url: plan.store_url.as_deref().unwrap_or(&postgres),
            bus_url: plan.bus_url.as_deref().unwrap_or(&nats),
            sync_interval_ms: infrastructure.nats.sync_interval_ms(),
            data: folder.path(),
        };
        let processes = layout::processes(|service| plan.count(service), ground).expect("ports");
        let mut servers = BTreeMap::<_, Vec<Replica>>::new();
        for mut process in processes {
            if plan.on_sqlite.contains(&process.service) {
                process.keys.remove("store.url");
            }
            servers.entry(process.service).or_default().push(Replica::new(process, &plan));
        }
        join_all(servers.values_mut().flatten().map(Replica::start)).await;
        Self { servers, infrastructure, _folder: folder }
    }

    pub fn replicas(&self, service: &str) -> &[Replica] {
        &self.servers[service]
    }

    /// Returns one process of a service.
    ///
    /// # Panics
    /// If there is no process with this number.
    pub fn replica_of(&mut self, service: &str, number: usize) -> &mut Replica {
        &mut self.servers.get_mut(service).expect("a service")[number]
    }

    /// Creates a client; without the gateway it calls the first replica of each service.
    pub fn api(&self, protocol: Protocol) -> Api {
        Api::with_protocol(|server| self.servers[server][0].address.clone(), protocol)
    }

    /// Creates a client that calls this replica of one service and the first replica of all others.
    pub fn api_with(&self, service: &str, address: &str) -> Api {
        let of =
            |server: &str| if server == service { address.to_owned() } else { self.servers[server][0].address.clone() };
        Api::with_protocol(of, Protocol::Direct)
    }

    /// Stops all processes and waits until they have exited.
    ///
    /// # Panics
    /// If a process does not exit cleanly, or a task has panicked.
    pub async fn stop(mut self) {
        for service in ["gateway", "reservation", "query", "pricing", "ticket"] {
            let running = self.servers.remove(service).into_iter().flatten().filter_map(|replica| replica.process);
            for exit in join_all(running.map(Eticket::stop)).await {
                assert!(!exit.log.contains("panicked"), "{service}:\n{}", exit.log);
            }
        }
    }
}
