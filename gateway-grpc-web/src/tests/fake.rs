//! Fake services behind the gateway under test: the id in a request selects the response.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::Router;
use eticket_local_servers::free_address;
use eticket_proto::{
    error::ErrorReason,
    operations::{
        self as op,
        operations_service_server::{OperationsService, OperationsServiceServer},
    },
    query::{
        self as qu, TicketView, WatchTicketViewsRequest, WatchTicketViewsResponse,
        query_service_server::{QueryService, QueryServiceServer},
    },
    ticket::{
        self as ti, GetTicketRequest, GetTicketResponse, Ticket,
        ticket_service_server::{TicketService, TicketServiceServer},
    },
};
use eticket_rpc_server::error::ApiError;
use futures::stream::{self, BoxStream, StreamExt};
use http::HeaderMap;
use tonic::{Request, Response, Status, async_trait, service::Routes};
use tonic_health::server::HealthReporter;

use super::{Served, bind, serve};
use crate::routes::Backend;

/// The title of the response lists the received headers.
pub(super) const HEADERS: &str = "headers";
/// Rejected with details and a trailer.
pub(super) const REFUSED: &str = "refused";
/// Never answered.
pub(super) const SLOW: &str = "slow";
/// Two views, then a rejection with details.
pub(super) const TWO_THEN_REFUSED: &str = "two-then-refused";
/// One view, then silence.
pub(super) const ONE_THEN_SILENCE: &str = "one-then-silence";
/// A hundred views of 10 kB, then the end.
pub(super) const HUNDRED: &str = "hundred";

/// A view whose title shows the resume token, and a message with a token only.
pub(super) const RESUMED: &str = "resumed";

/// Credentials with which a replica does not report its state.
pub(super) const SILENT: &str = "Bearer silent";
/// Credentials that a replica refuses.
pub(super) const FORBIDDEN: &str = "Bearer forbidden";

/// An endless stream of views of 10 kB.
pub(super) const FLOOD: &str = "flood";

pub(super) struct Upstreams {
    pub(super) running: [Option<Served>; 4],
    addresses: [SocketAddr; 4],
    pub(super) fake: Fake,
    pub(super) health: HealthReporter,
}

#[derive(Clone)]
pub(super) struct Fake {
    backend: Backend,
    /// The number of calls that have begun and were neither answered nor dropped.
    pub(super) pending: Arc<AtomicUsize>,
    /// The number of calls that have begun.
    pub(super) begun: Arc<AtomicUsize>,
    /// The number of views that were produced for endless streams.
    pub(super) made: Arc<AtomicUsize>,
}

impl Upstreams {
    pub(super) async fn start() -> Self {
        let fake = Fake::new(Backend::Ticket);
        let health = HealthReporter::new();
        health.set_service_status("eticket.ticket.v1.TicketService", tonic_health::ServingStatus::Serving).await;
        // A killed backend starts again on its address, which nothing else may use in the meantime.
        let addresses = std::array::from_fn(|_| free_address().expect("a port"));
        let mut upstreams = Self { running: [const { None }; 4], addresses, fake, health };
        for backend in Backend::ALL {
            upstreams.start_one(backend).await;
        }
        upstreams
    }

    pub(super) fn addresses(&self) -> [SocketAddr; 4] {
        self.addresses
    }

    /// Starts a backend on its previous address.
    pub(super) async fn start_one(&mut self, backend: Backend) {
        let fake = Fake { backend, ..self.fake.clone() };
        let health = tonic_health::pb::health_server::HealthServer::new(
            tonic_health::server::HealthService::from_health_reporter(self.health.clone()),
        );
        let router: Router = Routes::new(TicketServiceServer::new(fake.clone()))
            .add_service(QueryServiceServer::new(fake.clone()))
            .add_service(OperationsServiceServer::new(fake))
            .add_service(health)
            .into_axum_router();
        let served = serve(bind(self.addresses[backend as usize]).await, router);
        self.addresses[backend as usize] = served.address;
        self.running[backend as usize] = Some(served);
    }

    /// Kills a backend with all its connections.
    pub(super) fn kill(&mut self, backend: Backend) {
        self.running[backend as usize] = None;
    }

    pub(super) fn pending(&self) -> usize {
        self.fake.pending.load(Ordering::SeqCst)
    }
}

/// Counts a call as pending until it is dropped.
struct Pending(Arc<AtomicUsize>);

impl Fake {
    pub(super) fn new(backend: Backend) -> Self {
        Self { backend, pending: Arc::default(), begun: Arc::default(), made: Arc::default() }
    }

