//! `grpc.health.v1` of the gateway. The short names report the gateway itself; the full name of a service reports its
//! upstream, which serves if any of its replicas serves.
//!
//! The gateway is ready regardless of its upstreams: without traffic it could not report which upstream is missing.
//! There is no health service `bus`, because the gateway has no bus.

use std::{sync::Arc, time::Duration};

use eticket_proto::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
    health_check_response::ServingStatus, health_client::HealthClient, health_server::Health,
};
use eticket_rpc_server::health::Health as OwnHealth;
use futures::{
    future::join_all,
    stream::{self, BoxStream, StreamExt},
};
use tokio::time;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    routes::{Backend, Destination, Routes},
    upstream::{OwnCalls, Upstream},
};

/// How long an upstream may take to report its health.
const PATIENCE: Duration = Duration::from_secs(2);

/// The pause before a failed upstream is checked again.
const PAUSE: Duration = Duration::from_secs(1);

/// The health service.
#[derive(Debug)]
pub(crate) struct GatewayHealth {
    /// The health of the gateway itself.
    pub(crate) own: OwnHealth,
    pub(crate) routes: Arc<Routes>,
    pub(crate) upstreams: [Arc<Upstream>; 4],
}

impl GatewayHealth {
    /// Returns the upstream that a name refers to; `None` if the name refers to the gateway.
    fn upstream(&self, request: &Request<HealthCheckRequest>) -> Result<Option<Arc<Upstream>>, Status> {
        let backend = match self.routes.destination(&request.get_ref().service) {
            Some(Destination::Upstream(backend)) => backend,
            Some(Destination::ByHeader) => Backend::from_headers(request.metadata().as_ref())?,
            Some(Destination::Replicas | Destination::Gateway) | None => return Ok(None),
        };
        Ok(Some(self.upstreams[backend as usize].clone()))
    }
}

#[tonic::async_trait]
impl Health for GatewayHealth {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        match self.upstream(&request)? {
            Some(upstream) => check_upstream(upstream, request.into_inner()).await,
            None => self.own.check(request).await,
        }
    }

    /// Returns the gateway's own names, and the state of each upstream under the name of its service. The operations
    /// service has no entry: its upstream depends on a header of the call.
    async fn list(&self, request: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        let mut list = self.own.list(request).await?.into_inner();
        let asked = self.routes.upstream_services().map(|(name, backend)| async move {
            let request = HealthCheckRequest { service: name.to_owned() };
            let state = check_upstream(self.upstreams[backend as usize].clone(), request).await;
            // An upstream that does not list its own service does not serve it.
            let state = state.map_or_else(|_| answer(ServingStatus::NotServing), Response::into_inner);
            (name.to_owned(), state)
        });
        list.statuses.extend(join_all(asked).await);
        Ok(Response::new(list))
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let Some(upstream) = self.upstream(&request)? else {
            return self.own.watch(request).await;
        };
        let request = request.into_inner();
        let watched = Watched { upstream, request, stream: None, failed: false, rechecks: 0, last: None };
        let states = stream::unfold(watched, |mut watched| async { Some((watched.next().await, watched)) });
        Ok(Response::new(states.map(|state| Ok(answer(state))).boxed()))
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

/// Checks one upstream. An unreachable service is reported as NOT_SERVING instead of failing this call.
pub(crate) async fn check_upstream(
    upstream: Arc<Upstream>,
    request: HealthCheckRequest,
) -> Result<Response<HealthCheckResponse>, Status> {
    let mut client = HealthClient::new(OwnCalls(upstream));
    match time::timeout(PATIENCE, client.check(request)).await {
        Ok(Ok(response)) => Ok(Response::new(response.into_inner())),
        Ok(Err(status)) if status.code() == tonic::Code::NotFound => Err(status),
        _ => Ok(Response::new(answer(ServingStatus::NotServing))),
    }
}

/// A watched upstream; the watch continues across restarts.
struct Watched {
    upstream: Arc<Upstream>,
    request: HealthCheckRequest,
    stream: Option<Streaming<HealthCheckResponse>>,
    failed: bool,
    /// How many times a change for the worse was checked again before it is reported.
    rechecks: u8,
    last: Option<ServingStatus>,
}

impl Watched {
    /// Waits for a state that differs from the last one.
    async fn next(&mut self) -> ServingStatus {
        loop {
            if self.failed {
                time::sleep(PAUSE).await;
            }
            let read = self.read().await;
            let status = *read.as_ref().unwrap_or(&ServingStatus::NotServing);
            self.failed = status == ServingStatus::NotServing;
            if self.failed {
                // This is the state of one replica. A new stream goes to a better replica, if there is one; the
                // readiness of replicas is refreshed about as often as this loop pauses.
                self.stream = None;
                let most = if read.is_ok() { 2 } else { 1 };
                if self.last == Some(ServingStatus::Serving) && self.rechecks < most {
                    self.rechecks += 1;
                    self.failed = read.is_ok();
                    continue;
                }
            }
            self.rechecks = 0;
            if self.last != Some(status) {
                self.last = Some(status);
                return status;
            }
        }
    }

    async fn read(&mut self) -> Result<ServingStatus, Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let mut client = HealthClient::new(OwnCalls(self.upstream.clone()));
                // A frozen replica was already detected by its connection; the change must be visible within 10 s in
                // total.
                let patience = if self.rechecks == 0 { PATIENCE } else { PAUSE };
                let opened = time::timeout(patience, client.watch(self.request.clone())).await;
                none.insert(opened.map_err(|_| Status::unavailable("no answer"))??.into_inner())
            }
        };
        let message = stream.message().await?.ok_or_else(|| Status::unavailable("the stream has ended"))?;
        Ok(message.status())
    }
}

