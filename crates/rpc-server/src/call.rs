//! The context of a call: everything that a handler reads besides the request message.

use eticket_base::telemetry::TraceContext;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Request;

use crate::{
    auth::Caller,
    server::{Deadline, Draining},
};

/// The caller, the deadline and the trace of a call.
#[derive(Debug, Clone)]
pub struct Call {
    /// The identity of the caller.
    pub caller: Caller,
    /// The caller's deadline; `None` only for streams whose caller set none.
    pub deadline: Option<Instant>,
    /// The trace that the call belongs to.
    pub trace: TraceContext,
    /// Cancelled when the call should end early with `SHUTTING_DOWN`. Every wait in a handler must select on it.
    pub draining: CancellationToken,
}

impl Call {
    /// Reads the extensions that the server's layers have set. Without the layers, as in tests that call a handler
    /// directly, the caller has no rights, the trace is new, and the call never drains.
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
