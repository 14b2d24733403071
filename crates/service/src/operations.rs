//! `eticket.operations.v1.OperationsService` of a service that writes: parked messages, republishing and its state.
//!
//! Methods that only the query service implements return UNIMPLEMENTED here.

use std::{pin::Pin, sync::Arc};

use eticket_base::tasks::Tasks;
use eticket_bus::Bus;
use eticket_proto::{
    headers,
    operations::{
        CompareViewRequest, CompareViewResponse, DiscardParkedEventRequest, DiscardParkedEventResponse,
        GetStatusRequest, GetStatusResponse, ListParkedEventsRequest, ListParkedEventsResponse, ListUnsettledRequest,
        ListUnsettledResponse, ParkedEvent, RebuildViewRequest, RebuildViewResponse, RepublishRequest,
        RepublishResponse, ResendParkedEventRequest, ResendParkedEventResponse,
        operations_service_server::{OperationsService, OperationsServiceServer},
    },
    time,
};
use eticket_rpc_server::{
    auth::until_expiry,
    call::Call,
    error::ApiError,
    paging::{self, Page},
};
use eticket_store::{Parked, ParkedStore};
use futures::{Stream, StreamExt, future::BoxFuture};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status,
    service::{Interceptor, interceptor::InterceptedService},
};

use crate::{
    audit::{self, Owner},
    batch,
    consumer::{self, EventHandler},
    failure,
    status::Reporter,
};

/// Number of parked messages that are read and applied again at a time.
const RESEND_PAGE: i64 = 100;

/// The operations of one service.
pub struct Operations<H> {
    /// Name of the durable consumer of the service.
    pub consumer: &'static str,
    /// Store of the parked messages.
    pub store: Arc<dyn ParkedStore>,
    /// The bus whose consumer `Republish` restarts.
    pub bus: Arc<dyn Bus>,
    /// Applies parked events again.
    pub handler: Arc<H>,
    /// Provides the states that `Republish` sends.
    pub owner: Arc<dyn Owner>,
    /// Runs the republishing, which continues if the caller is cancelled.
    pub tasks: Tasks,
    /// Reports the state of the replica.
    pub reporter: Reporter,
}

type Progress<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl<H: EventHandler> OperationsService for Operations<H> {
    type RepublishStream = Progress<RepublishResponse>;
    type RebuildViewStream = Progress<RebuildViewResponse>;
    type CompareViewStream = Progress<CompareViewResponse>;

    async fn list_parked_events(
        &self,
        request: Request<ListParkedEventsRequest>,
    ) -> Result<Response<ListParkedEventsResponse>, Status> {
        list_parked(&*self.store, &request.into_inner()).await
    }

    async fn resend_parked_event(
        &self,
        request: Request<ResendParkedEventRequest>,
    ) -> Result<Response<ResendParkedEventResponse>, Status> {
        let handler = self.handler.clone();
        let apply = move |parked| -> BoxFuture<'static, Result<(), batch::Error>> {
            let handler = handler.clone();
            Box::pin(async move { consumer::apply_parked(&*handler, parked).await })
        };
        resend_parked(&*self.store, &request.into_inner().event_id, &apply).await
    }

    async fn discard_parked_event(
        &self,
        request: Request<DiscardParkedEventRequest>,
    ) -> Result<Response<DiscardParkedEventResponse>, Status> {
        discard_parked(self.consumer, &*self.store, &request.into_inner().event_id).await
    }

    async fn republish(&self, request: Request<RepublishRequest>) -> Result<Response<Self::RepublishStream>, Status> {
        let caller = Call::from_request(&request).caller;
        let total = self.owner.count().await.map_err(failure::batch_status)?;
        let (progress, shown) = mpsc::channel(16);
        // A separate channel for the final response: the one for progress may be full, and the task must not wait for
        // its client.
        let (last, ended) = mpsc::channel(1);
        let (bus, owner, name) = (self.bus.clone(), self.owner.clone(), self.consumer);
        self.tasks.spawn("republish", async move {
            let show = |republished_count: u64| {
                let response = RepublishResponse {
                    republished_count: i64::try_from(republished_count).unwrap_or(i64::MAX),
                    total_count: i64::try_from(total.max(republished_count)).unwrap_or(i64::MAX),
                };
                // Progress is dropped if the client reads too slowly; the work continues.
                let _ = progress.try_send(Ok(response));
            };
            // Restart the consumer first, so that it misses nothing that is published from here on. If the bus is
            // unavailable now, its stream is later either a new one or still holds its messages.
            if let Err(error) = bus.restart(name).await {
                tracing::warn!(service = name, %error, "the consumer was not restarted from the first message");
            }
            let outcome = audit::republish_all(&*owner, &show).await;
            let count = outcome.map(|count| count as i64).map_err(failure::batch_status);
            let end = count.map(|count| RepublishResponse { republished_count: count, total_count: count });
            let _ = last.try_send(end);
        });
        let shown = ReceiverStream::new(shown).chain(ReceiverStream::new(ended)).boxed();
        Ok(Response::new(until_expiry(&caller, shown)))
    }

    async fn rebuild_view(&self, _: Request<RebuildViewRequest>) -> Result<Response<Self::RebuildViewStream>, Status> {
        Err(only("query", "RebuildView"))
    }

    async fn compare_view(&self, _: Request<CompareViewRequest>) -> Result<Response<Self::CompareViewStream>, Status> {
        Err(only("query", "CompareView"))
    }

    async fn list_unsettled(
        &self,
        _: Request<ListUnsettledRequest>,
    ) -> Result<Response<ListUnsettledResponse>, Status> {
        Err(only("query", "ListUnsettled"))
    }

    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        Ok(Response::new(self.reporter.status()))
    }
}

