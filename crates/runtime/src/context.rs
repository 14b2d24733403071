//! What `main` makes and gives to a service's `build`.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use eticket_base::{
    clock::{SharedClock, SystemClock},
    config::urls::{self, StorePlace, StoreSupport},
    data::DataFolder,
    exit::StartError,
};
use eticket_bus::Bus;
use eticket_rpc_client::balance::Targets;
use eticket_rpc_server::server::Server;

use crate::config::Settings;

/// What a service stands on.
#[derive(Clone)]
pub struct Context {
    /// The service's name.
    pub name: &'static str,
    /// The keys that every server has.
    pub settings: Settings,
    /// Where its files lie; `None` for one that has none.
    pub data: Option<DataFolder>,
    /// The bus; `None` for one that neither publishes nor listens.
    pub bus: Option<Arc<dyn Bus>>,
    /// What time it is.
    pub clock: SharedClock,
    /// The other servers of this process.
    pub siblings: Siblings,
}

impl Context {
    /// A context by the machine's clock, with neither data folder nor bus; the fields are for whoever has more.
    #[must_use]
    pub fn new(name: &'static str, settings: Settings) -> Self {
        let (clock, siblings) = (Arc::new(SystemClock), Siblings::default());
        Self { name, settings, data: None, bus: None, clock, siblings }
    }

    /// A server by the service's settings.
    #[must_use]
    pub fn server(&self) -> Server {
        Server::new(self.name, self.settings.listen, &self.settings.limits, &self.settings.shutdown)
    }

    /// The data folder.
    ///
    /// # Errors
    /// If there is none: a fault of the program, not of its user.
    pub fn data(&self) -> Result<&DataFolder, StartError> {
        self.data.as_ref().ok_or_else(|| StartError::failed("the service was given no data folder"))
    }

    /// The bus.
    ///
    /// # Errors
    /// If there is none: a fault of the program, not of its user.
    pub fn bus(&self) -> Result<Arc<dyn Bus>, StartError> {
        self.bus.clone().ok_or_else(|| StartError::failed("the service was given no bus"))
    }

    /// The file of a store on SQLite: as `store.url` says, else `<name>.db` in the data folder.
    ///
    /// # Errors
    /// If `store.url` is no `sqlite:PATH`.
    pub fn store_path(&self) -> Result<PathBuf, StartError> {
        match self.store_place(StoreSupport::SqliteOnly)? {
            StorePlace::Sqlite(path) => Ok(path),
            StorePlace::Postgres(_) => Err(StartError::failed("a file was asked for")),
        }
    }

    /// Where the service keeps its state: as `store.url` says, else in the data folder.
    ///
    /// # Errors
    /// If `store.url` names no store that `support` allows.
    pub fn store_place(&self, support: StoreSupport) -> Result<StorePlace, StartError> {
        match &self.settings.store.url {
            Some(url) => Ok(urls::store_place(support, url)?),
            None => Ok(StorePlace::Sqlite(usual_store(self.data()?.path(), self.name))),
        }
    }

    /// Where another service is: as configured, else the server of that name in this process, if it has started.
    #[must_use]
    pub fn upstream(&self, name: &str, configured: Option<&Targets>) -> Option<Targets> {
        // An address is always a target.
        configured.cloned().or_else(|| format!("http://{}", self.siblings.address(name)?).parse().ok())
    }
}

/// Where a service keeps its store unless it is told.
pub(crate) fn usual_store(data: &Path, name: &str) -> PathBuf {
    data.join(format!("{name}.db"))
}

/// The addresses of the servers in this process, as they start; clones see the same ones.
#[derive(Debug, Clone, Default)]
pub struct Siblings(Arc<RwLock<BTreeMap<&'static str, SocketAddr>>>);

impl Siblings {
    /// Where a server of this process listens; `None` if there is none of that name, or not yet.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }

    /// Makes a server known to the others.
    pub fn started(&self, name: &'static str, address: SocketAddr) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(name, address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_lies_in_the_data_folder_unless_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut context = Context::new("ticket", Settings::for_tests());
        assert!(context.store_path().is_err() && context.bus().is_err());
        context.data = Some(DataFolder::open(folder.path()).expect("free"));
        assert_eq!(context.store_path().expect("a path"), folder.path().join("ticket.db"));
        context.settings.store.url = Some("sqlite:elsewhere.db".into());
        assert_eq!(context.store_path().expect("a path"), PathBuf::from("elsewhere.db"));
    }

    #[test]
    fn what_is_configured_comes_before_a_sibling() {
        let context = Context::new("reservation", Settings::for_tests());
        assert_eq!(context.upstream("ticket", None), None);
        context.siblings.started("ticket", SocketAddr::from(([127, 0, 0, 1], 7)));
        let found = context.upstream("ticket", None).expect("a sibling");
        assert_eq!(found.to_string(), "http://127.0.0.1:7");
        let configured: Targets = "http://ticket:1".parse().expect("an address");
        assert_eq!(context.upstream("ticket", Some(&configured)), Some(configured));
    }
}