    fn begin(&self) -> Pending {
        self.pending.fetch_add(1, Ordering::SeqCst);
        self.begun.fetch_add(1, Ordering::SeqCst);
        Pending(self.pending.clone())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn list(headers: &HeaderMap) -> String {
    headers.iter().map(|(name, value)| format!("{name}={}\n", value.to_str().unwrap_or("?"))).collect()
}

pub(super) fn refusal() -> Status {
    let mut status: Status = ApiError::new(ErrorReason::StoreUnavailable)
        .with("ticket_id", "t1")
        .retry_after(Duration::from_millis(300))
        .into();
    status.metadata_mut().insert("x-of-its-own", "kept".parse().unwrap());
    status
}

#[async_trait]
impl TicketService for Fake {
    async fn get_ticket(&self, request: Request<GetTicketRequest>) -> Result<Response<GetTicketResponse>, Status> {
        let _pending = self.begin();
        let headers = request.metadata().clone().into_headers();
        let ticket_id = request.into_inner().ticket_id;
        let title = match ticket_id.as_str() {
            HEADERS => list(&headers),
            REFUSED => return Err(refusal()),
            SLOW => std::future::pending().await,
            _ => format!("of {}", self.backend.name()),
        };
        let mut response =
            Response::new(GetTicketResponse { ticket: Some(Ticket { ticket_id, title, ..Ticket::default() }) });
        response.metadata_mut().insert("x-header", "h".parse().unwrap());
        Ok(response)
    }

    async fn register_ticket(
        &self,
        request: Request<ti::RegisterTicketRequest>,
    ) -> Result<Response<ti::RegisterTicketResponse>, Status> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let request = request.into_inner();
        let ticket =
            Ticket { title: request.title, ticket_id: request.ticket_id, etag: "7".to_owned(), ..Ticket::default() };
        let mut response = Response::new(ti::RegisterTicketResponse { ticket: Some(ticket), ..Default::default() });
        response.metadata_mut().insert("eticket-consistency-token", "a-token".parse().unwrap());
        Ok(response)
    }

    /// The title of the response shows the request.
    async fn update_ticket(
        &self,
        request: Request<ti::UpdateTicketRequest>,
    ) -> Result<Response<ti::UpdateTicketResponse>, Status> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let request = request.into_inner();
        let mask = request.update_mask.unwrap_or_default().paths.join(",");
        let title = format!("{} {mask} {} {}", request.ticket_id, request.etag, request.request_id);
        let ticket = Ticket { title, ..Ticket::default() };
        Ok(Response::new(ti::UpdateTicketResponse { ticket: Some(ticket), ..Default::default() }))
    }

    async fn withdraw_ticket(
        &self,
        _: Request<ti::WithdrawTicketRequest>,
    ) -> Result<Response<ti::WithdrawTicketResponse>, Status> {
        Err(Status::unimplemented("a fake"))
    }

    async fn list_tickets(
        &self,
        _: Request<ti::ListTicketsRequest>,
    ) -> Result<Response<ti::ListTicketsResponse>, Status> {
        Err(Status::unimplemented("a fake"))
    }

    async fn check_availability(
        &self,
        _: Request<ti::CheckAvailabilityRequest>,
    ) -> Result<Response<ti::CheckAvailabilityResponse>, Status> {
        Err(Status::unimplemented("a fake"))
    }
}

fn token(resume_token: &str) -> Result<WatchTicketViewsResponse, Status> {
    Ok(WatchTicketViewsResponse { view: None, resume_token: resume_token.to_owned() })
}

fn view(number: usize, title: String) -> Result<WatchTicketViewsResponse, Status> {
    let view = TicketView { ticket_id: number.to_string(), title, ..TicketView::default() };
    Ok(WatchTicketViewsResponse { view: Some(view), resume_token: String::new() })
}

#[async_trait]
impl QueryService for Fake {
    type WatchTicketViewsStream = BoxStream<'static, Result<WatchTicketViewsResponse, Status>>;