/// Serves the operations of one service. A call whose header names another service is refused: it was meant for a
/// gateway, and its caller would mistake the response for one of the other service.
pub fn served<T: OperationsService>(
    service: &'static str,
    operations: T,
) -> InterceptedService<OperationsServiceServer<T>, impl Interceptor + Clone + Send + Sync + 'static> {
    OperationsServiceServer::with_interceptor(operations, move |request: Request<()>| {
        let Some(named) = request.metadata().get(headers::SERVICE) else { return Ok(request) };
        if named.as_encoded_bytes() == service.as_bytes() {
            return Ok(request);
        }
        let named = String::from_utf8_lossy(named.as_encoded_bytes()).into_owned();
        let description =
            format!("this is the {service} service itself; expected {service} or no header, got {named:?}");
        Err(ApiError::invalid_field(headers::SERVICE, description).into())
    })
}

/// Returns the status for an RPC that this service does not implement.
pub fn only(service: &str, method: &str) -> Status {
    Status::unimplemented(format!("only the {service} service has {method}"))
}

/// Lists parked messages, sorted by id.
///
/// # Errors
/// As defined in the contract.
pub async fn list_parked(
    store: &dyn ParkedStore,
    request: &ListParkedEventsRequest,
) -> Result<Response<ListParkedEventsResponse>, Status> {
    const SCOPE: &str = "ListParkedEvents";
    let page = Page::parse(request.page_size, &request.page_token, SCOPE)?;
    let after = page.after.as_deref().unwrap_or_default();
    let found = store.parked(after, page.rows_to_read()).await.map_err(failure::store_status)?;
    let (parked_events, last) = page.fill(found, |parked| Some(to_message(parked)));
    let next_page_token = last.map(|last| paging::token(SCOPE, &last.event_id)).unwrap_or_default();
    Ok(Response::new(ListParkedEventsResponse { parked_events, next_page_token }))
}

/// Applies a parked message again, and removes it from the parked ones on success.
pub type Apply = dyn Fn(Parked) -> BoxFuture<'static, Result<(), batch::Error>> + Send + Sync;

