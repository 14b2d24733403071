//! Calls over TLS, to a server with a certificate that the test has made.

use std::{fs, net::SocketAddr, path::Path};

use eticket_local_servers::certificates::Authority;
use eticket_tls::ClientTlsConfig;
use tempfile::TempDir;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use super::*;
use crate::addresses::Targets;

const NAME: &str = "ticket.internal";

/// Starts a server that asks for client certificates of `clients`.
fn serve_encrypted(authority: &Authority, clients: &Authority, names: &[&str]) -> (SocketAddr, Backend) {
    let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
    let address = incoming.local_addr().expect("an address");
    let files = authority.issue(names).expect("a certificate");
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(files.certificate, files.key))
        .client_ca_root(Certificate::from_pem(clients.pem()));
    let mut server = Server::builder().tls_config(tls).expect("valid");
    let backend = Backend::default();
    let service = health_server::HealthServer::new(backend.clone());
    tokio::spawn(server.add_service(service).serve_with_incoming(incoming));
    (address, backend)
}

struct Files {
    folder: TempDir,
    config: ClientTlsConfig,
}

impl Files {
    /// Writes a client certificate of `clients`, and `authority` as that of servers.
    fn new(authority: &Authority, clients: &Authority) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("ca.pem"), authority.pem()).expect("written");
        let (cert_file, key_file) = show(clients, folder.path());
        let (ca_file, server_name) = (Some(folder.path().join("ca.pem")), Some(NAME.to_owned()));
        let config = ClientTlsConfig { ca_file, cert_file: Some(cert_file), key_file: Some(key_file), server_name };
        Self { folder, config }
    }

    fn client(&self, address: SocketAddr, tasks: &Tasks) -> HealthClient<Channel> {
        let targets: Targets = format!("https://{address}").parse().expect("targets");
        let tls = targets.connector(&self.config, "upstream.test", tasks).expect("valid files");
        assert!(tls.is_some(), "https");
        HealthClient::new(Channel::connect("test", &targets, tls, Windows::for_streams(8), tasks))
    }
}

fn show(clients: &Authority, folder: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
    clients.issue(&["reservation.internal"]).expect("a certificate").write(folder, "client").expect("written")
}

async fn check(client: &mut HealthClient<Channel>) -> Result<Response<HealthCheckResponse>, Status> {
    client.check(HealthCheckRequest::default()).await
}

#[tokio::test]
async fn a_call_needs_a_server_of_the_right_name_and_authority() {
    let (authority, foreign, tasks) = (new_authority(), new_authority(), Tasks::new());
    let files = Files::new(&authority, &authority);
    for (server, names, cause) in [
        (&authority, NAME, None),
        (&authority, "pricing.internal", Some("NotValidForName")),
        (&foreign, NAME, Some("UnknownIssuer")),
    ] {
        let (address, _) = serve_encrypted(server, &authority, &[names]);
        let outcome = check(&mut files.client(address, &tasks)).await;
        match (outcome, cause) {
            (Ok(_), None) => {}
            (Err(status), Some(cause)) => {
                let text = format!("{status:?}");
                assert!(text.contains(cause), "{text}");
                assert!(CallError::Status(status).is_failure(), "the breaker counts it: {text}");
            }
            (outcome, cause) => panic!("{names}: {outcome:?}, but expected {cause:?}"),
        }
    }
    tasks.stop().await;
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_without_a_restart() {
    let (authority, tasks) = (new_authority(), Tasks::new());
    let (address, backend) = serve_encrypted(&authority, &authority, &[NAME]);
    let files = Files::new(&authority, &authority);
    let mut client = files.client(address, &tasks);
    let mut shown = async || {
        check(&mut client).await.expect("no call fails during the change");
        backend.1.lock().expect("no panic").clone().expect("a certificate")
    };
    let first = shown().await;
    assert_eq!(shown().await, first, "one connection");
    show(&authority, files.folder.path());
    let renewed = async { while shown().await == first {} };
    tokio::time::timeout(Duration::from_secs(15), renewed).await.expect("in force within 15 s");
    tasks.stop().await;
}

fn new_authority() -> Authority {
    Authority::new().expect("a certificate")
}
