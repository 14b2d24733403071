//! TLS between the real servers and at the gateway, by files that are replaced while the servers run.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::{fs, path::PathBuf, time::Duration};

use chrono::Weekday;
use eticket_integration_tests::{
    Api, Eticket,
    api::reason,
    calendar,
    process::{Exit, Launch, SERVERS},
};
use eticket_local_servers::certificates::{Authority, Identity as Files};
use eticket_proto::reservation::UserGrade;
use tempfile::TempDir;
use tonic::{
    Code,
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};

/// Contract: changed certificates are in force within 15 s.
const RENEWAL: Duration = Duration::from_secs(15);

/// A folder with `ca.pem`, and a certificate and key for each server, with the name `SERVER.eticket`.
struct Certificates {
    folder: TempDir,
    authority: Authority,
}

impl Certificates {
    fn new() -> Self {
        let (folder, authority) = (TempDir::new().expect("a folder"), Authority::new().expect("a certificate"));
        let certificates = Self { folder, authority };
        fs::write(certificates.path("ca.pem"), certificates.authority.pem()).expect("written");
        for server in SERVERS {
            let files = certificates.authority.issue(&[&format!("{server}.eticket"), "localhost"]);
            files.expect("a certificate").write(certificates.folder.path(), server).expect("written");
        }
        certificates
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("test folders are UTF-8").to_owned()
    }

    fn files(&self, server: &str) -> Files {
        let read = |extension| fs::read_to_string(self.path(&format!("{server}.{extension}"))).expect("readable");
        Files { certificate: read("pem"), key: read("key") }
    }

    /// Sets the certificate of a server; `section` is its section in `eticket`, with a dot, or empty.
    fn of_server(&self, launch: Launch, section: &str, server: &str) -> Launch {
        launch
            .key(&format!("{section}tls.cert_file"), &self.text(&format!("{server}.pem")))
            .key(&format!("{section}tls.key_file"), &self.text(&format!("{server}.key")))
    }

    /// Sets the certificates for calls from a server to another one.
    fn of_client(&self, launch: Launch, section: &str, server: &str, upstream: &str) -> Launch {
        let key = |key: &str| format!("{section}upstream.{upstream}.tls.{key}");
        launch
            .key(&key("ca_file"), &self.text("ca.pem"))
            .key(&key("cert_file"), &self.text(&format!("{server}.pem")))
            .key(&key("key_file"), &self.text(&format!("{server}.key")))
            .key(&key("server_name"), &format!("{upstream}.eticket"))
    }

    /// A client of a server, with the certificate of another server, or with none.
    fn api(&self, server: &str, address: &str, authority: &str, identity: Option<&str>) -> Api {
        let tls = ClientTlsConfig::new().domain_name(format!("{server}.eticket"));
        let mut tls = tls.ca_certificate(Certificate::from_pem(authority));
        if let Some(files) = identity.map(|name| self.files(name)) {
            tls = tls.identity(Identity::from_pem(files.certificate, files.key));
        }
        let endpoint = Endpoint::from_shared(format!("https://{address}")).expect("an address");
        Api::over(endpoint.tls_config(tls).expect("valid").connect_lazy())
    }
}

/// A server alone, which only `allowed` may call.
fn service(certificates: &Certificates, data: &TempDir, server: &str, allowed: &str) -> Launch {
    let launch = Launch::program(&format!("eticket-{server}"))
        .data(&data.path().join(server))
        .key("listen", "127.0.0.1:0")
        .key("bus.url", "embedded")
        .key("shutdown.drain_delay_ms", "0")
        .key("tls.client_ca_file", &certificates.text("ca.pem"))
        .key("tls.allowed_clients", allowed);
    certificates.of_server(launch, "", server)
}

struct Mesh {
    ticket: Eticket,
    reservation: Eticket,
    gateway: Eticket,
}