/// Applies one parked message, or all, again. Returns the number of messages applied. Messages that fail again stay
/// parked.
///
/// # Errors
/// As defined in the contract.
pub async fn resend_parked(
    store: &dyn ParkedStore,
    event_id: &str,
    apply: &Apply,
) -> Result<Response<ResendParkedEventResponse>, Status> {
    let mut resent_count = 0;
    if !event_id.is_empty() {
        let found = store.parked_by_id(event_id).await.map_err(failure::store_status)?;
        let expected = "expected an event_id that ListParkedEvents shows, or nothing for all";
        let parked = found.ok_or_else(|| ApiError::invalid_field("event_id", expected))?;
        apply(parked).await.map_err(failure::batch_status)?;
        // The message was removed if it was applied, and parked again if not.
        let still = store.parked_by_id(event_id).await.map_err(failure::store_status)?.is_some();
        return Ok(Response::new(ResendParkedEventResponse { resent_count: i64::from(!still) }));
    }
    let mut after = String::new();
    loop {
        let page = store.parked(&after, RESEND_PAGE).await.map_err(failure::store_status)?;
        let Some(last) = page.last() else { return Ok(Response::new(ResendParkedEventResponse { resent_count })) };
        after.clone_from(&last.event_id);
        for parked in page {
            let id = parked.event_id.clone();
            apply(parked).await.map_err(failure::batch_status)?;
            let still = store.parked_by_id(&id).await.map_err(failure::store_status)?.is_some();
            resent_count += i64::from(!still);
        }
    }
}

/// Discards one parked message.
///
/// # Errors
/// As defined in the contract.
pub async fn discard_parked(
    service: &'static str,
    store: &dyn ParkedStore,
    event_id: &str,
) -> Result<Response<DiscardParkedEventResponse>, Status> {
    let found = store.parked_by_id(event_id).await.map_err(failure::store_status)?;
    let expected = "expected an event_id that ListParkedEvents shows";
    let Parked { message, reason, .. } = found.ok_or_else(|| ApiError::invalid_field("event_id", expected))?;
    let discarded = store.discard_parked(event_id).await.map_err(failure::store_status)?;
    if discarded {
        let subject = message.subject;
        tracing::warn!(service, event_id, subject, reason, "an operator has discarded a parked event");
        metrics::counter!("eticket_events_discarded_total", "consumer" => service).increment(1);
    }
    Ok(Response::new(DiscardParkedEventResponse { discarded_count: i64::from(discarded) }))
}

fn to_message(parked: &Parked) -> ParkedEvent {
    ParkedEvent {
        event_type: parked.message.header(headers::TYPE).unwrap_or_default().to_owned(),
        event_id: parked.event_id.clone(),
        subject: parked.message.subject.clone(),
        reason: parked.reason.clone(),
        attempts: i32::try_from(parked.attempts).unwrap_or(i32::MAX),
        park_time: Some(time::to_proto(parked.park_time)),
        headers: parked.message.headers.iter().map(|(name, value)| (name.to_string(), value.clone())).collect(),
        body: parked.message.body.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use eticket_bus_embedded::Embedded;
    use eticket_rpc_server::health::Health;
    use tokio::time::timeout;

    use super::*;
    use crate::{
        consumer::tests::{STATES, service},
        relay::tests::database,
        status::Observed,
    };

    #[tokio::test]
    async fn republishing_does_not_wait_for_its_client() {
        let folder = tempfile::tempdir().unwrap();
        let database = database(folder.path()).await;
        let handler = service(database.clone());
        let operations = Operations {
            consumer: "test",
            store: Arc::new(database),
            bus: Arc::new(Embedded::open(&folder.path().join("bus.db")).await.unwrap()),
            handler: handler.clone(),
            owner: handler,
            tasks: Tasks::new(),
            reporter: Reporter { health: Health::new([""; 0]), observed: Observed::new("test"), breakers: Vec::new() },
        };
        let shown = operations.republish(Request::new(RepublishRequest {})).await.unwrap().into_inner();
        timeout(Duration::from_secs(20), operations.tasks.finish()).await.expect("ends without a reader");
        let all = STATES as i64;
        let last = shown.map(Result::unwrap).collect::<Vec<_>>().await.pop();
        assert_eq!(last, Some(RepublishResponse { republished_count: all, total_count: all }), "the final response");
    }
}
