//! Negative controls: what the other parts look for is seen once its guard is gone.

use serde_json::{Value, json};

use crate::{faults, isolation, outages, release::Release, scaling::evict, upgrades::COMPONENTS};

/// Removes guards of the chart in turn, and brings them back.
pub(crate) async fn without_guards(release: &Release<'_>) {
    without_budget(release);

    // Without grace, calls of both gateways fail, and the clients notice.
    let rounds = release.rounds().await;
    release.kubectl(&["delete", "pod", &Release::selector("gateway"), "--grace-period=0", "--force"]);
    release.rolled_out("gateway");
    let (_, failed) = rounds.stop().await;
    assert!(!failed.is_empty(), "clients did not notice that both gateways were killed");

    without_liveness(release).await;
    liveness_by_readiness(release).await;

    // Without network policies, a stranger reaches a service and the bus.
    release.helm("upgrade", &["--set=networkPolicy.enabled=false", "--wait", "--timeout=120s"]).expect("upgraded");
    for (to, port) in [("ticket", 8082), ("nats", 4222)] {
        assert!(isolation::reaches(release, "stranger", &Release::object(to), port), "{to}");
    }
    // The upgrade also brings back the budget and the probes.
    release.helm("upgrade", &["--wait", "--timeout=120s"]).expect("upgraded");
    release.kubectl(&["get", "poddisruptionbudget", &Release::object("pricing")]);
    for component in ["pricing", "ticket"] {
        let services = release.pods(component, "/spec/containers/0/livenessProbe/grpc/service");
        assert!(services.iter().all(|service| service == "liveness"), "{component}: {services:?}");
    }
    assert!(!isolation::reaches(release, "stranger", &Release::object("ticket"), 8082));
}

/// Without a disruption budget, a drain takes both pods of a component at once.
fn without_budget(release: &Release<'_>) {
    let budget = Release::object("pricing");
    release.kubectl(&["delete", "poddisruptionbudget", &budget]);
    let pods = release.pods("pricing", "/metadata/name");
    assert_eq!(pods.len(), 2, "{pods:?}");
    for pod in &pods {
        // At once: with a budget, the second one may go when the first one has been replaced.
        evict(release, pod).expect("a pod without a budget may go");
    }
    release.rolled_out("pricing");
}

/// Without a liveness probe, a frozen process is not restarted.
async fn without_liveness(release: &Release<'_>) {
    patch(release, "pricing", &json!({ "op": "remove", "path": LIVENESS }));
    let before = release.restarts("pricing");
    let process = faults::freeze(release, "pricing");
    outages::probes_have_had_time(release, |release| assert_eq!(release.restarts("pricing"), before)).await;
    let ready = release.pods("pricing", "/status/containerStatuses/0/ready");
    assert!(ready.iter().any(|ready| ready == "false"), "the process is still frozen: {ready:?}");
    release.on_node("kill", &["-CONT", &process]);
    release.rolled_out("pricing");
}

/// A liveness probe that asks for readiness restarts processes because the store is away.
async fn liveness_by_readiness(release: &Release<'_>) {
    let service = format!("{LIVENESS}/grpc/service");
    patch(release, "ticket", &json!({ "op": "replace", "path": service, "value": "readiness" }));
    let before = release.restarts("ticket");
    outages::scale(release, "postgresql", "0");
    faults::restarted(release, "ticket", &before).await;
    outages::scale(release, "postgresql", "1");
    for component in COMPONENTS {
        release.rolled_out(component);
    }
}

/// The liveness probe in a Deployment.
const LIVENESS: &str = "/spec/template/spec/containers/0/livenessProbe";

/// Changes the Deployment of a component by one operation of a JSON patch, and waits until its pods are replaced.
fn patch(release: &Release<'_>, component: &str, operation: &Value) {
    let patch = format!("--patch={}", json!([operation]));
    release.kubectl(&["patch", "deployment", &Release::object(component), "--type=json", &patch]);
    release.rolled_out(component);
}
