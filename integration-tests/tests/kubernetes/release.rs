//! The release of the chart in the cluster.

use std::{
    cell::Cell,
    process::Command,
    time::{Duration, Instant},
};

use chrono::Weekday;
use eticket_integration_tests::{
    Api, Protocol,
    api::channel,
    binary::root,
    calendar,
    caller::Caller,
    eventually::{SOON, eventually},
    rounds::Rounds,
};
use eticket_local_servers::kubernetes::Cluster;
use serde_json::Value;
use uuid::Uuid;

const NAME: &str = "shop";
/// Restricted by Pod Security.
pub(crate) const NAMESPACE: &str = "tickets";
/// Bound of `helm install --wait`.
const INSTALLED_WITHIN: Duration = Duration::from_secs(90);
/// Number of clients of a test that counts failed calls.
const CALLERS: usize = 8;

/// Lines of each listing after a failure.
const SHOWN: usize = 30;
/// What `helm uninstall` must remove.
const KINDS: &str =
    "all,configmap,secret,serviceaccount,networkpolicy,poddisruptionbudget,horizontalpodautoscaler,role,ingress";

pub(crate) struct Release<'c> {
    cluster: &'c Cluster,
    /// Whether the parts have passed so far; otherwise the state of the pods is printed at the end.
    complete: Cell<bool>,
}

impl<'c> Release<'c> {
    pub(crate) fn new(cluster: &'c Cluster) -> Self {
        Self { cluster, complete: Cell::new(false) }
    }

    /// Installs the demo under the restricted level of Pod Security.
    pub(crate) fn install(&self) {
        self.kubectl(&["create", "namespace", NAMESPACE]);
        let label = ["label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted"];
        self.kubectl(&label);
        let started = Instant::now();
        self.helm("install", &["--wait", "--timeout=90s"]).expect("installed");
        assert!(started.elapsed() < INSTALLED_WITHIN, "{:?}", started.elapsed());
        eprintln!("install: {:.0} s", started.elapsed().as_secs_f64());
    }

    /// Runs `helm test`.
    pub(crate) fn test(&self) {
        let mut helm = self.cluster.helm();
        // Without `--logs`: the pod is removed when it has succeeded.
        helm.args(["test", NAME, "--namespace", NAMESPACE, "--timeout=60s"]);
        let printed = output(&mut helm).expect("the test of the chart passes");
        let phases: Vec<&str> = printed.lines().filter(|line| line.starts_with("Phase:")).collect();
        assert!(!phases.is_empty() && phases.iter().all(|phase| phase.ends_with("Succeeded")), "{printed}");
    }

    /// Uninstalls the release; only the claims may stay.
    pub(crate) async fn uninstall(&self) {
        let mut helm = self.cluster.helm();
        helm.args(["uninstall", NAME, "--namespace", NAMESPACE, "--wait", "--timeout=90s"]);
        output(&mut helm).expect("uninstalled");
        let instance = format!("--selector=app.kubernetes.io/instance={NAME}");
        // helm does not wait for the pods, which drain.
        eventually(SOON, "nothing but claims is left", async || {
            let left = self.kubectl(&["get", KINDS, &instance, "--output=name"]);
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
        let claims = self.kubectl(&["get", "persistentvolumeclaim", "--output=name"]);
        assert_eq!(claims.lines().count(), 4, "the claims of query, PostgreSQL and NATS: {claims}");
        self.complete.set(true);
    }

    /// Runs `helm install` or `helm upgrade` with the values of the demo and these arguments.
    pub(crate) fn helm(&self, task: &str, arguments: &[&str]) -> Result<String, String> {
        let chart = root().join("charts/eticket");
        let mut helm = self.cluster.helm();
        helm.args([task, NAME]).arg(&chart).args(["--namespace", NAMESPACE, "--values"]);
        output(helm.arg(chart.join("values/demo.yaml")).args(arguments))
    }

    /// Runs `helm rollback` to the revision before the current one.
    pub(crate) fn roll_back(&self) {
        let mut helm = self.cluster.helm();
        helm.args(["rollback", NAME, "--namespace", NAMESPACE, "--wait", "--timeout=180s"]);
        output(&mut helm).expect("rolled back");
    }

    /// Returns a command for kubectl.
    pub(crate) fn command(&self) -> Command {
        self.cluster.kubectl()
    }

    /// Runs kubectl in the namespace of the release.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments).expect("kubectl succeeds")
    }

    pub(crate) fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        output(self.cluster.kubectl().args(["--namespace", NAMESPACE]).args(arguments))
    }

