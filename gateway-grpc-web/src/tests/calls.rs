//! Calls over gRPC: routing, headers, statuses, deadlines, reflection, health.

use std::time::Duration;

use eticket_proto::{
    error::ErrorReason,
    headers,
    operations::{ListParkedEventsRequest, operations_service_client::OperationsServiceClient},
    query::WatchTicketViewsRequest,
    reservation::{GetReservationRequest, reservation_service_client::ReservationServiceClient},
    ticket::GetTicketRequest,
};
use eticket_rpc_server::{config::LimitsConfig, error::ApiError};
use tonic::{Code, Request, Status};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::{v1, v1alpha};
use tonic_types::StatusExt;

use super::{
    World,
    fake::{self, HEADERS, HUNDRED, ONE_THEN_SILENCE, REFUSED, SLOW, TWO_THEN_REFUSED},
};

pub(super) fn ticket(ticket_id: &str) -> Request<GetTicketRequest> {
    Request::new(GetTicketRequest { ticket_id: ticket_id.to_owned() })
}

pub(super) fn watch(ticket_id: &str) -> Request<WatchTicketViewsRequest> {
    Request::new(WatchTicketViewsRequest { ticket_ids: vec![ticket_id.to_owned()], resume_token: String::new() })
}

/// Returns the value of a header that the upstream has received.
fn seen<'a>(title: &'a str, name: &str) -> Option<&'a str> {
    title.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

async fn headers_at_upstream(world: &World, request: Request<GetTicketRequest>) -> String {
    world.tickets().await.get_ticket(request).await.unwrap().into_inner().ticket.unwrap().title
}

#[tokio::test]
async fn a_call_arrives_with_its_headers_and_comes_back_with_theirs() {
    let world = World::new().await;
    let mut request = ticket(HEADERS);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    request.metadata_mut().insert(headers::TRACE_PARENT, trace.parse().unwrap());
    request.metadata_mut().insert(headers::CORRELATION_ID, "abc".parse().unwrap());
    request.metadata_mut().insert("accept-language", "ko".parse().unwrap());
    let response = world.tickets().await.get_ticket(request).await.unwrap();
    assert_eq!(response.metadata().get("x-header").unwrap(), "h");
    assert_eq!(response.metadata().get(headers::CORRELATION_ID).unwrap(), "abc");
    assert!(response.metadata().get("access-control-expose-headers").is_none(), "CORS headers are for browsers only");
    let title = response.into_inner().ticket.unwrap().title;
    assert_eq!(seen(&title, headers::CORRELATION_ID), Some("abc"));
    assert_eq!(seen(&title, "accept-language"), Some("ko"));
    assert!(seen(&title, headers::TRACE_PARENT).unwrap().contains("4bf92f3577b34da6a3ce929d0e0e4736"), "{title}");
}

#[tokio::test]
async fn a_missing_correlation_id_is_generated() {
    let world = World::new().await;
    let response = world.tickets().await.get_ticket(ticket(HEADERS)).await.unwrap();
    let told = response.metadata().get(headers::CORRELATION_ID).unwrap().to_str().unwrap().to_owned();
    let title = response.into_inner().ticket.unwrap().title;
    assert!(!told.is_empty());
    assert_eq!(seen(&title, headers::CORRELATION_ID), Some(told.as_str()));
    assert!(seen(&title, headers::TRACE_PARENT).is_some_and(|trace| trace.starts_with("00-")), "{title}");
}

