//! Who reaches what.

use serde_json::json;

use crate::release::Release;

/// The images of the demo and of `helm test`, which have clients.
const GRPC: &str = "fullstorydev/grpcurl:v1.9.3-alpine";
const POSTGRESQL: &str = "postgres:17.6-bookworm";
/// The ports of eTicket's servers.
const SERVICES: [u16; 5] = [8081, 8082, 8083, 8084, 8088];
/// What the clients print if nothing responds.
const UNREACHED: [&str; 3] = ["deadline exceeded", "timeout expired", "refused"];
/// What psql prints about a server that speaks another protocol: NATS.
const OTHER_PROTOCOL: &str = "expected authentication request";

/// Calls a server from a pod with this label `app.kubernetes.io/component`; returns whether it responded.
pub(crate) fn reaches(release: &Release<'_>, component: &str, host: &str, port: u16) -> bool {
    let name = format!("probe-{}", uuid::Uuid::new_v4().simple());
    let (image, command) = if SERVICES.contains(&port) {
        let address = format!("{host}:{port}");
        (
            GRPC,
            ["grpcurl", "-plaintext", "-connect-timeout", "3", "-max-time", "5", &address, "list"].map(str::to_owned),
        )
    } else {
        let server = format!("host={host} port={port} user=eticket dbname=eticket connect_timeout=3 sslmode=disable");
        (
            POSTGRESQL,
            ["psql", "--no-psqlrc", "--tuples-only", "--no-password", &server, "--command", "select 1", "--quiet"]
                .map(str::to_owned),
        )
    };
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
            "image": image,
            "command": command,
            "securityContext": security,
        }] },
    });
    let labels = format!(
        "--labels=app.kubernetes.io/name=eticket,app.kubernetes.io/instance=shop,app.kubernetes.io/component={component}"
    );
    let run = ["run", &name, "--image", image, "--restart=Never", &labels, "--overrides", &pod.to_string()];
    release.kubectl(&run);
    let ended = "--for=jsonpath={.status.containerStatuses[0].state.terminated.exitCode}";
    release.kubectl(&["wait", &format!("pod/{name}"), ended, "--timeout=60s"]);
    let code = "--output=jsonpath={.status.containerStatuses[0].state.terminated.exitCode}";
    let code = release.kubectl(&["get", "pod", &name, code]);
    let log = release.kubectl(&["logs", &name]);
    release.kubectl(&["delete", "pod", &name, "--wait=false"]);
    let responded = code == "0" || log.contains(OTHER_PROTOCOL);
    assert!(responded || UNREACHED.iter().any(|text| log.contains(text)), "{component} to {host}: {code}: {log}");
    responded
}

/// Only the callers of a component reach it, and nobody but the services reaches the store and the bus.
pub(crate) async fn network_policies(release: &Release<'_>) {
    for (from, to, port, expected) in [
        ("stranger", "gateway", 8088, true),
        ("stranger", "ticket", 8082, false),
        ("stranger", "reservation", 8081, false),
        ("stranger", "pricing", 8083, false),
        ("stranger", "query", 8084, false),
        ("stranger", "postgresql", 5432, false),
        ("stranger", "nats", 4222, false),
        ("gateway", "query", 8084, true),
        ("gateway", "postgresql", 5432, false),
        ("reservation", "ticket", 8082, true),
        ("reservation", "query", 8084, false),
        ("reservation", "postgresql", 5432, true),
        ("pricing", "ticket", 8082, false),
        ("query", "nats", 4222, true),
    ] {
        assert_eq!(reaches(release, from, &Release::object(to), port), expected, "{from} to {to}");
    }
}
