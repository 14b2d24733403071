//! A running server at the address of `--address`: the health of everything that it serves.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use eticket_base::{
    credentials::Credentials,
    doctor::{Check, Group},
    exit::StartError,
};
use eticket_proto::health::health_check_response::ServingStatus;
use eticket_tls::ClientTlsConfig;

use super::{
    super::admin_command::{Peer, SERVICES},
    health::{self, Answer},
    versions,
};

const SERVER: Group = Group::Server;
/// The health of the connection to the bus. Without it commands work, and events wait.
const BUS: &str = "bus";
/// Names of the health service that are not services of eTicket.
const READINESS: &str = "readiness";
const OURS: &str = "eticket.";

/// The address of a running server.
pub(super) struct Address {
    peer: Peer,
    shown: String,
    /// Of an admin.
    credentials: Option<Credentials>,
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.shown)
    }
}

impl Address {
    /// # Errors
    /// If the address is not `host:port` or `https://host:port`, or if the flags for TLS do not fit.
    pub(super) fn parse(
        address: &str,
        tls: &ClientTlsConfig,
        credentials: Option<Credentials>,
    ) -> Result<Self, StartError> {
        Ok(Self { peer: Peer::given(address, tls)?, shown: address.to_owned(), credentials })
    }

    pub(super) async fn check(self, patience: Duration) -> Vec<Check> {
        const NAME: &str = "server-connection";
        let checks = match self.peer.endpoint() {
            Err(error) => {
                let remedy = "correct --ca-file, --cert-file, --key-file or --server-name";
                vec![Check::fail(SERVER, NAME, eticket_base::error::chain(&error), remedy)]
            }
            Ok(endpoint) => match health::list(endpoint.clone(), patience).await {
                Ok(Answer { health, clock }) => {
                    let mut checks = vec![Check::ok(SERVER, NAME, "it responds")];
                    checks.extend(judge(&health));
                    checks.extend(clock);
                    let credentials = self.credentials.as_ref();
                    checks.extend(versions::check(&endpoint, services(&health), credentials, patience).await);
                    checks
                }
                Err(problem) => {
                    let tls = "--ca-file, --cert-file, --key-file and --server-name";
                    let remedy = problem.remedy("the server there", "--address", tls);
                    vec![Check::fail(SERVER, NAME, problem.detail(&self.shown), remedy)]
                }
            },
        };
        let of_server = |check: Check| if check.subject.is_empty() { check.of(&self.shown) } else { check };
        checks.into_iter().map(of_server).collect()
    }
}

/// Returns the services of eTicket among those that a server serves, such as `query` of `eticket.query.v1.QueryService`.
fn services(health: &BTreeMap<String, ServingStatus>) -> BTreeSet<String> {
    let named = health.keys().filter_map(|name| name.strip_prefix(OURS)?.split_once('.'));
    named.map(|(service, _)| service.to_owned()).filter(|service| SERVICES.contains(&service.as_str())).collect()
}

fn judge(health: &BTreeMap<String, ServingStatus>) -> Vec<Check> {
    const NAME: &str = "server-health";
    let ours = health.iter().filter(|(name, _)| name.starts_with(OURS) || [READINESS, BUS].contains(&name.as_str()));
    let check = |(name, status): (&String, &ServingStatus)| {
        let detail = status.as_str_name();
        let judged = match status {
            ServingStatus::Serving => Check::ok(SERVER, NAME, detail),
            _ if name == BUS => Check::warn(
                SERVER,
                NAME,
                format!("{detail}: events wait until the bus is back; commands work"),
                "run doctor on the machine of this server: its group bus shows the cause",
            ),
            _ => Check::fail(
                SERVER,
                NAME,
                detail,
                "run doctor on the machine of this service, and look at its log: it is not started, or its store does not respond",
            ),
        };
        judged.of(name)
    };
    ours.map(check).collect()
}

#[cfg(test)]
mod tests {
    use eticket_base::doctor::Status;

    use super::*;

    #[test]
    fn a_service_that_does_not_serve_is_a_failure_and_a_bus_a_warning() {
        let health = [
            ("", ServingStatus::NotServing),
            ("bus", ServingStatus::NotServing),
            ("eticket.query.v1.QueryService", ServingStatus::NotServing),
            ("eticket.ticket.v1.TicketService", ServingStatus::Serving),
            ("grpc.health.v1.Health", ServingStatus::Serving),
            ("readiness", ServingStatus::Serving),
        ];
        let health = health.map(|(name, status)| (name.to_owned(), status)).into();
        let found: Vec<_> = judge(&health).into_iter().map(|check| (check.subject, check.status)).collect();
        let expected = [
            ("bus", Status::Warn),
            ("eticket.query.v1.QueryService", Status::Fail),
            ("eticket.ticket.v1.TicketService", Status::Ok),
            ("readiness", Status::Ok),
        ];
        assert_eq!(found, expected.map(|(name, status)| (name.to_owned(), status)));
        assert_eq!(services(&health), ["query", "ticket"].map(str::to_owned).into());
    }

    #[test]
    fn a_wrong_address_is_refused() {
        assert!(Address::parse("nowhere", &ClientTlsConfig::default(), None).is_err());
        assert!(Address::parse("127.0.0.1:1", &ClientTlsConfig::default(), None).is_ok());
    }
}
