//! `GetStatus` of the operations through the gateway: it calls every replica of a service, ready or not, and joins
//! their responses. It also reports the state of the gateway itself.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use eticket_base::error::chain;
use eticket_proto::{
    headers,
    health::{HealthCheckRequest, health_check_response::ServingStatus},
    operations::{
        ComponentHealth, GetStatusRequest, GetStatusResponse, ReplicaStatus,
        operations_service_client::OperationsServiceClient, operations_service_server,
    },
};
use eticket_rpc_server::{health::Health, server::Deadline, status};
use futures::future::{BoxFuture, join_all, try_join_all};
use tokio::time::timeout;
use tonic::{
    Code, Request, Response, Status,
    body::Body,
    metadata::MetadataMap,
    server::{Grpc, NamedService, UnaryService},
};
use tonic_prost::ProstCodec;
use tower::Service;

use crate::{
    health::check_upstream,
    routes::Backend,
    upstream::{Member, Upstream},
};

/// How long a replica may take to report its state. A caller that waits less gets the states that are known by then.
const PATIENCE: Duration = Duration::from_secs(2);

/// The value of the header that selects the gateway itself.
const GATEWAY: &str = "gateway";

/// What a replica has to know about a call: who calls, which service, and which trace the call belongs to.
const PASSED_ON: [&str; 4] = ["authorization", headers::SERVICE, headers::TRACE_PARENT, headers::CORRELATION_ID];

/// The one operation that the gateway serves itself.
#[derive(Debug, Clone)]
pub(crate) struct GatewayStatus {
    /// The health of the gateway itself.
    pub(crate) health: Health,
    pub(crate) upstreams: [Arc<Upstream>; 4],
}

impl GatewayStatus {
    pub(crate) async fn respond(&self, request: &Request<GetStatusRequest>) -> Result<GetStatusResponse, Status> {
        let metadata = request.metadata();
        if metadata.get(headers::SERVICE).is_some_and(|service| service == GATEWAY) {
            return Ok(GetStatusResponse { replicas: vec![self.of_gateway().await] });
        }
        let backend = Backend::from_headers(metadata.as_ref())?;
        let upstream = &self.upstreams[backend as usize];
        let mut members = upstream.members().await.map_err(|error| upstream.unavailable(Some(&error)))?;
        members.sort_by_key(Member::address);
        // The response must leave before the caller's own deadline.
        let left = request.extensions().get::<Deadline>().map(|deadline| deadline.remaining() / 10 * 9);
        let patience = left.map_or(PATIENCE, |left| left.min(PATIENCE));
        let asked = members.iter().map(|member| status_of(member, backend, metadata, patience));
        Ok(GetStatusResponse { replicas: try_join_all(asked).await? })
    }

    async fn of_gateway(&self) -> ReplicaStatus {
        let mut replica = status::of_server(GATEWAY, &self.health);
        let checked = Backend::ALL.map(|backend| async move {
            let request = HealthCheckRequest { service: "readiness".to_owned() };
            let checked = check_upstream(self.upstreams[backend as usize].clone(), request).await;
            let name = backend.name();
            let serving = checked.is_ok_and(|checked| checked.get_ref().status() == ServingStatus::Serving);
            let reason = if serving { String::new() } else { format!("no replica of the {name} service is ready") };
            ComponentHealth { name: name.to_owned(), serving, reason }
        });
        replica.components.extend(join_all(checked).await);
        replica
    }
}

/// Returns the state of one replica, or an entry that says why there is none.
///
/// # Errors
/// If the replica refuses the caller: then all of them do.
async fn status_of(
    member: &Member,
    backend: Backend,
    metadata: &MetadataMap,
    patience: Duration,
) -> Result<ReplicaStatus, Status> {
    let mut request = Request::new(GetStatusRequest {});
    for name in PASSED_ON {
        if let Some(value) = metadata.get(name) {
            request.metadata_mut().insert(name, value.clone());
        }
    }
    request.set_timeout(patience);
    let asked = async {
        let connection = member.connect().await.map_err(|error| Unknown::Because(chain(&error)))?;
        let response = OperationsServiceClient::new(connection).get_status(request).await.map_err(Unknown::from)?;
        let state = response.into_inner().replicas.pop();
        state.ok_or_else(|| Unknown::Because("it returned no state".to_owned()))
    };
    let late = || format!("it did not respond within {} ms", patience.as_millis());
    let reason = match timeout(patience, asked).await {
        Ok(Ok(state)) => return Ok(ReplicaStatus { address: member.address().to_string(), ..state }),
        Ok(Err(Unknown::Refused(status))) => return Err(status),
        Ok(Err(Unknown::Because(reason))) => reason,
        Ok(Err(Unknown::Late)) | Err(_) => late(),
    };
    let (service, address) = (backend.name().to_owned(), member.address().to_string());
    Ok(ReplicaStatus { service, address, unreachable_reason: reason, ..ReplicaStatus::default() })
}

/// Why the state of a replica is unknown.
enum Unknown {
    Because(String),
    Late,
    /// The caller may not know it.
    Refused(Status),
}

impl From<Status> for Unknown {
    fn from(status: Status) -> Self {
        match (status.code(), std::error::Error::source(&status)) {
            (Code::Unauthenticated | Code::PermissionDenied, _) => Self::Refused(status),
            (Code::DeadlineExceeded, _) => Self::Late,
            (Code::Unimplemented, _) => Self::Because("its version does not have GetStatus".to_owned()),
            (_, Some(source)) => Self::Because(format!("the connection broke: {}", chain(source))),
            (code, None) => Self::Because(format!("it responded with {code:?}: {}", status.message())),
        }
    }
}

impl UnaryService<GetStatusRequest> for GatewayStatus {
    type Response = GetStatusResponse;
    type Future = BoxFuture<'static, Result<Response<GetStatusResponse>, Status>>;

    fn call(&mut self, request: Request<GetStatusRequest>) -> Self::Future {
        let own = self.clone();
        Box::pin(async move { own.respond(&request).await.map(Response::new) })
    }
}

impl NamedService for GatewayStatus {
    const NAME: &'static str = operations_service_server::SERVICE_NAME;
}

/// Only `GetStatus` is routed here. The generated server would need all other methods too.
impl Service<http::Request<Body>> for GatewayStatus {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let own = self.clone();
        Box::pin(async move {
            Ok(Grpc::new(ProstCodec::<GetStatusResponse, GetStatusRequest>::default()).unary(own, request).await)
        })
    }
}