#[tokio::test]
async fn calls_are_routed_by_path() {
    let world = World::new().await;
    let title = headers_at_upstream(&world, ticket("t1")).await;
    assert_eq!(title, "of ticket");
    // The fake at this backend does not serve reservations and returns its own status.
    let mut client = ReservationServiceClient::new(world.channel().await);
    let status = client.get_reservation(GetReservationRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

fn assert_is_the_refusal(status: &Status) {
    let expected = fake::refusal();
    assert_eq!(status.code(), expected.code());
    assert_eq!(status.message(), expected.message());
    assert_eq!(status.details(), expected.details());
    assert_eq!(status.metadata().get("x-of-its-own").unwrap(), "kept");
    assert_eq!(status.metadata().get(headers::RETRY_PUSHBACK).unwrap(), "300");
}

#[tokio::test]
async fn a_rejection_is_unchanged_before_and_after_messages() {
    let world = World::new().await;
    let status = world.tickets().await.get_ticket(ticket(REFUSED)).await.unwrap_err();
    assert_is_the_refusal(&status);
    let mut stream = world.views().await.watch_ticket_views(watch(TWO_THEN_REFUSED)).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    assert!(stream.message().await.unwrap().is_some());
    assert_is_the_refusal(&stream.message().await.unwrap_err());
}

#[tokio::test]
async fn a_stream_is_not_buffered_and_can_be_cancelled() {
    let mut world = World::new().await;
    let mut stream = world.views().await.watch_ticket_views(watch(HUNDRED)).await.unwrap().into_inner();
    let mut messages = 0;
    while stream.message().await.unwrap().is_some() {
        messages += 1;
    }
    assert_eq!(messages, 100);
    let mut stream = world.views().await.watch_ticket_views(watch(ONE_THEN_SILENCE)).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some(), "before the stream ends");
    drop(stream);
    let upstreams = &mut world.upstreams;
    super::eventually("the upstream stops for a caller that left", async || upstreams.pending() == 0).await;
}

#[tokio::test]
async fn operations_are_routed_by_the_header() {
    let world = World::new().await;
    let mut client = OperationsServiceClient::new(world.channel().await);
    for name in ["ticket", "reservation", "pricing", "query"] {
        let mut request = Request::new(ListParkedEventsRequest::default());
        request.metadata_mut().insert(headers::SERVICE, name.parse().unwrap());
        assert_eq!(client.list_parked_events(request).await.unwrap().into_inner().next_page_token, name);
    }
    for name in [None, Some("gateway")] {
        let mut request = Request::new(ListParkedEventsRequest::default());
        if let Some(name) = name {
            request.metadata_mut().insert(headers::SERVICE, name.parse().unwrap());
        }
        let status = client.list_parked_events(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(ApiError::from_status(&status), Some(ErrorReason::InvalidField));
        assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, headers::SERVICE);
    }
}

#[tokio::test]
async fn unknown_services_are_unimplemented() {
    let world = World::new().await;
    let mut client = tonic::client::Grpc::new(world.channel().await);
    for path in ["/eticket.wish.v1.WishService/NewReservation", "/eticket.ticket.v1.TicketService/NewReservation", "/"]
    {
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<GetTicketRequest, GetTicketRequest>::new();
        let status = client.unary(ticket("t1"), path.parse().unwrap(), codec).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{path}: {status}");
    }
}

fn assert_deadline_exceeded(status: &Status) {
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert_eq!(ApiError::from_status(status), Some(ErrorReason::DeadlineExceeded), "{status}");
}

#[tokio::test]
async fn deadlines_are_enforced_and_forwarded() {
    let world = World::with_default_deadline(Duration::from_millis(150)).await;
    let mut request = ticket(HEADERS);
    request.set_timeout(Duration::from_secs(30));
    let title = headers_at_upstream(&world, request).await;
    let passed_on = seen(&title, "grpc-timeout").unwrap();
    let micros: u64 = passed_on.strip_suffix('u').unwrap().parse().unwrap();
    assert!((20_000_000..30_000_000).contains(&micros), "less than what the caller gave: {passed_on}");
    let title = headers_at_upstream(&world, ticket(HEADERS)).await;
    assert!(seen(&title, "grpc-timeout").is_some(), "the default is passed on too");

    // A tonic client would enforce the timeout itself, so the header is set by hand.
    let mut request = ticket(SLOW);
    request.metadata_mut().insert("grpc-timeout", "100m".parse().unwrap());
    let mut client = world.tickets().await;
    assert_deadline_exceeded(&raw_unary(&world, request).await);
    assert_deadline_exceeded(&client.get_ticket(ticket(SLOW)).await.unwrap_err());
    super::eventually("the upstream stops when the time is over", async || world.upstreams.pending() == 0).await;
}

/// Calls with a client that does not enforce `grpc-timeout` itself.
pub(super) async fn raw_unary(world: &World, request: Request<GetTicketRequest>) -> Status {
    use super::web_client::{Web, method};
    let (metadata, _, message) = request.into_parts();
    let web = Web::connect(world).await;
    let answer = web.call(method::GET_TICKET, false, &message, &metadata.into_headers()).await;
    answer.status()
}

#[tokio::test]
async fn streams_have_only_the_deadline_of_their_caller() {
    let world = World::with_default_deadline(Duration::from_millis(50)).await;
    let mut client = world.views().await;
    let mut unlimited = client.watch_ticket_views(watch(ONE_THEN_SILENCE)).await.unwrap().into_inner();
    assert!(unlimited.message().await.unwrap().is_some());
    let mut request = watch(ONE_THEN_SILENCE);
    request.set_timeout(Duration::from_millis(200));
    let mut limited = client.watch_ticket_views(request).await.unwrap().into_inner();
    assert!(limited.message().await.unwrap().is_some());
    assert_deadline_exceeded(&limited.message().await.unwrap_err());
    let more = tokio::time::timeout(Duration::from_millis(100), unlimited.message()).await;
    assert!(more.is_err(), "still open, four default deadlines later");
}

#[tokio::test]
async fn a_malformed_timeout_is_refused() {
    let world = World::new().await;
    let mut request = ticket("t1");
    request.metadata_mut().insert("grpc-timeout", "soon".parse().unwrap());
    let status = raw_unary(&world, request).await;
    assert_eq!(ApiError::from_status(&status), Some(ErrorReason::InvalidField));
}

#[tokio::test]
async fn a_stopping_gateway_ends_streams_and_finishes_calls() {
    let world = World::with_default_deadline(Duration::from_millis(400)).await;
    let mut stream = world.views().await.watch_ticket_views(watch(ONE_THEN_SILENCE)).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    let mut client = world.tickets().await;
    let call = tokio::spawn(async move { client.get_ticket(ticket(SLOW)).await });
    super::eventually("both are under way", async || world.upstreams.pending() == 2).await;
    let stopping = tokio::spawn(world.gateway.stop());
    let status = stream.message().await.unwrap_err();
    assert_eq!(ApiError::from_status(&status), Some(ErrorReason::ShuttingDown));
    assert_deadline_exceeded(&call.await.unwrap().unwrap_err());
    stopping.await.unwrap();
}

#[tokio::test]
async fn a_call_above_the_limit_is_rejected() {
    let concurrency = 1.try_into().unwrap();
    let world = World::with_limits(LimitsConfig { concurrency, ..LimitsConfig::default() }).await;
    let mut stream = world.views().await.watch_ticket_views(watch(ONE_THEN_SILENCE)).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    let status = world.tickets().await.get_ticket(ticket("t1")).await.unwrap_err();
    assert_eq!(ApiError::from_status(&status), Some(ErrorReason::ServiceOverloaded));
    let status = raw_unary(&world, ticket("t1")).await;
    assert_eq!(ApiError::from_status(&status), Some(ErrorReason::ServiceOverloaded), "in gRPC-Web too");
    let mut health = HealthClient::new(world.channel().await);
    assert!(health.check(HealthCheckRequest::default()).await.is_ok(), "health is not shed");
}

#[tokio::test]
async fn errors_of_the_gateway_are_in_the_language_of_the_call() {
    let mut world = World::new().await;
    world.upstreams.kill(crate::Backend::Ticket);
    let mut request = ticket("t1");
    request.metadata_mut().insert("accept-language", "ko-KR".parse().unwrap());
    let status = world.tickets().await.get_ticket(request).await.unwrap_err();
    assert_eq!(status.get_details_localized_message().unwrap().locale, "ko");
}

#[tokio::test]
async fn health_covers_the_gateway_and_its_upstreams() {
    let mut world = World::new().await;
    let mut client = HealthClient::new(world.channel().await);
    let of = |service: &str| HealthCheckRequest { service: service.to_owned() };
    let ticket_service = "eticket.ticket.v1.TicketService";
    let mut watch = client.watch(of(ticket_service)).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    assert_eq!(client.check(of(ticket_service)).await.unwrap().get_ref().status(), ServingStatus::Serving);

    world.upstreams.health.set_service_status(ticket_service, tonic_health::ServingStatus::NotServing).await;
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    world.upstreams.health.set_service_status(ticket_service, tonic_health::ServingStatus::Serving).await;
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    world.upstreams.kill(crate::Backend::Ticket);
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert_eq!(client.check(of(ticket_service)).await.unwrap().get_ref().status(), ServingStatus::NotServing);
    for name in ["", "readiness", "liveness"] {
        assert_eq!(client.check(of(name)).await.unwrap().get_ref().status(), ServingStatus::Serving, "{name:?}");
    }
    assert_eq!(client.check(of("bus")).await.unwrap_err().code(), Code::NotFound);
    world.upstreams.start_one(crate::Backend::Ticket).await;
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    world.health.set_draining();
    assert_eq!(client.check(of("")).await.unwrap().get_ref().status(), ServingStatus::NotServing);
}

const SERVED: [&str; 8] = [
    "eticket.operations.v1.OperationsService",
    "eticket.pricing.v1.PricingService",
    "eticket.query.v1.QueryService",
    "eticket.reservation.v1.ReservationService",
    "eticket.ticket.v1.TicketService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

macro_rules! services_by_reflection {
    ($version:ident, $channel:expr) => {{
        use $version::{
            ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
            server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
        };
        let asked =
            |message_request| ServerReflectionRequest { host: String::new(), message_request: Some(message_request) };
        let questions = [
            asked(MessageRequest::ListServices(String::new())),
            asked(MessageRequest::FileContainingSymbol("eticket.query.v1.QueryService.WatchTicketViews".to_owned())),
            asked(MessageRequest::FileContainingSymbol("google.rpc.ErrorInfo".to_owned())),
        ];
        let mut client = ServerReflectionClient::new($channel);
        let mut answers = client.server_reflection_info(futures::stream::iter(questions)).await.unwrap().into_inner();
        let Some(MessageResponse::ListServicesResponse(list)) =
            answers.message().await.unwrap().unwrap().message_response
        else {
            panic!("expected the list of services")
        };
        for _ in 0..2 {
            let file = answers.message().await.unwrap().unwrap().message_response;
            assert!(matches!(file, Some(MessageResponse::FileDescriptorResponse(_))), "{file:?}");
        }
        let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
        names.sort();
        names
    }};
}

#[tokio::test]
async fn reflection_lists_all_services_in_both_versions() {
    let world = World::new().await;
    assert_eq!(services_by_reflection!(v1, world.channel().await), SERVED);
    assert_eq!(services_by_reflection!(v1alpha, world.channel().await), SERVED);
}
