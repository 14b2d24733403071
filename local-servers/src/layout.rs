//! The processes of the distributed form on one machine, their addresses, and their configuration.

use std::{collections::BTreeMap, path::Path};

use anyhow::Result;

use crate::free_address;

/// The services that write to a store, in the order of their start.
pub const WRITERS: [&str; 3] = ["ticket", "pricing", "reservation"];
/// All services with replicas.
pub const SERVICES: [&str; 4] = ["ticket", "pricing", "query", "reservation"];
/// The gateway, which clients call.
pub const GATEWAY: &str = "gateway";

/// One process.
#[derive(Debug, Clone)]
pub struct Process {
    /// The name in `eticket-<service>`.
    pub service: &'static str,
    /// The listen address: a free loopback port, which stays the same after a restart.
    pub address: String,
    /// The configuration by key.
    pub keys: BTreeMap<String, String>,
}

impl Process {
    /// Returns the environment variable of a key.
    #[must_use]
    pub fn variable(key: &str) -> String {
        format!("ETICKET__{}", key.to_uppercase().replace('.', "__"))
    }
}

/// The servers and the folder that the processes use.
#[derive(Debug, Clone, Copy)]
pub struct Ground<'a> {
    /// `postgres://…`, for the services that write.
    pub store_url: &'a str,
    /// `nats://…`.
    pub bus_url: &'a str,
    /// `bus.sync_interval_ms`; 0 leaves the key out, which older releases do not know.
    pub sync_interval_ms: u64,
    /// The parent of the data folders of the processes.
    pub data: &'a Path,
}

/// Lays out the replicas of each service and of the gateway.
///
/// # Errors
/// Fails if there is no free port.
pub fn processes(replicas: impl Fn(&str) -> usize, ground: Ground<'_>) -> Result<Vec<Process>> {
    let mut processes = Vec::new();
    for service in SERVICES {
        for number in 0..replicas(service) {
            let data = ground.data.join(format!("{service}-{number}"));
            let mut process = listening(service)?;
            process.keys.insert("data".to_owned(), data.display().to_string());
            process.keys.insert("bus.url".to_owned(), ground.bus_url.to_owned());
            if ground.sync_interval_ms > 0 {
                process.keys.insert("bus.sync_interval_ms".to_owned(), ground.sync_interval_ms.to_string());
            }
            if WRITERS.contains(&service) {
                process.keys.insert("store.url".to_owned(), ground.store_url.to_owned());
            }
            processes.push(process);
        }
    }
    for _ in 0..replicas(GATEWAY) {
        processes.push(listening(GATEWAY)?);
    }
    let urls = SERVICES.map(|service| (service, urls(&processes, service)));
    for process in &mut processes {
        let upstreams: &[&str] = match process.service {
            "reservation" => &["ticket"],
            "query" => &WRITERS,
            GATEWAY => &SERVICES,
            _ => &[],
        };
        for (service, url) in urls.iter().filter(|(service, _)| upstreams.contains(service)) {
            process.keys.insert(format!("upstream.{service}.url"), url.clone());
        }
    }
    Ok(processes)
}

fn listening(service: &'static str) -> Result<Process> {
    let address = free_address()?.to_string();
    let keys = BTreeMap::from([("listen".to_owned(), address.clone())]);
    Ok(Process { service, address, keys })
}

/// The addresses of all replicas of a service, as in `upstream.<service>.url`.
fn urls(processes: &[Process], service: &str) -> String {
    let replicas = processes.iter().filter(|process| process.service == service);
    replicas.map(|process| format!("http://{}", process.address)).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_process_has_the_addresses_of_its_upstreams() {
        let ground =
            Ground { store_url: "postgres://s", bus_url: "nats://b", sync_interval_ms: 0, data: Path::new("/d") };
        let processes = processes(|_| 2, ground).expect("ports");
        assert_eq!(processes.len(), 10);
        let tickets = urls(&processes, "ticket");
        assert_eq!(tickets.split(',').count(), 2);
        for process in &processes {
            let key = |key: &str| process.keys.get(key).map(String::as_str);
            let calls_ticket = ["reservation", "query", "gateway"].contains(&process.service);
            assert_eq!(key("upstream.ticket.url"), calls_ticket.then_some(tickets.as_str()), "{process:?}");
            let writes = WRITERS.contains(&process.service);
            assert_eq!(key("store.url"), writes.then_some("postgres://s"), "{process:?}");
            assert_eq!(key("bus.url"), (process.service != GATEWAY).then_some("nats://b"), "{process:?}");
        }
        assert_eq!(Process::variable("store.url"), "ETICKET__STORE__URL");
    }
}
