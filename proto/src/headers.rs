//! Names of the headers that services agree on, for messages on the stream (CloudEvents NATS binding, binary mode) and for calls.

/// `<owner>/<ticket_id>[/<reservation_id>]/<revision>`. It stays the same when the same state is published again.
pub const ID: &str = "ce-id";
/// Full name of the event type, such as `eticket.event.v1.ReservationPlaced`. It is for people; consumers use the state in the body.
pub const TYPE: &str = "ce-type";
/// The owner, such as `/eticket/reservation`.
pub const SOURCE: &str = "ce-source";
/// When the state was written (RFC 3339, UTC).
pub const TIME: &str = "ce-time";
/// The ticket's id.
pub const SUBJECT: &str = "ce-subject";
/// Version of CloudEvents, always `1.0`.
pub const SPEC_VERSION: &str = "ce-specversion";
/// A UUID of one publication: each message that a relay sends has its own, also if it sends a row of the outbox again.
pub const PUBLICATION_ID: &str = "eticket-publication-id";
/// W3C trace context of the command that caused it.
pub const TRACE_PARENT: &str = "traceparent";
/// The names of the headers that messages on the stream have.
pub const OF_MESSAGES: [&str; 9] =
    [ID, TYPE, SOURCE, TIME, SUBJECT, SPEC_VERSION, PUBLICATION_ID, TRACE_PARENT, CORRELATION_ID];
/// The correlation id: the same in all calls and events that one request causes.
pub const CORRELATION_ID: &str = "eticket-correlation-id";
/// Selects the service for a call to `OperationsService` through the gateway.
pub const SERVICE: &str = "eticket-service";
/// Milliseconds after which a client may retry; -1 means that its library must not retry.
pub const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";
/// Consistency tokens. A command's response has the token of its effect; a read of the query service may have up to
/// [`MOST_CONSISTENCY_TOKENS`](crate::token::MOST_CONSISTENCY_TOKENS), comma-separated or in repeated headers, and waits for their effects.
pub const CONSISTENCY_TOKEN: &str = "eticket-consistency-token";
/// What a read with consistency tokens waits for: `none`, `applied` (the default) or `settled`.
pub const WAIT: &str = "eticket-wait";
/// `true` in the response to a command that was executed by an earlier attempt with the same `request_id`.
pub const IDEMPOTENT_REPLAYED: &str = "eticket-idempotent-replayed";
