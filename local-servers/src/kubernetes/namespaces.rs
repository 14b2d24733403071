//! The namespaces of a cluster, and what is in them before its first part starts.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{NODE_ADDRESS, SERVICES, output};
use crate::{postgres::runs_as_root, program::Program, wait_until};

/// Prepares the mounts and the network. `$1` is a folder of the cluster, `$2` the address of the node, `$3` the network
/// of the services.
const PREPARE: &str = r#"
mount --make-rshared /
mount -t tmpfs tmpfs /run
# Paths that Kubernetes and its network plugins do not let one choose.
for place in /var/lib/kubelet /var/lib/cni /var/log/pods /var/log/containers; do
  mkdir -p "$place" "$1$place"
  mount --bind "$1$place" "$place"
done
# The kubelet sets these for the whole machine; here it sets them in files.
for setting in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys \
    kernel/keys/root_maxbytes; do
  mkdir -p "$1/sys/$(dirname "$setting")"
  cat "/proc/sys/$setting" > "$1/sys/$setting"
  mount --bind "$1/sys/$setting" "/proc/sys/$setting"
done
ip link set lo up
ip link add node0 type veth peer name node1
ip address add "$2/24" dev node0
ip link set node0 up
ip link set node1 up
# Programs of the node reach services too: the kernel wants a route before it looks at the rules of iptables.
ip route add "$3" dev node0
echo 1 > /proc/sys/net/ipv4/ip_forward
if [ -e /proc/sys/net/bridge/bridge-nf-call-iptables ]; then
  echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables
fi
"#;

/// The folder of control groups.
const GROUPS: &str = "/sys/fs/cgroup";

pub(super) struct Namespaces {
    _outer: Program,
    /// The first process within.
    first: String,
    groups: Vec<PathBuf>,
}

pub(super) fn obstacle() -> Option<String> {
    if !runs_as_root() {
        return Some("a node of Kubernetes needs root".to_owned());
    }
    let programs = ["unshare", "nsenter", "setpriv", "ip", "iptables", "containerd", "runc", "ctr"];
    for program in programs {
        let found = Command::new("sh").arg("-c").arg(format!("command -v {program}")).output();
        if !found.is_ok_and(|output| output.status.success()) {
            return Some(format!("{program} is not installed"));
        }
    }
    let namespaces = ["--mount", "--net", "--pid", "--fork", "--mount-proc"];
    match output(Command::new("unshare").args(namespaces).args(["mount", "-t", "tmpfs", "tmpfs", "/run"])) {
        Ok(_) => None,
        Err(error) => Some(format!("the kernel refuses namespaces: {error:#}")),
    }
}

impl Namespaces {
    pub(super) fn create(folder: &Path) -> Result<Self> {
        let mut command = Command::new("setpriv");
        // Ends with the thread that started it, and then its first process and all others end too.
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc"]);
        command.args(["--kill-child", "sleep", "infinity"]);
        let outer = Program::start(command, &folder.join("log/namespaces.log"))?;
        let mut first = None;
        wait_until("the first process of the cluster", || {
            first = outer.first_child().filter(|pid| {
                // It is `unshare` until it has become the other program.
                fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "sleep")
            });
            Ok(first.is_some())
        })?;
        let first = first.context("it was found")?.to_string();
        let namespaces = Self { _outer: outer, first, groups: create_groups()? };
        let mut prepare = namespaces.command(Path::new("sh"));
        prepare.args(["-euc", PREPARE, "sh"]).arg(folder).args([NODE_ADDRESS, SERVICES]);
        output(&mut prepare).context("cannot prepare the mounts and the network of the cluster")?;
        Ok(namespaces)
    }

    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first, "--mount", "--net", "--pid", "--"]).arg(program);
        command
    }

    pub(super) fn network(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.first))
    }

    /// The name of the control group of the pods: each kubelet ends the processes of pods that it does not know.
    pub(super) fn group() -> String {
        format!("eticket-kubernetes-{}", std::process::id())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        // Groups can be removed once their processes have ended, from the inside out.
        for group in &self.groups {
            for _ in 0..50 {
                remove_groups(group);
                if !group.exists() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
    }
}

/// Creates the control group of the pods: in each hierarchy of version 1, or once in version 2.
fn create_groups() -> Result<Vec<PathBuf>> {
    let root = Path::new(GROUPS);
    let hierarchies: Vec<PathBuf> = if root.join("cgroup.controllers").exists() {
        for controller in ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"] {
            // Not every kernel has each controller.
            fs::write(root.join("cgroup.subtree_control"), format!("+{controller}")).ok();
        }
        vec![root.to_owned()]
    } else {
        let entries = fs::read_dir(root).with_context(|| format!("cannot read {GROUPS}"))?;
        let folders = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.map(|entry| entry.path()).filter(|folder| folder.join("cgroup.procs").exists()).collect()
    };
    if hierarchies.is_empty() {
        bail!("{GROUPS} has no control groups");
    }
    let mut groups = Vec::new();
    for hierarchy in hierarchies {
        let group = hierarchy.join(Namespaces::group());
        fs::create_dir_all(&group).with_context(|| format!("cannot create {}", group.display()))?;
        groups.push(group);
    }
    Ok(groups)
}

fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    fs::remove_dir(group).ok();
}
