//! What traces cost: one of a hundred traces is sampled and exported, beside none.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse, trace_service_server::TraceService,
};
use tonic::{Request, Response, Status, async_trait};

use super::{Outcome, Scale};
use crate::{
    Protocol,
    bench::{load::Limit, phases::Bench, report::Row, subject::Subject},
    mesh::{self, Infrastructure, Mesh},
    otlp,
};

/// Pairs of measurements.
const ROUNDS: usize = 3;

pub(super) async fn run(scale: &Scale, outcome: &mut Outcome) {
    let collector = Collector::default();
    let address = otlp::serve(collector.clone()).await;
    let traced = |plan: mesh::Plan| {
        plan.variable("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{address}"))
            .variable("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
            .variable("OTEL_TRACES_SAMPLER_ARG", &scale.sampled.to_string())
    };
    let plan = || mesh::Plan::default().replicas(scale.plan.replicas);
    let (mut with, mut without): (Option<Row>, Option<Row>) = (None, None);
    for round in 0..ROUNDS {
        // Whichever comes second has a warmer machine.
        for is_traced in [round % 2 == 0, round % 2 != 0] {
            let (plan, sum) = if is_traced { (traced(plan()), &mut with) } else { (plan(), &mut without) };
            let row = reservations(scale, plan).await;
            *sum = Some(match sum.take() {
                Some(sum) => sum.and(row),
                None => row,
            });
        }
    }
    let cpu = |row: Option<Row>| row.and_then(|row| row.cpu_us()).expect("the CPU time was measured");
    let (with, without) = (cpu(with), cpu(without));
    outcome.add("CPU time of a reservation in eTicket's processes, no traces", without, "µs");
    outcome.add(format!("with {} % of the traces sampled", scale.sampled * 100.0), with, "µs");
    outcome.add_ratio("with traces to without", with, without);
    let spans = collector.0.load(Ordering::Relaxed);
    assert!(spans > 0, "no trace was sampled");
    outcome.add("spans that the collector received", spans as f64, "");
}

async fn reservations(scale: &Scale, plan: mesh::Plan) -> Row {
    let mesh = Mesh::start_on(Infrastructure::synced().await, plan).await;
    let subject = Subject::of_processes(&mesh);
    let plan = scale.plan(scale.sustained);
    let mut bench = Bench::prepared(&plan, &subject).await;
    let callers = bench.callers(Protocol::Gateway).to_vec();
    let limit = Limit { calls: scale.sustained, time: scale.patience };
    let (row, ..) = bench.reserve(Protocol::Gateway, &callers, limit, Arc::default()).await;
    drop(bench);
    mesh.stop().await;
    row
}

/// A collector that counts spans, in the process of the load generator.
#[derive(Debug, Clone, Default)]
struct Collector(Arc<AtomicUsize>);

#[async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let spans = request.into_inner().resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        self.0.fetch_add(spans.map(|scope| scope.spans.len()).sum(), Ordering::Relaxed);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
