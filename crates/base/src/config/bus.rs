//! `bus.*`: the address of the bus and the credentials for it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::nats_address::{self, Address};
use super::{Error, file_path, regular_file};

/// The URL of the embedded bus.
pub const EMBEDDED: &str = "embedded";
/// The file of the embedded bus, in the data folder.
pub const FILE: &str = "bus.db";
const EXPECTED: &str = "expected embedded (one process only) or nats://host:4222[,...]";

/// `bus.*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusConfig {
    /// `embedded`, or the URL of the NATS servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// A NATS credentials file (`.creds`), instead of a user or token in the URL.
    #[serde(default, deserialize_with = "file_path::optional", skip_serializing_if = "Option::is_none")]
    pub credentials: Option<PathBuf>,
    /// CA certificates (PEM) for the certificates of the servers. Default: those of the system.
    #[serde(default, deserialize_with = "file_path::optional", skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Minimum number of replicas of the stream.
    pub replicas: u8,
    /// The `sync_interval` of the servers; 0 for `always`.
    pub sync_interval_ms: u64,
}

impl Default for BusConfig {
    fn default() -> Self {
        Self { url: None, credentials: None, ca_file: None, replicas: 1, sync_interval_ms: 0 }
    }
}

fn regular_if_present(key: &str, path: Option<&Path>) -> Result<(), Error> {
    let Some(path) = path else { return Ok(()) };
    regular_file::check_if_present(path)
        .map_err(|problem| Error::new(key, Some(path.display().to_string()), problem.to_string()))
}

impl BusConfig {
    /// Whether no key is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Parses the URL.
    ///
    /// # Errors
    /// Fails if it is not a list of NATS servers.
    pub fn address(&self) -> Result<Address, Error> {
        let url = self.url.as_deref().unwrap_or_default();
        nats_address::parse(url).map_err(|expected| self.refused(format!("{EXPECTED}: {expected}")))
    }

    fn refused(&self, expected: String) -> Error {
        Error::new("bus.url", self.url.clone(), expected)
    }

    /// Checks the keys against each other.
    ///
    /// # Errors
    /// Fails if the URL is missing or invalid, or if another key does not apply to it.
    pub fn check(&self) -> Result<(), Error> {
        let only_nats = "is only for nats://";
        match self.url.as_deref() {
            None => Err(Error::missing("bus.url", EXPECTED)),
            Some(EMBEDDED) => match (&self.credentials, &self.ca_file, self.replicas, self.sync_interval_ms) {
                (Some(path), ..) => Err(Error::new("bus.credentials", Some(path.display().to_string()), only_nats)),
                (_, Some(path), ..) => Err(Error::new("bus.ca_file", Some(path.display().to_string()), only_nats)),
                (.., 1, 0) => Ok(()),
                (.., 1, interval) => Err(Error::new("bus.sync_interval_ms", Some(interval.to_string()), only_nats)),
                (.., replicas, _) => Err(Error::new("bus.replicas", Some(replicas.to_string()), only_nats)),
            },
            Some(url) if url.starts_with("nats://") || url.starts_with("tls://") => {
                super::within("bus.replicas", self.replicas.into(), 1, 5)?;
                super::within("bus.sync_interval_ms", self.sync_interval_ms, 0, 600_000)?;
                if self.address()?.login.is_some() && self.credentials.is_some() {
                    let expected = "no user or token in the URL if bus.credentials is set".to_owned();
                    return Err(self.refused(expected));
                }
                let files = [("bus.credentials", &self.credentials), ("bus.ca_file", &self.ca_file)];
                files.into_iter().try_for_each(|(key, path)| regular_if_present(key, path.as_deref()))
            }
            Some(_) => Err(self.refused(EXPECTED.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bus(url: &str) -> BusConfig {
        BusConfig { url: Some(url.to_owned()), ..BusConfig::default() }
    }

    #[test]
    fn a_bus_is_embedded_or_nats() {
        for url in ["embedded", "nats://a:4222", "nats://u:p@a:4222,b:4222", "tls://t@a"] {
            assert_eq!(bus(url).check(), Ok(()), "{url}");
        }
        for url in ["kafka", "http://a", "embedded,nats://a", "nats://u:secret@a:port", "nats://a,u:secret@"] {
            let error = bus(url).check().expect_err(url);
            assert!(error.key() == "bus.url" && !error.to_string().contains("secret"), "{error}");
        }
        let missing = BusConfig::default().check().expect_err("missing");
        assert!(missing.to_string().contains("bus.url is not set"), "{missing}");
    }

    #[test]
    fn keys_for_nats_are_refused_for_the_embedded_bus() {
        let file = || Some(PathBuf::from("a"));
        for (config, key) in [
            (BusConfig { credentials: file(), ..bus("embedded") }, "bus.credentials"),
            (BusConfig { ca_file: file(), ..bus("embedded") }, "bus.ca_file"),
            (BusConfig { replicas: 3, ..bus("embedded") }, "bus.replicas"),
            (BusConfig { sync_interval_ms: 1, ..bus("embedded") }, "bus.sync_interval_ms"),
            (BusConfig { sync_interval_ms: 600_001, ..bus("nats://a") }, "bus.sync_interval_ms"),
            (BusConfig { replicas: 0, ..bus("nats://a") }, "bus.replicas"),
            (BusConfig { replicas: 6, ..bus("nats://a") }, "bus.replicas"),
            (BusConfig { credentials: file(), ..bus("nats://u:p@a") }, "bus.url"),
        ] {
            assert_eq!(config.check().expect_err(key).key(), key);
        }
        let (credentials, ca_file) = (file(), file());
        let whole = BusConfig { credentials, ca_file, replicas: 3, sync_interval_ms: 600_000, ..bus("tls://a") };
        assert_eq!(whole.check(), Ok(()));
    }
}
