//! Traces as a collector receives them by OTLP: one reservation is one trace, until its view has settled.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use chrono::Weekday;
use eticket_integration_tests::{
    Api, Protocol, calendar,
    eventually::{SOON, eventually},
    otlp,
    process::Launch,
};
use eticket_local_servers::free_address;
use eticket_proto::{
    query::{GetTicketViewRequest, GetTicketViewResponse, WaitFor},
    reservation::{ReserveTicketRequest, ReserveTicketResponse, UserGrade},
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse, trace_service_server::TraceService},
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use tempfile::TempDir;
use tonic::{Request, Response, Status, async_trait};
use uuid::Uuid;

/// Collects spans, with the service of each.
#[derive(Debug, Clone, Default)]
struct Collector(Arc<Mutex<Vec<(String, Span)>>>);

#[async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut spans = self.0.lock().expect("no panic");
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.expect("a resource").attributes;
            let service = attributes.iter().find(|attribute| attribute.key == "service.name").expect("a name").clone();
            let Some(Value::StringValue(service)) = service.value.and_then(|value| value.value) else {
                panic!("service.name is text")
            };
            let received = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.extend(received.map(|span| (service.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> (Self, SocketAddr) {
        let collector = Self::default();
        let address = otlp::serve(collector.clone()).await;
        (collector, address)
    }

    /// The spans of a trace, by their ids.
    fn trace(&self, trace_id: &str) -> BTreeMap<Vec<u8>, (String, Span)> {
        let spans = self.0.lock().expect("no panic");
        let of_trace = spans.iter().filter(|(_, span)| hex(&span.trace_id) == trace_id);
        of_trace.map(|(service, span)| (span.span_id.clone(), (service.clone(), span.clone()))).collect()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    let value = span.attributes.iter().find(|attribute| attribute.key == key)?.value.clone()?.value?;
    Some(match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    })
}

/// Each span with its parent, as `eticket-ticket: NAME <- eticket-gateway: NAME`.
fn edges(trace: &BTreeMap<Vec<u8>, (String, Span)>) -> BTreeSet<String> {
    let name = |(service, span): &(String, Span)| format!("{}: {}", service.trim_start_matches("eticket-"), span.name);
    let edge = |found: &(String, Span)| match trace.get(&found.1.parent_span_id) {
        Some(parent) => format!("{} <- {}", name(found), name(parent)),
        None => format!("{} <- {}", name(found), hex(&found.1.parent_span_id)),
    };
    trace.values().map(edge).collect()
}

const PARENT: &str = "00f067aa0ba902b7";

fn traced<M>(message: M, trace_id: &str, flags: &str) -> Request<M> {
    let mut request = Request::new(message);
    let parent = format!("00-{trace_id}-{PARENT}-{flags}");
    request.metadata_mut().insert("traceparent", parent.parse().expect("a header"));
    request
}

fn new_trace() -> String {
    Uuid::new_v4().simple().to_string()
}

fn reserve(ticket: &str) -> ReserveTicketRequest {
    ReserveTicketRequest {
        ticket_id: ticket.to_owned(),
        user_id: "kim".to_owned(),
        user_grade: UserGrade::Vip.into(),
        request_id: String::new(),
    }
}

const RESERVE: &str = "eticket.reservation.v1.ReservationService/ReserveTicket";
const GET_VIEW: &str = "eticket.query.v1.QueryService/GetTicketView";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reservation_is_one_trace_until_its_view_has_settled() {
    let (collector, address) = Collector::start().await;
    let data = TempDir::new().expect("a folder");
    let launch = Launch::all_in_one(data.path())
        .key("telemetry.otlp_endpoint", &format!("http://{address}"))
        .key("telemetry.sample_ratio", "0")
        .variable("OTEL_BSP_SCHEDULE_DELAY", "50");
    let eticket = launch.start().await;
    let api = Api::new(&eticket, Protocol::Gateway);
    api.register("t", calendar::upcoming(Weekday::Wed)).await.expect("registered");
    api.register("u", calendar::upcoming(Weekday::Wed)).await.expect("registered");
    let (sampled, unsampled) = (new_trace(), new_trace());
    let _: ReserveTicketResponse =
        api.call_with(RESERVE, traced(reserve("u"), &unsampled, "00")).await.expect("reserved");
    let reserved: ReserveTicketResponse =
        api.call_with(RESERVE, traced(reserve("t"), &sampled, "01")).await.expect("reserved");
    let settled = GetTicketViewRequest {
        ticket_id: "t".to_owned(),
        consistency_token: reserved.consistency_token,
        wait: WaitFor::Settled.into(),
    };
    let _: GetTicketViewResponse = api.call(GET_VIEW, settled).await.expect("settled");
    let check = "eticket.ticket.v1.TicketService/CheckAvailability";
    let expected: BTreeSet<String> = [
        format!("gateway: {RESERVE} <- {PARENT}"),
        format!("reservation: {RESERVE} <- gateway: {RESERVE}"),
        format!("reservation: {check} <- reservation: {RESERVE}"),
        format!("ticket: {check} <- reservation: {check}"),
        format!("reservation: commit <- reservation: {RESERVE}"),
        format!("reservation: send eticket.v1.reservation <- reservation: {RESERVE}"),
        "ticket: process eticket.v1.reservation <- reservation: send eticket.v1.reservation".to_owned(),
        "pricing: process eticket.v1.reservation <- reservation: send eticket.v1.reservation".to_owned(),
        "query: process eticket.v1.reservation <- reservation: send eticket.v1.reservation".to_owned(),
        "ticket: commit <- ticket: process eticket.v1.reservation".to_owned(),
        "ticket: send eticket.v1.ticket <- ticket: process eticket.v1.reservation".to_owned(),
        "pricing: commit <- pricing: process eticket.v1.reservation".to_owned(),
        "pricing: send eticket.v1.price <- pricing: process eticket.v1.reservation".to_owned(),
        "query: process eticket.v1.ticket <- ticket: send eticket.v1.ticket".to_owned(),
        "query: process eticket.v1.price <- pricing: send eticket.v1.price".to_owned(),
    ]
    .into();
    eventually(SOON, "the whole trace has arrived", async || {
        let found = edges(&collector.trace(&sampled));
        let missing: Vec<_> = expected.difference(&found).cloned().collect();
        if missing.is_empty() { Ok(()) } else { Err((missing, found)) }
    })
    .await;
    eticket.stop().await;
    // Nothing else belongs to the trace, apart from reactions to the event of ticket.
    let trace = collector.trace(&sampled);
    let more: Vec<_> = edges(&trace).difference(&expected).cloned().collect();
    assert!(more.iter().all(|edge| edge.contains("process eticket.v1.ticket")), "{more:?}");
    for (service, span) in trace.values() {
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano && span.start_time_unix_nano > 0, "{service}");
        assert!(attribute(span, "eticket.correlation_id").is_some(), "{service} {}", span.name);
        let shown = format!("{:?}", span.attributes);
        assert!(!shown.contains("kim"), "no user in a trace: {shown}");
        match span.kind() {
            SpanKind::Server => assert_eq!(attribute(span, "rpc.grpc.status_code").as_deref(), Some("0")),
            SpanKind::Producer | SpanKind::Consumer => {
                assert_eq!(attribute(span, "messaging.system").as_deref(), Some("nats"));
                assert!(attribute(span, "messaging.message.id").is_some());
            }
            _ => {}
        }
    }
    assert_eq!(collector.trace(&unsampled), BTreeMap::new(), "the caller decides");
    let traces: BTreeSet<_> =
        collector.0.lock().expect("no panic").iter().map(|(_, span)| hex(&span.trace_id)).collect();
    assert_eq!(traces, BTreeSet::from([sampled]), "at a ratio of 0 no trace begins here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_variables_of_opentelemetry_are_honoured() {
    let (collector, address) = Collector::start().await;
    let data = TempDir::new().expect("a folder");
    let launch = Launch::all_in_one(data.path())
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{address}"))
        .variable("OTEL_TRACES_SAMPLER", "parentbased_always_on")
        .variable("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test");
    let eticket = launch.start().await;
    let api = Api::new(&eticket, Protocol::Gateway);
    let missing: Result<GetTicketViewResponse, _> =
        api.call(GET_VIEW, GetTicketViewRequest { ticket_id: "nothing".to_owned(), ..Default::default() }).await;
    missing.expect_err("there is no ticket");
    // The stop sends what is left.
    eticket.stop().await;
    let spans = collector.0.lock().expect("no panic").clone();
    let names: BTreeSet<_> = spans.iter().map(|(service, span)| (service.as_str(), span.name.as_str())).collect();
    assert_eq!(names, BTreeSet::from([("eticket-gateway", GET_VIEW), ("eticket-query", GET_VIEW)]));
    for (_, span) in &spans {
        assert_eq!(attribute(span, "rpc.grpc.status_code").as_deref(), Some("5"), "NOT_FOUND");
        let code = span.status.as_ref().map_or(StatusCode::Unset, |status| status.code());
        assert_eq!(code, StatusCode::Unset, "a refusal is no fault of the server");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_holds_nothing_up() {
    let data = TempDir::new().expect("a folder");
    let unused = free_address().expect("a port");
    let launch = Launch::all_in_one(data.path())
        .key("telemetry.otlp_endpoint", &format!("http://{unused}"))
        .key("telemetry.sample_ratio", "1");
    let eticket = launch.start().await;
    let api = Api::new(&eticket, Protocol::Gateway);
    api.register("t", calendar::upcoming(Weekday::Wed)).await.expect("registered");
    let reserved = api.reserve("t", "kim", UserGrade::Gold).await.expect("reserved");
    api.settled("t", &reserved.consistency_token).await;
    eticket.stop().await;
}
