//! What a handler knows of a call besides its message.

use eticket_base::telemetry::TraceContext;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Request;

use crate::{
    auth::Caller,
    server::{Deadline, Draining},
};

/// Who calls, until when, and in which trace.
#[derive(Debug, Clone)]
pub struct Call {
    /// Who calls.
    pub caller: Caller,
    /// When the caller gives up; `None` only for streams whose caller set no limit.
    pub deadline: Option<Instant>,
    /// The trace to go on with.
    pub trace: TraceContext,
    /// Cancelled when the call should end early with `SHUTTING_DOWN`: whoever waits for something watches it.
    pub draining: CancellationToken,
}

impl Call {
    /// Reads what the server's layers have left in the request. Without those layers, as in tests that call a handler
    /// directly, the caller is nobody in a new trace that never drains.
    #[must_use]
    pub fn from_request<T>(request: &Request<T>) -> Self {
        let extensions = request.extensions();
        Self {
            caller: extensions.get().cloned().unwrap_or_default(),
            deadline: extensions.get::<Deadline>().map(|deadline| deadline.0),
            trace: extensions.get().cloned().unwrap_or_else(TraceContext::new_root),
            draining: extensions.get::<Draining>().map(|draining| draining.0.clone()).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_is_read_from_the_request() {
        let mut request = Request::new(());
        let bare = Call::from_request(&request);
        assert!(!bare.caller.is_admin());
        assert_eq!(bare.deadline, None);
        let (now, trace) = (Instant::now(), TraceContext::new_root());
        request.extensions_mut().insert(Deadline(now));
        request.extensions_mut().insert(trace.clone());
        let call = Call::from_request(&request);
        assert_eq!(call.deadline, Some(now));
        assert_eq!(call.trace, trace);
    }
}