    async fn watch_ticket_views(
        &self,
        request: Request<WatchTicketViewsRequest>,
    ) -> Result<Response<Self::WatchTicketViewsStream>, Status> {
        let pending = self.begin();
        let small = |number| view(number, String::new());
        let WatchTicketViewsRequest { ticket_ids, resume_token } = request.into_inner();
        let stream = match ticket_ids.first().map(String::as_str) {
            Some(RESUMED) => stream::iter([view(1, format!("after {resume_token}")), token("next")]).boxed(),
            Some(TWO_THEN_REFUSED) => stream::iter([small(1), small(2), Err(refusal())]).boxed(),
            Some(ONE_THEN_SILENCE) => stream::iter([small(1)]).chain(stream::pending()).boxed(),
            Some(HUNDRED) => stream::iter((0..100).map(|number| view(number, "x".repeat(10_000)))).boxed(),
            Some(FLOOD) => {
                let made = self.made.clone();
                let next = move |number| {
                    made.fetch_add(1, Ordering::SeqCst);
                    view(number, "x".repeat(10_000))
                };
                stream::iter(0..).map(next).boxed()
            }
            _ => stream::pending().boxed(),
        };
        Ok(Response::new(
            stream
                .inspect(move |_| {
                    let _ = &pending;
                })
                .boxed(),
        ))
    }

    async fn get_ticket_view(
        &self,
        _: Request<qu::GetTicketViewRequest>,
    ) -> Result<Response<qu::GetTicketViewResponse>, Status> {
        Ok(Response::new(qu::GetTicketViewResponse::default()))
    }

    async fn list_ticket_views(
        &self,
        _: Request<qu::ListTicketViewsRequest>,
    ) -> Result<Response<qu::ListTicketViewsResponse>, Status> {
        let _pending = self.begin();
        let large = TicketView { title: "x".repeat(3_000_000), ..TicketView::default() };
        Ok(Response::new(qu::ListTicketViewsResponse { views: vec![large], ..Default::default() }))
    }

    async fn get_ticket_history(
        &self,
        _: Request<qu::GetTicketHistoryRequest>,
    ) -> Result<Response<qu::GetTicketHistoryResponse>, Status> {
        Ok(Response::new(qu::GetTicketHistoryResponse::default()))
    }

    async fn list_user_reservations(
        &self,
        _: Request<qu::ListUserReservationsRequest>,
    ) -> Result<Response<qu::ListUserReservationsResponse>, Status> {
        Err(Status::unimplemented("a fake"))
    }
}

#[async_trait]
impl OperationsService for Fake {
    type RepublishStream = BoxStream<'static, Result<op::RepublishResponse, Status>>;
    type RebuildViewStream = BoxStream<'static, Result<op::RebuildViewResponse, Status>>;
    type CompareViewStream = BoxStream<'static, Result<op::CompareViewResponse, Status>>;

    async fn list_parked_events(
        &self,
        _: Request<op::ListParkedEventsRequest>,
    ) -> Result<Response<op::ListParkedEventsResponse>, Status> {
        let next_page_token = self.backend.name().to_owned();
        Ok(Response::new(op::ListParkedEventsResponse { next_page_token, ..Default::default() }))
    }

    async fn resend_parked_event(
        &self,
        _: Request<op::ResendParkedEventRequest>,
    ) -> Result<Response<op::ResendParkedEventResponse>, Status> {
        Err(Status::unimplemented("a fake"))
    }

    async fn discard_parked_event(
        &self,
        _: Request<op::DiscardParkedEventRequest>,
    ) -> Result<Response<op::DiscardParkedEventResponse>, Status> {
        Err(Status::unimplemented("a fake"))
    }

    async fn republish(&self, _: Request<op::RepublishRequest>) -> Result<Response<Self::RepublishStream>, Status> {
        Err(Status::unimplemented("a fake"))
    }

    async fn rebuild_view(
        &self,
        _: Request<op::RebuildViewRequest>,
    ) -> Result<Response<Self::RebuildViewStream>, Status> {
        Err(Status::unimplemented("a fake"))
    }

    async fn compare_view(
        &self,
        _: Request<op::CompareViewRequest>,
    ) -> Result<Response<Self::CompareViewStream>, Status> {
        Err(Status::unimplemented("a fake"))
    }

    async fn list_unsettled(
        &self,
        _: Request<op::ListUnsettledRequest>,
    ) -> Result<Response<op::ListUnsettledResponse>, Status> {
        Err(Status::unimplemented("a fake"))
    }

    /// The instance id shows the credentials of the caller.
    async fn get_status(
        &self,
        request: Request<op::GetStatusRequest>,
    ) -> Result<Response<op::GetStatusResponse>, Status> {
        let _pending = self.begin();
        let credentials = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let replica = op::ReplicaStatus {
            service: self.backend.name().to_owned(),
            instance_id: credentials.unwrap_or_default().to_owned(),
            ready: true,
            ..Default::default()
        };
        match credentials {
            Some(SILENT) => std::future::pending().await,
            Some(FORBIDDEN) => Err(ApiError::new(ErrorReason::NotAllowed).into()),
            _ => Ok(Response::new(op::GetStatusResponse { replicas: vec![replica] })),
        }
    }
}
