//! More and fewer pods, by the autoscaler and by evictions of a drain.

use std::{io::Write as _, process::Stdio, time::Duration};

use chrono::Weekday;
use eticket_integration_tests::{calendar, eventually, storm::siege};
use serde_json::json;
use uuid::Uuid;

use crate::{release::Release, upgrades::COMPONENTS};

/// Metrics come every 10 s, and the autoscaler looks every 5 s.
const SCALED_WITHIN: Duration = Duration::from_secs(180);

/// Load adds pods, and its end removes them; nothing is lost meanwhile.
pub(crate) async fn autoscaler(release: &Release<'_>) {
    let scaled = [
        "--set=ticket.autoscaling.enabled=true",
        "--set=ticket.autoscaling.maxReplicas=3",
        "--set=ticket.autoscaling.targetCPUUtilizationPercentage=20",
        "--wait",
        "--timeout=120s",
    ];
    release.helm("upgrade", &scaled).expect("upgraded");
    let wanted = |count: usize| {
        async move || {
            let pods = release.pods("ticket", "/metadata/name").len();
            if pods == count { Ok(()) } else { Err(release.kubectl(&["describe", "horizontalpodautoscaler"])) }
        }
    };
    let apis = [release.web_api(), release.api()];
    siege::around(&release.gateway(), &apis, "the autoscaler adds pods", async || {
        eventually(SCALED_WITHIN, "a third pod under load", wanted(3)).await;
        release.rolled_out("ticket");
    })
    .await;
    // One call for each look: clients without a pause are as much load as the siege.
    let api = release.api();
    eventually(SCALED_WITHIN, "two pods with little load", async || {
        let ticket = Uuid::new_v4().to_string();
        api.register(&ticket, calendar::upcoming(Weekday::Wed)).await.expect("no call fails");
        wanted(2)().await
    })
    .await;
}

/// Evicts every pod, as a drain of its node does. The disruption budget allows one pod of a component at a time, and no
/// call fails.
pub(crate) async fn evictions(release: &Release<'_>) {
    let rounds = release.rounds().await;
    for component in COMPONENTS {
        let pods = release.pods(component, "/metadata/name");
        evict(release, &pods[0]).expect("one pod may go");
        let refused = evict(release, &pods[1]).expect_err("the other one may not");
        assert!(refused.contains("disruption budget"), "{refused}");
        release.rolled_out(component);
        // The new pod counts as available once it has been ready for a while.
        eventually(SCALED_WITHIN, "the second pod may go", async || evict(release, &pods[1])).await;
        release.rolled_out(component);
    }
    let (done, failed) = rounds.stop().await;
    assert!(failed.is_empty() && done > 0, "{done} calls went well; failed: {failed:?}");
}

/// Evicts a pod as a drain does; the error is that of the API server.
pub(crate) fn evict(release: &Release<'_>, pod: &str) -> Result<(), String> {
    let eviction = json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": pod } });
    let path = format!("/api/v1/namespaces/{}/pods/{pod}/eviction", crate::release::NAMESPACE);
    let mut kubectl = release.command();
    kubectl.args(["create", "--raw", &path, "--filename", "-"]);
    let child = kubectl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| error.to_string())?;
    let mut input = child.stdin.take().expect("piped");
    input.write_all(eviction.to_string().as_bytes()).map_err(|error| error.to_string())?;
    drop(input);
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}
