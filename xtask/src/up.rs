//! `cargo xtask up`: runs the distributed form on this machine, with PostgreSQL and nats-server, until Ctrl-C.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use eticket_local_servers::{
    layout::{self, Ground, Process},
    nats::Nats,
    postgres::{Postgres, Settings},
};

use crate::{checkout::Checkout, command, tools};

/// Number of replicas of each service.
const REPLICAS: usize = 2;
/// Bound of the start of all processes, and of the stop of each.
const BOUND: Duration = Duration::from_secs(60);

/// Starts everything, prints the addresses, and stops everything on Ctrl-C. State is kept in `folder` for the next run.
pub(crate) fn run(checkout: &Checkout, folder: &Path, binaries: Option<PathBuf>) -> Result<()> {
    tools::postgres(checkout)?;
    let nats_server = tools::nats_server(checkout)?;
    let binaries = match binaries {
        Some(binaries) => binaries,
        None => {
            let mut build = checkout.cargo();
            build.args(["build", "--release", "--locked", "--workspace", "--bins", "--exclude", "xtask"]);
            command::run(&mut build)?;
            checkout.target().join("release")
        }
    };

    let (stop, stopped) = mpsc::channel();
    ctrlc::set_handler(move || {
        stop.send(()).ok();
    })
    .context("cannot handle signals")?;
    let servers = ["postgres", "nats", "log"].map(|name| folder.join(name));
    for server in &servers {
        std::fs::create_dir_all(server).with_context(|| format!("cannot create {}", server.display()))?;
    }
    let [postgres, nats, log] = servers;
    let settings = Settings {
        lines: vec!["max_connections = 300".to_owned()],
        synced: true,
        own_group: true,
        ..Settings::default()
    };
    let postgres = Postgres::start_in(&postgres, &settings)?;
    let nats = Nats::start_shielded(&nats, &nats_server)?;
    let (store_url, bus_url) = (postgres.url("postgres"), nats.url());
    let data = folder.join("data");
    let ground =
        Ground { store_url: &store_url, bus_url: &bus_url, sync_interval_ms: nats.sync_interval_ms(), data: &data };
    let mut running = Running(Vec::new());
    for process in layout::processes(|service| if service == layout::GATEWAY { 1 } else { REPLICAS }, ground)? {
        let number = running.0.iter().filter(|(other, _)| other.service == process.service).count();
        let log = log.join(format!("{}-{number}.log", process.service));
        let child = start(&binaries, &process, &log)?;
        running.0.push((process, child));
    }
    running.wait_until_ready(&log)?;
    running.print_addresses(&store_url, &bus_url, &log);
    stopped.recv().context("the signal handler ended")?;
    eprintln!("stopping");
    running.stop()
}

fn start(binaries: &Path, process: &Process, log: &Path) -> Result<Child> {
    let program = binaries.join(format!("eticket-{}", process.service));
    let mut command = Command::new(&program);
    // A process group of its own, so that Ctrl-C reaches only this program, which stops the processes in order.
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(File::create(log).with_context(|| format!("cannot write {}", log.display()))?);
    command.env(Process::variable("shutdown.drain_delay_ms"), "0");
    command.envs(process.keys.iter().map(|(key, value)| (Process::variable(key), value)));
    command.spawn().with_context(|| format!("cannot start {}", program.display()))
}

/// Processes in the order of their start.
struct Running(Vec<(Process, Child)>);

impl Running {
    /// Each process prints a line to standard output when it is ready.
    fn wait_until_ready(&mut self, log: &Path) -> Result<()> {
        let (ready, lines) = mpsc::channel();
        for (process, child) in &mut self.0 {
            let output = child.stdout.take().context("standard output is piped")?;
            let (ready, service) = (ready.clone(), process.service);
            std::thread::spawn(move || {
                let mut line = String::new();
                let read = BufReader::new(output).read_line(&mut line);
                ready.send((service, read.is_ok_and(|bytes| bytes > 0))).ok();
            });
        }
        for _ in 0..self.0.len() {
            match lines.recv_timeout(BOUND) {
                Ok((_, true)) => {}
                Ok((service, false)) => bail!("{service} ended before it was ready: see its log in {}", log.display()),
                Err(_) => bail!("not all are ready after {BOUND:?}: see their logs in {}", log.display()),
            }
        }
        Ok(())
    }

    /// Prints the addresses.
    fn print_addresses(&self, store_url: &str, bus_url: &str, log: &Path) {
        println!("{:<12} {store_url}\n{:<12} {bus_url}", "postgresql", "nats");
        for (process, _) in &self.0 {
            println!("{:<12} {}", process.service, process.address);
        }
        println!("logs         {}", log.display());
        if let Some((gateway, _)) = self.0.last() {
            println!("Try: grpcurl -plaintext {} list\nPress Ctrl-C to stop everything", gateway.address);
        }
    }

    /// Stops all processes, the gateway first.
    fn stop(mut self) -> Result<()> {
        let mut failed = Vec::new();
        while let Some((process, mut child)) = self.0.pop() {
            let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
            let pid = pid.context("a process has an id")?;
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
            if !child.wait()?.success() {
                failed.push(process.service);
            }
        }
        if failed.is_empty() { Ok(()) } else { bail!("did not stop cleanly: {}", failed.join(", ")) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for (_, child) in &mut self.0 {
            child.kill().ok();
            child.wait().ok();
        }
    }
}
