//! `eticket.operations.v1.OperationsService` of the view.

use std::sync::Arc;

use eticket_base::{credentials::Credentials, tasks::Tasks};
use eticket_proto::{
    error::ErrorReason,
    operations::{
        CompareViewRequest, CompareViewResponse, DiscardParkedEventRequest, DiscardParkedEventResponse,
        GetStatusRequest, GetStatusResponse, ListParkedEventsRequest, ListParkedEventsResponse, ListUnsettledRequest,
        ListUnsettledResponse, RebuildViewRequest, RebuildViewResponse, RepublishRequest, RepublishResponse,
        ResendParkedEventRequest, ResendParkedEventResponse, Unsettled, compare_view_response::Difference,
        operations_service_server::OperationsService,
    },
    time::to_proto,
};
use eticket_rpc_server::{
    auth::until_expiry,
    call::Call,
    error::ApiError,
    paging::{self, Page},
};
use eticket_service::{
    batch, failure,
    operations::{discard_parked, list_parked, only, resend_parked},
    status::Reporter,
};
use eticket_store::{self as store, Parked};
use futures::{
    StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::{
    application::{
        compare::{Comparison, Error, OwnerError, Owners, PAUSE, Report},
        reader::Reader,
        rebuild::{Progress, Rebuild},
    },
    domain,
};

/// Number of reports that are buffered for a slow client before the comparison waits.
const REPORTS: usize = 64;

/// Creates the clients of the owners for one comparison. The given tasks follow address changes.
pub type Connect = dyn Fn(&Tasks, Option<Credentials>) -> Arc<dyn Owners> + Send + Sync;

/// The operations of the view.
pub struct Operations {
    pub reader: Reader,
    pub rebuild: Rebuild,
    pub connect: Arc<Connect>,
    /// Tasks of comparisons. They end when the service stops.
    pub tasks: Tasks,
    /// One permit: a comparison reads all rows of the view and of all owners, so a replica runs one at a time.
    pub comparing: Arc<Semaphore>,
    /// Reports the state of the replica.
    pub reporter: Reporter,
}

/// The permits of comparisons of a replica.
#[must_use]
pub fn one_comparison() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(1))
}

#[tonic::async_trait]
impl OperationsService for Operations {
    type RepublishStream = BoxStream<'static, Result<RepublishResponse, Status>>;
    type RebuildViewStream = BoxStream<'static, Result<RebuildViewResponse, Status>>;
    type CompareViewStream = BoxStream<'static, Result<CompareViewResponse, Status>>;

    async fn list_parked_events(
        &self,
        request: Request<ListParkedEventsRequest>,
    ) -> Result<Response<ListParkedEventsResponse>, Status> {
        list_parked(&*self.reader.store, &request.into_inner()).await
    }

