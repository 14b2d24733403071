//! Spans of traces, exported by OTLP.
//!
//! A [`TraceContext`] names one step of a trace: the id of its own span, and that of its parent. A [`Span`] records this
//! step, if the trace is sampled and this process exports; otherwise it costs one comparison. Span and context are
//! separate because the context travels on, into headers and events, while the span only measures.

use std::{
    borrow::Cow,
    env,
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId, Value,
    trace::{Link, SpanContext, Status, TraceState},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    resource::{EnvResourceDetector, ResourceDetector},
    trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor},
};

use super::TraceContext;
use crate::{
    config::{self, telemetry::Export},
    instance::instance,
};

/// What a span does, as OpenTelemetry defines it.
pub use opentelemetry::trace::SpanKind;

/// How long the end of the process waits for the last spans.
const LAST_SPANS: Duration = Duration::from_secs(2);
/// A span has this many links at most, so that a batch of any size fits into a message.
const MOST_LINKS: usize = 32;

/// The exporters of this process, once [`start`] has run.
static EXPORTERS: OnceLock<Exporters> = OnceLock::new();

struct Exporters {
    export: Export,
    /// One for each server, because each has its own resource.
    processors: Vec<(&'static str, BatchSpanProcessor)>,
}

/// Starts to export the spans of these servers. Call it once per process, inside of a tokio runtime. The address need
/// not respond: spans that cannot be sent are dropped, and the log says so.
///
/// # Errors
/// If a variable of OpenTelemetry, such as `OTEL_EXPORTER_OTLP_HEADERS`, has an invalid value.
pub fn start(export: Export, servers: &[&'static str]) -> Result<(), config::Error> {
    let mut processors = Vec::with_capacity(servers.len());
    for server in servers {
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(&export.endpoint).build();
        let exporter = exporter.map_err(|error| {
            config::Error::new("telemetry.otlp_endpoint", Some(export.endpoint.clone()), error.to_string())
        })?;
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        processor.set_resource(&resource(server, servers.len() == 1));
        processors.push((*server, processor));
    }
    // A second call has no effect: the servers of this process are known already.
    EXPORTERS.set(Exporters { export, processors }).ok();
    Ok(())
}

/// Sends the spans that have ended, for up to two seconds. Call it before the process ends.
pub fn stop() {
    let Some(exporters) = EXPORTERS.get() else { return };
    std::thread::scope(|scope| {
        for (server, processor) in &exporters.processors {
            scope.spawn(move || {
                if let Err(error) = processor.shutdown_with_timeout(LAST_SPANS) {
                    tracing::info!(server, %error, "the last spans were not sent");
                }
            });
        }
    });
}

/// `service.name` is `eticket-<server>`; for a server in a process of its own, `OTEL_SERVICE_NAME` overrides it.
fn resource(server: &str, alone: bool) -> Resource {
    let name = env::var("OTEL_SERVICE_NAME").ok().filter(|name| alone && !name.is_empty());
    let name = name.unwrap_or_else(|| format!("eticket-{server}"));
    let detectors: Vec<Box<dyn ResourceDetector>> = vec![Box::new(EnvResourceDetector::new())];
    let own = [
        KeyValue::new("service.version", instance().version),
        KeyValue::new("service.instance.id", instance().id.clone()),
    ];
    Resource::builder_empty().with_attributes(own).with_detectors(&detectors).with_service_name(name).build()
}

/// Decides whether a trace is sampled: by the flags of the parent if there is one, else by the trace id, as every other
/// program with the same ratio does. Without an export, the flags of the parent are passed on.
pub(super) fn flags(trace_id: u128, parent: Option<u8>) -> u8 {
    match (EXPORTERS.get(), parent) {
        (None, parent) => parent.unwrap_or(0),
        (Some(exporters), Some(flags)) if exporters.export.parent_based => flags,
        (Some(exporters), _) => u8::from(is_within(trace_id, exporters.export.ratio)),
    }
}

/// The rule of `TraceIdRatioBased`: the last eight bytes of the id are uniformly distributed.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the last eight bytes; a ratio is not negative"
)]
#[expect(clippy::cast_precision_loss, reason = "a share needs no more precision")]
fn is_within(trace_id: u128, ratio: f64) -> bool {
    let bound = (ratio * (1_u64 << 63) as f64) as u64;
    (trace_id as u64) >> 1 < bound
}

