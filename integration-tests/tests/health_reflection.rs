//! The system from the view of tools: the health of each part, directly and through the gateway, and the contract by
//! reflection.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::process::Command;

use eticket_integration_tests::{
    Eticket,
    health::{ServingStatus, check, shows},
    process::SERVERS,
};
use tempfile::TempDir;
use tonic::Code;

/// Every public gRPC service, by the server that serves it.
const SERVICES: [(&str, &str); 4] = [
    ("ticket", "eticket.ticket.v1.TicketService"),
    ("reservation", "eticket.reservation.v1.ReservationService"),
    ("pricing", "eticket.pricing.v1.PricingService"),
    ("query", "eticket.query.v1.QueryService"),
];

#[tokio::test]
async fn each_server_reports_its_health() {
    let data = TempDir::new().expect("a folder");
    let eticket = Eticket::start(data.path()).await;
    for server in SERVERS {
        let standard = [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        ];
        for service in ["", "liveness", "readiness"].into_iter().chain(standard) {
            let status = check(eticket.address(server), service).await;
            assert_eq!(status.expect("it answers"), ServingStatus::Serving, "{server} {service:?} once it is ready");
        }
        let unknown = check(eticket.address(server), "nobody").await.expect_err("it has no such service");
        assert_eq!(unknown.code(), Code::NotFound, "{server}");
    }
    for (server, service) in SERVICES {
        shows(eticket.address(server), service, ServingStatus::Serving).await;
        shows(eticket.address("gateway"), service, ServingStatus::Serving).await;
        shows(eticket.address(server), "bus", ServingStatus::Serving).await;
    }
    let bus = check(eticket.address("gateway"), "bus").await.expect_err("the gateway has no bus");
    assert_eq!(bus.code(), Code::NotFound);
    eticket.stop().await;
}

fn grpcurl(arguments: &[&str]) -> String {
    let output = Command::new("grpcurl").arg("-plaintext").args(arguments).output().expect("grpcurl is in PATH");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "grpcurl {}: {error}", arguments.join(" "));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs grpcurl: cargo xtask test"]
async fn grpcurl_lists_and_describes_everything_through_the_gateway() {
    let data = TempDir::new().expect("a folder");
    let eticket = Eticket::start(data.path()).await;
    let gateway = eticket.address("gateway");
    let listed = grpcurl(&[gateway, "list"]);
    for (_, service) in SERVICES {
        assert!(listed.lines().any(|line| line == service), "{service} is not in:\n{listed}");
    }
    for service in ["eticket.operations.v1.OperationsService", "grpc.health.v1.Health"] {
        assert!(listed.lines().any(|line| line == service), "{service} is not in:\n{listed}");
    }
    let described = grpcurl(&[gateway, "describe", "eticket.reservation.v1.ReservationService"]);
    for method in ["ReserveTicket", "CancelReservation", "GetReservation", "ListReservations"] {
        assert!(described.contains(&format!("rpc {method}")), "{method} is not in:\n{described}");
    }
    let message = grpcurl(&[gateway, "describe", "eticket.query.v1.TicketView"]);
    assert!(message.contains("bool settled"), "{message}");
    // Tools can decode error details only if reflection also describes their types.
    for name in ["google.rpc.ErrorInfo", "google.rpc.BadRequest", "google.rpc.RetryInfo", "google.rpc.LocalizedMessage"]
    {
        assert!(grpcurl(&[gateway, "describe", name]).contains("message"), "{name}");
    }
    eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs grpcurl: cargo xtask test"]
async fn grpcurl_describes_each_service_at_its_own_address() {
    let data = TempDir::new().expect("a folder");
    let eticket = Eticket::start(data.path()).await;
    for (server, service) in SERVICES {
        let listed = grpcurl(&[eticket.address(server), "list"]);
        assert!(listed.lines().any(|line| line == service), "{service} is not in:\n{listed}");
        assert!(grpcurl(&[eticket.address(server), "describe", service]).contains("rpc "), "{service}");
    }
    eticket.stop().await;
}

/// Older tools use the first version of the reflection protocol.
#[tokio::test]
async fn both_versions_of_reflection_respond() {
    use tonic_reflection::pb::{v1, v1alpha};
    let data = TempDir::new().expect("a folder");
    let eticket = Eticket::start(data.path()).await;
    for server in SERVERS {
        let channel = eticket_integration_tests::api::channel(eticket.address(server));
        let request = v1::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(String::new())),
        };
        let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
        let answer = client.server_reflection_info(tokio_stream::once(request)).await.expect("v1 answers");
        let answer = answer.into_inner().message().await.expect("an answer").expect("one answer a question");
        let Some(v1::server_reflection_response::MessageResponse::ListServicesResponse(listed)) =
            answer.message_response
        else {
            panic!("{server}: {answer:?}")
        };
        let request = v1alpha::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(v1alpha::server_reflection_request::MessageRequest::ListServices(String::new())),
        };
        let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
        let answer = client.server_reflection_info(tokio_stream::once(request)).await.expect("v1alpha answers");
        let answer = answer.into_inner().message().await.expect("an answer").expect("one answer a question");
        let Some(v1alpha::server_reflection_response::MessageResponse::ListServicesResponse(older)) =
            answer.message_response
        else {
            panic!("{server}: {answer:?}")
        };
        let mut names: Vec<&str> = listed.service.iter().map(|service| service.name.as_str()).collect();
        let mut older: Vec<&str> = older.service.iter().map(|service| service.name.as_str()).collect();
        names.sort_unstable();
        older.sort_unstable();
        assert!(names.iter().any(|name| name.starts_with("eticket.")), "{server}: {names:?}");
        assert_eq!(names, older, "{server}");
        for service in
            ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]
        {
            assert!(names.contains(&service), "{server}: {names:?}");
        }
    }
    eticket.stop().await;
}
