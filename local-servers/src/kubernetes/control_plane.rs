//! etcd, the API server, the controllers and the scheduler.

use anyhow::Result;

use super::{Cluster, NODE_ADDRESS, SERVICES};

const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_PEER: &str = "http://127.0.0.1:2380";

impl Cluster {
    pub(super) fn start_control_plane(&mut self) -> Result<()> {
        let data = self.folder.path().join("etcd");
        // Without fsync: nothing survives the test.
        let etcd = [
            format!("--data-dir={}", data.display()),
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
            format!("--listen-client-urls={ETCD}"),
            format!("--advertise-client-urls={ETCD}"),
            format!("--listen-peer-urls={ETCD_PEER}"),
            format!("--initial-advertise-peer-urls={ETCD_PEER}"),
            format!("--initial-cluster=default={ETCD_PEER}"),
        ];
        self.start_kube("etcd", &etcd)?;
        self.start_kube("kube-apiserver", &self.api_server())?;
        self.kubectl_until(&["get", "--raw", "/readyz"])?;
        self.start_kube("kube-controller-manager", &self.controllers())?;
        let scheduler = ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"];
        let mut scheduler = scheduler.map(|flag| self.file_flag(flag, "pki/scheduler.conf")).to_vec();
        scheduler.push("--leader-elect=false".to_owned());
        self.start_kube("kube-scheduler", &scheduler)?;
        self.kubectl_until(&["--namespace=default", "get", "serviceaccount", "default"])
    }

    /// Starts a part that is in the program `node`.
    pub(super) fn start_kube(&mut self, name: &str, arguments: &[String]) -> Result<()> {
        let mut command = self.command(self.programs.join("node"));
        command.arg(name);
        self.start_part(name, command, arguments)
    }

    fn api_server(&self) -> Vec<String> {
        let file = |flag, name: &str| self.file_flag(flag, &format!("pki/{name}"));
        vec![
            set("etcd-servers", ETCD),
            set("advertise-address", NODE_ADDRESS),
            set("service-cluster-ip-range", SERVICES),
            // The pods of the cluster itself.
            set("allow-privileged", "true"),
            set("authorization-mode", "Node,RBAC"),
            set("enable-admission-plugins", "NodeRestriction"),
            set("service-account-issuer", "https://kubernetes.default.svc.cluster.local"),
            file("service-account-key-file", "tokens.pub"),
            file("service-account-signing-key-file", "tokens.key"),
            file("tls-cert-file", "apiserver.crt"),
            file("tls-private-key-file", "apiserver.key"),
            file("client-ca-file", "ca.crt"),
            file("kubelet-certificate-authority", "ca.crt"),
            file("kubelet-client-certificate", "apiserver-kubelet.crt"),
            file("kubelet-client-key", "apiserver-kubelet.key"),
            set("kubelet-preferred-address-types", "InternalIP"),
            // For the API of metrics, which metrics-server serves.
            file("requestheader-client-ca-file", "front-ca.crt"),
            set("requestheader-allowed-names", "front-proxy"),
            set("requestheader-username-headers", "X-Remote-User"),
            set("requestheader-group-headers", "X-Remote-Group"),
            set("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
            file("proxy-client-cert-file", "front-proxy.crt"),
            file("proxy-client-key-file", "front-proxy.key"),
            set("enable-aggregator-routing", "true"),
        ]
    }

    fn controllers(&self) -> Vec<String> {
        let file = |flag, name: &str| self.file_flag(flag, &format!("pki/{name}"));
        vec![
            file("kubeconfig", "controller-manager.conf"),
            file("authentication-kubeconfig", "controller-manager.conf"),
            file("authorization-kubeconfig", "controller-manager.conf"),
            set("leader-elect", "false"),
            set("use-service-account-credentials", "true"),
            file("service-account-private-key-file", "tokens.key"),
            file("root-ca-file", "ca.crt"),
            // The defaults make a test of the autoscaler last for minutes.
            set("horizontal-pod-autoscaler-sync-period", "5s"),
            set("horizontal-pod-autoscaler-downscale-stabilization", "20s"),
            set("horizontal-pod-autoscaler-cpu-initialization-period", "20s"),
            set("horizontal-pod-autoscaler-initial-readiness-delay", "5s"),
        ]
    }
}

fn set(flag: &str, value: &str) -> String {
    format!("--{flag}={value}")
}
