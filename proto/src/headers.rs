//! Names of the headers that services agree on: of messages on the stream (the CloudEvents NATS binding, binary mode) and of calls.

/// `<owner>/<ticket_id>[/<reservation_id>]/<revision>`: the same whenever the same state is published again.
pub const ID: &str = "ce-id";
/// Full name of what was done, as `eticket.event.v1.ReservationPlaced`: for people; readers decide by the state in the body.
pub const TYPE: &str = "ce-type";
/// The owner, as `/eticket/reservation`.
pub const SOURCE: &str = "ce-source";
/// When the state was written, RFC 3339.
pub const TIME: &str = "ce-time";
/// The ticket's id.
pub const SUBJECT: &str = "ce-subject";
/// Version of CloudEvents, always `1.0`.
pub const SPEC_VERSION: &str = "ce-specversion";
/// W3C trace context of the command that caused it.
pub const TRACE_PARENT: &str = "traceparent";
/// Follows one request through every service and event.
pub const CORRELATION_ID: &str = "eticket-correlation-id";
/// Says through the gateway which service's operations are meant.
pub const SERVICE: &str = "eticket-service";
/// Milliseconds after which a refused call may be tried again.
pub const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";
