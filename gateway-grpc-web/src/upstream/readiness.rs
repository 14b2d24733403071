//! Asks one address of an upstream whether calls should come to it.
//!
//! A replica that drains, whose store is away, or whose view has not caught up still answers, but others answer better.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use eticket_proto::health::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use http::{Request, Response, uri::Authority};
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use tokio::time::timeout;
use tower::Service;

use super::outgoing::{Outgoing, absolute};

/// How long an answer may take. Calls that wait for the connection wait for it too.
const PATIENCE: Duration = Duration::from_millis(250);

/// Whether it says that no calls should come. Who cannot be asked has not said so.
pub(super) async fn is_refused(connection: SendRequest<Outgoing>, authority: Authority) -> bool {
    let mut client = HealthClient::new(One { connection, authority });
    let asked = client.check(HealthCheckRequest { service: "readiness".to_owned() });
    matches!(timeout(PATIENCE, asked).await, Ok(Ok(answer)) if answer.get_ref().status() == ServingStatus::NotServing)
}

/// One connection, as generated clients call it.
struct One {
    connection: SendRequest<Outgoing>,
    authority: Authority,
}

impl Service<Request<tonic::body::Body>> for One {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.connection.poll_ready(context)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let mut request = request.map(Outgoing::Own);
        *request.uri_mut() = absolute(std::mem::take(request.uri_mut()), &self.authority);
        Box::pin(self.connection.send_request(request))
    }
}
