//! The resources that `main` passes to `build` of a service.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

pub use eticket_auth::login::LoginCodes;
use eticket_base::{
    clock::{SharedClock, SystemClock},
    config::urls::{self, StorePlace, StoreSupport},
    data::DataFolder,
    exit::StartError,
    in_process::Dialer,
};
use eticket_bus::Bus;
use eticket_rpc_client::addresses::Targets;
use eticket_rpc_server::{auth::Authentication, server::Server};
use eticket_tls::ServerTlsConfig;

use crate::config::Settings;

/// The resources of a service.
#[derive(Clone)]
pub struct Context {
    /// The name of the service.
    pub name: &'static str,
    /// The keys that every server has.
    pub settings: Settings,
    /// The data folder; `None` for a server without a store.
    pub data: Option<DataFolder>,
    /// The bus; `None` for a server that does not use it.
    pub bus: Option<Arc<dyn Bus>>,
    /// The clock.
    pub clock: SharedClock,
    /// The other servers of this process.
    pub siblings: Siblings,
    /// How the server finds out who calls.
    pub authentication: Authentication,
    /// The codes that the gateway exchanges for tokens; only in `eticket dev`.
    pub login: Option<LoginCodes>,
}

impl Context {
    /// System clock, no data folder, no bus; set the fields to add them.
    #[must_use]
    pub fn new(name: &'static str, settings: Settings) -> Self {
        let (clock, siblings) = (Arc::new(SystemClock), Siblings::default());
        let authentication = Authentication::default();
        Self { name, settings, data: None, bus: None, clock, siblings, authentication, login: None }
    }

    /// Creates a server with the settings of the service.
    #[must_use]
    pub fn server(&self) -> Server {
        let settings = &self.settings;
        Server::new(self.name, settings.listen, &settings.limits, &settings.shutdown)
            .tls(&settings.tls)
            .authentication(self.authentication.clone())
    }

    /// Returns the data folder.
    ///
    /// # Errors
    /// Fails if there is none, which is a bug.
    pub fn data(&self) -> Result<&DataFolder, StartError> {
        self.data.as_ref().ok_or_else(|| StartError::failed("the service has no data folder"))
    }

    /// Returns the bus.
    ///
    /// # Errors
    /// Fails if there is none, which is a bug.
    pub fn bus(&self) -> Result<Arc<dyn Bus>, StartError> {
        self.bus.clone().ok_or_else(|| StartError::failed("the service has no bus"))
    }

    /// Returns the path of a SQLite store: that of `store.url`, or else `<name>.db` in the data folder.
    ///
    /// # Errors
    /// Fails if `store.url` is not `sqlite:PATH`.
    pub fn store_path(&self) -> Result<PathBuf, StartError> {
        match self.store_place(StoreSupport::SqliteOnly)? {
            StorePlace::Sqlite(path) => Ok(path),
            StorePlace::Postgres(_) => Err(StartError::failed("the store is not a file")),
        }
    }

    /// Returns the store of the service: that of `store.url`, or else a file in the data folder.
    ///
    /// # Errors
    /// Fails if `store.url` is not a store that `support` allows.
    pub fn store_place(&self, support: StoreSupport) -> Result<StorePlace, StartError> {
        match &self.settings.store.url {
            Some(url) => Ok(urls::store_place(support, url)?),
            None => Ok(StorePlace::Sqlite(default_store(self.data()?.path(), self.name))),
        }
    }

    /// Returns the addresses of another service: as configured, or else the server of that name in this process, if it
    /// has started.
    #[must_use]
    pub fn upstream(&self, name: &str, configured: Option<&Targets>) -> Option<Targets> {
        configured.cloned().or_else(|| self.siblings.targets(name))
    }
}

/// The default store of a service.
pub(crate) fn default_store(data: &Path, name: &str) -> PathBuf {
    data.join(format!("{name}.db"))
}

/// The addresses of the servers started in this process. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Siblings(Arc<RwLock<BTreeMap<&'static str, Targets>>>);

impl Siblings {
    /// Returns the address of a server; `None` if it does not exist or has not started.
    #[must_use]
    pub fn targets(&self, name: &str) -> Option<Targets> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Adds the address of a started server; `tls` are its own certificates. Calls go through `dialer`, if there is
    /// one, instead of the network.
    pub fn started(&self, name: &'static str, mut address: SocketAddr, tls: &ServerTlsConfig, dialer: Option<&Dialer>) {
        if address.ip().is_unspecified() {
            let loopback: IpAddr =
                if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            address.set_ip(loopback);
        }
        let scheme = if tls.is_on() { "https" } else { "http" };
        // A socket address is always a valid target.
        if let Ok(targets) = format!("{scheme}://{address}").parse::<Targets>() {
            let targets = match dialer {
                Some(dialer) => targets.in_process(dialer.clone()),
                None => targets,
            };
            self.0.write().unwrap_or_else(PoisonError::into_inner).insert(name, targets);
        }
    }
}

#[cfg(test)]
mod tests {
    use eticket_base::in_process;

    use super::*;

    #[test]
    fn the_default_store_is_in_the_data_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut context = Context::new("ticket", Settings::for_tests());
        assert!(context.store_path().is_err() && context.bus().is_err());
        context.data = Some(DataFolder::open(folder.path()).expect("free"));
        assert_eq!(context.store_path().expect("a path"), folder.path().join("ticket.db"));
        context.settings.store.url = Some("sqlite:elsewhere.db".into());
        assert_eq!(context.store_path().expect("a path"), PathBuf::from("elsewhere.db"));
    }

    #[test]
    fn a_configured_address_overrides_a_sibling() {
        let context = Context::new("reservation", Settings::for_tests());
        assert_eq!(context.upstream("ticket", None), None);
        let tls = ServerTlsConfig { cert_file: Some("cert.pem".into()), ..ServerTlsConfig::default() };
        for (tls, expected) in [(tls, "https://127.0.0.1:7"), (ServerTlsConfig::default(), "http://127.0.0.1:7")] {
            context.siblings.started("ticket", SocketAddr::from(([0, 0, 0, 0], 7)), &tls, None);
            let found = context.upstream("ticket", None).expect("a sibling");
            assert_eq!(found.to_string(), expected);
        }
        let network = context.upstream("ticket", None);
        let (_listener, dialer) = in_process::listen();
        let address = SocketAddr::from(([127, 0, 0, 1], 7));
        context.siblings.started("ticket", address, &ServerTlsConfig::default(), Some(&dialer));
        let near = context.upstream("ticket", None).expect("a sibling");
        assert_eq!(near.to_string(), "http://127.0.0.1:7");
        assert_ne!(Some(near), network, "calls go through the dialer");
        let configured: Targets = "http://ticket:1".parse().expect("an address");
        assert_eq!(context.upstream("ticket", Some(&configured)), Some(configured));
    }
}
