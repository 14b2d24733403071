//! Client of the ticket service. The client stack adds a deadline, retries with a budget, a circuit breaker and a
//! timeout for each attempt.

use async_trait::async_trait;
use eticket_base::{credentials::Credentials, telemetry::TraceContext};
use eticket_proto::{
    ids::TicketId,
    ticket::{
        CheckAvailabilityRequest, CheckAvailabilityResponse, UnavailableReason,
        ticket_service_client::TicketServiceClient,
    },
    time::from_proto,
};
use eticket_rpc_client::{CallError, Client, UpstreamConfig, breaker::BreakerLayer, pool::Channel};
use tokio::time::Instant;
use tonic::{Code, Request};

use crate::{
    application::{Availability, CheckError},
    domain::Check,
};

/// The ticket service, reached over a channel.
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
        let client = Client::new("ticket", config, call).method("eticket.ticket.v1.TicketService/CheckAvailability");
        Self { client }
    }

    /// Returns the breaker of calls to the ticket service.
    pub fn breaker(&self) -> BreakerLayer {
        self.client.breaker()
    }
}

#[async_trait]
impl Availability for TicketClient {
    async fn check(
        &self,
        ticket: &TicketId,
        deadline: Option<Instant>,
        trace: &TraceContext,
        credentials: Option<&Credentials>,
    ) -> Result<Check, CheckError> {
        let request = CheckAvailabilityRequest { ticket_id: ticket.to_string() };
        match self.client.call(request, deadline, trace.clone(), credentials.cloned()).await {
            Ok(response) => to_check(&response),
            Err(CallError::CallerDeadline) => Err(CheckError::DeadlineExceeded),
            Err(error) if error.refusal().is_some_and(|status| status.code() == Code::NotFound) => Ok(Check::NotFound),
            Err(error) => {
                tracing::warn!(error = %error, "the availability check by the ticket service failed");
                Err(CheckError::Overloaded { retry_after: error.retry_after() })
            }
        }
    }
}

/// Converts a response. An invalid one counts as a failure of the ticket service: it neither permits nor refuses a
/// reservation.
fn to_check(response: &CheckAvailabilityResponse) -> Result<Check, CheckError> {
    const INVALID: CheckError = CheckError::Overloaded { retry_after: None };
    let ticket = response.ticket.as_ref().ok_or(INVALID)?;
    let end = ticket.end_time.as_ref().and_then(from_proto).ok_or(INVALID)?;
    match (response.available, response.reason()) {
        (true, _) => Ok(Check::Available { end }),
        (false, UnavailableReason::Reserved) => {
            Ok(Check::Reserved { reservation_revision: ticket.reservation_revision, end })
        }
        (false, UnavailableReason::Expired) => Ok(Check::Expired),
        (false, UnavailableReason::Withdrawn) => Ok(Check::Withdrawn),
        (false, UnavailableReason::Unspecified) => Err(INVALID),
    }
}
