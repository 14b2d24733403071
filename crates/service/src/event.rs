//! Common parts of all readers of the stream: decoding and naming events, the trace of an event, and the log line for a
//! received event.

use eticket_base::telemetry::TraceContext;
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

/// Returns the trace of the command that caused an event, or a new trace if the message has none.
#[must_use]
pub fn trace(message: &Message) -> TraceContext {
    TraceContext::from_parts(message.header(headers::TRACE_PARENT), message.header(headers::CORRELATION_ID))
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
