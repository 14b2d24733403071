//! The API as a client uses it: the same calls directly, through the gateway, and as a browser sends them.

use std::{collections::BTreeMap, time::Duration};

use eticket_proto::{
    pricing::{GetPriceRequest, GetPriceResponse, Price},
    query::{GetTicketViewRequest, GetTicketViewResponse, TicketView, WaitFor},
    reservation::{
        CancelReservationRequest, CancelReservationResponse, GetReservationRequest, GetReservationResponse,
        Reservation, ReserveTicketRequest, ReserveTicketResponse, UserGrade,
    },
    ticket::{
        GetTicketRequest, GetTicketResponse, RegisterTicketRequest, RegisterTicketResponse, Ticket,
        WithdrawTicketRequest, WithdrawTicketResponse,
    },
    time::to_proto,
};
use http::{HeaderMap, uri::PathAndQuery};
use prost::Message;
use tonic::{
    Request, Status,
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt;

use crate::{
    calendar::Slot,
    grpc_web::{Form, GrpcWeb},
    process::Eticket,
};

/// How a client reaches the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC, directly at the address of each service.
    Direct,
    /// gRPC through the gateway.
    Gateway,
    /// gRPC-Web through the gateway.
    WebBinary,
    /// gRPC-Web in base64 through the gateway.
    WebText,
}

impl Protocol {
    pub const ALL: [Self; 4] = [Self::Direct, Self::Gateway, Self::WebBinary, Self::WebText];
}

/// Services, in the order of the channels; the names are those in method names such as `/eticket.ticket.v1.`.
const SERVICES: [&str; 4] = ["ticket", "reservation", "pricing", "query"];

/// The deadline of calls that set none: long, so that only a hanging call reaches it.
const PATIENCE: Duration = Duration::from_secs(20);
/// The shortest timeout of a wait that leaves the query service the full 250 ms to return its reason. tonic's client ends
/// the call itself at the timeout, so on a busy machine a shorter one may end before the response arrives.
pub const TIMEOUT_WITH_REASON: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
enum Reach {
    Direct(BTreeMap<&'static str, Channel>),
    Gateway(Channel),
    Web(Box<GrpcWeb>),
}

/// A client. Clones share connections.
#[derive(Debug, Clone)]
pub struct Api(Reach);

impl Api {
    /// Creates a client that connects at the first call.
    pub fn new(eticket: &Eticket, protocol: Protocol) -> Self {
        Self::with_protocol(|server| eticket.address(server).to_owned(), protocol)
    }

    /// Creates a client for the servers that `address` returns.
    pub fn with_protocol(address: impl Fn(&str) -> String, protocol: Protocol) -> Self {
        Self(match protocol {
            Protocol::Direct => {
                Reach::Direct(SERVICES.iter().map(|service| (*service, channel(&address(service)))).collect())
            }
            Protocol::Gateway => Reach::Gateway(channel(&address("gateway"))),
            Protocol::WebBinary => Reach::Web(Box::new(GrpcWeb::new(&address("gateway"), Form::Binary))),
            Protocol::WebText => Reach::Web(Box::new(GrpcWeb::new(&address("gateway"), Form::Text))),
        })
    }

    /// Creates a gRPC client for one address, for services that all servers have.
    pub fn at(address: &str) -> Self {
        Self::over(channel(address))
    }

    /// Creates a gRPC client over a channel to a gateway, or to one service.
    pub fn over(channel: Channel) -> Self {
        Self(Reach::Gateway(channel))
    }

    /// Calls a unary method, named like `eticket.ticket.v1.TicketService/GetTicket`.
    ///
    /// # Errors
    /// The status of the response.
    pub async fn call<Q, A>(&self, method: &'static str, request: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        self.call_with(method, Request::new(request)).await
    }

    /// Like `call`, with metadata and a deadline of the caller.
    ///
    /// # Errors
    /// The status of the response.
    pub async fn call_with<Q, A>(&self, method: &'static str, mut request: Request<Q>) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        if !request.metadata().contains_key("grpc-timeout") {
            request.set_timeout(PATIENCE);
        }
        let answer = async {
            match &self.0 {
                Reach::Direct(channels) => {
                    let service = SERVICES.iter().find(|name| method.starts_with(&format!("eticket.{name}.v1.")));
                    let service = service.unwrap_or_else(|| panic!("{method} belongs to no service"));
                    unary(channels[service].clone(), method, request).await
                }
                Reach::Gateway(channel) => unary(channel.clone(), method, request).await,
                Reach::Web(web) => {
                    let (metadata, _, message) = request.into_parts();
                    web.call(method, &message, &headers(metadata)).await
                }
            }
        };
        // Bounds the test if a server ignores the deadline.
        let answer = tokio::time::timeout(PATIENCE * 2, answer).await;
        answer.unwrap_or_else(|_| panic!("{method} did not respond although its deadline has long passed"))
    }

