//! What readers of the stream have in common: how an event is decoded and named, which trace it belongs to, and the log line that shows
//! that it was received.

use eticket_base::telemetry::TraceContext;
use eticket_bus::{Delivery, Message};
use eticket_proto::headers;

/// What a service reads out of the messages of other services.
pub trait Event: Sized + Send + Sync + 'static {
    /// The subjects that these events have.
    const FILTERS: &'static [&'static str];

    /// Reads the event out of a message.
    ///
    /// # Errors
    /// The reason, in words, why the message cannot be read. It is parked with that reason.
    fn decode(message: &Message) -> Result<Self, String>;

    /// Returns the aggregate of the event and its revision there. Of several events of one aggregate in a batch a consumer applies
    /// only the newest.
    fn aggregate(&self) -> (String, i64);
}

/// The id of an event; a message without one is named by its subject and its sequence.
#[must_use]
pub fn id(message: &Message, sequence: u64) -> String {
    match message.header(headers::ID) {
        Some(id) => id.to_owned(),
        None => format!("{}@{sequence}", message.subject),
    }
}

/// The trace of the command that caused an event; a new one where the message has none.
#[must_use]
pub fn trace(message: &Message) -> TraceContext {
    TraceContext::from_parts(message.header(headers::TRACE_PARENT), message.header(headers::CORRELATION_ID))
}

/// The correlation id that a message carries, for log lines.
#[must_use]
pub fn correlation_id(message: &Message) -> Option<&str> {
    message.header(headers::CORRELATION_ID)
}

/// Logs at level `debug` that a reader has got an event, with the correlation id of the command that caused it.
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
