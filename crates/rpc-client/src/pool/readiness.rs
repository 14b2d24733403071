//! Checks the readiness of one address of a service.
//!
//! A replica that drains, whose store is unavailable, or whose view has not caught up still responds, but other
//! replicas are a better choice.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use eticket_proto::health::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use futures::future::BoxFuture;
use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use tokio::time::timeout;
use tower::Service;

use super::{
    RequestBody,
    origin::{Origin, absolute},
};

/// Limit of a readiness check. Calls that wait for the connection also wait for the check.
const PATIENCE: Duration = Duration::from_millis(250);

/// Returns whether the endpoint reports that it is not ready. An endpoint that cannot be checked counts as ready.
pub(super) async fn is_unready<B: RequestBody>(connection: SendRequest<B>, origin: Origin) -> bool {
    let mut client = HealthClient::new(One { connection, origin });
    let asked = client.check(HealthCheckRequest { service: "readiness".to_owned() });
    matches!(timeout(PATIENCE, asked).await, Ok(Ok(answer)) if answer.get_ref().status() == ServingStatus::NotServing)
}

/// A single connection as a client service of generated code.
pub struct One<B> {
    pub(super) connection: SendRequest<B>,
    pub(super) origin: Origin,
}

impl<B: RequestBody> Service<Request<tonic::body::Body>> for One<B> {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Response<Incoming>, hyper::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.connection.poll_ready(context)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let mut request = request.map(B::from);
        *request.uri_mut() = absolute(std::mem::take(request.uri_mut()), &self.origin);
        Box::pin(self.connection.send_request(request))
    }
}
