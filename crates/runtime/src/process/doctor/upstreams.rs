//! The servers that the configuration names: every address of each must respond that its service serves.

use std::time::Duration;

use eticket_base::{
    doctor::{Check, Group, Status},
    tasks::Tasks,
};
use eticket_proto::health::health_check_response::ServingStatus;
use eticket_rpc_client::addresses::{self, Probe, Targets};
use eticket_tls::ClientTlsConfig;
use futures::future::join_all;

use super::{
    super::run::{Server, key_of},
    health::{self, Answer},
};

const UPSTREAM: &str = "upstream";

/// An upstream with addresses in the configuration.
pub(super) struct Upstream {
    /// The key of its section: `reservation.upstream.ticket`.
    pub(super) key: String,
    name: String,
    targets: Targets,
    tls: ClientTlsConfig,
}

/// The sections `upstream.NAME` of a server, with their names.
pub(super) fn sections(server: &Server) -> impl Iterator<Item = (&String, &toml::Table)> {
    let upstreams = server.configured.table.get("upstream").and_then(toml::Value::as_table);
    upstreams.into_iter().flatten().filter_map(|(name, section)| Some((name, section.as_table()?)))
}

/// The certificates of an upstream. The configuration is valid, so they have the right form.
pub(super) fn tls(section: &toml::Table) -> ClientTlsConfig {
    section.get("tls").cloned().and_then(|tls| tls.try_into().ok()).unwrap_or_default()
}

pub(super) fn configured(servers: &[Server]) -> Vec<Upstream> {
    let of_server = |server| {
        sections(server).filter_map(move |(name, section)| {
            let targets = section.get("url").and_then(toml::Value::as_str)?.parse().ok()?;
            let key = key_of(server.section, &format!("upstream.{name}"));
            Some(Upstream { key, name: name.clone(), targets, tls: tls(section) })
        })
    };
    servers.iter().flat_map(of_server).collect()
}

impl Upstream {
    pub(super) async fn check(self, patience: Duration) -> Vec<Check> {
        let tasks = Tasks::new();
        let checks = match self.targets.connector(&self.tls, &self.key, &tasks) {
            Ok(connector) => {
                let probes = addresses::probes(&self.targets, connector.as_ref());
                match tokio::time::timeout(patience, probes).await {
                    Ok(probes) => join_all(probes.into_iter().map(|probe| self.check_address(probe, patience))).await,
                    Err(_) => vec![self.unresolved("its name was not resolved in time")],
                }
            }
            Err(error) => {
                vec![Check::fail(Group::Upstreams, UPSTREAM, error.to_string(), format!("correct {}.tls", self.key))]
            }
        };
        tasks.stop().await;
        checks.into_iter().map(|check| check.of(&self.key)).collect()
    }

    fn unresolved(&self, problem: &str) -> Check {
        let remedy = format!("correct the host in {}.url, or the name server of this machine", self.key);
        Check::fail(Group::Upstreams, UPSTREAM, problem, remedy)
    }

    async fn check_address(&self, probe: Probe, patience: Duration) -> Check {
        let address = match probe.socket {
            Some(socket) if socket.to_string() != probe.authority => format!("{} ({socket})", probe.authority),
            _ => probe.authority,
        };
        match probe.endpoint {
            Err(problem) => self.unresolved(&format!("{address}: {problem}")),
            Ok(endpoint) => {
                let answer = health::ask(endpoint, service_name(&self.name), patience).await;
                self.judge(&address, answer)
            }
        }
    }

    fn judge(&self, address: &str, answer: Result<Answer<ServingStatus>, health::Problem>) -> Check {
        let (key, name) = (&self.key, &self.name);
        match answer {
            Ok(Answer { health: ServingStatus::Serving, clock }) => clock
                .filter(|clock| clock.status != Status::Ok)
                .unwrap_or_else(|| Check::ok(Group::Upstreams, UPSTREAM, format!("{address} serves"))),
            Ok(Answer { health, .. }) => Check::fail(
                Group::Upstreams,
                UPSTREAM,
                format!("{address} responds with {}", health.as_str_name()),
                format!(
                    "run doctor on the machine of this {name} server, and look at its log: its store does not respond, or it stops"
                ),
            ),
            Err(problem) => {
                let start = format!("the {name} server there");
                let remedy = problem.remedy(&start, &format!("{key}.url"), &format!("{key}.tls"));
                Check::fail(Group::Upstreams, UPSTREAM, problem.detail(address), remedy)
            }
        }
    }
}

/// The gRPC service of a server: `ticket` serves `eticket.ticket.v1.TicketService`.
fn service_name(server: &str) -> String {
    let mut rest = server.chars();
    let first = rest.next().map(|first| first.to_ascii_uppercase());
    let capitalized: String = first.into_iter().chain(rest).collect();
    format!("eticket.{server}.v1.{capitalized}Service")
}

#[cfg(test)]
mod tests {
    use tonic::Status as Refusal;

    use super::*;

    #[test]
    fn an_upstream_must_serve_the_service_of_its_name() {
        assert_eq!(service_name("ticket"), "eticket.ticket.v1.TicketService");
        let upstream = Upstream {
            key: "reservation.upstream.ticket".to_owned(),
            name: "ticket".to_owned(),
            targets: "http://127.0.0.1:1".parse().expect("an address"),
            tls: ClientTlsConfig::default(),
        };
        let answer = |health| Ok(Answer { health, clock: None });
        assert_eq!(upstream.judge("a:1", answer(ServingStatus::Serving)).status, Status::Ok);
        for not_serving in [ServingStatus::NotServing, ServingStatus::Unknown] {
            assert_eq!(upstream.judge("a:1", answer(not_serving)).status, Status::Fail);
        }
        let another = upstream.judge("a:1", Err(health::Problem::Refused(Refusal::not_found("unknown service"))));
        assert!(
            another.status == Status::Fail && another.remedy.contains("reservation.upstream.ticket.url"),
            "{another:?}"
        );
    }
}
