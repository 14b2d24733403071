//! Asks the ticket service, through the client stack: deadline, retry with a budget, breaker, attempt timeout.

use async_trait::async_trait;
use eticket_base::telemetry::TraceContext;
use eticket_proto::{
    ids::TicketId,
    ticket::{
        CheckAvailabilityRequest, CheckAvailabilityResponse, UnavailableReason,
        ticket_service_client::TicketServiceClient,
    },
    time::from_proto,
};
use eticket_rpc_client::{CallError, Client, UpstreamConfig};
use tokio::time::Instant;
use tonic::{Code, Request, transport::Channel};

use crate::{
    application::{Availability, CheckError},
    domain::Check,
};

/// The ticket service at the end of a channel.
pub struct TicketClient {
    client: Client<CheckAvailabilityRequest, CheckAvailabilityResponse>,
}

impl TicketClient {
    pub fn new(channel: Channel, config: &UpstreamConfig) -> Self {
        let stub = TicketServiceClient::new(channel);
        let call = move |request: Request<CheckAvailabilityRequest>| {
            let mut stub = stub.clone();
            async move { stub.check_availability(request).await }
        };
        Self { client: Client::new("ticket", config, call) }
    }
}

#[async_trait]
impl Availability for TicketClient {
    async fn check(
        &self,
        ticket: &TicketId,
        deadline: Option<Instant>,
        trace: &TraceContext,
    ) -> Result<Check, CheckError> {
        let request = CheckAvailabilityRequest { ticket_id: ticket.to_string() };
        match self.client.call(request, deadline, trace.clone()).await {
            Ok(response) => understood(&response),
            Err(CallError::CallerDeadline) => Err(CheckError::DeadlineExceeded),
            Err(error) if error.refusal().is_some_and(|status| status.code() == Code::NotFound) => Ok(Check::NotFound),
            Err(error) => {
                tracing::warn!(error = %error, "the ticket service cannot be asked");
                Err(CheckError::Overloaded { retry_after: error.retry_after() })
            }
        }
    }
}

/// An answer that makes no sense is a failure of the ticket service, not a reason to sell or to refuse.
fn understood(response: &CheckAvailabilityResponse) -> Result<Check, CheckError> {
    const NONSENSE: CheckError = CheckError::Overloaded { retry_after: None };
    let ticket = response.ticket.as_ref().ok_or(NONSENSE)?;
    let end = ticket.end_time.as_ref().and_then(from_proto).ok_or(NONSENSE)?;
    match (response.available, response.reason()) {
        (true, _) => Ok(Check::Available { end }),
        (false, UnavailableReason::Reserved) => {
            Ok(Check::Reserved { reservation_revision: ticket.reservation_revision, end })
        }
        (false, UnavailableReason::Expired) => Ok(Check::Expired),
        (false, UnavailableReason::Withdrawn) => Ok(Check::Withdrawn),
        (false, UnavailableReason::Unspecified) => Err(NONSENSE),
    }
}
