//! containerd, the kubelet, kube-proxy, and the programs for volumes and network policies.

use std::{fs, path::Path};

use anyhow::Result;

use super::{Cluster, DNS_ADDRESS, NODE, NODE_ADDRESS, PODS, Parts, namespaces::Namespaces};

/// Where Debian's package has the network plugins.
const PLUGINS: &str = "/usr/lib/cni";

impl Cluster {
    pub(super) fn start_worker(&mut self, parts: &Parts<'_>) -> Result<()> {
        let folder = self.folder.path().to_owned();
        fs::create_dir(folder.join("network"))?;
        fs::write(folder.join("network/10-pods.conflist"), network(&folder))?;
        fs::write(folder.join("containerd.toml"), containerd(&folder))?;
        fs::write(folder.join("resolv.conf"), "")?;
        fs::write(folder.join("kubelet.yaml"), self.kubelet())?;

        let containerd = self.command("containerd");
        let config = format!("--config={}", folder.join("containerd.toml").display());
        self.start_part("containerd", containerd, &[config])?;
        self.run_until(&["ctr", "version"], |cluster| {
            let mut version = cluster.command("ctr");
            version.arg("version");
            version
        })?;
        for image in parts.images {
            self.import(image)?;
        }
        let kubelet = [
            self.file_flag("config", "kubelet.yaml"),
            self.file_flag("kubeconfig", "pki/kubelet.conf"),
            format!("--hostname-override={NODE}"),
            format!("--node-ip={NODE_ADDRESS}"),
        ];
        self.start_kube("kubelet", &kubelet)?;
        let proxy = [
            self.file_flag("kubeconfig", "pki/proxy.conf"),
            format!("--hostname-override={NODE}"),
            "--proxy-mode=iptables".to_owned(),
            format!("--cluster-cidr={PODS}"),
            // Limits of the machine, which a network namespace may not set.
            "--conntrack-max-per-core=0".to_owned(),
            "--conntrack-tcp-timeout-established=0s".to_owned(),
            "--conntrack-tcp-timeout-close-wait=0s".to_owned(),
        ];
        self.start_kube("kube-proxy", &proxy)?;
        for name in ["volumes", "policies"] {
            let command = self.command(self.programs.join(name));
            let mut arguments = vec![self.file_flag("kubeconfig", "pki/admin.conf")];
            if name == "volumes" {
                arguments.push(self.file_flag("root", "volumes"));
            }
            self.start_part(name, command, &arguments)?;
        }
        Ok(())
    }

    fn kubelet(&self) -> String {
        let folder = self.folder.path().display();
        let group = Namespaces::group();
        format!(
            r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: "{folder}/pki/ca.crt"}}}}
authorization: {{mode: Webhook}}
tlsCertFile: "{folder}/pki/kubelet-server.crt"
tlsPrivateKeyFile: "{folder}/pki/kubelet-server.key"
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: "/{group}"
failCgroupV1: false
failSwapOn: false
clusterDNS: ["{DNS_ADDRESS}"]
clusterDomain: cluster.local
resolvConf: "{folder}/resolv.conf"
nodeStatusUpdateFrequency: 5s
# How soon a change of a ConfigMap is in the pods.
syncFrequency: 5s
# No image could be pulled again.
imageGCHighThresholdPercent: 100
evictionHard: {{memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}}
"#
        )
    }
}

fn network(folder: &Path) -> String {
    let data = folder.join("addresses");
    format!(
        r#"{{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {{"type": "bridge", "bridge": "pods0", "isGateway": true, "hairpinMode": true,
   "ipam": {{"type": "host-local", "dataDir": "{}", "ranges": [[{{"subnet": "{PODS}"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
  {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}
"#,
        data.display()
    )
}

fn containerd(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        r#"version = 2
root = "{folder}/containerd"
state = "/run/containerd"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "eticket.test/pause:1"
  # In a container, root may not lower the score of a process.
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{PLUGINS}"
    conf_dir = "{folder}/network"
"#
    )
}
