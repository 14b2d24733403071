//! The interface of a service to this crate: its name, its configuration, and how to build it.

use std::{future::Future, sync::Arc};

use eticket_base::{
    config::{self, bus::BusConfig, urls::StoreSupport},
    data::DataFolder,
    exit::StartError,
};
use eticket_bus::Bus;
use eticket_rpc_server::server::Running;
use futures::future::BoxFuture;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    config::{
        Settings,
        load::{self, ServerTree, ServiceSpec},
    },
    context::Context,
};

/// Whether a server shares its process with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deployment {
    /// In a process of its own; the addresses of other servers must be configured.
    Alone,
    /// In one process with all servers, which find each other.
    Together,
}

/// A server of eTicket.
pub trait Service: 'static {
    /// Its name in configuration, metrics, ready line and file names.
    const NAME: &'static str;
    /// Its default configuration as TOML: `listen` and its specific keys.
    const DEFAULTS: &'static str;
    /// A one-line description for the help.
    const ABOUT: &'static str = "One server of eTicket";
    /// The keys that must or may be set in a process of its own: lines for the help.
    const NEEDS: &'static str = "";
    /// An example command line for the help.
    const EXAMPLE: &'static str = "";
    /// The stores that it supports. A server without a store has neither data folder nor bus.
    const STORE: StoreSupport = StoreSupport::Any;
    /// Whether it limits the rate of each caller (`limits.requests_per_second`).
    const LIMITS_CALLERS: bool = false;
    /// Opens the bus; `None` for a server that does not use it. The servers of a process share one bus, opened by the
    /// first server that has this.
    const OPEN_BUS: Option<OpenBus> = None;
    /// Its specific keys, in addition to those of every server. Must refuse unknown keys (`deny_unknown_fields`).
    type Config: DeserializeOwned + Serialize + Send + 'static;

    /// Checks what the types of the configuration cannot, before anything is opened or bound. Keys in errors start at
    /// the root of `Config`.
    ///
    /// # Errors
    /// Returns the first invalid value.
    fn check(config: &Self::Config, settings: &Settings, place: Deployment) -> Result<(), config::Error> {
        let _ = (config, settings, place);
        Ok(())
    }

    /// Builds and starts the server. If the future is dropped before it completes, nothing that matters remains.
    fn build(context: &Context, config: Self::Config) -> impl Future<Output = Result<Running, StartError>> + Send;
}

/// Opens the configured bus; its file, if it has one, is in the data folder.
pub type OpenBus = for<'a> fn(&'a BusConfig, &'a DataFolder) -> BoxFuture<'a, Result<Arc<dyn Bus>, StartError>>;
type Configure = fn(&ServerTree, Deployment) -> Result<Configured, config::Error>;
type Build = Box<dyn for<'a> FnOnce(&'a Context) -> BoxFuture<'a, Result<Running, StartError>> + Send>;

/// A service with its type erased.
#[derive(Debug, Clone, Copy)]
pub struct ServiceFactory {
    pub(crate) spec: ServiceSpec,
    pub(crate) about: &'static str,
    pub(crate) needs: &'static str,
    pub(crate) example: &'static str,
    pub(crate) configure: Configure,
    pub(crate) open_bus: Option<OpenBus>,
}

/// A service with a checked configuration.
pub(crate) struct Configured {
    /// Its effective configuration.
    pub(crate) table: toml::Table,
    pub(crate) build: Build,
}

/// Creates an entry for [`super::main_of_several`].
#[must_use]
pub fn entry<S: Service>() -> ServiceFactory {
    let spec = ServiceSpec { name: S::NAME, defaults: S::DEFAULTS, store: S::STORE, limits_callers: S::LIMITS_CALLERS };
    let (about, needs, example) = (S::ABOUT, S::NEEDS, S::EXAMPLE);
    ServiceFactory { spec, about, needs, example, configure: configure::<S>, open_bus: S::OPEN_BUS }
}

fn configure<S: Service>(tree: &ServerTree, place: Deployment) -> Result<Configured, config::Error> {
    let own: S::Config = tree.own()?;
    S::check(&own, &tree.settings, place).map_err(|error| tree.placed(error))?;
    let mut table = load::table(&tree.settings)?;
    table.extend(load::table(&own)?);
    let build: Build = Box::new(move |context| Box::pin(S::build(context, own)));
    Ok(Configured { table, build })
}
