//! A Kubernetes cluster with one node, on this machine: etcd, the control plane, containerd, a kubelet, cluster DNS,
//! metrics, volumes, and network policies.
//!
//! It runs in mount, network and process namespaces of its own, as root. Its network has no route to another one, its
//! rules of iptables are not those of the machine, and the end of its first process ends all others.

mod certificates;
mod control_plane;
mod namespaces;
mod worker;

use std::{
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

use crate::program::Program;
use namespaces::Namespaces;

/// The address of the node. These networks exist only in the namespace.
const NODE_ADDRESS: &str = "10.99.0.1";
const PODS: &str = "10.244.0.0/24";
const SERVICES: &str = "10.96.0.0/16";
/// The first address of the services.
const API_ADDRESS: &str = "10.96.0.1";
/// As in `manifests/dns.yaml`.
const DNS_ADDRESS: &str = "10.96.0.10";
const NODE: &str = "node";

const PAUSE: Duration = Duration::from_millis(200);

/// What the cluster is made of.
pub struct Parts<'a> {
    /// Folder with the programs `node`, `dns`, `volumes`, `policies`, `helm` and `metrics-server`.
    pub programs: &'a Path,
    /// Archives of images, by the layout of OCI. Nothing can be pulled.
    pub images: &'a [PathBuf],
    /// Folder with the objects of the cluster itself.
    pub manifests: &'a Path,
}

/// A running cluster; it ends when dropped.
pub struct Cluster {
    // The fields are dropped in this order: with the namespaces, all processes end.
    namespaces: Namespaces,
    parts: Vec<Program>,
    programs: PathBuf,
    folder: TempDir,
}

/// Returns why this machine cannot run a cluster, if so.
#[must_use]
pub fn obstacle() -> Option<String> {
    namespaces::obstacle()
}

impl Cluster {
    /// Starts a cluster and waits until its node and DNS are ready. Metrics come later.
    ///
    /// The thread that calls it must live as long as the cluster.
    ///
    /// # Errors
    /// If a part does not start; the error has the end of its log.
    pub fn start(parts: &Parts<'_>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("eticket-kubernetes-").tempdir()?;
        for name in ["log", "pki", "volumes"] {
            fs::create_dir(folder.path().join(name))?;
        }
        certificates::write(&folder.path().join("pki"))?;
        let namespaces = Namespaces::create(folder.path())?;
        let programs = parts.programs.to_owned();
        let mut cluster = Self { namespaces, parts: Vec::new(), programs, folder };
        cluster.start_control_plane()?;
        cluster.start_worker(parts)?;
        cluster.kubectl_until(&["wait", "--for=condition=Ready", "node/node", "--timeout=1s"])?;
        let manifests = parts.manifests.to_str().context("paths are UTF-8")?;
        cluster.kubectl_until(&["apply", "--filename", manifests])?;
        let dns = ["--namespace=kube-system", "rollout", "status", "deployment/dns", "--timeout=1s"];
        cluster.kubectl_until(&dns)?;
        Ok(cluster)
    }

    /// Moves the calling thread, and the threads and processes that it starts from now on, into the network of the
    /// cluster.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn enter_network(&self) -> Result<()> {
        let network = fs::File::open(self.namespaces.network()).context("cannot open the network of the cluster")?;
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
            .context("cannot enter the network of the cluster")
    }

    /// Creates a command that runs in the namespaces of the cluster.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = self.namespaces.command(program.as_ref());
        command.env("KUBECONFIG", self.kubeconfig());
        command
    }

    /// Creates a command for kubectl, as the administrator of the cluster.
    #[must_use]
    pub fn kubectl(&self) -> Command {
        let mut command = self.command(self.programs.join("node"));
        command.arg("kubectl");
        command
    }

    /// Creates a command for helm.
    #[must_use]
    pub fn helm(&self) -> Command {
        let mut command = self.command(self.programs.join("helm"));
        command.env("HOME", self.folder.path());
        command
    }

    /// Imports an archive of an image.
    ///
    /// # Errors
    /// With the output of containerd.
    pub fn import(&self, image: &Path) -> Result<()> {
        let mut command = self.command("ctr");
        command.args(["--namespace", "k8s.io", "images", "import"]).arg(image);
        output(&mut command).map(drop)
    }

    /// The kubeconfig file of the administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("pki/admin.conf")
    }

    /// Folder with a log file of each part.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Returns a flag whose value is a file of the folder.
    fn file_flag(&self, flag: &str, file: &str) -> String {
        format!("--{flag}={}", self.folder.path().join(file).display())
    }

    /// Starts a program of the folder of programs, or of the path.
    fn start_part(&mut self, name: &str, mut command: Command, arguments: &[String]) -> Result<()> {
        command.args(arguments);
        self.parts.push(Program::start(command, &self.logs().join(format!("{name}.log")))?);
        Ok(())
    }

    /// Runs kubectl until it succeeds.
    fn kubectl_until(&mut self, arguments: &[&str]) -> Result<()> {
        self.run_until(arguments, |cluster| {
            let mut kubectl = cluster.kubectl();
            kubectl.args(arguments);
            kubectl
        })
    }

    fn run_until(&mut self, what: &[&str], command: impl Fn(&Self) -> Command) -> Result<()> {
        const BOUND: Duration = Duration::from_secs(120);
        let end = Instant::now() + BOUND;
        loop {
            let error = match output(&mut command(self)) {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            for part in &mut self.parts {
                if part.ended()? {
                    bail!("a part of the cluster has ended: {}", last_lines(&part.log()));
                }
            }
            if Instant::now() > end {
                bail!("{what:?} has not succeeded within {BOUND:?}: {error:#}");
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// Runs a command and returns its standard output.
fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}
