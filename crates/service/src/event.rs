//! Common parts of all readers of the stream: decoding and naming events, the trace of an event, and the log line for a
//! received event.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use eticket_base::telemetry::{Span, SpanKind, TraceContext};
use eticket_bus::{Delivery, Message};
use eticket_proto::headers;

/// An event that a service decodes from the messages of other services.
pub trait Event: Sized + Send + Sync + 'static {
    /// The subjects of these events.
    const FILTERS: &'static [&'static str];

    /// Decodes the event from a message.
    ///
    /// # Errors
    /// The reason, as text, why the message cannot be decoded. The message is parked with that reason.
    fn decode(message: &Message) -> Result<Self, String>;

    /// Returns the aggregate of the event and the revision of the aggregate. If a batch contains several events of one
    /// aggregate, the consumer applies only the newest.
    fn aggregate(&self) -> (String, i64);
}

/// Returns the id of an event. A message without an id is identified by its subject and sequence.
#[must_use]
pub fn id(message: &Message, sequence: u64) -> String {
    match message.header(headers::ID) {
        Some(id) => id.to_owned(),
        None => format!("{}@{sequence}", message.subject),
    }
}

/// Returns the revision in the id of an event; `None` if the message has no such id.
#[must_use]
pub fn revision(message: &Message) -> Option<i64> {
    message.header(headers::ID)?.rsplit('/').next()?.parse().ok()
}

/// Returns the trace of the command that caused an event, or a new trace if the message has none.
#[must_use]
pub fn trace(message: &Message) -> TraceContext {
    TraceContext::from_parts(message.header(headers::TRACE_PARENT), message.header(headers::CORRELATION_ID))
}

/// Returns whether the trace of an event is exported, without reading all of it.
#[must_use]
pub fn is_sampled(message: &Message) -> bool {
    let flags = message.header(headers::TRACE_PARENT).and_then(|text| text.get(53..55));
    flags.and_then(|flags| u8::from_str_radix(flags, 16).ok()).is_some_and(|flags| flags & 1 == 1)
}

/// Begins the span of a step that sends or processes an event.
#[must_use]
pub fn span(kind: SpanKind, message: &Message, trace: &TraceContext) -> Span {
    // `eticket.v1.ticket` of `eticket.v1.ticket.t-1`: spans with ids in their names could not be grouped.
    let destination = || message.subject.splitn(4, '.').take(3).collect::<Vec<_>>().join(".");
    let verb = if kind == SpanKind::Producer { "send" } else { "process" };
    let mut span = Span::start(kind, trace, || Cow::Owned(format!("{verb} {}", destination())));
    if span.is_recorded() {
        span.set("messaging.system", "nats");
        span.set("messaging.operation.type", verb);
        span.set("messaging.destination.template", destination());
        span.set("messaging.message.id", id(message, 0));
        if let Some(event_type) = message.header(headers::TYPE) {
            span.set("cloudevents.event_type", event_type.to_owned());
        }
    }
    span
}

/// Begins the span of a reader that processes an event, and returns the context of that step.
#[must_use]
pub fn consumer_span(server: &'static str, message: &Message) -> (TraceContext, Span) {
    let trace = trace(message).at(server);
    let span = span(SpanKind::Consumer, message, &trace);
    (trace, span)
}

/// Returns when the state of an event was written.
#[must_use]
pub fn time(message: &Message) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(message.header(headers::TIME)?).ok().map(Into::into)
}

/// Returns the correlation id that a message carries, for log lines.
#[must_use]
pub fn correlation_id(message: &Message) -> Option<&str> {
    message.header(headers::CORRELATION_ID)
}

/// Logs at level `debug` that a reader has received an event, with the correlation id of the command that caused it.
pub fn log_received(reader: &str, delivery: &Delivery) {
    if tracing::enabled!(tracing::Level::DEBUG) {
        let (trace, event_id) = (trace(&delivery.message), id(&delivery.message, delivery.sequence));
        tracing::debug!(
            reader,
            event_id,
            attempt = delivery.attempts,
            correlation_id = %trace.correlation_id,
            trace_id = trace.trace_id(),
            "received an event"
        );
    }
}
/// Creates the counters of a consumer, so that an alert sees the first parked message as an increase from 0.
pub fn register_metrics(consumer: &'static str) {
    metrics::counter!("eticket_events_taken_in_total", "consumer" => consumer).increment(0);
    metrics::counter!("eticket_events_parked_total", "consumer" => consumer).increment(0);
}

/// Logs and counts that a consumer parks a message. Returns false, and counts nothing, if an operator has discarded the
/// message: it is then not parked again.
pub fn note_parked(
    consumer: &'static str,
    event_id: &str,
    message: &Message,
    reason: &str,
    attempts: u32,
    is_discarded: bool,
) -> bool {
    if is_discarded {
        tracing::info!(consumer, event_id, reason, "a discarded event is not parked again");
    } else {
        let correlation_id = correlation_id(message);
        tracing::error!(consumer, event_id, reason, attempts, correlation_id, "an event is parked");
        metrics::counter!("eticket_events_parked_total", "consumer" => consumer).increment(1);
    }
    !is_discarded
}
