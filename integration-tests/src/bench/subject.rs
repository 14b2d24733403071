//! The system under measurement: the addresses of its servers, and its processes.

use std::collections::BTreeMap;

use crate::{
    Api, Eticket, Protocol,
    mesh::{Infrastructure, Mesh},
    process::SERVERS,
};

/// Running servers.
pub(super) struct Subject {
    addresses: BTreeMap<String, String>,
    /// All eTicket processes, without those of PostgreSQL and NATS.
    pub(super) processes: Vec<u32>,
    /// PostgreSQL and NATS, which start further processes.
    pub(super) infrastructure: Vec<u32>,
    /// The admin addresses with `/metrics`.
    pub(super) admins: Vec<String>,
}

impl Subject {
    /// The all-in-one process.
    pub(super) fn single(eticket: &Eticket) -> Self {
        let addresses = SERVERS.map(|server| (server.to_owned(), eticket.address(server).to_owned())).into();
        let (processes, admins) = (vec![eticket.id()], vec![eticket.address("admin").to_owned()]);
        Self { addresses, processes, infrastructure: Vec::new(), admins }
    }

    /// A mesh with one process per service.
    pub(super) fn distributed(mesh: &Mesh) -> Self {
        let addresses = SERVERS.map(|server| (server.to_owned(), mesh.replicas(server)[0].address().to_owned())).into();
        let running: Vec<&Eticket> = mesh.servers.values().flatten().map(|replica| replica.process()).collect();
        let processes = running.iter().map(|eticket| eticket.id()).collect();
        let admins = running.iter().map(|eticket| eticket.address("admin").to_owned()).collect();
        let Infrastructure { postgres, nats } = &mesh.infrastructure;
        let infrastructure = [postgres.id(), nats.id()].into_iter().flatten().collect();
        Self { addresses, processes, infrastructure, admins }
    }

    pub(super) fn address(&self, server: &str) -> &str {
        &self.addresses[server]
    }

    pub(super) fn api(&self, protocol: Protocol) -> Api {
        Api::with_protocol(|server| self.addresses[server].clone(), protocol)
    }
}
