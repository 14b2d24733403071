//! The configuration keys of the gateway.

use std::path::PathBuf;

use eticket_base::config::{Error, comma_list, file_path, within};
use eticket_rpc_client::addresses::Targets;
use eticket_rpc_server::server::Origins;
use eticket_runtime::process::Deployment;
use eticket_tls::ClientTlsConfig;
use http::HeaderName;
use serde::{Deserialize, Serialize};

use crate::{cors, routes::Backend};

/// The gateway's own keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The largest request message that a caller may send, in bytes.
    pub max_message_bytes: u32,
    /// The addresses of the services.
    #[serde(default)]
    pub upstream: Upstreams,
    /// Which origins may call.
    pub cors: CorsConfig,
    /// The web console.
    #[serde(default)]
    pub console: ConsoleConfig,
}

/// `upstream.*`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upstreams {
    /// The ticket service.
    pub ticket: UpstreamConfig,
    /// The reservation service.
    pub reservation: UpstreamConfig,
    /// The pricing service.
    pub pricing: UpstreamConfig,
    /// The query service.
    pub query: UpstreamConfig,
}

/// `upstream.NAME.*`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamConfig {
    /// The addresses of the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<Targets>,
    /// Certificates, for `https` addresses.
    #[serde(skip_serializing_if = "ClientTlsConfig::is_empty")]
    pub tls: ClientTlsConfig,
}

/// `cors.*`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorsConfig {
    /// The origins whose pages may call, besides the gateway's own and loopback origins; `*` allows any.
    #[serde(with = "comma_list")]
    pub allowed_origins: Vec<String>,
    /// Request headers that pages may send, besides those of the protocols.
    #[serde(default, with = "comma_list", skip_serializing_if = "Vec::is_empty")]
    pub allowed_headers: Vec<HeaderName>,
    /// Response headers that pages may read, besides those of the protocols.
    #[serde(default, with = "comma_list", skip_serializing_if = "Vec::is_empty")]
    pub exposed_headers: Vec<HeaderName>,
}

/// `console.*`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConsoleConfig {
    /// The folder with the files of the console.
    #[serde(deserialize_with = "file_path::optional", skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
}

impl Upstreams {
    /// Returns the configuration of one backend.
    #[must_use]
    pub fn get(&self, backend: Backend) -> &UpstreamConfig {
        match backend {
            Backend::Ticket => &self.ticket,
            Backend::Reservation => &self.reservation,
            Backend::Pricing => &self.pricing,
            Backend::Query => &self.query,
        }
    }
}

impl Config {
    /// Checks everything that the types cannot express.
    pub(crate) fn check(&self, place: Deployment) -> Result<(), Error> {
        within("max_message_bytes", self.max_message_bytes.into(), 1024, 1 << 30)?;
        self.origins()?;
        if let Some(backend) = Backend::ALL.into_iter().find(|backend| self.upstream.get(*backend).url.is_none())
            && place == Deployment::Alone
        {
            return Err(missing_url(backend));
        }
        for backend in Backend::ALL {
            let UpstreamConfig { url, tls } = self.upstream.get(backend);
            tls.check(&section(backend), url.as_ref().map(Targets::are_encrypted))?;
        }
        match &self.console.folder {
            Some(folder) if !folder.join("index.html").is_file() => {
                let expected = "expected a folder with an index.html; build the console first, or leave the key out";
                Err(Error::new("console.folder", Some(folder.display().to_string()), expected))
            }
            _ => Ok(()),
        }
    }

    /// Returns the origins that may call.
    pub(crate) fn origins(&self) -> Result<Origins, Error> {
        let given = &self.cors.allowed_origins;
        cors::origins(given)
            .map_err(|error| Error::new("cors.allowed_origins", Some(given.join(",")), error.to_string()))
    }
}

/// The section of a backend.
pub(crate) fn section(backend: Backend) -> String {
    format!("upstream.{}", backend.name())
}

/// The error for a backend without an address.
pub(crate) fn missing_url(backend: Backend) -> Error {
    let expected = "expected http://host:port[,http://host:port...], or https://";
    Error::missing(format!("{}.url", section(backend)), expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(more: &str) -> Config {
        let urls =
            Backend::ALL.map(|backend| format!("upstream.{}.url = 'http://127.0.0.1:1'\n", backend.name())).concat();
        toml::from_str(&format!("max_message_bytes = 4096\n{urls}{more}")).unwrap()
    }

    const ANY: &str = "cors.allowed_origins = '*'";

    #[test]
    fn the_defaults_are_a_configuration() {
        let mut table: toml::Table = include_str!("defaults.toml").parse().unwrap();
        assert_eq!(table.remove("listen").unwrap().as_str(), Some("127.0.0.1:8088"));
        let config: Config = table.try_into().unwrap();
        assert_eq!(config.max_message_bytes, 4 * 1024 * 1024);
        assert_eq!(config.check(Deployment::Together), Ok(()));
    }

    #[test]
    fn wrong_values_are_named() {
        for (more, key) in [
            ("cors.allowed_origins = 'https://a.example, nonsense'", "cors.allowed_origins"),
            ("cors.allowed_origins = ''\nconsole.folder = '/nowhere'", "console.folder"),
        ] {
            assert_eq!(config(more).check(Deployment::Alone).unwrap_err().key(), key);
        }
        let header = toml::from_str::<CorsConfig>("allowed_origins = ''\nallowed_headers = 'x-tenant, x team'");
        assert!(header.unwrap_err().to_string().contains("invalid HTTP header name"));
        let empty = format!("max_message_bytes = 4096\n{ANY}\nconsole.folder = ''");
        assert!(toml::from_str::<Config>(&empty).unwrap_err().to_string().contains("expected a path"));
        let small = Config { max_message_bytes: 1, ..config(ANY) };
        assert_eq!(small.check(Deployment::Alone).unwrap_err().key(), "max_message_bytes");
        assert_eq!(config(ANY).check(Deployment::Alone), Ok(()));
    }

    #[test]
    fn a_standalone_gateway_needs_the_addresses_of_all_services() {
        let mut config = config(ANY);
        config.upstream.pricing.url = None;
        let error = config.check(Deployment::Alone).unwrap_err();
        assert!(error.to_string().contains("upstream.pricing.url is not set"), "{error}");
        assert_eq!(config.check(Deployment::Together), Ok(()));
    }
}
