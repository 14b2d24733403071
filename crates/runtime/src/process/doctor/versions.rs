//! The versions of the replicas behind a running server, by `GetStatus`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use eticket_base::{
    credentials::Credentials,
    doctor::{Check, Group},
};
use eticket_proto::{
    headers,
    operations::{GetStatusRequest, ReplicaStatus, operations_service_client::OperationsServiceClient},
};
use eticket_rpc_client::authorization;
use futures::future::join_all;
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};

const SERVER: Group = Group::Server;
const NAME: &str = "versions";
const GATEWAY: &str = "gateway";

/// What one service reports about its replicas.
type Report = (String, Result<Vec<ReplicaStatus>, Status>);

/// Checks the replicas of the services that a server serves. A server of several services is a gateway.
pub(super) async fn check(
    endpoint: &Endpoint,
    mut services: BTreeSet<String>,
    credentials: Option<&Credentials>,
    patience: Duration,
) -> Vec<Check> {
    if services.len() > 1 {
        services.insert(GATEWAY.to_owned());
    }
    let channel = endpoint.connect_lazy();
    let reports = services.into_iter().map(|service| {
        let status = tokio::time::timeout(patience, status(channel.clone(), service.clone(), credentials));
        async move {
            let late = |_| Err(Status::deadline_exceeded(format!("no response within {} s", patience.as_secs())));
            (service, status.await.unwrap_or_else(late))
        }
    });
    judge(join_all(reports).await)
}

async fn status(
    channel: Channel,
    service: String,
    credentials: Option<&Credentials>,
) -> Result<Vec<ReplicaStatus>, Status> {
    let mut request = Request::new(GetStatusRequest {});
    let metadata = request.metadata_mut();
    let invalid = |_| Status::invalid_argument("the token is not text");
    metadata.insert(headers::SERVICE, service.parse().map_err(|_| Status::invalid_argument("not a service"))?);
    if let Some(credentials) = credentials {
        metadata.insert("authorization", authorization(credentials).map_err(invalid)?);
    }
    let response = OperationsServiceClient::new(channel).get_status(request).await?;
    Ok(response.into_inner().replicas)
}

fn judge(reports: Vec<Report>) -> Vec<Check> {
    if reports.iter().any(|(_, report)| report.as_ref().is_err_and(is_forbidden)) {
        let remedy = "give the token of an admin with --token-file or ETICKET_TOKEN, and run doctor again";
        return vec![Check::warn(SERVER, NAME, "only an admin may see the replicas", remedy)];
    }
    let mut checks = Vec::new();
    let mut versions = BTreeMap::<String, Vec<String>>::new();
    for (service, report) in reports {
        match report {
            Ok(replicas) => {
                for replica in replicas {
                    let name = format!("{} {}", replica.service, replica.address);
                    let name = name.trim_end().to_owned();
                    if replica.unreachable_reason.is_empty() {
                        versions.entry(replica.version).or_default().push(name);
                    } else {
                        let remedy = "start this replica, or remove its address from the gateway's upstream URL";
                        checks.push(Check::fail(SERVER, NAME, replica.unreachable_reason, remedy).of(name));
                    }
                }
            }
            Err(status) if is_unknown(&status) => {
                let remedy = "finish the upgrade of this server (UPGRADING.md)";
                let detail = "its version is too old to report its replicas";
                checks.push(Check::warn(SERVER, NAME, detail, remedy).of(service));
            }
            Err(status) => {
                let detail = format!("{:?}: {}", status.code(), status.message());
                let remedy = "look at the log of this service, and run doctor on its machine";
                checks.push(Check::fail(SERVER, NAME, detail, remedy).of(service));
            }
        }
    }
    let count: usize = versions.values().map(Vec::len).sum();
    match versions.len() {
        0 => {}
        1 => {
            let version = versions.keys().next().map(String::as_str).unwrap_or_default();
            let own = env!("CARGO_PKG_VERSION");
            let this = if version == own { String::new() } else { format!("; this program has {own}") };
            checks.push(Check::ok(SERVER, NAME, format!("all {count} servers have {version}{this}")));
        }
        _ => {
            let listed: Vec<_> = versions.iter().map(|(version, of)| format!("{version}: {}", of.join(", "))).collect();
            let remedy = "finish the upgrade, or go back to one version (UPGRADING.md)";
            checks.push(Check::warn(SERVER, NAME, listed.join("; "), remedy));
        }
    }
    checks
}

fn is_forbidden(status: &Status) -> bool {
    matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied)
}

/// A server of an earlier release does not have the method, and its gateway does not have a state of its own.
fn is_unknown(status: &Status) -> bool {
    matches!(status.code(), Code::Unimplemented | Code::InvalidArgument)
}

#[cfg(test)]
mod tests {
    use eticket_base::doctor::Status as State;

    use super::*;

    fn replica(service: &str, address: &str, version: &str) -> ReplicaStatus {
        ReplicaStatus {
            service: service.to_owned(),
            address: address.to_owned(),
            version: version.to_owned(),
            ..ReplicaStatus::default()
        }
    }

    fn report(service: &str, replicas: &[ReplicaStatus]) -> Report {
        (service.to_owned(), Ok(replicas.to_vec()))
    }

    fn states(checks: &[Check]) -> Vec<(State, &str)> {
        checks.iter().map(|check| (check.status, check.subject.as_str())).collect()
    }

    #[test]
    fn servers_of_one_version_are_fine_and_of_two_a_warning() {
        let own = env!("CARGO_PKG_VERSION");
        let query = report("query", &[replica("query", "10.0.0.1:8084", own), replica("query", "10.0.0.2:8084", own)]);
        let checks = judge(vec![report("gateway", &[replica("gateway", "", own)]), query.clone()]);
        assert_eq!((states(&checks), &checks[0].detail), (vec![(State::Ok, "")], &format!("all 3 servers have {own}")));
        let checks = judge(vec![report("ticket", &[replica("ticket", "10.0.0.3:8082", "0.0.9")]), query]);
        assert_eq!(states(&checks), [(State::Warn, "")]);
        let expected = format!("0.0.9: ticket 10.0.0.3:8082; {own}: query 10.0.0.1:8084, query 10.0.0.2:8084");
        assert_eq!(checks[0].detail, expected);
        let checks = judge(vec![report("ticket", &[replica("ticket", "", "9.0.0")])]);
        assert_eq!(states(&checks), [(State::Ok, "")], "doctor of another version says its own");
        assert!(checks[0].detail.ends_with(&format!("this program has {own}")), "{checks:?}");
    }

    #[test]
    fn a_replica_that_does_not_respond_is_a_failure_and_an_old_one_a_warning() {
        let gone = ReplicaStatus { unreachable_reason: "no response".to_owned(), ..replica("query", "10.0.0.1:1", "") };
        let checks = judge(vec![
            report("query", &[gone]),
            ("ticket".to_owned(), Err(Status::unimplemented("no such method"))),
            ("pricing".to_owned(), Err(Status::unavailable("away"))),
        ]);
        let expected = [(State::Fail, "query 10.0.0.1:1"), (State::Warn, "ticket"), (State::Fail, "pricing")];
        assert_eq!(states(&checks), expected);
    }

    #[test]
    fn without_the_token_of_an_admin_nothing_is_known() {
        for status in [Status::unauthenticated(""), Status::permission_denied("")] {
            let checks = judge(vec![report("query", &[]), ("ticket".to_owned(), Err(status))]);
            assert_eq!(states(&checks), [(State::Warn, "")]);
            assert!(checks[0].remedy.contains("--token-file"), "{checks:?}");
        }
    }
}
