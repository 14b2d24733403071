//! The configuration sections of TLS.

use std::path::PathBuf;

use eticket_base::config::{Error, comma_list, file_path};
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};

use crate::{
    client::ClientFiles,
    files::{Invalid, PemFile, dns_names},
    renewal::Source,
    server::ServerFiles,
};

/// `tls.*` of a server. Without keys it serves plain text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerTlsConfig {
    /// The certificate of the server and its intermediate certificates, in PEM.
    #[serde(deserialize_with = "file_path::optional", skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// The private key of the certificate, in PEM.
    #[serde(deserialize_with = "file_path::optional", skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// The authorities of client certificates, in PEM. With it, every client must have such a certificate.
    #[serde(deserialize_with = "file_path::optional", skip_serializing_if = "Option::is_none")]
    pub client_ca_file: Option<PathBuf>,
    /// The DNS names of clients that may call; empty for every client with a certificate of `client_ca_file`.
    #[serde(with = "comma_list", skip_serializing_if = "Vec::is_empty")]
    pub allowed_clients: Vec<String>,
}

/// `upstream.NAME.tls.*` of a client.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientTlsConfig {
    /// The authorities of the certificate of the server, in PEM.
    #[serde(deserialize_with = "file_path::optional", skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The certificate that the client shows, in PEM.
    #[serde(deserialize_with = "file_path::optional", skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// The private key of the certificate, in PEM.
    #[serde(deserialize_with = "file_path::optional", skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// The name that the certificate of the server must have. Default: the host of the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

/// Where the keys of a client are set, for errors and logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientKeys {
    /// In the section `tls` of this section, such as `upstream.ticket`.
    Upstream(String),
    /// On the command line, as `--ca-file`.
    Flags,
}

impl ClientKeys {
    pub(crate) fn full(&self, key: &str) -> String {
        match self {
            Self::Upstream(section) => format!("{section}.tls.{key}"),
            Self::Flags => format!("--{}", key.replace('_', "-")),
        }
    }

    fn missing_ca(&self) -> Error {
        let expected =
            "expected the PEM file of the authorities of the server's certificate, because the server speaks TLS";
        Error::missing(self.full("ca_file"), expected)
    }
}

/// The section of [`ServerTlsConfig`].
pub(crate) const SERVER_SECTION: &str = "tls";

impl ServerTlsConfig {
    /// Returns whether no key is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns whether the server speaks TLS.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.cert_file.is_some()
    }

    /// Returns the first DNS name of the certificate, by which a client on the same machine can call; `None` without one.
    #[must_use]
    pub fn first_name(&self) -> Option<String> {
        let chain = PemFile::read("cert_file", self.cert_file.as_ref()?).ok()?.certificates().ok()?;
        dns_names(chain.first()?).ok()?.first().cloned()
    }

    /// Checks the keys, and reads the files.
    ///
    /// # Errors
    /// The first key or file that is not valid.
    pub fn check(&self) -> Result<(), Error> {
        let Some(files) = self.files()? else { return Ok(()) };
        let make = || files.make(&files.read()?);
        make().map(drop).map_err(Invalid::of_server)
    }

    /// Returns the files; `None` without TLS.
    pub(crate) fn files(&self) -> Result<Option<ServerFiles>, Error> {
        let full = |key: &str| format!("{SERVER_SECTION}.{key}");
        let pair = both(full, self.cert_file.as_ref(), self.key_file.as_ref())?;
        let Some((cert_file, key_file)) = pair else {
            let Some(path) = &self.client_ca_file else { return self.check_names().map(|()| None) };
            let expected = "has no effect without tls.cert_file and tls.key_file";
            return Err(Error::new("tls.client_ca_file", Some(path.display().to_string()), expected));
        };
        self.check_names()?;
        Ok(Some(ServerFiles { cert_file, key_file, client_ca_file: self.client_ca_file.clone() }))
    }

    fn check_names(&self) -> Result<(), Error> {
        let refuse = |expected| Err(Error::new("tls.allowed_clients", Some(self.allowed_clients.join(",")), expected));
        if !self.allowed_clients.is_empty() && self.client_ca_file.is_none() {
            return refuse("has no effect without tls.client_ca_file: only then clients show a certificate");
        }
        match self.allowed_clients.iter().all(|name| is_dns_name(name)) {
            true => Ok(()),
            false => refuse("expected DNS names of client certificates, separated by commas, without wildcards"),
        }
    }
}

impl ClientTlsConfig {
    /// Returns whether no key is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks the keys, and reads the files. `upstream` is the section of the upstream, such as `upstream.ticket`;
    /// `encrypted` is whether its URL is `https`, and `None` without a URL.
    ///
    /// # Errors
    /// The first key or file that is not valid.
    pub fn check(&self, upstream: &str, encrypted: Option<bool>) -> Result<(), Error> {
        let keys = ClientKeys::Upstream(upstream.to_owned());
        if encrypted == Some(false)
            && let Some((key, value)) = self.first()
        {
            let expected = format!("has no effect with an http:// URL: set {upstream}.url to https://host:port");
            return Err(Error::new(keys.full(key), Some(value), expected));
        }
        if encrypted == Some(true) && self.ca_file.is_none() {
            return Err(keys.missing_ca());
        }
        if self.is_empty() {
            return Ok(());
        }
        let files = self.files(keys)?;
        let make = || files.make(&files.read()?);
        make().map(drop).map_err(|invalid| invalid.of_client(&files.keys))
    }

    pub(crate) fn files(&self, keys: ClientKeys) -> Result<ClientFiles, Error> {
        let identity = both(|key| keys.full(key), self.cert_file.as_ref(), self.key_file.as_ref())?;
        if let Some(name) = self.server_name.as_ref().filter(|name| ServerName::try_from(name.as_str()).is_err()) {
            let expected = "expected a DNS name or an IP address of the server's certificate";
            return Err(Error::new(keys.full("server_name"), Some(name.clone()), expected));
        }
        let ca_file = self.ca_file.clone().ok_or_else(|| keys.missing_ca())?;
        Ok(ClientFiles { keys, ca_file, identity })
    }

    fn first(&self) -> Option<(&'static str, String)> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let values = [
            ("ca_file", path(&self.ca_file)),
            ("cert_file", path(&self.cert_file)),
            ("key_file", path(&self.key_file)),
            ("server_name", self.server_name.clone()),
        ];
        values.into_iter().find_map(|(key, value)| Some((key, value?)))
    }
}

/// Returns certificate and key; `None` if neither is set.
fn both(
    full: impl Fn(&str) -> String,
    cert: Option<&PathBuf>,
    key: Option<&PathBuf>,
) -> Result<Option<(PathBuf, PathBuf)>, Error> {
    let (cert_key, key_key) = (full("cert_file"), full("key_file"));
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some((cert.clone(), key.clone()))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(Error::missing(key_key, format!("expected the private key of {cert_key}"))),
        (None, Some(_)) => Err(Error::missing(cert_key, format!("expected the certificate of {key_key}"))),
    }
}

fn is_dns_name(name: &str) -> bool {
    matches!(ServerName::try_from(name), Ok(ServerName::DnsName(_)))
}
