//! A channel that spreads calls over all addresses of a service and follows address changes.
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
use eticket_base::tasks::Tasks;
use http::Uri;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::{mpsc::Sender, watch};
use tonic::transport::{Channel, Endpoint, channel::Change};

/// Interval between two resolutions of a name.
const POLL_INTERVAL: Duration = Duration::from_secs(3);
/// Limit for establishing a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Interval of keep-alive pings on a connection, and the limit for the response.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// Capacity for address changes that the channel has not processed yet.
const CHANGES: usize = 64;

/// The addresses of a service: `http://host:port`, several separated by commas. Each host may resolve to several
/// addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Targets(Vec<Target>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Target {
    host: String,
    port: u16,
}

/// The text is not a list of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected http://host:port, several separated by commas, got {0:?}")]
pub struct InvalidTargets(String);

impl FromStr for Targets {
    type Err = InvalidTargets;

    fn from_str(text: &str) -> Result<Self, InvalidTargets> {
        let target = |text: &str| {
            let uri: Uri = text.trim().parse().ok()?;
            let bare = uri.path_and_query().is_none_or(|path| path.as_str() == "/");
            let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
            let port = authority.port_u16().filter(|port| *port != 0)?;
            let plain = uri.scheme_str() == Some("http") && bare && !authority.host().is_empty();
            plain.then(|| Target { host: authority.host().to_owned(), port })
        };
        let targets: Option<Vec<_>> = text.split(',').map(target).collect();
        targets.map(Self).ok_or_else(|| InvalidTargets(text.chars().take(200).collect()))
    }
}

impl fmt::Display for Targets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Target { host, port }) in self.0.iter().enumerate() {
            write!(formatter, "{}http://{host}:{port}", if index == 0 { "" } else { "," })?;
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

/// Returns a channel over all addresses of `targets`. A task in `tasks` follows address changes until `tasks` stops.
/// Connections are opened when first needed; while no address is known, calls wait until their deadlines.
///
/// Must be called within a runtime.
#[must_use]
pub fn channel(upstream: &'static str, targets: &Targets, tasks: &Tasks) -> Channel {
    channel_by(upstream, targets, tasks, Arc::new(Dns))
}

fn channel_by(upstream: &'static str, targets: &Targets, tasks: &Tasks, resolve: Arc<dyn Resolve>) -> Channel {
    let (channel, changes) = Channel::balance_channel(CHANGES);
    let (targets, stopping) = (targets.0.clone(), tasks.stopping());
    tasks.spawn("addresses", async move {
        let following = follow(upstream, &targets, &*resolve, &changes);
        stopping.run_until_cancelled(following).await;
        // The channel keeps its addresses while the last calls finish: dropping the sender removes none.
    });
    channel
}

/// An address, and the name that requests to it contain.
type Key = (SocketAddr, Target);

async fn follow(
    upstream: &'static str,
    targets: &[Target],
    resolve: &dyn Resolve,
    changes: &Sender<Change<Key, Endpoint>>,
) {
    let mut known: BTreeMap<Target, BTreeSet<SocketAddr>> = BTreeMap::new();
    loop {
        for target in targets {
            let Some(addresses) = look_up(upstream, target, resolve).await else { continue };
            let before = known.insert(target.clone(), addresses.clone()).unwrap_or_default();
            if before != addresses {
                let addresses = listed(&addresses);
                tracing::info!(upstream, host = target.host, addresses, "addresses changed");
            }
            // New addresses first, so that the channel is never empty.
            for change in differences(target, &before, &addresses) {
                if changes.send(change).await.is_err() {
                    return;
                }
            }
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Resolves a name; `None` if that fails or finds no address.
async fn look_up(upstream: &'static str, target: &Target, resolve: &dyn Resolve) -> Option<BTreeSet<SocketAddr>> {
    match resolve.resolve(&target.host, target.port).await {
        Ok(addresses) if !addresses.is_empty() => Some(usable(addresses)),
        found => {
            let error = found.err().map_or_else(|| "no address".to_owned(), |error| error.to_string());
            tracing::warn!(upstream, host = target.host, error, "name not resolved, keeping its addresses");
            None
        }
    }
}

fn listed<'a>(addresses: impl IntoIterator<Item = &'a SocketAddr>) -> String {
    addresses.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// One address of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The socket address to connect to.
    pub socket: SocketAddr,
    /// `host:port`, the authority of requests to this address.
    pub authority: String,
}

/// Follows the addresses of `targets`, for callers that open connections without [`channel`]. The list is empty until
/// the first name is resolved. A task in `tasks` updates it until `tasks` stops or all receivers are dropped.
#[must_use]
pub fn addresses(upstream: &'static str, targets: &Targets, tasks: &Tasks) -> watch::Receiver<Vec<Address>> {
    addresses_by(upstream, targets, tasks, Arc::new(Dns))
}

fn addresses_by(
    upstream: &'static str,
    targets: &Targets,
    tasks: &Tasks,
    resolve: Arc<dyn Resolve>,
) -> watch::Receiver<Vec<Address>> {
    let (sender, receiver) = watch::channel(Vec::new());
    let (targets, stopping) = (targets.0.clone(), tasks.stopping());
    tasks.spawn("addresses", async move {
        let publishing = publish(upstream, &targets, &*resolve, &sender);
        stopping.run_until_cancelled(publishing).await;
    });
    receiver
}

async fn publish(
    upstream: &'static str,
    targets: &[Target],
    resolve: &dyn Resolve,
    sender: &watch::Sender<Vec<Address>>,
) {
    let mut known: BTreeMap<&Target, BTreeSet<SocketAddr>> = BTreeMap::new();
    while !sender.is_closed() {
        for target in targets {
            if let Some(addresses) = look_up(upstream, target, resolve).await {
                known.insert(target, addresses);
            }
        }
        let all = |(target, addresses): (&&Target, &BTreeSet<SocketAddr>)| {
            let authority = format!("{}:{}", target.host, target.port);
            let address = |socket: &SocketAddr| Address { socket: *socket, authority: authority.clone() };
            addresses.iter().map(address).collect::<Vec<_>>()
        };
        let now: Vec<_> = known.iter().flat_map(all).collect();
        sender.send_if_modified(|before| {
            let changed = *before != now;
            if changed {
                let addresses = listed(now.iter().map(|address| &address.socket));
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

fn differences<'a>(
    target: &'a Target,
    before: &'a BTreeSet<SocketAddr>,
    now: &'a BTreeSet<SocketAddr>,
) -> impl Iterator<Item = Change<Key, Endpoint>> + 'a {
    let new = now.difference(before).filter_map(|address| {
        let endpoint = endpoint(*address, target)?;
        Some(Change::Insert((*address, target.clone()), endpoint))
    });
    let gone = before.difference(now).map(|address| Change::Remove((*address, target.clone())));
    new.chain(gone)
}

fn endpoint(address: SocketAddr, target: &Target) -> Option<Endpoint> {
    // A target was parsed from a URL, so this cannot fail.
    let origin: Uri = format!("http://{}:{}", target.host, target.port).parse().ok()?;
    let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
    Some(
        endpoint
            .origin(origin)
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1)
            .keep_alive_while_idle(true),
    )
}

#[cfg(test)]
mod tests;
