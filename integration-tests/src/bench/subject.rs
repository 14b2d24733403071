//! The system under measurement: the addresses of its servers, and its processes.

use std::{collections::BTreeMap, time::Duration};

use eticket_local_servers::postgres::Postgres;

use super::usage::{Memory, Usage, cpu_with_children};
use crate::{
    Api, Eticket, Protocol,
    mesh::{Infrastructure, Mesh},
    process::SERVERS,
};

/// Running servers.
pub(super) struct Subject<'m> {
    addresses: BTreeMap<String, String>,
    /// All eTicket processes with their names, without those of PostgreSQL and NATS.
    pub(super) processes: Vec<(&'static str, u32)>,
    /// PostgreSQL and NATS, which start further processes.
    pub(super) infrastructure: Vec<(&'static str, u32)>,
    /// The admin addresses with `/metrics`.
    pub(super) admins: Vec<String>,
    /// `None` if the stores are SQLite files.
    pub(super) postgres: Option<&'m Postgres>,
}

impl<'m> Subject<'m> {
    /// The all-in-one process.
    pub(super) fn single(eticket: &Eticket) -> Self {
        let addresses = SERVERS.map(|server| (server.to_owned(), eticket.address(server).to_owned())).into();
        let (processes, admins) = (vec![("eticket", eticket.id())], vec![eticket.address("admin").to_owned()]);
        Self { addresses, processes, infrastructure: Vec::new(), admins, postgres: None }
    }

    /// A mesh with processes of its own for each service.
    pub(super) fn distributed(mesh: &'m Mesh) -> Self {
        Self { postgres: Some(&mesh.infrastructure.postgres), ..Self::of_processes(mesh) }
    }

    /// Like [`Self::distributed`], but the mesh can be changed meanwhile, and the work of PostgreSQL is not counted.
    pub(super) fn of_processes(mesh: &Mesh) -> Self {
        let addresses = SERVERS.map(|server| (server.to_owned(), mesh.replicas(server)[0].address().to_owned())).into();
        let mut running: Vec<(&'static str, &Eticket)> = Vec::new();
        for (name, replicas) in &mesh.servers {
            running.extend(replicas.iter().map(|replica| (*name, replica.process())));
        }
        let processes = running.iter().map(|(name, eticket)| (*name, eticket.id())).collect();
        let admins = running.iter().map(|(_, eticket)| eticket.address("admin").to_owned()).collect();
        let Infrastructure { postgres, nats } = &mesh.infrastructure;
        let infrastructure = [("postgres", postgres.id()), ("nats", nats.id())];
        let infrastructure = infrastructure.into_iter().filter_map(|(name, id)| Some((name, id?))).collect();
        Self { addresses, processes, infrastructure, admins, postgres: None }
    }

    /// Returns the ids of the eTicket processes.
    pub(super) fn ids(&self) -> Vec<u32> {
        self.processes.iter().map(|(_, id)| *id).collect()
    }

    /// Returns the CPU time of each kind of process, since its start.
    pub(super) fn cpu(&self) -> BTreeMap<&'static str, Duration> {
        let own = self.processes.iter().map(|(name, id)| (*name, Usage::read(*id).cpu));
        let infrastructure = self.infrastructure.iter().map(|(name, id)| (*name, cpu_with_children(&[*id])));
        let mut sum = BTreeMap::new();
        for (name, cpu) in own.chain(infrastructure) {
            *sum.entry(name).or_default() += cpu;
        }
        sum
    }

    /// Returns the memory of the process of each kind that has had the most.
    pub(super) fn memory(&self) -> BTreeMap<&'static str, Memory> {
        let mut most = BTreeMap::<_, Memory>::new();
        for (name, id) in &self.processes {
            let memory = Usage::read(*id).memory;
            let known = most.entry(*name).or_insert(memory);
            if memory.peak > known.peak {
                *known = memory;
            }
        }
        most
    }

    pub(super) fn address(&self, server: &str) -> &str {
        &self.addresses[server]
    }

    pub(super) fn api(&self, protocol: Protocol) -> Api {
        Api::with_protocol(|server| self.addresses[server].clone(), protocol)
    }
}
