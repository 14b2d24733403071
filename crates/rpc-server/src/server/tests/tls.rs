//! TLS connections over the loopback.

use std::{fs, time::Duration};

use eticket_local_servers::certificates::{Authority, Identity as Files};
use eticket_proto::operations::operations_service_client::OperationsServiceClient;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::{
    Code,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::*;

struct World {
    authority: Authority,
    _folder: TempDir,
    config: ServerTlsConfig,
}

impl World {
    /// Files for a server that `gateway` may call.
    fn new() -> Self {
        let (authority, folder) = (Authority::new().expect("a certificate"), tempfile::tempdir().expect("a folder"));
        let server = authority.issue(&["localhost"]).expect("a certificate");
        let (cert_file, key_file) = server.write(folder.path(), "server").expect("written");
        let client_ca_file = folder.path().join("ca.pem");
        fs::write(&client_ca_file, authority.pem()).expect("written");
        let config = ServerTlsConfig {
            cert_file: Some(cert_file),
            key_file: Some(key_file),
            client_ca_file: Some(client_ca_file),
            allowed_clients: vec!["gateway".to_owned()],
        };
        Self { authority, _folder: folder, config }
    }

    fn identity(&self, name: &str) -> Files {
        self.authority.issue(&[name]).expect("a certificate")
    }

    async fn server(&self) -> (Fake, Running) {
        let fake = Fake::new(StreamKind::Waits);
        let running = server(&fake, &limits(8)).tls(&self.config).start().await.expect("started");
        (fake, running)
    }

    fn client(&self, running: &Running, identity: Option<Files>) -> OperationsServiceClient<Channel> {
        let mut tls =
            ClientTlsConfig::new().domain_name("localhost").ca_certificate(Certificate::from_pem(self.authority.pem()));
        if let Some(files) = identity {
            tls = tls.identity(Identity::from_pem(files.certificate, files.key));
        }
        let endpoint = Endpoint::from_shared(format!("https://{}", running.address())).expect("an address");
        OperationsServiceClient::new(endpoint.tls_config(tls).expect("valid").connect_lazy())
    }
}

fn what(page_token: &str) -> ListParkedEventsRequest {
    ListParkedEventsRequest { page_token: page_token.into(), ..Default::default() }
}

#[tokio::test]
async fn a_client_calls_if_a_name_of_its_certificate_is_allowed() {
    let world = World::new();
    let (fake, running) = world.server().await;
    let mut gateway = world.client(&running, Some(world.identity("gateway")));
    let answer = gateway.list_parked_events(what("hello")).await.expect("answered");
    assert_eq!(answer.get_ref().next_page_token, "hello");
    let mut pricing = world.client(&running, Some(world.identity("pricing")));
    let refused = pricing.resend_parked_event(ResendParkedEventRequest { event_id: "hang".into() }).await;
    let refused = refused.expect_err("another name");
    assert_eq!(
        (refused.code(), ApiError::from_status(&refused)),
        (Code::PermissionDenied, Some(ErrorReason::NotAllowed))
    );
    assert!(refused.message().contains("pricing"), "{refused}");
    assert_eq!(*fake.under_way.borrow(), 0, "no handler was called");
    let unknown = world.client(&running, None).list_parked_events(what("hello")).await.expect_err("no certificate");
    assert!(unknown.code() != Code::PermissionDenied && ApiError::from_status(&unknown).is_none(), "{unknown}");
    running.stop().await;
}

#[tokio::test]
async fn plain_text_gets_no_response() {
    let world = World::new();
    let (_, running) = world.server().await;
    let mut client = TcpStream::connect(running.address()).await.expect("connected");
    client.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("sent");
    let mut answer = Vec::new();
    timeout(BOUND, client.read_to_end(&mut answer)).await.expect("closed").ok();
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    assert!(running.dialer().is_none(), "in the process too");
    running.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_finish_the_handshake_is_disconnected_and_blocks_nobody() {
    let world = World::new();
    let fake = Fake::new(StreamKind::Waits);
    let bounds = ConnectionLimits { header_read_timeout: Duration::from_millis(200), ..ConnectionLimits::default() };
    let server = server(&fake, &limits(8)).tls(&world.config).connection_limits(bounds);
    let running = server.start().await.expect("started");
    let mut silent = TcpStream::connect(running.address()).await.expect("connected");
    let mut gateway = world.client(&running, Some(world.identity("gateway")));
    gateway.list_parked_events(what("hello")).await.expect("answered while another handshake is open");
    let mut answer = Vec::new();
    timeout(BOUND, silent.read_to_end(&mut answer)).await.expect("closed").ok();
    assert!(answer.is_empty(), "{answer:?}");
    running.stop().await;
}

#[tokio::test]
async fn a_stopping_server_ends_calls_and_handshakes() {
    let world = World::new();
    let (fake, running) = world.server().await;
    let mut gateway = world.client(&running, Some(world.identity("gateway")));
    let waiting = tokio::spawn(async move { gateway.list_parked_events(what("wait")).await });
    fake.reaches(1).await;
    let _silent = TcpStream::connect(running.address()).await.expect("connected");
    timeout(BOUND, running.stop()).await.expect("it stops");
    let status = waiting.await.expect("no panic").expect_err("it ends");
    assert_eq!(ApiError::from_status(&status), Some(ErrorReason::ShuttingDown), "{status:?}");
}

#[tokio::test]
async fn a_server_with_invalid_files_does_not_start() {
    let world = World::new();
    fs::write(world.config.key_file.as_ref().expect("given"), world.identity("other").key).expect("written");
    let fake = Fake::new(StreamKind::Waits);
    let error = server(&fake, &limits(8)).tls(&world.config).start().await.expect_err("another key");
    assert_eq!(error.code(), 78);
}
