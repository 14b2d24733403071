//! gRPC client of the owners of the shown states. Only comparisons use it, so it connects when one starts.

use std::time::Duration;

use async_trait::async_trait;
use eticket_base::{credentials::Credentials, tasks::Tasks, telemetry::TraceContext, windows::Windows};
use eticket_proto::{
    ids::{ReservationId, TicketId},
    pricing::{self as pricing_pb, pricing_service_client::PricingServiceClient},
    reservation::{self as reservation_pb, reservation_service_client::ReservationServiceClient},
    ticket::{self as ticket_pb, ticket_service_client::TicketServiceClient},
};
use eticket_rpc_client::{CallError, Client, UpstreamConfig, addresses::Targets, config::BreakerConfig, pool::Channel};
use eticket_tls::ClientTlsConfig;
use tonic::{Code, Request};

use crate::{
    application::compare::{OwnerError, Owners, Page},
    convert::parts,
    domain::{PricePart, Reservation, TicketPart},
};

/// Number of rows in a page, small enough for an owner to read and send them within one attempt.
const PAGE: i32 = 500;
/// More concurrent calls than a comparison makes to one owner.
const STREAMS: u32 = 16;
const DEADLINE: Duration = Duration::from_secs(15);

/// The configured addresses of the owners.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    pub ticket: Option<Address>,
    pub reservation: Option<Address>,
    pub pricing: Option<Address>,
}

/// The addresses of one owner, and the certificates for `https` addresses.
#[derive(Debug, Clone)]
pub struct Address {
    pub targets: Targets,
    pub tls: ClientTlsConfig,
}

/// Clients of the owners.
pub struct OwnersClient(Result<Stubs, Unconnected>);

/// Why an owner cannot be called.
enum Unconnected {
    NotConfigured(&'static str),
    Certificates(&'static str, String),
}

struct Stubs {
    list_tickets: Client<ticket_pb::ListTicketsRequest, ticket_pb::ListTicketsResponse>,
    get_ticket: Client<ticket_pb::GetTicketRequest, ticket_pb::GetTicketResponse>,
    list_prices: Client<pricing_pb::ListPricesRequest, pricing_pb::ListPricesResponse>,
    get_price: Client<pricing_pb::GetPriceRequest, pricing_pb::GetPriceResponse>,
    list_reservations: Client<reservation_pb::ListReservationsRequest, reservation_pb::ListReservationsResponse>,
    get_reservation: Client<reservation_pb::GetReservationRequest, reservation_pb::GetReservationResponse>,
    trace: TraceContext,
    credentials: Option<Credentials>,
}

impl OwnersClient {
    /// Creates clients for one comparison, with the credentials of its caller. Address changes are followed until
    /// `tasks` stop.
    pub fn new(addresses: &Addresses, tasks: &Tasks, credentials: Option<Credentials>) -> Self {
        let channel = |name: &'static str, address: &Option<Address>| {
            let Address { targets, tls } = address.as_ref().ok_or(Unconnected::NotConfigured(name))?;
            // The files were valid at the start, but may have changed since then.
            let connector = targets.connector(tls, &format!("upstream.{name}"), tasks);
            let tls = connector.map_err(|error| Unconnected::Certificates(name, error.to_string()))?;
            Ok(Channel::connect(name, targets, tls, Windows::for_streams(STREAMS), tasks))
        };
        let stubs = || {
            let ticket = channel("ticket", &addresses.ticket)?;
            let reservation = channel("reservation", &addresses.reservation)?;
            let pricing = channel("pricing", &addresses.pricing)?;
            Ok(Stubs::new(ticket, reservation, pricing, credentials))
        };
        Self(stubs())
    }

    fn stubs(&self) -> Result<&Stubs, OwnerError> {
        self.0.as_ref().map_err(|unconnected| match unconnected {
            Unconnected::NotConfigured(owner) => OwnerError::NotConfigured(owner),
            Unconnected::Certificates(owner, reason) => OwnerError::Unavailable { owner, reason: reason.clone() },
        })
    }
}

impl Stubs {
    fn new(ticket: Channel, reservation: Channel, pricing: Channel, credentials: Option<Credentials>) -> Self {
        let deadline_ms = u64::try_from(DEADLINE.as_millis()).unwrap_or(u64::MAX);
        // A page is a large response: a slow call is not a failure.
        let breaker = BreakerConfig { slow_call_ms: deadline_ms, ..BreakerConfig::default() };
        let attempt_timeout_ms = deadline_ms / 3;
        let config =
            UpstreamConfig { deadline_ms, attempt_timeout_ms, retries: 3, breaker, ..UpstreamConfig::default() };
        let tickets = TicketServiceClient::new(ticket);
        let reservations = ReservationServiceClient::new(reservation);
        let prices = PricingServiceClient::new(pricing);
        macro_rules! client {
            ($upstream:literal, $stub:ident, $method:ident) => {{
                let stub = $stub.clone();
                Client::new($upstream, &config, move |request: Request<_>| {
                    let mut stub = stub.clone();
                    async move { stub.$method(request).await }
                })
            }};
        }
        Self {
            list_tickets: client!("ticket", tickets, list_tickets),
            get_ticket: client!("ticket", tickets, get_ticket),
            list_prices: client!("pricing", prices, list_prices),
            get_price: client!("pricing", prices, get_price),
            list_reservations: client!("reservation", reservations, list_reservations),
            get_reservation: client!("reservation", reservations, get_reservation),
            trace: TraceContext::new_root(),
            credentials,
        }
    }