    /// Runs a program of containerd or of the node.
    pub(crate) fn on_node(&self, program: &str, arguments: &[&str]) -> String {
        output(self.cluster.command(program).args(arguments)).expect("it succeeds")
    }

    /// The name of an object of a component.
    pub(crate) fn object(component: &str) -> String {
        format!("{NAME}-eticket-{component}")
    }

    /// The argument of kubectl that selects the objects of a component.
    pub(crate) fn selector(component: &str) -> String {
        format!("--selector=app.kubernetes.io/instance={NAME},app.kubernetes.io/component={component}")
    }

    /// Waits until all pods of a component are ready and of the current version.
    pub(crate) fn rolled_out(&self, component: &str) {
        let kind = if ["query", "nats", "postgresql"].contains(&component) { "statefulset" } else { "deployment" };
        let object = format!("{kind}/{}", Self::object(component));
        self.kubectl(&["rollout", "status", &object, "--timeout=120s"]);
    }

    /// Returns a value of each pod of a component that is not about to end, by JSON pointer: `/metadata/uid`.
    pub(crate) fn pods(&self, component: &str, pointer: &str) -> Vec<String> {
        let listed = self.kubectl(&["get", "pods", "--output=json", &Self::selector(component)]);
        let listed: Value = serde_json::from_str(&listed).expect("kubectl prints JSON");
        let pods = listed["items"].as_array().expect("a list");
        let present = pods.iter().filter(|pod| pod["metadata"].get("deletionTimestamp").is_none());
        let value = |pod: &Value| match pod.pointer(pointer) {
            Some(Value::String(text)) => text.clone(),
            other => other.map(Value::to_string).unwrap_or_default(),
        };
        present.map(value).collect()
    }

    /// Returns how often the container of each pod of a component was restarted.
    pub(crate) fn restarts(&self, component: &str) -> Vec<String> {
        self.pods(component, "/status/containerStatuses/0/restartCount")
    }

    /// Returns the address of the gateway.
    pub(crate) fn gateway(&self) -> String {
        let service = Self::object("gateway");
        let address = self.kubectl(&["get", "service", &service, "--output=jsonpath={.spec.clusterIP}"]);
        format!("{address}:8088")
    }

    pub(crate) fn api(&self) -> Api {
        Api::over(channel(&self.gateway()))
    }

    /// Returns the API as a browser uses it.
    pub(crate) fn web_api(&self) -> Api {
        let gateway = self.gateway();
        Api::with_protocol(|_| gateway.clone(), Protocol::WebBinary)
    }

    /// Starts clients that count failed calls.
    pub(crate) async fn rounds(&self) -> Rounds {
        let api = self.api();
        let mut tickets = Vec::new();
        for _ in 0..CALLERS {
            let ticket = Uuid::new_v4().to_string();
            let registered = api.register(&ticket, calendar::upcoming(Weekday::Wed)).await.expect("registered");
            api.settled(&ticket, &registered.consistency_token).await;
            tickets.push(ticket);
        }
        // A replica of the view that is behind must have the tickets too: reads of the clients name no token.
        for address in self.pods("query", "/status/podIP") {
            let replica = Api::at(&format!("{address}:{QUERY_PORT}"));
            for ticket in &tickets {
                let view = async || replica.view(ticket, "", eticket_proto::query::WaitFor::Unspecified).await;
                eventually(SOON, "a replica of the view has the ticket", view).await;
            }
        }
        Rounds::start(Caller::start(&[&self.gateway()]), tickets)
    }
}

/// The port of the query service.
pub(crate) const QUERY_PORT: u16 = 8084;

impl Drop for Release<'_> {
    fn drop(&mut self) {
        if self.complete.get() {
            return;
        }
        for arguments in [
            &["get", "pods", "--output=wide"][..],
            &["get", "events", "--sort-by=.lastTimestamp"],
            &["logs", "--selector=app.kubernetes.io/instance=shop", "--tail=2", "--prefix", "--max-log-requests=20"],
        ] {
            let printed = self.try_kubectl(arguments).unwrap_or_else(|error| error);
            let lines: Vec<&str> = printed.lines().collect();
            eprintln!("{}\n", lines[lines.len().saturating_sub(SHOWN)..].join("\n"));
        }
    }
}

/// Runs a command; returns its standard output, or what is wrong.
pub(crate) fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let printed = String::from_utf8_lossy(&output.stdout);
        Err(format!("{command:?}: {}: {printed}{}", output.status, String::from_utf8_lossy(&output.stderr)))
    }
}
