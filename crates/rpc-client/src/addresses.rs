//! The addresses of a service, followed as they change.
//!
//! Names are resolved again every few seconds: in Kubernetes the name of a headless service has one address per
//! replica. If a name cannot be resolved, its previous addresses stay in use: stale addresses are better than none.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    net::SocketAddr,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use eticket_base::{config::Error, error::chain, in_process::Dialer, tasks::Tasks};
use eticket_tls::{ClientKeys, ClientTlsConfig, Connector};
use http::Uri;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::watch;
use tonic::transport::{self, Certificate, Endpoint, Identity};

/// Interval between two resolutions of a name.
const POLL_INTERVAL: Duration = Duration::from_secs(3);
/// Limit for establishing a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
const HTTP: &str = "http";
const HTTPS: &str = "https";

/// The addresses of a service: `http://host:port` or `https://host:port`, several with the same scheme separated by
/// commas. Each host may resolve to several addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Targets {
    scheme: &'static str,
    targets: Vec<Target>,
    /// Reaches them without the network; `None` if they are in other processes.
    in_process: Option<Dialer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Target {
    host: String,
    port: u16,
}

impl Target {
    fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// The text is not a list of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected http://host:port, or https:// for all, several separated by commas, got {0:?}")]
pub struct InvalidTargets(String);

impl FromStr for Targets {
    type Err = InvalidTargets;

    fn from_str(text: &str) -> Result<Self, InvalidTargets> {
        let target = |text: &str| {
            let uri: Uri = text.trim().parse().ok()?;
            let bare = uri.path_and_query().is_none_or(|path| path.as_str() == "/");
            let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
            let port = authority.port_u16().filter(|port| *port != 0)?;
            let scheme = [HTTP, HTTPS].into_iter().find(|scheme| uri.scheme_str() == Some(scheme))?;
            let valid = bare && !authority.host().is_empty();
            valid.then(|| (scheme, Target { host: authority.host().to_owned(), port }))
        };
        let invalid = || InvalidTargets(text.chars().take(200).collect());
        let parsed: Vec<_> = text.split(',').map(target).collect::<Option<_>>().ok_or_else(invalid)?;
        let scheme = parsed.first().map(|(scheme, _)| *scheme).ok_or_else(invalid)?;
        if parsed.iter().any(|(other, _)| *other != scheme) {
            return Err(invalid());
        }
        Ok(Self { scheme, targets: parsed.into_iter().map(|(_, target)| target).collect(), in_process: None })
    }
}

impl Targets {
    /// Lets connections go through `dialer`, which must lead to the server of these URLs.
    #[must_use]
    pub fn in_process(mut self, dialer: Dialer) -> Self {
        self.in_process = Some(dialer);
        self
    }

    /// Returns whether the URLs are `https`.
    #[must_use]
    pub fn are_encrypted(&self) -> bool {
        self.scheme == HTTPS
    }

    /// Returns what opens connections with TLS; `None` if the URLs are `http`. `upstream` is the section of the
    /// upstream in the configuration. A task in `tasks` follows the files until `tasks` stops.
    ///
    /// # Errors
    /// If the keys or the files are not valid.
    pub fn connector(&self, tls: &ClientTlsConfig, upstream: &str, tasks: &Tasks) -> Result<Option<Connector>, Error> {
        let keys = || ClientKeys::Upstream(upstream.to_owned());
        self.are_encrypted().then(|| Connector::start(tls, keys(), tasks)).transpose()
    }
}

impl fmt::Display for Targets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Target { host, port }) in self.targets.iter().enumerate() {
            write!(formatter, "{}{}://{host}:{port}", if index == 0 { "" } else { "," }, self.scheme)?;
        }
        Ok(())
    }
}

impl Serialize for Targets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Targets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Resolves a name to addresses.
#[async_trait]
trait Resolve: Send + Sync + 'static {
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

struct Dns;

#[async_trait]
impl Resolve for Dns {
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        // IPv6 addresses have brackets in URLs only.
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Ok(tokio::net::lookup_host((host, port)).await?.collect())
    }
}

/// Resolves a name to at least one address; the error says why there is none.
async fn look_up(target: &Target, resolve: &dyn Resolve) -> Result<BTreeSet<SocketAddr>, String> {
    match resolve.resolve(&target.host, target.port).await {
        Ok(addresses) if addresses.is_empty() => Err("the name has no address".to_owned()),
        Ok(addresses) => Ok(usable(addresses)),
        Err(error) => Err(format!("the name cannot be resolved: {error}")),
    }
}

/// One address of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The socket address to connect to.
    pub socket: SocketAddr,
    /// `host:port`, the authority of requests to this address.
    pub authority: String,
    /// Connects without the network, if the server is in this process.
    pub in_process: Option<Dialer>,
}

/// Follows the addresses of `targets`. The list is empty until the first name is resolved. A task in `tasks` updates it
/// until `tasks` stops or all receivers are dropped. `upstream` names the service in logs.
#[must_use]
pub fn follow(upstream: &'static str, targets: &Targets, tasks: &Tasks) -> watch::Receiver<Vec<Address>> {
    follow_by(upstream, targets, tasks, Arc::new(Dns))
}