impl Mesh {
    async fn start(certificates: &Certificates, data: &TempDir) -> Self {
        let ticket = service(certificates, data, "ticket", "gateway.eticket,reservation.eticket").start().await;
        let url = |service: &Eticket, name: &str| format!("https://{}", service.address(name));
        let reservation = service(certificates, data, "reservation", "gateway.eticket")
            .key("upstream.ticket.url", &url(&ticket, "ticket"))
            .key("upstream.ticket.attempt_timeout_ms", "4000")
            .key("upstream.ticket.deadline_ms", "8000");
        let reservation = certificates.of_client(reservation, "", "reservation", "ticket").start().await;
        let mut gateway = Launch::program("eticket-gateway")
            .key("listen", "127.0.0.1:0")
            .key("shutdown.drain_delay_ms", "0")
            .key("upstream.ticket.url", &url(&ticket, "ticket"))
            .key("upstream.reservation.url", &url(&reservation, "reservation"))
            .key("upstream.pricing.url", "https://127.0.0.1:1")
            .key("upstream.query.url", "https://127.0.0.1:1");
        gateway = certificates.of_server(gateway, "", "gateway");
        for upstream in ["ticket", "reservation", "pricing", "query"] {
            gateway = certificates.of_client(gateway, "", "gateway", upstream);
        }
        Self { ticket, reservation, gateway: gateway.start().await }
    }

    async fn stop(self) {
        for server in [self.gateway, self.reservation, self.ticket] {
            server.stop().await;
        }
    }
}

#[tokio::test]
async fn services_call_each_other_with_certificates_that_are_renewed_while_they_run() {
    let (certificates, data) = (Certificates::new(), TempDir::new().expect("a folder"));
    let mesh = Mesh::start(&certificates, &data).await;
    let pem = certificates.authority.pem();
    let gateway = certificates.api("gateway", mesh.gateway.address("gateway"), &pem, None);
    let slot = calendar::upcoming(Weekday::Tue);
    gateway.register("t1", slot).await.expect("registered: the gateway may call ticket");
    gateway.reserve("t1", "u1", UserGrade::Silver).await.expect("reserved: reservation may call ticket");
    let ticket = mesh.ticket.address("ticket");
    let query = certificates.api("ticket", ticket, &pem, Some("query"));
    let refused = query.ticket("t1").await.expect_err("query is not allowed");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "NOT_ALLOWED"));
    let nobody = certificates.api("ticket", ticket, &pem, None);
    // The server ends the connection in the handshake. Which code tonic makes of that depends on what the client was doing
    // at this moment, so the log of the server shows the cause.
    let code = nobody.ticket("t1").await.expect_err("no certificate").code();
    assert!(matches!(code, Code::Unavailable | Code::Unknown | Code::Cancelled), "{code:?}");
    eventually(|| async { mesh.ticket.log().contains("peer sent no certificates") }).await;

    let exit = republish(&certificates, ticket).await;
    assert_eq!((exit.code, exit.output.trim()), (Some(0), "1 states added to the outbox"), "{}", exit.log);

    let next = Authority::new().expect("a certificate");
    let files = next.issue(&["gateway.eticket", "localhost"]).expect("a certificate");
    // As operators do: everyone trusts both authorities before the first certificate of the next one is used. The gateway
    // connects anew to ticket with the renewed certificate.
    fs::write(certificates.path("ca.pem"), pem.clone() + &next.pem()).expect("written");
    // First only half of the pair: the gateway goes on with the old one.
    fs::write(certificates.path("gateway.pem"), &files.certificate).expect("written");
    eventually(|| async { mesh.gateway.log().contains("the previous ones stay") }).await;
    let again = certificates.api("gateway", mesh.gateway.address("gateway"), &pem, None);
    again.ticket("t1").await.expect("the old certificate is in force");
    files.write(certificates.folder.path(), "gateway").expect("written");
    eventually(|| async {
        let renewed = certificates.api("gateway", mesh.gateway.address("gateway"), &next.pem(), None);
        renewed.ticket("t1").await.is_ok()
    })
    .await;
    mesh.stop().await;
}