/// One step of a sampled trace, or nothing. It ends when it is dropped.
#[derive(Debug, Default)]
pub struct Span(Option<Box<Recording>>);

#[derive(Debug)]
struct Recording {
    data: SpanData,
    processor: &'static BatchSpanProcessor,
}

impl Span {
    /// Begins the span whose ids are in `trace`. `name` has few different values: of methods and subjects, not of ids.
    #[must_use]
    pub fn start(kind: SpanKind, trace: &TraceContext, name: impl FnOnce() -> Cow<'static, str>) -> Self {
        let Some(exporters) = EXPORTERS.get().filter(|_| trace.is_sampled()) else { return Self(None) };
        let processor = exporters.processors.iter().find(|(server, _)| *server == trace.server());
        let Some((_, processor)) = processor else { return Self(None) };
        let attributes = vec![KeyValue::new("eticket.correlation_id", trace.correlation_id.clone())];
        let data = SpanData {
            span_context: context(trace),
            parent_span_id: SpanId::from(trace.parent_id()),
            // Parents in the same process are written into the same headers.
            parent_span_is_remote: matches!(kind, SpanKind::Server | SpanKind::Consumer),
            span_kind: kind,
            name: name(),
            start_time: SystemTime::now(),
            end_time: SystemTime::UNIX_EPOCH,
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::builder("eticket").build(),
        };
        Self(Some(Box::new(Recording { data, processor })))
    }

    /// Whether the span is recorded, so that attributes are worth computing.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        self.0.is_some()
    }

    /// Adds an attribute. No token, key or user may be in it.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(recording) = &mut self.0 {
            recording.data.attributes.push(KeyValue::new(key, value));
        }
    }

    /// Links a step of another trace, or of another branch, that this step has joined. Steps that are not sampled are
    /// left out.
    pub fn link(&mut self, other: &TraceContext) {
        let Some(recording) = self.0.as_mut().filter(|_| other.is_sampled()) else { return };
        let links = &mut recording.data.links;
        match links.links.len() {
            MOST_LINKS.. => links.dropped_count += 1,
            _ => links.links.push(Link::with_context(context(other))),
        }
    }

    /// Marks the step as failed. `description` is for people; no data of a caller may be in it.
    pub fn fail(&mut self, description: impl Into<Cow<'static, str>>) {
        if let Some(recording) = &mut self.0 {
            recording.data.status = Status::Error { description: description.into() };
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(recording) = self.0.take() {
            let Recording { mut data, processor } = *recording;
            data.end_time = SystemTime::now();
            processor.on_end(data);
        }
    }
}

fn context(trace: &TraceContext) -> SpanContext {
    let ids = (TraceId::from(trace.trace_number()), SpanId::from(trace.span_id()));
    SpanContext::new(ids.0, ids.1, TraceFlags::SAMPLED, false, TraceState::NONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_decides_by_the_trace_id() {
        let ids = [0, 1 << 62, u128::from(u64::MAX), u128::MAX, 5 << 64];
        for id in ids {
            assert!(!is_within(id, 0.0) && is_within(id, 1.0), "{id:x}");
        }
        let half = |id: u128| is_within(id, 0.5);
        assert_eq!([half(1 << 62), half(u128::from(u64::MAX) - (1 << 62)), half(u128::MAX)], [true, false, false]);
    }

    #[test]
    fn without_an_export_the_flags_of_the_parent_are_passed_on() {
        assert_eq!([flags(1, None), flags(1, Some(1)), flags(1, Some(0))], [0, 1, 0]);
        let sampled = TraceContext::from_parts(Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), None);
        assert!(sampled.is_sampled());
        assert!(!Span::start(SpanKind::Server, &sampled, || "a".into()).is_recorded());
    }
}
