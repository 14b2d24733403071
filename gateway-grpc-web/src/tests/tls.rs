//! Calls to services that speak TLS and require a client certificate.

use std::{fs, sync::Arc};

use eticket_base::{tasks::Tasks, windows::Windows};
use eticket_local_servers::certificates::Authority;
use eticket_proto::{
    error::ErrorReason,
    health::{HealthCheckRequest, health_client::HealthClient},
};
use eticket_rpc_client::addresses::{Address, Targets};
use eticket_rpc_server::{
    error::ApiError,
    health::Health,
    server::{Running, Server},
};
use eticket_runtime::config::Settings;
use eticket_tls::{ClientTlsConfig, ServerTlsConfig};
use tempfile::TempDir;
use tokio::sync::watch;
use tonic::Code;

use crate::{
    Backend,
    upstream::{OwnCalls, Pool, Upstream},
};

const SERVER: &str = "ticket.internal";

/// A service that `gateway.internal` may call, and the files of its clients.
struct World {
    folder: TempDir,
    authority: Authority,
    service: Running,
}

impl World {
    async fn new() -> Self {
        let (folder, authority) = (tempfile::tempdir().expect("a folder"), Authority::new().expect("a certificate"));
        let ca_file = folder.path().join("ca.pem");
        fs::write(&ca_file, authority.pem()).expect("written");
        let identity = authority.issue(&[SERVER]).expect("a certificate");
        let (cert_file, key_file) = identity.write(folder.path(), "server").expect("written");
        let tls = ServerTlsConfig {
            cert_file: Some(cert_file),
            key_file: Some(key_file),
            client_ca_file: Some(ca_file),
            allowed_clients: vec!["gateway.internal".to_owned()],
        };
        let settings = Settings::for_tests();
        let server = Server::new("ticket", settings.listen, &settings.limits, &settings.shutdown).tls(&tls);
        let service = server.health(Health::new([""; 0])).start().await.expect("it starts");
        Self { folder, authority, service }
    }

    /// An upstream of a gateway whose certificate has this name, and which expects this name of the service.
    fn upstream(&self, client: &str, server: &str) -> Arc<Upstream> {
        let identity = self.authority.issue(&[client]).expect("a certificate");
        let (cert_file, key_file) = identity.write(self.folder.path(), client).expect("written");
        let tls = ClientTlsConfig {
            ca_file: Some(self.folder.path().join("ca.pem")),
            cert_file: Some(cert_file),
            key_file: Some(key_file),
            server_name: Some(server.to_owned()),
        };
        let (socket, tasks) = (self.service.address(), Tasks::new());
        let targets: Targets = format!("https://{socket}").parse().expect("an address");
        let connector = targets.connector(&tls, "upstream.ticket", &tasks).expect("valid files");
        let (_, addresses) = watch::channel(vec![Address { socket, authority: socket.to_string(), in_process: None }]);
        Arc::new(Upstream::new(Backend::Ticket, Pool::new(addresses, connector, Windows::for_streams(8), &tasks)))
    }

    async fn call(&self, client: &str, server: &str) -> Result<(), tonic::Status> {
        let mut health = HealthClient::new(OwnCalls(self.upstream(client, server)));
        health.check(HealthCheckRequest { service: "liveness".to_owned() }).await.map(drop)
    }
}

#[tokio::test]
async fn the_gateway_shows_its_certificate_and_checks_that_of_the_service() {
    let world = World::new().await;
    world.call("gateway.internal", SERVER).await.expect("answered");
    let refused = world.call("query.internal", SERVER).await.expect_err("another name");
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(ApiError::from_status(&refused), Some(ErrorReason::NotAllowed));
    let unreachable = world.call("gateway.internal", "pricing.internal").await.expect_err("another service");
    assert!(format!("{unreachable:?}").contains("NotValidForName"), "{unreachable:?}");
}
