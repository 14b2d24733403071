//! Who reaches what.

use serde_json::json;

use crate::release::Release;

/// The image of `helm test`, which has grpcurl.
const TOOL: &str = "fullstorydev/grpcurl:v1.9.3-alpine";

/// Calls a server from a pod with this label `app.kubernetes.io/component`; returns whether it responded.
fn reaches(release: &Release<'_>, component: &str, address: &str) -> bool {
    let name = format!("probe-{}", uuid::Uuid::new_v4().simple());
    let security = json!({
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
        "runAsNonRoot": true,
        "runAsUser": 10001,
        "seccompProfile": { "type": "RuntimeDefault" },
    });
    let pod = json!({
        "apiVersion": "v1",
        "spec": { "containers": [{
            "name": name,
            "image": TOOL,
            "command": ["grpcurl", "-plaintext", "-connect-timeout", "3", "-max-time", "5", address, "list"],
            "securityContext": security,
        }] },
    });
    let labels = format!(
        "--labels=app.kubernetes.io/name=eticket,app.kubernetes.io/instance=shop,app.kubernetes.io/component={component}"
    );
    let run = ["run", &name, "--image", TOOL, "--restart=Never", &labels, "--overrides", &pod.to_string()];
    release.kubectl(&run);
    let ended = "--for=jsonpath={.status.containerStatuses[0].state.terminated.exitCode}";
    release.kubectl(&["wait", &format!("pod/{name}"), ended, "--timeout=60s"]);
    let code = "--output=jsonpath={.status.containerStatuses[0].state.terminated.exitCode}";
    let code = release.kubectl(&["get", "pod", &name, code]);
    let log = release.kubectl(&["logs", &name]);
    release.kubectl(&["delete", "pod", &name, "--wait=false"]);
    assert!(code == "0" || log.contains("deadline exceeded") || log.contains("refused"), "{component}: {code}: {log}");
    code == "0"
}

/// Only the callers of a component reach it, and nobody but the services reaches the store and the bus.
pub(crate) async fn network_policies(release: &Release<'_>) {
    let server = |component: &str, port: u16| format!("{}:{port}", Release::object(component));
    for (from, to, expected) in [
        ("stranger", server("gateway", 8088), true),
        ("stranger", server("ticket", 8082), false),
        ("stranger", server("reservation", 8081), false),
        ("stranger", server("pricing", 8083), false),
        ("stranger", server("query", 8084), false),
        ("gateway", server("query", 8084), true),
        ("reservation", server("ticket", 8082), true),
        ("reservation", server("query", 8084), false),
        ("pricing", server("ticket", 8082), false),
    ] {
        assert_eq!(reaches(release, from, &to), expected, "{from} to {to}");
    }
}
