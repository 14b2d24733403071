//! The part of the configuration that admin commands need, to find the running server.

use std::net::SocketAddr;

use eticket_base::config::{Error, address};
use eticket_tls::ServerTlsConfig;

use super::{ServiceSpec, Sources, embedded, merge, overrides, take, take_section, typed};

/// Where a server listens, and its certificates.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Listen {
    #[serde(deserialize_with = "address")]
    pub(crate) listen: SocketAddr,
    #[serde(default)]
    pub(crate) tls: ServerTlsConfig,
}

/// Reads only `listen` and `tls`, for admin commands; the rest of the configuration may be incomplete.
pub(crate) fn read(spec: ServiceSpec, section: bool, sources: &Sources) -> Result<Listen, Error> {
    let (mut tree, mut overrides) = (embedded(spec.defaults)?, overrides(sources)?);
    if section {
        merge(&mut tree, take(&mut overrides, &["tls"]));
        overrides = take_section(&mut overrides, spec.name)?;
    }
    merge(&mut tree, overrides);
    typed(&take(&mut tree, &["listen", "tls"]), &[]).map_err(|error| error.within(section.then_some(spec.name)))
}
