//! Faults that Kubernetes heals, under a storm of commands whose records are checked.

use std::time::Duration;

use eticket_integration_tests::{
    eventually,
    storm::{siege, verdict},
};

use crate::release::{QUERY_PORT, Release};

/// The liveness probe: three failures, ten seconds apart, and the start of the container.
pub(crate) const HEALED_WITHIN: Duration = Duration::from_secs(120);

async fn under_storm(release: &Release<'_>, what: &str, happens: impl AsyncFnOnce()) {
    let apis = [release.web_api(), release.api()];
    siege::around(&release.gateway(), &apis, what, happens).await;
    for address in release.pods("query", "/status/podIP") {
        verdict::compare_views(&format!("{address}:{QUERY_PORT}")).await;
    }
}

/// Freezes the process of the first pod by SIGSTOP; returns its id.
pub(crate) fn freeze(release: &Release<'_>, component: &str) -> String {
    let container = release.pods(component, "/status/containerStatuses/0/containerID");
    let container = container[0].trim_start_matches("containerd://");
    let tasks = release.on_node("ctr", &["--namespace=k8s.io", "tasks", "list"]);
    let task = tasks.lines().find(|line| line.starts_with(container)).expect("the container runs");
    let process = task.split_whitespace().nth(1).expect("a process id");
    release.on_node("kill", &["-STOP", process]);
    process.to_owned()
}

/// Waits until a container of the component has been restarted.
pub(crate) async fn restarted(release: &Release<'_>, component: &str, before: &[String]) {
    eventually(HEALED_WITHIN, "the container is restarted", async || {
        let now = release.restarts(component);
        if now == before { Err(now) } else { Ok(()) }
    })
    .await;
}

/// A process that no longer runs is restarted by its liveness probe.
pub(crate) async fn frozen_process(release: &Release<'_>) {
    for component in ["ticket", "reservation"] {
        let before = release.restarts(component);
        under_storm(release, &format!("SIGSTOP in a pod of {component}"), async || {
            freeze(release, component);
            restarted(release, component, &before).await;
            release.rolled_out(component);
        })
        .await;
    }
}

/// NATS and PostgreSQL lose their pods, and come back with their data.
pub(crate) async fn deleted_pods(release: &Release<'_>) {
    for component in ["nats", "postgresql"] {
        under_storm(release, &format!("the pod of {component} is deleted"), async || {
            release.kubectl(&["delete", "pod", &format!("{}-0", Release::object(component))]);
            release.rolled_out(component);
        })
        .await;
    }
}

/// A replica of the view that loses its volume reads the stream from its start.
pub(crate) async fn deleted_claim(release: &Release<'_>) {
    let pod = format!("{}-0", Release::object("query"));
    let claim = format!("data-{pod}");
    let volume = || release.kubectl(&["get", "persistentvolumeclaim", &claim, "--output=jsonpath={.spec.volumeName}"]);
    let before = volume();
    under_storm(release, "the claim of a view is deleted", async || {
        // The claim goes once no pod uses it.
        release.kubectl(&["delete", "persistentvolumeclaim", &claim, "--wait=false"]);
        release.kubectl(&["delete", "pod", &pod]);
        release.rolled_out("query");
    })
    .await;
    assert_ne!(volume(), before, "the replica has a new volume");
}
