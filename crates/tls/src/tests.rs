//! Handshakes over the loopback, with certificates made for the test.

use std::{fs, io, path::PathBuf, time::Duration};

use eticket_base::config::Error;
use eticket_local_servers::certificates::{Authority, Identity};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Acceptor, ClientCertificate, ClientKeys, ClientStream, ClientTlsConfig, Connector, ServerStream, ServerTlsConfig,
};

const SERVER: &str = "ticket.internal";
const BOUND: Duration = Duration::from_secs(30);

/// A folder with files of one authority, and of a foreign one.
struct World {
    folder: TempDir,
    authority: Authority,
    foreign: Authority,
}

impl World {
    fn new() -> Self {
        let authority = || Authority::new().expect("a certificate");
        let world =
            Self { folder: tempfile::tempdir().expect("a folder"), authority: authority(), foreign: authority() };
        fs::write(world.path("ca.pem"), world.authority.pem()).expect("written");
        fs::write(world.path("foreign-ca.pem"), world.foreign.pem()).expect("written");
        world.write("server", &world.issue(SERVER));
        world.write("client", &world.issue("gateway.internal"));
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn issue(&self, name: &str) -> Identity {
        self.authority.issue(&[name]).expect("a certificate")
    }

    fn write(&self, name: &str, identity: &Identity) {
        identity.write(self.folder.path(), name).expect("written");
    }

    fn server(&self) -> ServerTlsConfig {
        ServerTlsConfig {
            cert_file: Some(self.path("server.pem")),
            key_file: Some(self.path("server.key")),
            ..ServerTlsConfig::default()
        }
    }

    fn mutual(&self) -> ServerTlsConfig {
        ServerTlsConfig { client_ca_file: Some(self.path("ca.pem")), ..self.server() }
    }

    fn anonymous(&self) -> ClientTlsConfig {
        ClientTlsConfig { ca_file: Some(self.path("ca.pem")), ..ClientTlsConfig::default() }
    }

    fn client(&self) -> ClientTlsConfig {
        ClientTlsConfig {
            cert_file: Some(self.path("client.pem")),
            key_file: Some(self.path("client.key")),
            ..self.anonymous()
        }
    }
}

fn acceptor(config: &ServerTlsConfig) -> Acceptor {
    Acceptor::open(config).expect("valid files").expect("TLS").0
}

fn upstream() -> ClientKeys {
    ClientKeys::Upstream("upstream.ticket".to_owned())
}

fn connector(config: &ClientTlsConfig) -> Connector {
    Connector::open(config, upstream()).expect("valid files").0
}

type Accepted = io::Result<(ServerStream, Option<ClientCertificate>)>;

/// Connects; returns the outcomes of both sides.
async fn meet(acceptor: &Acceptor, connector: &Connector, host: &str) -> (Accepted, io::Result<ClientStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let accepting = async {
        let (stream, _) = listener.accept().await.expect("a connection");
        acceptor.accept(stream).await
    };
    let connecting = async {
        let stream = TcpStream::connect(address).await.expect("connected");
        connector.connect(host, stream).await
    };
    timeout(BOUND, async { tokio::join!(accepting, connecting) }).await.expect("in time")
}

fn shown(stream: io::Result<ClientStream>) -> Vec<u8> {
    let stream = stream.expect("a connection");
    stream.get_ref().1.peer_certificates().expect("a certificate")[0].to_vec()
}

fn text(outcome: io::Result<impl Sized>) -> String {
    outcome.map(drop).expect_err("a refusal").to_string()
}

#[tokio::test]
async fn both_sides_exchange_bytes_by_http_2() {
    let world = World::new();
    let (accepted, connected) = meet(&acceptor(&world.server()), &connector(&world.anonymous()), SERVER).await;
    let ((mut server, certificate), mut client) = (accepted.expect("accepted"), connected.expect("connected"));
    assert_eq!(certificate, None, "clients need none");
    assert_eq!(server.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    client.write_all(b"hello").await.expect("sent");
    client.flush().await.expect("sent");
    let mut read = [0; 5];
    server.read_exact(&mut read).await.expect("received");
    assert_eq!(&read, b"hello");
}

#[tokio::test]
async fn a_client_refuses_a_wrong_name_a_foreign_authority_and_an_expired_certificate() {
    let world = World::new();
    let (acceptor, anonymous) = (acceptor(&world.server()), connector(&world.anonymous()));
    let refused = text(meet(&acceptor, &anonymous, "pricing.internal").await.1);
    assert!(refused.contains("NotValidForName") || refused.contains("not valid for name"), "{refused}");
    let named = ClientTlsConfig { server_name: Some(SERVER.to_owned()), ..world.anonymous() };
    assert!(meet(&acceptor, &connector(&named), "127.0.0.1").await.1.is_ok(), "server_name replaces the host");
    let foreign = ClientTlsConfig { ca_file: Some(world.path("foreign-ca.pem")), ..ClientTlsConfig::default() };
    let refused = text(meet(&acceptor, &connector(&foreign), SERVER).await.1);
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    world.write("server", &world.authority.issue_expired(&[SERVER]).expect("a certificate"));
    let refused = text(meet(&self::acceptor(&world.server()), &anonymous, SERVER).await.1);
    assert!(refused.contains("expired"), "{refused}");
}

#[tokio::test]
async fn a_server_refuses_clients_without_a_valid_certificate_of_the_authority() {
    let world = World::new();
    let acceptor = acceptor(&world.mutual());
    let refused = text(meet(&acceptor, &connector(&world.anonymous()), SERVER).await.0);
    assert!(refused.contains("no certificates"), "{refused}");
    let certificate = meet(&acceptor, &connector(&world.client()), SERVER).await.0.expect("accepted").1;
    assert_eq!(certificate.expect("shown").names(), ["gateway.internal"]);
    world.write("client", &world.foreign.issue(&["gateway.internal"]).expect("a certificate"));
    let refused = text(meet(&acceptor, &connector(&world.client()), SERVER).await.0);
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    world.write("client", &world.authority.issue_expired(&["gateway.internal"]).expect("a certificate"));
    let refused = text(meet(&acceptor, &connector(&world.client()), SERVER).await.0);
    assert!(refused.contains("expired"), "{refused}");
}

#[tokio::test]
async fn a_client_is_allowed_by_one_of_its_names() {
    let world = World::new();
    world.write("client", &world.authority.issue(&["*.internal", "gateway.internal"]).expect("a certificate"));
    let client = connector(&world.client());
    for (allowed, expected) in [
        (&[][..], true),
        (&["reservation.internal", "Gateway.Internal"], true),
        (&["reservation.internal"], false),
        (&["internal", "xgateway.internal"], false),
    ] {
        let allowed_clients = allowed.iter().map(|name| (*name).to_owned()).collect();
        let acceptor = acceptor(&ServerTlsConfig { allowed_clients, ..world.mutual() });
        let certificate = meet(&acceptor, &client, SERVER).await.0.expect("accepted").1.expect("shown");
        assert_eq!(certificate.is_allowed(), expected, "{allowed:?}");
    }
}

#[tokio::test]
async fn plain_text_is_refused() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mut client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
    client.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("sent");
    let (stream, _) = listener.accept().await.expect("a connection");
    assert!(acceptor(&world.server()).accept(stream).await.is_err());
    let mut answer = Vec::new();
    timeout(BOUND, client.read_to_end(&mut answer)).await.expect("closed").ok();
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[tokio::test]
async fn changed_files_are_used_for_new_connections() {
    let world = World::new();
    let (acceptor, mut renewal) = Acceptor::open(&world.mutual()).expect("valid files").expect("TLS");
    let (mut client, mut client_renewal) = Connector::open(&world.client(), upstream()).expect("valid files");
    let first = shown(meet(&acceptor, &client, SERVER).await.1);
    world.write("server", &world.issue(SERVER));
    world.write("client", &world.issue("reservation.internal"));
    assert_eq!(shown(meet(&acceptor, &client, SERVER).await.1), first, "not read yet");
    assert!(!client.has_changed());
    renewal.refresh();
    client_renewal.refresh();
    let (accepted, connected) = meet(&acceptor, &client, SERVER).await;
    assert_ne!(shown(connected), first);
    assert_eq!(accepted.expect("accepted").1.expect("shown").names(), ["reservation.internal"]);
    assert!(client.has_changed() && !client.has_changed(), "once for each change");
    fs::write(world.path("ca.pem"), world.foreign.pem()).expect("written");
    renewal.refresh();
    let refused = text(meet(&acceptor, &client, SERVER).await.0);
    assert!(refused.contains("UnknownIssuer"), "the authorities of clients are renewed as well: {refused}");
}

#[tokio::test]
async fn files_that_do_not_belong_together_keep_the_previous_ones_in_force() {
    let world = World::new();
    let (acceptor, mut renewal) = Acceptor::open(&world.mutual()).expect("valid files").expect("TLS");
    let client = connector(&world.client());
    let first = shown(meet(&acceptor, &client, SERVER).await.1);
    let next = world.issue(SERVER);
    // A renewal writes one file after the other.
    for half in [next.certificate.as_bytes(), b"", &next.certificate.as_bytes()[..200], b"not PEM"] {
        fs::write(world.path("server.pem"), half).expect("written");
        renewal.refresh();
        assert_eq!(shown(meet(&acceptor, &client, SERVER).await.1), first);
    }
    fs::remove_file(world.path("server.pem")).expect("removed");
    renewal.refresh();
    assert_eq!(shown(meet(&acceptor, &client, SERVER).await.1), first);
    world.write("server", &next);
    renewal.refresh();
    assert_ne!(shown(meet(&acceptor, &client, SERVER).await.1), first);
}

#[tokio::test]
async fn files_are_read_again_until_the_server_stops() {
    let world = World::new();
    let (acceptor, renewal) = Acceptor::open(&world.server()).expect("valid files").expect("TLS");
    let client = connector(&world.anonymous());
    let first = shown(meet(&acceptor, &client, SERVER).await.1);
    let stopping = CancellationToken::new();
    let running = tokio::spawn(renewal.run(stopping.clone(), Duration::from_millis(10)));
    world.write("server", &world.issue(SERVER));
    let renewed = async { while shown(meet(&acceptor, &client, SERVER).await.1) == first {} };
    timeout(BOUND, renewed).await.expect("renewed");
    stopping.cancel();
    timeout(BOUND, running).await.expect("it ends").expect("no panic");
    assert!(meet(&acceptor, &client, SERVER).await.1.is_ok(), "the last files stay in force while the server drains");
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let world = World::new();
    let server = ServerTlsConfig { key_file: Some(world.path("client.key")), ..world.server() };
    let refused = server.check().expect_err("another key");
    assert_eq!(refused.key(), "tls.key_file");
    assert!(refused.to_string().contains("is not the key of the certificate in"), "{refused}");
    let client = ClientTlsConfig { key_file: Some(world.path("server.key")), ..world.client() };
    assert_eq!(client.check("upstream.ticket", Some(true)).expect_err("another").key(), "upstream.ticket.tls.key_file");
}

#[test]
fn errors_of_a_server_name_key_and_file() {
    let world = World::new();
    assert_eq!(ServerTlsConfig::default().check(), Ok(()));
    assert_eq!(world.mutual().check(), Ok(()));
    fs::write(world.path("empty"), "").expect("written");
    fs::write(world.path("text"), "not PEM").expect("written");
    let file = |name: &str| Some(world.path(name));
    let names = |names: &str| vec![names.to_owned()];
    for (config, key, words) in [
        (ServerTlsConfig { cert_file: file("none"), ..world.server() }, "tls.cert_file", "cannot be read"),
        (ServerTlsConfig { cert_file: file("empty"), ..world.server() }, "tls.cert_file", "is empty"),
        (ServerTlsConfig { cert_file: file("text"), ..world.server() }, "tls.cert_file", "BEGIN CERTIFICATE"),
        (ServerTlsConfig { cert_file: file("server.key"), ..world.server() }, "tls.cert_file", "BEGIN CERTIFICATE"),
        (ServerTlsConfig { key_file: file("none"), ..world.server() }, "tls.key_file", "cannot be read"),
        (ServerTlsConfig { key_file: file("server.pem"), ..world.server() }, "tls.key_file", "BEGIN PRIVATE KEY"),
        (ServerTlsConfig { key_file: None, ..world.server() }, "tls.key_file", "is not set"),
        (ServerTlsConfig { cert_file: None, ..world.server() }, "tls.cert_file", "is not set"),
        (ServerTlsConfig { client_ca_file: file("text"), ..world.server() }, "tls.client_ca_file", "CERTIFICATE"),
        (
            ServerTlsConfig { client_ca_file: file("ca.pem"), ..ServerTlsConfig::default() },
            "tls.client_ca_file",
            "no effect",
        ),
        (ServerTlsConfig { allowed_clients: names("a"), ..world.server() }, "tls.allowed_clients", "no effect"),
        (ServerTlsConfig { allowed_clients: names("*.a"), ..world.mutual() }, "tls.allowed_clients", "wildcards"),
        (ServerTlsConfig { allowed_clients: names("::1"), ..world.mutual() }, "tls.allowed_clients", "DNS names"),
    ] {
        let refused = config.check().expect_err(words);
        assert!(refused.key() == key && refused.to_string().contains(words), "{words}: {refused}");
        assert!(Acceptor::open(&config).is_err(), "{words}");
    }
}

#[test]
fn errors_of_a_client_name_key_and_file() {
    let world = World::new();
    let check = |config: &ClientTlsConfig, encrypted| config.check("upstream.ticket", encrypted);
    let none = ClientTlsConfig::default();
    assert_eq!((check(&none, None), check(&none, Some(false))), (Ok(()), Ok(())));
    assert_eq!((check(&world.client(), Some(true)), check(&world.anonymous(), None)), (Ok(()), Ok(())));
    let refused = |outcome: Result<(), Error>, key: &str, words: &str| {
        let error = outcome.expect_err(words);
        assert!(error.key() == format!("upstream.ticket.tls.{key}") && error.to_string().contains(words), "{error}");
    };
    refused(check(&none, Some(true)), "ca_file", "is not set");
    refused(check(&world.client(), Some(false)), "ca_file", "https://host:port");
    refused(check(&ClientTlsConfig { cert_file: None, ..world.client() }, Some(true)), "cert_file", "is not set");
    refused(check(&ClientTlsConfig { key_file: None, ..world.client() }, Some(true)), "key_file", "is not set");
    let nowhere = ClientTlsConfig { ca_file: Some(world.path("none")), ..world.client() };
    refused(check(&nowhere, Some(true)), "ca_file", "cannot be read");
    let named = ClientTlsConfig { server_name: Some("a b".to_owned()), ..world.client() };
    refused(check(&named, Some(true)), "server_name", "DNS name");
    let flags = Connector::open(&ClientTlsConfig { key_file: None, ..world.client() }, ClientKeys::Flags);
    assert_eq!(flags.map(drop).expect_err("no key").key(), "--key-file");
}

#[test]
fn sections_refuse_unknown_keys() {
    assert!(toml::from_str::<ServerTlsConfig>("ca_file = 'x'").is_err());
    assert!(toml::from_str::<ClientTlsConfig>("client_ca_file = 'x'").is_err());
    let config: ServerTlsConfig = toml::from_str("allowed_clients = 'a, b'").expect("valid");
    assert_eq!(config.allowed_clients, ["a", "b"]);
    assert_eq!(World::new().server().first_name().as_deref(), Some(SERVER));
}
