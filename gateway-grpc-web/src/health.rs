//! `grpc.health.v1` of the gateway: of itself by the short names, of an upstream by the full name of its service, which serves
//! if any of its replicas does.
//!
//! The gateway is ready whatever its upstreams are: taken out of traffic it could not even say which of them is missing.
//! There is no service `bus`, as the gateway has none.

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

/// How long an upstream may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(2);

/// The pause before an upstream that did not answer is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// The health service.
#[derive(Debug)]
pub(crate) struct GatewayHealth {
    /// Of the gateway itself.
    pub(crate) own: OwnHealth,
    pub(crate) routes: Arc<Routes>,
    pub(crate) upstreams: [Arc<Upstream>; 4],
}

impl GatewayHealth {
    /// The upstream that a name speaks of, if it does not speak of the gateway.
    fn upstream(&self, request: &Request<HealthCheckRequest>) -> Result<Option<Arc<Upstream>>, Status> {
        let backend = match self.routes.destination(&request.get_ref().service) {
            Some(Destination::Upstream(backend)) => backend,
            Some(Destination::ByHeader) => Backend::from_headers(request.metadata().as_ref())?,
            Some(Destination::Gateway) | None => return Ok(None),
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

    /// Returns the gateway's own names, and the service of each upstream with that upstream's state. The operations service has
    /// no state of its own at the gateway: the header of a call says whose it is.
    async fn list(&self, request: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        let mut list = self.own.list(request).await?.into_inner();
        let asked = self.routes.upstream_services().map(|(name, backend)| async move {
            let request = HealthCheckRequest { service: name.to_owned() };
            let state = check_upstream(self.upstreams[backend as usize].clone(), request).await;
            // An upstream that does not know its own service does not serve it.
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
        let watched = Watched { upstream, request, stream: None, failed: false, doubts: 0, last: None };
        let states = stream::unfold(watched, |mut watched| async { Some((watched.next().await, watched)) });
        Ok(Response::new(states.map(|state| Ok(answer(state))).boxed()))
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

/// A service that cannot be asked does not serve: that is its state, not an error of this call.
async fn check_upstream(
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

/// An upstream whose state is followed, through its restarts too.
struct Watched {
    upstream: Arc<Upstream>,
    request: HealthCheckRequest,
    stream: Option<Streaming<HealthCheckResponse>>,
    failed: bool,
    /// How often a state that is worse than the last one has been asked for again.
    doubts: u8,
    last: Option<ServingStatus>,
}

impl Watched {
    /// Waits for a state other than the last one.
    async fn next(&mut self) -> ServingStatus {
        loop {
            if self.failed {
                time::sleep(PAUSE).await;
            }
            let read = self.read().await;
            let status = *read.as_ref().unwrap_or(&ServingStatus::NotServing);
            self.failed = status == ServingStatus::NotServing;
            if self.failed {
                // That is one replica: opened anew, the stream is that of a better one, if there is any. Which ones are is
                // looked at about as often as this pauses.
                self.stream = None;
                let most = if read.is_ok() { 2 } else { 1 };
                if self.last == Some(ServingStatus::Serving) && self.doubts < most {
                    self.doubts += 1;
                    self.failed = read.is_ok();
                    continue;
                }
            }
            self.doubts = 0;
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
                // One that is frozen has been found out by its connection; within 10 s all of it must show.
                let patience = if self.doubts == 0 { PATIENCE } else { PAUSE };
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
    use eticket_proto::headers;
    use eticket_rpc_client::balance::Address;
    use eticket_rpc_server::{health::STANDARD_SERVICES, server::Windows};
    use tokio::sync::watch;
    use tonic::Code;

    use super::*;
    use crate::upstream::pool::Pool;

    /// A gateway whose upstreams listen nowhere: their address is one that nothing can be bound to.
    fn health() -> GatewayHealth {
        let upstreams = Backend::ALL.map(|backend| {
            let (socket, authority) = (std::net::SocketAddr::from(([127, 0, 0, 1], 0)), "nowhere:1".to_owned());
            let (_, addresses) = watch::channel(vec![Address { socket, authority }]);
            Arc::new(Upstream::new(backend, Pool::new(addresses, Windows::for_streams(8), &Tasks::new())))
        });
        GatewayHealth { own: OwnHealth::new([""; 0]), routes: Arc::new(Routes::try_new().unwrap()), upstreams }
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
    async fn the_gateway_speaks_for_itself_whatever_its_upstreams_are() {
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
    async fn a_watch_of_the_gateway_tells_each_change() {
        let health = health();
        let mut stream = health.watch(check_request("")).await.unwrap().into_inner();
        assert_eq!(stream.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
        assert!(futures::poll!(stream.next()).is_pending());
        health.own.set_draining();
        assert_eq!(stream.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    }
}