    async fn call<M, R>(&self, owner: &'static str, client: &Client<M, R>, message: M) -> Result<R, OwnerError>
    where
        M: Clone + Send + Sync + 'static,
        R: Send + 'static,
    {
        client
            .call(message, None, self.trace.clone(), self.credentials.clone())
            .await
            .map_err(|error| unavailable(owner, &error))
    }

    /// Returns `None` if the owner responds that the state does not exist.
    async fn find<M, R>(&self, owner: &'static str, client: &Client<M, R>, message: M) -> Result<Option<R>, OwnerError>
    where
        M: Clone + Send + Sync + 'static,
        R: Send + 'static,
    {
        match client.call(message, None, self.trace.clone(), self.credentials.clone()).await {
            Ok(response) => Ok(Some(response)),
            Err(error) if error.refusal().is_some_and(|status| status.code() == Code::NotFound) => Ok(None),
            Err(error) => Err(unavailable(owner, &error)),
        }
    }
}

fn unavailable(owner: &'static str, error: &CallError) -> OwnerError {
    OwnerError::Unavailable { owner, reason: error.to_string() }
}

fn nonsense(owner: &'static str) -> impl Fn(String) -> OwnerError {
    move |reason| OwnerError::Unavailable { owner, reason }
}

fn ticket_part(message: ticket_pb::Ticket) -> Result<(TicketId, TicketPart), OwnerError> {
    let withdrawn = message.status() == ticket_pb::TicketStatus::Withdrawn;
    parts::ticket(message, withdrawn).map_err(nonsense("ticket"))
}

#[async_trait]
impl Owners for OwnersClient {
    fn check(&self) -> Result<(), OwnerError> {
        self.stubs().map(drop)
    }

    async fn tickets(&self, token: &str) -> Result<Page<(TicketId, TicketPart)>, OwnerError> {
        let stubs = self.stubs()?;
        let request =
            ticket_pb::ListTicketsRequest { page_size: PAGE, page_token: token.to_owned(), ..Default::default() };
        let response = stubs.call("ticket", &stubs.list_tickets, request).await?;
        let rows = response.tickets.into_iter().map(ticket_part).collect::<Result<_, _>>()?;
        Ok(Page { rows, next: response.next_page_token })
    }

    async fn ticket(&self, id: &TicketId) -> Result<Option<TicketPart>, OwnerError> {
        let stubs = self.stubs()?;
        let request = ticket_pb::GetTicketRequest { ticket_id: id.to_string() };
        let response = stubs.find("ticket", &stubs.get_ticket, request).await?;
        response.and_then(|response| response.ticket).map(|ticket| Ok(ticket_part(ticket)?.1)).transpose()
    }

    async fn prices(&self, token: &str) -> Result<Page<(TicketId, PricePart)>, OwnerError> {
        let stubs = self.stubs()?;
        let request = pricing_pb::ListPricesRequest { page_size: PAGE, page_token: token.to_owned() };
        let response = stubs.call("pricing", &stubs.list_prices, request).await?;
        let row = |price| parts::price(price).map_err(nonsense("pricing"));
        let rows = response.prices.into_iter().map(row).collect::<Result<_, _>>()?;
        Ok(Page { rows, next: response.next_page_token })
    }

    async fn price(&self, id: &TicketId) -> Result<Option<PricePart>, OwnerError> {
        let stubs = self.stubs()?;
        let request = pricing_pb::GetPriceRequest { ticket_id: id.to_string() };
        let response = stubs.find("pricing", &stubs.get_price, request).await?;
        let part = |price| Ok(parts::price(price).map_err(nonsense("pricing"))?.1);
        response.and_then(|response| response.price).map(part).transpose()
    }

    async fn reservations(&self, token: &str) -> Result<Page<Reservation>, OwnerError> {
        let stubs = self.stubs()?;
        let request = reservation_pb::ListReservationsRequest {
            page_size: PAGE,
            page_token: token.to_owned(),
            ..Default::default()
        };
        let response = stubs.call("reservation", &stubs.list_reservations, request).await?;
        let row = |reservation| parts::reservation(reservation).map_err(nonsense("reservation"));
        let rows = response.reservations.into_iter().map(row).collect::<Result<_, _>>()?;
        Ok(Page { rows, next: response.next_page_token })
    }

    async fn reservation(&self, id: ReservationId) -> Result<Option<Reservation>, OwnerError> {
        let stubs = self.stubs()?;
        let request = reservation_pb::GetReservationRequest { reservation_id: id.to_string() };
        let response = stubs.find("reservation", &stubs.get_reservation, request).await?;
        let row = |reservation| parts::reservation(reservation).map_err(nonsense("reservation"));
        response.and_then(|response| response.reservation).map(row).transpose()
    }
}