async fn republish(certificates: &Certificates, ticket: &str) -> Exit {
    Launch::program("eticket-ticket")
        .argument("republish")
        .argument("--address")
        .argument(&format!("https://{ticket}"))
        .argument("--ca-file")
        .argument(&certificates.text("ca.pem"))
        .argument("--cert-file")
        .argument(&certificates.text("reservation.pem"))
        .argument("--key-file")
        .argument(&certificates.text("reservation.key"))
        .argument("--server-name")
        .argument("ticket.eticket")
        .run()
        .await
}

async fn eventually<F: Future<Output = bool>>(condition: impl Fn() -> F) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(RENEWAL, waiting).await.expect("in force within 15 s");
}

/// `eticket` with certificates at the root, for all five servers.
fn all_in_one(certificates: &Certificates, data: &TempDir) -> Launch {
    certificates.of_server(Launch::all_in_one(data.path()), "", "gateway")
}

#[tokio::test]
async fn the_servers_of_one_process_and_the_command_line_client_use_tls() {
    let (certificates, data) = (Certificates::new(), TempDir::new().expect("a folder"));
    let mut launch = all_in_one(&certificates, &data);
    for (server, upstreams) in [
        ("reservation", &["ticket"][..]),
        ("gateway", &["ticket", "reservation", "pricing", "query"]),
        ("query", &["ticket", "reservation", "pricing"]),
    ] {
        for upstream in upstreams {
            let key = |key: &str| format!("{server}.upstream.{upstream}.tls.{key}");
            launch =
                launch.key(&key("ca_file"), &certificates.text("ca.pem")).key(&key("server_name"), "gateway.eticket");
        }
    }
    let eticket = launch.start().await;
    let gateway = eticket.address("gateway");
    let api = certificates.api("gateway", gateway, &certificates.authority.pem(), None);
    api.register("t1", calendar::upcoming(Weekday::Tue)).await.expect("registered");
    api.reserve("t1", "u1", UserGrade::Silver).await.expect("reserved");
    let port = gateway.rsplit(':').next().expect("a port");
    let client = |arguments: &[&str]| {
        let launch = Launch::program("eticket").argument("tickets").argument("--address");
        let launch = launch.argument(&format!("https://localhost:{port}")).argument("--output").argument("json");
        arguments.iter().fold(launch, |launch, argument| launch.argument(argument))
    };
    let exit = client(&["--ca-file", &certificates.text("ca.pem")]).run().await;
    assert!(exit.code == Some(0) && exit.output.contains("\"t1\""), "{exit:?}");
    let exit = client(&["--ca-file", &certificates.text("ticket.pem")]).run().await;
    assert_eq!(exit.code, Some(69), "another authority: {exit:?}");
    eticket.stop().await;
}

#[tokio::test]
async fn tls_between_the_servers_of_one_process_needs_an_authority() {
    let (certificates, data) = (Certificates::new(), TempDir::new().expect("a folder"));
    let exit = all_in_one(&certificates, &data).argument("--check-config").run().await;
    assert_eq!(exit.code, Some(78), "{}", exit.log);
    assert!(exit.log.contains(".tls.ca_file is not set"), "{}", exit.log);
    let exit = certificates.of_server(Launch::all_in_one(data.path()), "gateway.", "gateway");
    let exit = exit.argument("--check-config").run().await;
    assert_eq!(exit.code, Some(0), "only the gateway speaks TLS: {}", exit.log);
    let plain = Launch::all_in_one(data.path())
        .key("reservation.upstream.ticket.tls.ca_file", &certificates.text("ca.pem"))
        .argument("--check-config");
    let exit = plain.run().await;
    assert!(exit.code == Some(78) && exit.log.contains("ticket.tls.cert_file is not set"), "{}", exit.log);
}