    pub async fn register(&self, ticket_id: &str, slot: Slot) -> Result<RegisterTicketResponse, Status> {
        self.register_as(ticket_id, slot, "").await
    }

    pub async fn register_as(&self, ticket_id: &str, slot: Slot, id: &str) -> Result<RegisterTicketResponse, Status> {
        let request = RegisterTicketRequest {
            ticket_id: ticket_id.to_owned(),
            title: format!("Ticket {ticket_id}"),
            start_time: Some(to_proto(slot.start)),
            end_time: Some(to_proto(slot.end)),
            request_id: id.to_owned(),
        };
        self.call("eticket.ticket.v1.TicketService/RegisterTicket", request).await
    }

    pub async fn withdraw(&self, ticket_id: &str, etag: &str) -> Result<WithdrawTicketResponse, Status> {
        let request =
            WithdrawTicketRequest { ticket_id: ticket_id.to_owned(), etag: etag.to_owned(), ..Default::default() };
        self.call("eticket.ticket.v1.TicketService/WithdrawTicket", request).await
    }

    pub async fn ticket(&self, ticket_id: &str) -> Result<Ticket, Status> {
        let request = GetTicketRequest { ticket_id: ticket_id.to_owned() };
        let answer: GetTicketResponse = self.call("eticket.ticket.v1.TicketService/GetTicket", request).await?;
        Ok(answer.ticket.expect("an answer has its resource"))
    }

    pub async fn reserve(&self, ticket: &str, user: &str, grade: UserGrade) -> Result<ReserveTicketResponse, Status> {
        self.reserve_as(ticket, user, grade, "").await
    }

    pub async fn reserve_as(
        &self,
        ticket_id: &str,
        user_id: &str,
        grade: UserGrade,
        request_id: &str,
    ) -> Result<ReserveTicketResponse, Status> {
        let request = ReserveTicketRequest {
            ticket_id: ticket_id.to_owned(),
            user_id: user_id.to_owned(),
            user_grade: grade.into(),
            request_id: request_id.to_owned(),
        };
        self.call("eticket.reservation.v1.ReservationService/ReserveTicket", request).await
    }

    pub async fn cancel(&self, reservation_id: &str) -> Result<CancelReservationResponse, Status> {
        self.cancel_as(reservation_id, "").await
    }

    pub async fn cancel_as(&self, reservation_id: &str, id: &str) -> Result<CancelReservationResponse, Status> {
        let request = CancelReservationRequest { reservation_id: reservation_id.to_owned(), request_id: id.to_owned() };
        self.call("eticket.reservation.v1.ReservationService/CancelReservation", request).await
    }

    pub async fn reservation(&self, reservation_id: &str) -> Result<Reservation, Status> {
        let request = GetReservationRequest { reservation_id: reservation_id.to_owned() };
        let method = "eticket.reservation.v1.ReservationService/GetReservation";
        let answer: GetReservationResponse = self.call(method, request).await?;
        Ok(answer.reservation.expect("an answer has its resource"))
    }

    pub async fn price(&self, ticket_id: &str) -> Result<Price, Status> {
        let request = GetPriceRequest { ticket_id: ticket_id.to_owned() };
        let answer: GetPriceResponse = self.call("eticket.pricing.v1.PricingService/GetPrice", request).await?;
        Ok(answer.price.expect("an answer has its resource"))
    }

    pub async fn view(&self, ticket_id: &str, token: &str, wait: WaitFor) -> Result<TicketView, Status> {
        let request = GetTicketViewRequest {
            ticket_id: ticket_id.to_owned(),
            consistency_token: token.to_owned(),
            wait: wait.into(),
        };
        let answer: GetTicketViewResponse = self.call("eticket.query.v1.QueryService/GetTicketView", request).await?;
        Ok(answer.view.expect("an answer has its resource"))
    }

    /// Returns the view once the saga of the token's command has ended; with an empty token, the current view.
    pub async fn settled(&self, ticket_id: &str, token: &str) -> TicketView {
        self.view(ticket_id, token, WaitFor::Settled).await.expect("a view settles")
    }
}

/// Returns the reason in the `ErrorInfo` of a status, and checks the error domain.
pub fn reason(status: &Status) -> String {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "eticket");
    info.reason
}

/// Returns a channel that connects when it is first needed and reconnects after a failure.
pub fn channel(address: &str) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).expect("an address").connect_lazy()
}

async fn unary<Q, A>(channel: Channel, method: &'static str, request: Request<Q>) -> Result<A, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::try_from(format!("/{method}")).expect("a path");
    Ok(grpc.unary(request, path, ProstCodec::<Q, A>::default()).await?.into_inner())
}

fn headers(metadata: MetadataMap) -> HeaderMap {
    metadata.into_headers()
}
