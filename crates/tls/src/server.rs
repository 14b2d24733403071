//! TLS of a server.

use std::{io, path::PathBuf, sync::Arc};

use eticket_base::{config::Error, tasks::Tasks};
use rustls::{
    ServerConfig,
    pki_types::CertificateDer,
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    ServerStream,
    config::{SERVER_SECTION, ServerTlsConfig},
    files::{self, Invalid, PemFile},
    provider,
    renewal::{self, POLL_INTERVAL, Renewal, Source},
};

/// HTTP/2, and HTTP/1.1 for browsers; a server of gRPC services refuses the latter with a text.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The files of a server.
#[derive(Clone)]
pub(crate) struct ServerFiles {
    pub(crate) cert_file: PathBuf,
    pub(crate) key_file: PathBuf,
    pub(crate) client_ca_file: Option<PathBuf>,
}

/// Always the same certificate: the name that a client asks for makes no difference.
#[derive(Debug)]
struct One(Arc<CertifiedKey>);

impl ResolvesServerCert for One {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

impl Source for ServerFiles {
    type Contents = (PemFile, PemFile, Option<PemFile>);
    type Made = Arc<ServerConfig>;

    fn key(&self) -> String {
        format!("{SERVER_SECTION}.cert_file")
    }

    fn read(&self) -> Result<Self::Contents, Invalid> {
        let client_ca = self.client_ca_file.as_ref();
        Ok((
            PemFile::read("cert_file", &self.cert_file)?,
            PemFile::read("key_file", &self.key_file)?,
            client_ca.map(|path| PemFile::read("client_ca_file", path)).transpose()?,
        ))
    }

    fn make(&self, (chain, key, client_ca): &Self::Contents) -> Result<Arc<ServerConfig>, Invalid> {
        let certified = files::certified(chain, key)?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| chain.invalid(error.to_string()))?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(file.authorities()?, provider());
                builder.with_client_cert_verifier(verifier.build().map_err(|error| file.invalid(error.to_string()))?)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(One(Arc::new(certified))));
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok(Arc::new(config))
    }
}

/// Accepts TLS connections with the certificate that is in force. Clones share it.
#[derive(Clone)]
pub struct Acceptor {
    config: watch::Receiver<Arc<ServerConfig>>,
    allowed_clients: Arc<[String]>,
}

/// The certificate that a client has shown. Without `tls.client_ca_file` there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    names: Arc<[String]>,
    is_allowed: bool,
}

impl ClientCertificate {
    /// Returns the DNS names of the certificate.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns whether `tls.allowed_clients` has one of the names, or is empty.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.is_allowed
    }

    fn new(certificate: &CertificateDer<'_>, allowed: &[String]) -> io::Result<Self> {
        let invalid = |error: webpki::Error| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
        let names: Arc<[String]> = files::dns_names(certificate).map_err(invalid)?.into();
        let is_allowed = allowed.is_empty() || names.iter().any(|name| allowed.contains(name));
        Ok(Self { names, is_allowed })
    }
}

impl Acceptor {
    /// Reads the files, and follows them in a task until `stopping` is cancelled. Returns `None` if the server serves
    /// plain text.
    ///
    /// # Errors
    /// If the keys or the files are not valid.
    pub fn start(config: &ServerTlsConfig, tasks: &Tasks, stopping: CancellationToken) -> Result<Option<Self>, Error> {
        let Some((acceptor, renewal)) = Self::open(config)? else { return Ok(None) };
        tasks.spawn("certificates", renewal.run(stopping, POLL_INTERVAL));
        Ok(Some(acceptor))
    }

    pub(crate) fn open(config: &ServerTlsConfig) -> Result<Option<(Self, Renewal<ServerFiles>)>, Error> {
        let Some(files) = config.files()? else { return Ok(None) };
        let (made, renewal) = renewal::open(files).map_err(Invalid::of_server)?;
        let allowed = config.allowed_clients.iter().map(|name| name.to_ascii_lowercase());
        Ok(Some((Self { config: made, allowed_clients: allowed.collect() }, renewal)))
    }

    /// Makes the handshake of a connection. The caller limits its time; dropping the future closes the connection.
    ///
    /// # Errors
    /// If the client does not speak TLS, does not accept the certificate, or has no valid certificate itself.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<(ServerStream, Option<ClientCertificate>)> {
        let config = self.config.borrow().clone();
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let client = shown.map(|shown| ClientCertificate::new(shown, &self.allowed_clients)).transpose()?;
        Ok((stream, client))
    }
}
