//! Where an admin command finds the running server, and with which certificates.

use std::net::SocketAddr;

use eticket_base::{config, exit::StartError, tasks::Tasks};
use eticket_rpc_client::addresses;
use eticket_tls::{ClientKeys, ClientTlsConfig, Connector, ServerTlsConfig};
use http::uri::Authority;
use tonic::transport::Endpoint;

/// The server as its configuration describes it.
#[derive(Debug)]
pub(crate) struct Listener {
    /// The key of the address.
    pub(crate) key: String,
    pub(crate) address: SocketAddr,
    pub(crate) tls: ServerTlsConfig,
}

/// The server to call.
#[derive(Debug)]
pub(crate) struct Peer {
    /// `host:port`.
    pub(super) address: String,
    /// `None` for plain text.
    tls: Option<ClientTlsConfig>,
}

impl Peer {
    /// The server at the address of the command line.
    pub(crate) fn given(address: &str, flags: &ClientTlsConfig) -> Result<Self, StartError> {
        let encrypted = address.strip_prefix("https://");
        let host_and_port = authority(encrypted.unwrap_or(address), address)?;
        if encrypted.is_none() && !flags.is_empty() {
            let expected = "the flags for TLS have no effect without https:// before the address";
            return Err(StartError::config("--address", address, expected));
        }
        Ok(Self { address: host_and_port.to_string(), tls: encrypted.map(|_| flags.clone()) })
    }

    /// The server of this configuration. With TLS, its own certificate is also that of the command, and the name to
    /// expect.
    pub(super) fn configured(listener: &Listener, flags: &ClientTlsConfig) -> Result<Self, StartError> {
        let address = reachable(&listener.key, listener.address)?;
        let server = &listener.tls;
        if !server.is_on() {
            return Self::given(&address, flags);
        }
        let mut tls = flags.clone();
        tls.ca_file = tls.ca_file.or_else(|| server.client_ca_file.clone());
        if tls.cert_file.is_none() && tls.key_file.is_none() && server.client_ca_file.is_some() {
            (tls.cert_file, tls.key_file) = (server.cert_file.clone(), server.key_file.clone());
        }
        tls.server_name = tls.server_name.or_else(|| server.first_name());
        Ok(Self { address, tls: Some(tls) })
    }

    /// Must be called within a runtime.
    pub(crate) fn endpoint(&self) -> Result<Endpoint, StartError> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{}", self.address)).map_err(StartError::failed)?;
        let Some(tls) = &self.tls else { return Ok(endpoint) };
        if tls.ca_file.is_none() {
            let expected = "expected the PEM file of the authorities of the server's certificate";
            return Err(config::Error::missing("--ca-file", expected).into());
        }
        // The command ends before the files change.
        let connector = Connector::start(tls, ClientKeys::Flags, &Tasks::new())?;
        let host = endpoint.uri().host().unwrap_or_default().to_owned();
        endpoint.tls_config(addresses::tls_config(&connector, &host)).map_err(StartError::failed)
    }
}

/// Parses `host:port`; `address` is the whole address, for the error.
fn authority(host_and_port: &str, address: &str) -> Result<Authority, StartError> {
    let parsed = host_and_port.parse::<Authority>().ok();
    let parsed = parsed.filter(|parsed| !parsed.host().is_empty() && !parsed.as_str().contains('@'));
    parsed.filter(|parsed| parsed.port_u16().is_some_and(|port| port > 0)).ok_or_else(|| {
        let expected = match address.contains("://") {
            true => "expected host:port, without http://, such as 127.0.0.1:8088; with TLS https://host:port",
            false => "expected host:port, such as 127.0.0.1:8088",
        };
        StartError::config("--address", address, expected)
    })
}

/// The address at which this machine reaches a server that listens at `listen`.
fn reachable(key: &str, listen: SocketAddr) -> Result<String, StartError> {
    if listen.port() == 0 {
        let expected = "the server selected a free port, which its ready line shows: set --address to it";
        return Err(StartError::config(key, listen.to_string(), expected));
    }
    let mut address = listen;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    Ok(address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(address: &str) -> Result<Peer, StartError> {
        Peer::given(address, &ClientTlsConfig::default())
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for address in ["127.0.0.1:8088", "gateway.example:8088", "[::1]:8088"] {
            let peer = given(address).expect(address);
            assert_eq!((peer.address.as_str(), peer.tls), (address, None));
            let peer = given(&format!("https://{address}")).expect(address);
            assert_eq!((peer.address.as_str(), peer.tls), (address, Some(ClientTlsConfig::default())));
        }
        for address in [
            "",
            "nowhere",
            "nowhere:",
            ":1",
            "h:port",
            "h:70000",
            "h:0",
            "u@h:1",
            "h:1/",
            "h:1/x",
            "http://h:1",
            "h h:1",
        ] {
            let error = given(address).expect_err(address);
            assert_eq!(error.code(), 78, "{address}");
            assert!(error.to_string().contains("expected host:port"), "{error}");
        }
        assert!(given("http://h:1").expect_err("a URL").to_string().contains("without http://"));
        let flags = ClientTlsConfig { ca_file: Some("ca.pem".into()), ..ClientTlsConfig::default() };
        assert_eq!(Peer::given("h:1", &flags).expect_err("plain text").code(), 78);
        assert_eq!(given("https://h:1").expect("valid").endpoint().expect_err("no authority").code(), 78);
    }

    #[test]
    fn a_server_on_all_interfaces_is_reached_on_the_loopback() {
        let reach = |listen: &str| reachable("listen", listen.parse().expect("an address"));
        assert_eq!(reach("0.0.0.0:8082").expect("reachable"), "127.0.0.1:8082");
        assert_eq!(reach("[::]:8082").expect("reachable"), "[::1]:8082");
        assert_eq!(reach("10.0.0.1:8082").expect("reachable"), "10.0.0.1:8082");
        assert_eq!(reach("127.0.0.1:0").expect_err("unknown").code(), 78);
    }

    #[test]
    fn a_server_with_tls_is_called_with_its_own_certificate() {
        let tls = ServerTlsConfig {
            cert_file: Some("cert.pem".into()),
            key_file: Some("key.pem".into()),
            client_ca_file: Some("ca.pem".into()),
            ..ServerTlsConfig::default()
        };
        let listener = Listener { key: "listen".to_owned(), address: SocketAddr::from(([127, 0, 0, 1], 1)), tls };
        let flags = ClientTlsConfig { server_name: Some("ticket".to_owned()), ..ClientTlsConfig::default() };
        let peer = Peer::configured(&listener, &flags).expect("valid");
        let expected = ClientTlsConfig {
            ca_file: Some("ca.pem".into()),
            cert_file: Some("cert.pem".into()),
            key_file: Some("key.pem".into()),
            server_name: Some("ticket".to_owned()),
        };
        assert_eq!(peer.tls, Some(expected));
        let plain = Listener { tls: ServerTlsConfig::default(), ..listener };
        assert_eq!(Peer::configured(&plain, &ClientTlsConfig::default()).expect("valid").tls, None);
    }
}
