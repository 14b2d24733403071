//! Where the keys are read from: a file, or a URL of the identity provider.

use std::{net::IpAddr, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use bytes::Bytes;
use eticket_base::{config::regular_file, error::chain};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{ClientConfig, RootCertStore};
use url::{Host, Url};

use crate::keys::{InvalidKeys, MOST_BYTES};

/// The longest time of one request to the identity provider.
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    File(PathBuf),
    Url(Url),
}

impl FromStr for Source {
    type Err = String;

    /// Keys that travel without TLS could be replaced on the way, so a plain URL must name the loopback.
    fn from_str(text: &str) -> Result<Self, String> {
        if !text.contains("://") {
            return Ok(Self::File(PathBuf::from(text)));
        }
        let url: Url = text.parse().map_err(|error| format!("expected a file or an https:// URL: {error}"))?;
        let is_loopback = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => IpAddr::from(address).is_loopback(),
            Some(Host::Ipv6(address)) => IpAddr::from(address).is_loopback(),
            None => false,
        };
        match url.scheme() {
            "https" => Ok(Self::Url(url)),
            "http" if is_loopback => Ok(Self::Url(url)),
            "http" => Err("expected an https:// URL; http:// is accepted for loopback hosts only".to_owned()),
            _ => Err("expected a file or an https:// URL".to_owned()),
        }
    }
}

/// Reads the document of a source.
pub(crate) enum Reader {
    File(PathBuf),
    Url { url: Url, client: Box<Client<HttpsConnector<HttpConnector>, Empty<Bytes>>> },
}

impl Reader {
    /// # Errors
    /// If the certificates of the system cannot be read.
    pub(crate) fn new(source: Source) -> Result<Self, InvalidKeys> {
        match source {
            Source::File(path) => Ok(Self::File(path)),
            Source::Url(url) => {
                let provider = rustls::crypto::aws_lc_rs::default_provider();
                let builder = HttpsConnectorBuilder::new();
                let builder = if url.scheme() == "https" {
                    let missing = |error| InvalidKeys::Fetch(format!("the certificates of the system: {error}"));
                    builder.with_provider_and_native_roots(provider).map_err(missing)?
                } else {
                    let config = ClientConfig::builder_with_provider(Arc::new(provider));
                    let config = config.with_safe_default_protocol_versions();
                    let config = config.map_err(|error| InvalidKeys::Fetch(error.to_string()))?;
                    builder.with_tls_config(config.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
                };
                let connector = builder.https_or_http().enable_http1().build();
                Ok(Self::Url { url, client: Box::new(Client::builder(TokioExecutor::new()).build(connector)) })
            }
        }
    }

    pub(crate) async fn read(&self) -> Result<Bytes, InvalidKeys> {
        match self {
            Self::File(path) => {
                let metadata = tokio::fs::metadata(path).await.map_err(InvalidKeys::File)?;
                regular_file::check(&metadata).map_err(InvalidKeys::File)?;
                tokio::fs::read(path).await.map(Bytes::from).map_err(InvalidKeys::File)
            }
            Self::Url { url, client } => {
                let fetched = tokio::time::timeout(TIMEOUT, fetch(client, url)).await;
                let late = |_| Err(format!("no response within {} s", TIMEOUT.as_secs()));
                fetched.unwrap_or_else(late).map_err(|error| InvalidKeys::Fetch(format!("{url}: {error}")))
            }
        }
    }
}

async fn fetch(client: &Client<HttpsConnector<HttpConnector>, Empty<Bytes>>, url: &Url) -> Result<Bytes, String> {
    let uri = url.as_str().parse().map_err(|error| format!("{error}"))?;
    let response = client.get(uri).await.map_err(|error| chain(&error).to_string())?;
    if response.status() != http::StatusCode::OK {
        return Err(format!("status {}", response.status()));
    }
    let body = Limited::new(response.into_body(), MOST_BYTES).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|error| error.to_string())
}
