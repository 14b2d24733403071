//! Opens the configured bus.

use std::sync::Arc;

use eticket_base::{
    config::bus::{self, BusConfig, EMBEDDED},
    data::DataFolder,
    exit::StartError,
};
use eticket_bus::Bus;
use eticket_bus_embedded::Embedded;
use eticket_bus_nats::Nats;
use futures::future::BoxFuture;

/// Opens NATS or the file of the embedded bus, for [`eticket_runtime::process::Service::OPEN_BUS`].
///
/// # Errors
/// If the file cannot be opened, or the credentials or certificates cannot be read. An unavailable server is not an
/// error: the connection is retried for the lifetime of the process.
pub fn open<'a>(config: &'a BusConfig, data: &'a DataFolder) -> BoxFuture<'a, Result<Arc<dyn Bus>, StartError>> {
    Box::pin(async move {
        if config.url.as_deref() != Some(EMBEDDED) {
            return Ok(Arc::new(Nats::open(config)?) as Arc<dyn Bus>);
        }
        let path = data.path().join(bus::FILE);
        match Embedded::open(&path).await {
            Ok(bus) => Ok(Arc::new(bus) as Arc<dyn Bus>),
            Err(error) => {
                let what = format!("the bus file {} cannot be opened: repair it, or move it away", path.display());
                Err(StartError::unavailable(what, error))
            }
        }
    })
}