    async fn resend_parked_event(
        &self,
        request: Request<ResendParkedEventRequest>,
    ) -> Result<Response<ResendParkedEventResponse>, Status> {
        let reader = self.reader.clone();
        let apply = move |parked: Parked| -> BoxFuture<'static, Result<(), batch::Error>> {
            let reader = reader.clone();
            Box::pin(async move { reader.apply_parked(parked).await.map_err(|_| batch::Error::Unavailable) })
        };
        resend_parked(&*self.reader.store, &request.into_inner().event_id, &apply).await
    }

    async fn discard_parked_event(
        &self,
        request: Request<DiscardParkedEventRequest>,
    ) -> Result<Response<DiscardParkedEventResponse>, Status> {
        discard_parked("query", &*self.reader.store, &request.into_inner().event_id).await
    }

    async fn republish(&self, _: Request<RepublishRequest>) -> Result<Response<Self::RepublishStream>, Status> {
        Err(only("ticket, the reservation and the pricing", "Republish"))
    }

    async fn rebuild_view(
        &self,
        request: Request<RebuildViewRequest>,
    ) -> Result<Response<Self::RebuildViewStream>, Status> {
        let caller = Call::from_request(&request).caller;
        let progress = self.rebuild.start();
        let shown = stream::unfold(Some(progress), |progress| async move {
            let mut progress = progress?;
            let now = progress.borrow_and_update().clone();
            match now {
                Progress::Reading { applied, total } => {
                    let response = Ok(rebuilt(applied, total));
                    let goes_on = wait_for_more(&mut progress).await;
                    Some((response, goes_on.then_some(progress)))
                }
                Progress::Done { applied } => Some((Ok(rebuilt(applied, applied)), None)),
                Progress::Failed { by_bus, reason } => Some((Err(not_rebuilt(by_bus, &reason)), None)),
            }
        });
        Ok(Response::new(until_expiry(&caller, shown.boxed())))
    }

    async fn compare_view(
        &self,
        request: Request<CompareViewRequest>,
    ) -> Result<Response<Self::CompareViewStream>, Status> {
        let caller = Call::from_request(&request).caller;
        let turn = self.comparing.clone().try_acquire_owned().map_err(|_| already_comparing())?;
        let connections = Tasks::new();
        let owners = (self.connect)(&connections, caller.credentials().cloned());
        if let Err(error) = owners.check() {
            connections.stop().await;
            return Err(not_compared(error));
        }
        let (reports, shown) = mpsc::channel(REPORTS);
        let (last, ended) = mpsc::channel(1);
        let client = reports.clone();
        let comparison = Comparison::new(self.reader.store.clone(), owners, reports, PAUSE);
        let stopping = self.tasks.stopping();
        self.tasks.spawn("compare", async move {
            // Do not rely on a failed report to notice a disconnect: a comparison that checks differences again reports
            // nothing for a while, and other callers are refused meanwhile.
            let compare = async {
                tokio::select! {
                    biased;
                    outcome = comparison.run() => outcome,
                    () = client.closed() => Err(Error::ClientDisconnected),
                }
            };
            let outcome = stopping.run_until_cancelled(compare).await;
            connections.stop().await;
            // Release the permit before the client receives the end, so that the client can start another comparison
            // immediately.
            drop(turn);
            let status = match outcome {
                Some(Ok(()) | Err(Error::ClientDisconnected)) => return,
                Some(Err(error @ Error::ClientTooSlow)) => {
                    ApiError::new(ErrorReason::ServiceOverloaded).message(error.to_string()).into()
                }
                Some(Err(Error::Owner(error))) => not_compared(error),
                Some(Err(Error::Store(error))) => failure::store_status(error),
                None => ApiError::new(ErrorReason::ShuttingDown).into(),
            };
            // The client may have disconnected.
            let _ = last.try_send(Err(status));
        });
        let reports = ReceiverStream::new(shown).map(|report| Ok(compared(report)));
        Ok(Response::new(until_expiry(&caller, reports.chain(ReceiverStream::new(ended)).boxed())))
    }

    async fn list_unsettled(
        &self,
        request: Request<ListUnsettledRequest>,
    ) -> Result<Response<ListUnsettledResponse>, Status> {
        const SCOPE: &str = "ListUnsettled";
        let message = request.into_inner();
        let page = Page::parse(message.page_size, &message.page_token, SCOPE)?;
        let after = page.after.as_deref().unwrap_or_default();
        let found: Result<_, store::Error> = self.reader.store.unsettled(after, page.rows_to_read()).await;
        let (unsettled, last) = page.fill(found.map_err(failure::store_status)?, |(id, view)| {
            let since_time = view.unsettled_since.map(to_proto);
            Some(Unsettled { ticket_id: id.to_string(), since_time, missing: domain::missing(view) })
        });
        let next_page_token = last.map(|(id, _)| paging::token(SCOPE, id.as_str())).unwrap_or_default();
        Ok(Response::new(ListUnsettledResponse { unsettled, next_page_token }))
    }

    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        Ok(Response::new(self.reporter.status()))
    }
}

/// Waits for the next progress. The last one is still shown after the work has ended.
async fn wait_for_more(progress: &mut watch::Receiver<Progress>) -> bool {
    progress.changed().await.is_ok()
}

fn rebuilt(applied: u64, total: u64) -> RebuildViewResponse {
    let count = |sequence| i64::try_from(sequence).unwrap_or(i64::MAX);
    RebuildViewResponse { applied_count: count(applied), total_count: count(total) }
}

fn not_rebuilt(by_bus: bool, reason: &str) -> Status {
    if by_bus {
        let message = format!("the bus failed, so the view was not rebuilt; the old one continues to serve: {reason}");
        return ApiError::new(ErrorReason::UpstreamUnavailable).message(message).with("upstream", "bus").into();
    }
    let message = format!("the view was not rebuilt; the old one continues to serve: {reason}");
    ApiError::new(ErrorReason::StoreUnavailable).message(message).into()
}

fn not_compared(error: OwnerError) -> Status {
    match error {
        OwnerError::NotConfigured(owner) => {
            ApiError::new(ErrorReason::UpstreamNotConfigured).with("key", format!("upstream.{owner}.url")).into()
        }
        OwnerError::Unavailable { owner, .. } => {
            ApiError::new(ErrorReason::UpstreamUnavailable).message(error.to_string()).with("upstream", owner).into()
        }
    }
}

fn already_comparing() -> Status {
    let message = "this replica already compares its view for another caller; start the comparison again later";
    ApiError::new(ErrorReason::ServiceOverloaded).message(message.to_owned()).into()
}

fn compared(report: Report) -> CompareViewResponse {
    let difference = report.difference.map(|difference| Difference {
        ticket_id: difference.ticket.to_string(),
        field: difference.field,
        view_value: difference.view_value,
        owner_value: difference.owner_value,
    });
    let count = |count| i64::try_from(count).unwrap_or(i64::MAX);
    CompareViewResponse { compared_count: count(report.compared), total_count: count(report.total), difference }
}
