//! nats-server 2.10 or newer with JetStream, from the path: one node or a cluster.

use std::{
    env, fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::{free_port, program::Program, wait_until};

/// Maximum number of starts, each with other ports.
const ATTEMPTS: u32 = 3;

/// The `sync_interval` of a node that acknowledges before it syncs, in milliseconds.
const LATE_MS: u64 = 1_000;

/// When a node writes messages to the disk.
#[derive(Clone, Copy)]
enum Syncs {
    /// Before it acknowledges them.
    Always,
    /// At intervals. A crash of the machine loses messages that were acknowledged.
    Late,
}

/// A running node.
pub struct Nats {
    program: Option<Program>,
    folder: PathBuf,
    port: u16,
    monitor: u16,
    syncs: Syncs,
    shielded: Option<PathBuf>,
    temporary: Option<TempDir>,
}

impl Nats {
    /// Starts a node for a test, in a temporary folder.
    ///
    /// # Errors
    /// Fails if nats-server is not on the path or does not start.
    pub fn start() -> Result<Self> {
        Self::start_with("")
    }

    /// Like [`Self::start`], with further lines of configuration.
    ///
    /// # Errors
    /// Like [`Self::start`].
    pub fn start_with(lines: &str) -> Result<Self> {
        let temporary = tempfile::Builder::new().prefix("eticket-nats-").tempdir()?;
        let mut node = Self::start_in(temporary.path(), lines)?;
        node.temporary = Some(temporary);
        Ok(node)
    }

    /// Starts a node for a test that acknowledges before it syncs: `bus.sync_interval_ms` must be that of the node.
    ///
    /// # Errors
    /// Like [`Self::start`].
    pub fn start_late() -> Result<Self> {
        let temporary = tempfile::Builder::new().prefix("eticket-nats-").tempdir()?;
        let mut node = Self::start_node(temporary.path(), "", Syncs::Late)?;
        node.temporary = Some(temporary);
        Ok(node)
    }

    /// The value for `bus.sync_interval_ms`.
    #[must_use]
    pub fn sync_interval_ms(&self) -> u64 {
        match self.syncs {
            Syncs::Always => 0,
            Syncs::Late => LATE_MS,
        }
    }

    /// Starts a node in this folder.
    ///
    /// # Errors
    /// Like [`Self::start`].
    pub fn start_in(folder: &Path, lines: &str) -> Result<Self> {
        Self::start_node(folder, lines, Syncs::Always)
    }

    fn start_node(folder: &Path, lines: &str, syncs: Syncs) -> Result<Self> {
        let mut attempts = 1;
        loop {
            let mut node = Self::configured(folder, lines, syncs)?;
            match node.start_again() {
                Ok(()) => return Ok(node),
                // The ports were free before the start, and may have been taken meanwhile.
                Err(_) if attempts < ATTEMPTS && node.has_ended() => attempts += 1,
                Err(error) => return Err(error),
            }
        }
    }

    fn has_ended(&mut self) -> bool {
        self.program.as_mut().is_some_and(|program| program.ended().unwrap_or(true))
    }

    /// Starts this program as a node in this folder, in a process group of its own: Ctrl-C on the terminal does not
    /// reach it, and its owner stops it in order. It acknowledges before it syncs, like [`Self::start_late`].
    ///
    /// # Errors
    /// Like [`Self::start`].
    pub fn start_shielded(folder: &Path, program: &Path) -> Result<Self> {
        let mut node = Self::configured(folder, "", Syncs::Late)?;
        node.shielded = Some(program.to_owned());
        node.start_again()?;
        Ok(node)
    }

    /// Starts a cluster of three nodes; a stream can have three replicas.
    ///
    /// # Errors
    /// Like [`Self::start`].
    pub fn cluster() -> Result<Vec<Self>> {
        let routes = [free_port()?, free_port()?, free_port()?];
        let others = routes.map(|port| format!("\"nats-route://127.0.0.1:{port}\"")).join(", ");
        let mut nodes = Vec::new();
        for (number, route) in routes.iter().enumerate() {
            let temporary = tempfile::Builder::new().prefix("eticket-nats-").tempdir()?;
            let lines = format!(
                "server_name: node-{number}\ncluster {{ name: eticket, listen: \"127.0.0.1:{route}\", routes: [{others}] }}\n"
            );
            let mut node = Self::configured(temporary.path(), &lines, Syncs::Always)?;
            node.temporary = Some(temporary);
            node.launch()?;
            nodes.push(node);
        }
        for node in &mut nodes {
            node.wait_until_healthy()?;
        }
        // A node is healthy once it knows a leader. A stream with three replicas needs all nodes to be known to the
        // leader.
        wait_until("a cluster of three", || Ok(nodes.iter().any(|node| leads(node.monitor, 2))))?;
        Ok(nodes)
    }

    fn configured(folder: &Path, lines: &str, syncs: Syncs) -> Result<Self> {
        let (port, monitor) = (free_port()?, free_port()?);
        let store = folder.join("jetstream");
        let interval = match syncs {
            Syncs::Always => "always".to_owned(),
            Syncs::Late => format!("\"{LATE_MS}ms\""),
        };
        let configuration = format!(
            "listen: \"127.0.0.1:{port}\"\nhttp: \"127.0.0.1:{monitor}\"\n\
             jetstream {{ store_dir: \"{}\", sync_interval: {interval} }}\n{lines}\n",
            store.display()
        );
        fs::write(folder.join("nats.conf"), configuration)?;
        Ok(Self { program: None, folder: folder.to_owned(), port, monitor, syncs, shielded: None, temporary: None })
    }

    fn launch(&mut self) -> Result<()> {
        let mut command = match &self.shielded {
            Some(program) => Command::new(program),
            None => Command::new(binary()?),
        };
        if self.shielded.is_some() {
            command.process_group(0);
        }
        command.arg("--config").arg(self.folder.join("nats.conf"));
        self.program = Some(Program::start(command, &self.log_file())?);
        Ok(())
    }

    /// Starts a stopped node on the same ports.
    ///
    /// # Errors
    /// Fails with the log if it ends at once.
    pub fn start_again(&mut self) -> Result<()> {
        self.launch()?;
        self.wait_until_healthy()
    }

    /// Waits until JetStream responds too, in a cluster with a leader.
    fn wait_until_healthy(&mut self) -> Result<()> {
        let monitor = self.monitor;
        let program = self.program.as_mut().context("nats-server does not run")?;
        wait_until("a response of nats-server", || {
            if program.ended()? {
                bail!("nats-server does not start:\n{}", program.log());
            }
            Ok(healthy(monitor))
        })
    }

    /// Returns the URL for `bus.url`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Returns the loopback port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Kills the node with SIGKILL.
    ///
    /// # Errors
    /// Fails if it does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut program = self.program.take().context("nats-server does not run")?;
        program.signal(Signal::KILL)?;
        program.wait()
    }

    /// Stops the node with SIGTERM.
    ///
    /// # Errors
    /// Fails if it does not run.
    pub fn stop(&mut self) -> Result<()> {
        let mut program = self.program.take().context("nats-server does not run")?;
        program.signal(Signal::TERM)?;
        program.wait()
    }

    /// Sends a signal, such as STOP or CONT.
    ///
    /// # Errors
    /// Fails if it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.program.as_ref().context("nats-server does not run")?.signal(signal)
    }

    /// Limits the size of the files that the node writes, or removes the limit. The node reacts as to a full disk, and
    /// no privileges are needed.
    ///
    /// # Errors
    /// Fails if it does not run.
    pub fn limit_files(&self, bytes: Option<u64>) -> Result<()> {
        let program = self.program.as_ref().context("nats-server does not run")?;
        program.limit_files(bytes, || Command::new("prlimit"))
    }

    /// Deletes all data of JetStream. The node must be stopped.
    ///
    /// # Errors
    /// Fails if it runs or the folder cannot be deleted.
    pub fn wipe(&mut self) -> Result<()> {
        if self.program.is_some() {
            bail!("nats-server runs");
        }
        Ok(fs::remove_dir_all(self.folder.join("jetstream"))?)
    }

    /// Copies all data of JetStream, like a backup. The node must be stopped.
    ///
    /// # Errors
    /// Fails if it runs or the files cannot be copied.
    pub fn keep_copy(&mut self) -> Result<()> {
        if self.program.is_some() {
            bail!("nats-server runs");
        }
        copy(&self.folder.join("jetstream"), &self.folder.join("copy"))
    }

    /// Replaces the data of JetStream with the copy. The node must be stopped.
    ///
    /// # Errors
    /// Fails if it runs or the files cannot be copied.
    pub fn restore_copy(&mut self) -> Result<()> {
        self.wipe()?;
        copy(&self.folder.join("copy"), &self.folder.join("jetstream"))
    }

    /// Returns its log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Returns the id of its process; `None` if it is stopped.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.program.as_ref().map(Program::id)
    }

    /// Returns the folder of its files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("log")
    }
}

