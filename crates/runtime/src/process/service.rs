//! The interface of a service to this crate: its name, its configuration, and how to build it.

use std::{future::Future, path::Path, sync::Arc, time::Duration};

use eticket_base::{
    config::{self, bus::BusConfig, urls::StoreSupport},
    data::DataFolder,
    doctor::Check,
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
    examination::Examination,
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
    /// Checks the bus for `doctor`; `None` for a server that does not use it.
    const EXAMINE_BUS: Option<ExamineBus> = None;
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

    /// Checks the store and what else only this service has, for `doctor`. Must change nothing, also beside a running
    /// server, and must end even if nothing answers.
    fn examine(examination: &Examination, config: Self::Config) -> impl Future<Output = Vec<Check>> + Send {
        let _ = (examination, config);
        async { Vec::new() }
    }

    /// Builds and starts the server. If the future is dropped before it completes, nothing that matters remains.
    fn build(context: &Context, config: Self::Config) -> impl Future<Output = Result<Running, StartError>> + Send;
}

/// Opens the configured bus; its file, if it has one, is in the data folder.
pub type OpenBus = for<'a> fn(&'a BusConfig, &'a DataFolder) -> BoxFuture<'a, Result<Arc<dyn Bus>, StartError>>;
/// Checks the configured bus, whose file, if it has one, is in this data folder. Each step may take this long.
pub type ExamineBus = for<'a> fn(&'a BusConfig, &'a Path, Duration) -> BoxFuture<'a, Vec<Check>>;
type Configure = fn(&ServerTree, Deployment) -> Result<Configured, config::Error>;

/// A service with its type erased.
#[derive(Debug, Clone, Copy)]
pub struct ServiceFactory {
    pub(crate) spec: ServiceSpec,
    pub(crate) about: &'static str,
    pub(crate) needs: &'static str,
    pub(crate) example: &'static str,
    pub(crate) configure: Configure,
    pub(crate) open_bus: Option<OpenBus>,
    pub(crate) examine_bus: Option<ExamineBus>,
}

/// A service with a checked configuration.
pub(crate) struct Configured {
    /// Its effective configuration.
    pub(crate) table: toml::Table,
    pub(crate) server: Box<dyn Ready>,
}

/// A server with its typed configuration.
pub(crate) trait Ready: Send {
    fn build<'a>(self: Box<Self>, context: &'a Context) -> BoxFuture<'a, Result<Running, StartError>>;

    fn examine<'a>(self: Box<Self>, examination: &'a Examination) -> BoxFuture<'a, Vec<Check>>;
}

struct Typed<S: Service>(S::Config);

impl<S: Service> Ready for Typed<S> {
    fn build<'a>(self: Box<Self>, context: &'a Context) -> BoxFuture<'a, Result<Running, StartError>> {
        Box::pin(S::build(context, self.0))
    }

    fn examine<'a>(self: Box<Self>, examination: &'a Examination) -> BoxFuture<'a, Vec<Check>> {
        Box::pin(S::examine(examination, self.0))
    }
}

/// Creates an entry for [`super::main_of_several`].
#[must_use]
pub fn entry<S: Service>() -> ServiceFactory {
    let spec = ServiceSpec { name: S::NAME, defaults: S::DEFAULTS, store: S::STORE, limits_callers: S::LIMITS_CALLERS };
    let (about, needs, example) = (S::ABOUT, S::NEEDS, S::EXAMPLE);
    let (open_bus, examine_bus) = (S::OPEN_BUS, S::EXAMINE_BUS);
    ServiceFactory { spec, about, needs, example, configure: configure::<S>, open_bus, examine_bus }
}

fn configure<S: Service>(tree: &ServerTree, place: Deployment) -> Result<Configured, config::Error> {
    let own: S::Config = tree.own()?;
    S::check(&own, &tree.settings, place).map_err(|error| tree.placed(error))?;
    let mut table = load::table(&tree.settings)?;
    table.extend(load::table(&own)?);
    Ok(Configured { table, server: Box::new(Typed::<S>(own)) })
}
