//! What a service gives to be run: its name, its configuration, and how it is built.

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

/// Where a server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deployment {
    /// In a process of its own: it must be told where the others are.
    Alone,
    /// With the others: it finds them.
    Together,
}

/// A server of this system.
pub trait Service: 'static {
    /// Its name in configuration, metrics, ready line and file names.
    const NAME: &'static str;
    /// Its configuration as TOML, `listen` and its own keys.
    const DEFAULTS: &'static str;
    /// What it does, in a line.
    const ABOUT: &'static str = "One server of eTicket";
    /// What it must be told to run in a process of its own, and can be told besides: lines for its help.
    const NEEDS: &'static str = "";
    /// A command line that starts it.
    const EXAMPLE: &'static str = "";
    /// What it can keep its state in. One that keeps none has neither data folder nor bus.
    const STORE: StoreSupport = StoreSupport::Any;
    /// Opens the bus that it publishes to or listens to; `None` for a server without one. The servers of a process share one bus: the
    /// first of them that has this opens it.
    const OPEN_BUS: Option<OpenBus> = None;
    /// Its own keys, beside those that every server has. Unknown keys must be refused (`deny_unknown_fields`).
    type Config: DeserializeOwned + Serialize + Send + 'static;

    /// Says what the types of the configuration cannot, with keys from the root of `Config`. Nothing is open or bound yet.
    ///
    /// # Errors
    /// The first value that is wrong.
    fn check(config: &Self::Config, settings: &Settings, place: Deployment) -> Result<(), config::Error> {
        let _ = (config, settings, place);
        Ok(())
    }

    /// Builds and starts it. Dropped before it has ended it leaves nothing behind that matters.
    fn build(context: &Context, config: Self::Config) -> impl Future<Output = Result<Running, StartError>> + Send;
}

/// Opens the bus that the configuration names; its file, if it has one, lies in the data folder.
pub type OpenBus = for<'a> fn(&'a BusConfig, &'a DataFolder) -> BoxFuture<'a, Result<Arc<dyn Bus>, StartError>>;
type Configure = fn(&ServerTree, Deployment) -> Result<Configured, config::Error>;
type Build = Box<dyn for<'a> FnOnce(&'a Context) -> BoxFuture<'a, Result<Running, StartError>> + Send>;

/// A service whose type is not known any more.
#[derive(Debug, Clone, Copy)]
pub struct ServiceFactory {
    pub(crate) spec: ServiceSpec,
    pub(crate) about: &'static str,
    pub(crate) needs: &'static str,
    pub(crate) example: &'static str,
    pub(crate) configure: Configure,
    pub(crate) open_bus: Option<OpenBus>,
}

/// A service whose configuration has been checked.
pub(crate) struct Configured {
    /// Its effective configuration.
    pub(crate) table: toml::Table,
    pub(crate) build: Build,
}

/// For [`super::main_of_several`].
#[must_use]
pub fn entry<S: Service>() -> ServiceFactory {
    let spec = ServiceSpec { name: S::NAME, defaults: S::DEFAULTS, store: S::STORE };
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
