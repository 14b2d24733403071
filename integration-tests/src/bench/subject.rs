//! What is measured: where its servers are, and which processes they are.

use std::collections::BTreeMap;

use crate::{Api, Eticket, Protocol, mesh::Mesh, process::SERVERS};

/// Running servers.
pub(super) struct Subject {
    addresses: BTreeMap<String, String>,
    /// All processes of ours; not those of PostgreSQL and NATS.
    pub(super) processes: Vec<u32>,
    /// Where each tells its metrics.
    pub(super) admins: Vec<String>,
}

impl Subject {
    /// All in one process.
    pub(super) fn single(eticket: &Eticket) -> Self {
        let addresses = SERVERS.map(|server| (server.to_owned(), eticket.address(server).to_owned())).into();
        Self { addresses, processes: vec![eticket.id()], admins: vec![eticket.address("admin").to_owned()] }
    }

    /// A process each.
    pub(super) fn distributed(mesh: &Mesh) -> Self {
        let addresses = SERVERS.map(|server| (server.to_owned(), mesh.replicas(server)[0].address().to_owned())).into();
        let running: Vec<&Eticket> = mesh.servers.values().flatten().map(|replica| replica.process()).collect();
        let processes = running.iter().map(|eticket| eticket.id()).collect();
        let admins = running.iter().map(|eticket| eticket.address("admin").to_owned()).collect();
        Self { addresses, processes, admins }
    }

    pub(super) fn address(&self, server: &str) -> &str {
        &self.addresses[server]
    }

    pub(super) fn api(&self, protocol: Protocol) -> Api {
        Api::with_protocol(|server| self.addresses[server].clone(), protocol)
    }
}