#[cfg(test)]
mod tests {
    use eticket_base::tasks::Tasks;
    use eticket_base::windows::Windows;
    use eticket_proto::headers;
    use eticket_rpc_client::addresses::Address;
    use eticket_rpc_server::health::STANDARD_SERVICES;
    use tokio::sync::watch;
    use tonic::Code;

    use super::*;
    use crate::upstream::Pool;

    /// Creates the health of a gateway with unreachable upstreams: nothing can listen on their address.
    fn health() -> GatewayHealth {
        let upstreams = Backend::ALL.map(|backend| {
            let (socket, authority) = (std::net::SocketAddr::from(([127, 0, 0, 1], 0)), "nowhere:1".to_owned());
            let (_, addresses) = watch::channel(vec![Address { socket, authority, in_process: None }]);
            Arc::new(Upstream::new(backend, Pool::new(addresses, None, Windows::for_streams(8), &Tasks::new())))
        });
        GatewayHealth { own: OwnHealth::new([""; 0]), routes: Arc::new(Routes::try_new(None).unwrap()), upstreams }
    }

    fn check_request(service: &str) -> Request<HealthCheckRequest> {
        Request::new(HealthCheckRequest { service: service.to_owned() })
    }

    async fn check(health: &GatewayHealth, service: &str) -> Result<ServingStatus, Code> {
        health
            .check(check_request(service))
            .await
            .map(|response| response.get_ref().status())
            .map_err(|status| status.code())
    }

    #[tokio::test]
    async fn the_gateway_is_ready_regardless_of_its_upstreams() {
        let health = health();
        for name in ["", "readiness", "liveness"].into_iter().chain(STANDARD_SERVICES) {
            assert_eq!(check(&health, name).await, Ok(ServingStatus::Serving), "{name}");
        }
        health.own.set_draining();
        assert_eq!(check(&health, "").await, Ok(ServingStatus::NotServing));
        assert_eq!(check(&health, "readiness").await, Ok(ServingStatus::NotServing));
        assert_eq!(check(&health, "liveness").await, Ok(ServingStatus::Serving));
    }

    #[tokio::test]
    async fn names_that_are_not_served_are_not_found() {
        let health = health();
        for name in ["bus", "ticket", "eticket.event.v1.TicketEvent"] {
            assert_eq!(check(&health, name).await, Err(Code::NotFound), "{name}");
        }
    }

    #[tokio::test]
    async fn an_upstream_that_cannot_be_reached_does_not_serve() {
        let health = health();
        assert_eq!(check(&health, "eticket.ticket.v1.TicketService").await, Ok(ServingStatus::NotServing));
        let mut stream = health.watch(check_request("eticket.ticket.v1.TicketService")).await.unwrap().into_inner();
        assert_eq!(stream.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    }

    #[tokio::test]
    async fn a_list_has_the_gateway_and_each_upstream() {
        let health = health();
        let listed = health.list(Request::new(HealthListRequest {})).await.unwrap().into_inner().statuses;
        let upstreams = ["ticket", "reservation", "pricing", "query"];
        assert_eq!(listed.len(), 3 + STANDARD_SERVICES.len() + upstreams.len(), "{listed:?}");
        for name in ["", "readiness", "liveness"].into_iter().chain(STANDARD_SERVICES) {
            assert_eq!(listed[name].status(), ServingStatus::Serving, "{name}");
        }
        for (name, _) in health.routes.upstream_services() {
            assert_eq!(listed[name].status(), ServingStatus::NotServing, "{name} cannot be reached");
        }
    }

    #[tokio::test]
    async fn operations_need_the_header_here_too() {
        let health = health();
        let name = "eticket.operations.v1.OperationsService";
        assert_eq!(check(&health, name).await, Err(Code::InvalidArgument));
        let mut request = check_request(name);
        request.metadata_mut().insert(headers::SERVICE, "query".parse().unwrap());
        assert_eq!(health.check(request).await.unwrap().get_ref().status(), ServingStatus::NotServing);
    }

    #[tokio::test]
    async fn a_watch_of_the_gateway_reports_each_change() {
        let health = health();
        let mut stream = health.watch(check_request("")).await.unwrap().into_inner();
        assert_eq!(stream.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
        assert!(futures::poll!(stream.next()).is_pending());
        health.own.set_draining();
        assert_eq!(stream.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    }
}
