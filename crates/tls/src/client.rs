//! TLS of a client.

use std::{io, path::PathBuf, sync::Arc};

use eticket_base::{config::Error, tasks::Tasks};
use rustls::{ClientConfig, SignatureScheme, client::ResolvesClientCert, pki_types::ServerName, sign::CertifiedKey};
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::TlsConnector;

use crate::{
    ClientStream,
    config::{ClientKeys, ClientTlsConfig},
    files::{self, Invalid, PemFile},
    provider,
    renewal::{self, POLL_INTERVAL, Renewal, Source},
};

/// The files of a client.
#[derive(Clone)]
pub(crate) struct ClientFiles {
    pub(crate) keys: ClientKeys,
    pub(crate) ca_file: PathBuf,
    /// Certificate and key.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

/// Always the same certificate, also for servers that name other authorities: their refusal says why.
#[derive(Debug)]
struct One(Arc<CertifiedKey>);

impl ResolvesClientCert for One {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The contents of the files of a client, for libraries that read PEM themselves.
#[derive(Clone)]
pub struct Pem {
    /// The authorities of servers.
    pub authorities: Vec<u8>,
    /// The certificate and the key of the client.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

pub(crate) struct Made {
    config: Arc<ClientConfig>,
    pem: Pem,
}

impl Source for ClientFiles {
    type Contents = (PemFile, Option<(PemFile, PemFile)>);
    type Made = Arc<Made>;

    fn key(&self) -> String {
        self.keys.full("ca_file")
    }

    fn read(&self) -> Result<Self::Contents, Invalid> {
        let authorities = PemFile::read("ca_file", &self.ca_file)?;
        let Some((cert, key)) = &self.identity else { return Ok((authorities, None)) };
        Ok((authorities, Some((PemFile::read("cert_file", cert)?, PemFile::read("key_file", key)?))))
    }

    fn make(&self, (authorities, identity): &Self::Contents) -> Result<Arc<Made>, Invalid> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| authorities.invalid(error.to_string()))?
            .with_root_certificates(authorities.authorities()?);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                builder.with_client_cert_resolver(Arc::new(One(Arc::new(files::certified(chain, key)?))))
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let identity = identity.as_ref().map(|(chain, key)| (chain.contents.clone(), key.contents.clone()));
        let pem = Pem { authorities: authorities.contents.clone(), identity };
        Ok(Arc::new(Made { config: Arc::new(config), pem }))
    }
}

/// Opens TLS connections with the files that are in force. Clones share them.
#[derive(Clone)]
pub struct Connector {
    made: watch::Receiver<Arc<Made>>,
    server_name: Option<String>,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Connector").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

impl Connector {
    /// Reads the files, and follows them in a task until `tasks` stop.
    ///
    /// # Errors
    /// If the keys or the files are not valid.
    pub fn start(config: &ClientTlsConfig, keys: ClientKeys, tasks: &Tasks) -> Result<Self, Error> {
        let (connector, renewal) = Self::open(config, keys)?;
        tasks.spawn("certificates", renewal.run(tasks.stopping(), POLL_INTERVAL));
        Ok(connector)
    }

    pub(crate) fn open(config: &ClientTlsConfig, keys: ClientKeys) -> Result<(Self, Renewal<ClientFiles>), Error> {
        let files = config.files(keys.clone())?;
        let (made, renewal) = renewal::open(files).map_err(|invalid| invalid.of_client(&keys))?;
        Ok((Self { made, server_name: config.server_name.clone() }, renewal))
    }

    /// Returns the name that the certificate of the server at `host` must have.
    #[must_use]
    pub fn server_name<'a>(&'a self, host: &'a str) -> &'a str {
        // IPv6 addresses have brackets in URLs only.
        self.server_name.as_deref().unwrap_or_else(|| host.trim_start_matches('[').trim_end_matches(']'))
    }

    /// Returns the contents of the files.
    #[must_use]
    pub fn pem(&self) -> Pem {
        self.made.borrow().pem.clone()
    }

    /// Returns whether the files have changed since this connector, not one of its clones, was last asked.
    pub fn has_changed(&mut self) -> bool {
        // An error means that the files are no longer followed.
        let changed = self.made.has_changed().unwrap_or(false);
        self.made.mark_unchanged();
        changed
    }

    /// Makes the handshake for a connection to `host`. The caller limits its time.
    ///
    /// # Errors
    /// If the certificate of the server is not valid for the name, or is not from one of the authorities.
    pub async fn connect(&self, host: &str, stream: TcpStream) -> io::Result<ClientStream> {
        let name = self.server_name(host);
        let name = ServerName::try_from(name.to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("{name}: {error}")))?;
        let config = self.made.borrow().config.clone();
        TlsConnector::from(config).connect(name, stream).await
    }
}