/// Copies a folder recursively.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &target)?,
            false => fs::copy(entry.path(), target).map(drop)?,
        }
    }
    Ok(())
}

fn healthy(monitor: u16) -> bool {
    ask(monitor, "/healthz").is_ok_and(|answer| answer.contains(" 200 "))
}

/// Whether the node is the leader and has this number of followers.
fn leads(monitor: u16, followers: usize) -> bool {
    ask(monitor, "/jsz").is_ok_and(|answer| answer.replace(' ', "").matches("\"current\":true").count() == followers)
}

fn ask(monitor: u16, path: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, monitor))?;
    connection.set_read_timeout(Some(Duration::from_secs(1)))?;
    connection.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}

fn binary() -> Result<PathBuf> {
    env::split_paths(&env::var_os("PATH").unwrap_or_default())
        .map(|folder| folder.join("nats-server"))
        .find(|program| program.is_file())
        .context("nats-server is not on the path: cargo xtask test installs it under target/tools/bin")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs nats-server: cargo xtask test runs it"]
    fn a_node_restarts_on_its_port_and_three_form_a_cluster() {
        let mut node = Nats::start().expect("the server starts");
        let url = node.url();
        node.kill().expect("killed");
        node.start_again().expect("the server starts again");
        assert_eq!(node.url(), url);
        node.stop().expect("stopped");
        assert_eq!(Nats::cluster().expect("they start").len(), 3);
    }
}