fn follow_by(
    upstream: &'static str,
    targets: &Targets,
    tasks: &Tasks,
    resolve: Arc<dyn Resolve>,
) -> watch::Receiver<Vec<Address>> {
    let (sender, receiver) = watch::channel(Vec::new());
    let (targets, stopping) = (targets.clone(), tasks.stopping());
    tasks.spawn("addresses", async move {
        let publishing = publish(upstream, &targets, &*resolve, &sender);
        stopping.run_until_cancelled(publishing).await;
    });
    receiver
}

async fn publish(
    upstream: &'static str,
    targets: &Targets,
    resolve: &dyn Resolve,
    sender: &watch::Sender<Vec<Address>>,
) {
    let mut known: BTreeMap<&Target, BTreeSet<SocketAddr>> = BTreeMap::new();
    while !sender.is_closed() {
        for target in &targets.targets {
            match look_up(target, resolve).await {
                Ok(addresses) => drop(known.insert(target, addresses)),
                Err(error) => tracing::warn!(upstream, host = target.host, error, "keeping the addresses of a name"),
            }
        }
        let all = |(target, addresses): (&&Target, &BTreeSet<SocketAddr>)| {
            let authority = target.authority();
            let address = |socket: &SocketAddr| Address {
                socket: *socket,
                authority: authority.clone(),
                in_process: targets.in_process.clone(),
            };
            addresses.iter().map(address).collect::<Vec<_>>()
        };
        let now: Vec<_> = known.iter().flat_map(all).collect();
        sender.send_if_modified(|before| {
            let changed = *before != now;
            if changed {
                let addresses = now.iter().map(|address| address.socket.to_string()).collect::<Vec<_>>().join(", ");
                tracing::info!(upstream, addresses, "addresses changed");
                *before = now;
            }
            changed
        });
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Removes the IPv6 loopback address if there is an IPv4 one: `localhost` often has both, while a server listens on one
/// of them, by default the IPv4 address.
fn usable(addresses: Vec<SocketAddr>) -> BTreeSet<SocketAddr> {
    let loopback_v4 = addresses.iter().any(|address| address.is_ipv4() && address.ip().is_loopback());
    addresses.into_iter().filter(|address| !(loopback_v4 && address.is_ipv6() && address.ip().is_loopback())).collect()
}

fn endpoint(address: SocketAddr, target: &Target, tls: Option<&Connector>) -> Option<Endpoint> {
    let scheme = if tls.is_some() { HTTPS } else { HTTP };
    // A target was parsed from a URL, so this cannot fail.
    let origin: Uri = format!("{scheme}://{}", target.authority()).parse().ok()?;
    let endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).ok()?;
    let endpoint = endpoint.origin(origin).connect_timeout(CONNECT_TIMEOUT);
    let Some(tls) = tls else { return Some(endpoint) };
    let encrypted = endpoint.tls_config(tls_config(tls, &target.host));
    // The connector has accepted the same files.
    encrypted.inspect_err(|error| tracing::error!(error = %chain(error), "the TLS files cannot be used")).ok()
}

/// An address of a service, to be tried once.
#[derive(Debug)]
pub struct Probe {
    /// `host:port` of the URL.
    pub authority: String,
    /// The socket address; `None` if the name has none.
    pub socket: Option<SocketAddr>,
    /// What connects to the socket address, or why there is none.
    pub endpoint: Result<Endpoint, String>,
}

/// Resolves the names of `targets` once. `tls` is the connector of `targets`. A name that cannot be resolved gives one
/// probe with the reason.
pub async fn probes(targets: &Targets, tls: Option<&Connector>) -> Vec<Probe> {
    let each = targets.targets.iter().map(|target| async move {
        let authority = target.authority();
        let probe = |socket: SocketAddr| {
            let endpoint = endpoint(socket, target, tls).ok_or_else(|| "the TLS files cannot be used".to_owned());
            Probe { authority: authority.clone(), socket: Some(socket), endpoint }
        };
        match look_up(target, &Dns).await {
            Ok(addresses) => addresses.into_iter().map(probe).collect(),
            Err(problem) => vec![Probe { authority: authority.clone(), socket: None, endpoint: Err(problem) }],
        }
    });
    futures::future::join_all(each).await.into_iter().flatten().collect()
}

/// Returns the TLS settings of tonic for connections to `host`, with the files that are in force.
#[must_use]
pub fn tls_config(tls: &Connector, host: &str) -> transport::ClientTlsConfig {
    let pem = tls.pem();
    let config = transport::ClientTlsConfig::new()
        .domain_name(tls.server_name(host))
        .ca_certificate(Certificate::from_pem(pem.authorities))
        .timeout(CONNECT_TIMEOUT);
    match pem.identity {
        Some((certificate, key)) => config.identity(Identity::from_pem(certificate, key)),
        None => config,
    }
}

#[cfg(test)]
mod tests;
