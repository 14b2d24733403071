//! `eticket.ticket.v1.TicketService`: validates requests and converts results and errors to the contract.

use chrono::{DateTime, SecondsFormat, Utc};
use eticket_proto::{
    error::ErrorReason,
    field_text,
    ids::TicketId,
    ticket::{
        CheckAvailabilityRequest, CheckAvailabilityResponse, GetTicketRequest, GetTicketResponse, ListTicketsRequest,
        ListTicketsResponse, RegisterTicketRequest, RegisterTicketResponse, UpdateTicketRequest, UpdateTicketResponse,
        WithdrawTicketRequest, WithdrawTicketResponse, ticket_service_server::TicketService,
    },
    time::from_proto,
};
use eticket_rpc_server::{
    auth::Caller,
    call::Call,
    error::ApiError,
    paging::{self, Page},
};
use eticket_service::{
    failure,
    idempotency::{self, Fields},
    responses,
};
use prost::{Message, Name};
use prost_types::{FieldMask, Timestamp};
use tonic::{Request, Response, Status};

use crate::{
    application::{Command, Refusal, Tickets},
    convert::{reason_to_proto, status_filter, to_message},
    domain::{self, Change, Schedule, Ticket, Title},
};

pub struct Grpc {
    pub tickets: Tickets,
}

#[tonic::async_trait]
impl TicketService for Grpc {
    async fn register_ticket(
        &self,
        request: Request<RegisterTicketRequest>,
    ) -> Result<Response<RegisterTicketResponse>, Status> {
        let call = Call::from_request(&request);
        let message = request.into_inner();
        let id = match message.ticket_id.as_str() {
            "" => Ok(TicketId::generate()),
            given => ticket_id(given),
        };
        let title = title(&message.title);
        let start = required_time("start_time", message.start_time.as_ref());
        let end = required_time("end_time", message.end_time.as_ref());
        let schedule = match (&start, &end) {
            (Ok(start), Ok(end)) => Schedule::new(*start, *end).ok_or_else(end_not_after_start),
            (Err(start), Err(end)) => Err(start.clone().and(end.clone())),
            (Err(wrong), _) | (_, Err(wrong)) => Err(wrong.clone()),
        };
        let request_id = idempotency::request_id(&message.request_id);
        ApiError::all([id.as_ref().err(), title.as_ref().err(), schedule.as_ref().err(), request_id.as_ref().err()])?;
        let (id, title, schedule) = (id?, title?, schedule?);
        let request_id = message.request_id.clone();
        let fields = RegisterTicketRequest { request_id: String::new(), ..message };
        let fields = Fields { method: "RegisterTicket", request_id: &request_id, rest: fields.encode_to_vec() };
        self.command::<RegisterTicketResponse>(Command::Register { id, title, schedule }, call, fields, |response| {
            &response.consistency_token
        })
        .await
    }

    async fn update_ticket(
        &self,
        request: Request<UpdateTicketRequest>,
    ) -> Result<Response<UpdateTicketResponse>, Status> {
        let call = Call::from_request(&request);
        let message = request.into_inner();
        let (id, change) = (ticket_id(&message.ticket_id), change(&message));
        let request_id = idempotency::request_id(&message.request_id);
        ApiError::all([id.as_ref().err(), change.as_ref().err(), request_id.as_ref().err()])?;
        let (id, change) = (id?, change?);
        let (request_id, etag) = (message.request_id.clone(), message.etag.clone());
        let fields = UpdateTicketRequest { request_id: String::new(), ..message };
        let fields = Fields { method: "UpdateTicket", request_id: &request_id, rest: fields.encode_to_vec() };
        self.command::<UpdateTicketResponse>(Command::Update { id, etag, change }, call, fields, |response| {
            &response.consistency_token
        })
        .await
    }

    async fn withdraw_ticket(
        &self,
        request: Request<WithdrawTicketRequest>,
    ) -> Result<Response<WithdrawTicketResponse>, Status> {
        let call = Call::from_request(&request);
        let message = request.into_inner();
        let (id, request_id) = (ticket_id(&message.ticket_id), idempotency::request_id(&message.request_id));
        ApiError::all([id.as_ref().err(), request_id.as_ref().err()])?;
        let (id, etag) = (id?, message.etag.clone());
        let request_id = message.request_id.clone();
        let fields = WithdrawTicketRequest { request_id: String::new(), ..message };
        let fields = Fields { method: "WithdrawTicket", request_id: &request_id, rest: fields.encode_to_vec() };
        self.command::<WithdrawTicketResponse>(Command::Withdraw { id, etag }, call, fields, |response| {
            &response.consistency_token
        })
        .await
    }

    async fn get_ticket(&self, request: Request<GetTicketRequest>) -> Result<Response<GetTicketResponse>, Status> {
        let caller = Call::from_request(&request).caller;
        let ticket = self.find(&request.into_inner().ticket_id).await?;
        Ok(Response::new(GetTicketResponse { ticket: Some(shown(&ticket, self.tickets.now(), &caller)) }))
    }

    async fn list_tickets(
        &self,
        request: Request<ListTicketsRequest>,
    ) -> Result<Response<ListTicketsResponse>, Status> {
        let caller = Call::from_request(&request).caller;
        let message = request.into_inner();
        let status = status_filter(message.filter_status)
            .map_err(|_| ApiError::invalid_field("filter_status", field_text::TICKET_STATUSES));
        let size = Page::size(message.page_size);
        ApiError::all([status.as_ref().err(), size.as_ref().err()])?;
        let status = status?;
        let scope = format!("ListTickets {}", message.filter_status);
        let page = Page::parse(message.page_size, &message.page_token, &scope)?;
        let after = page.after.as_deref().unwrap_or_default();
        let found = self.tickets.page(status, after, page.rows_to_read()).await.map_err(failure::store_status)?;
        let now = self.tickets.now();
        let (tickets, last) = page.fill(found, |ticket| Some(shown(ticket, now, &caller)));
        let next_page_token = last.map(|last| paging::token(&scope, last.id.as_str())).unwrap_or_default();
        Ok(Response::new(ListTicketsResponse { tickets, next_page_token }))
    }

    async fn check_availability(
        &self,
        request: Request<CheckAvailabilityRequest>,
    ) -> Result<Response<CheckAvailabilityResponse>, Status> {
        let caller = Call::from_request(&request).caller;
        let ticket = self.find(&request.into_inner().ticket_id).await?;
        // Read the clock once, so that reason and status agree.
        let now = self.tickets.now();
        let reason = ticket.check(now).err().map(reason_to_proto);
        Ok(Response::new(CheckAvailabilityResponse {
            available: reason.is_none(),
            reason: reason.unwrap_or_default().into(),
            ticket: Some(shown(&ticket, now, &caller)),
        }))
    }
}

impl Grpc {
    /// Runs a command. A retry with the same request id gets the same response bytes.
    async fn command<A: Message + Name + Default>(
        &self,
        command: Command,
        call: Call,
        fields: Fields<'_>,
        token: fn(&A) -> &str,
    ) -> Result<Response<A>, Status> {
        let id = match &command {
            Command::Register { id, .. } | Command::Update { id, .. } | Command::Withdraw { id, .. } => id.clone(),
        };
        let idempotency = idempotency::from_fields(&call.caller, &fields)?;
        let request_id = fields.request_id;
        let outcome = self.tickets.command(command, idempotency, call.trace, call.deadline).await;
        let outcome = outcome.map_err(failure::batch_status)?;
        responses::respond(outcome.map_err(|refusal| refused(refusal, &id, request_id))?, token)
    }

    async fn find(&self, id: &str) -> Result<Ticket, Status> {
        let id = ticket_id(id)?;
        let ticket = self.tickets.ticket(&id).await.map_err(failure::store_status)?;
        ticket.ok_or_else(|| ApiError::new(ErrorReason::TicketNotFound).with("ticket_id", &id).into())
    }
}

/// Returns the message of a ticket for a caller. Only admins see the id of the reservation that holds it: this service
/// stores no users, so it cannot decide whether the reservation is the caller's.
fn shown(ticket: &Ticket, now: DateTime<Utc>, caller: &Caller) -> eticket_proto::ticket::Ticket {
    let message = to_message(ticket, now);
    if caller.is_admin() {
        return message;
    }
    eticket_proto::ticket::Ticket { reservation_id: String::new(), ..message }
}

fn ticket_id(text: &str) -> Result<TicketId, ApiError> {
    text.parse().map_err(|error: eticket_proto::ids::InvalidId| ApiError::invalid_field("ticket_id", error.to_string()))
}

fn title(text: &str) -> Result<Title, ApiError> {
    let expected = "expected 1 to 200 characters, none of them a control character";
    Title::parse(text).ok_or_else(|| ApiError::invalid_field("title", expected))
}

fn required_time(field: &str, time: Option<&Timestamp>) -> Result<DateTime<Utc>, ApiError> {
    valid_time(field, time)?.ok_or_else(|| ApiError::invalid_field(field, "expected a time, got none"))
}

fn valid_time(field: &str, time: Option<&Timestamp>) -> Result<Option<DateTime<Utc>>, ApiError> {
    let expected = "expected a time in the years 1 to 9999, with nanos from 0 to 999999999";
    time.map(|time| from_proto(time).ok_or_else(|| ApiError::invalid_field(field, expected))).transpose()
}

fn end_not_after_start() -> ApiError {
    ApiError::invalid_field("end_time", "expected a time later than start_time")
}

/// Without a mask, every field that is set is updated. With a mask, every named field must be set.
fn change(message: &UpdateTicketRequest) -> Result<Change, ApiError> {
    let (mut wanted_title, mut wanted_start, mut wanted_end) =
        (!message.title.is_empty(), message.start_time.is_some(), message.end_time.is_some());
    if let Some(FieldMask { paths }) = message.update_mask.as_ref().filter(|mask| !mask.paths.is_empty()) {
        (wanted_title, wanted_start, wanted_end) = (false, false, false);
        let mut unknown = Vec::new();
        for path in paths {
            match path.as_str() {
                "title" => wanted_title = true,
                "start_time" => wanted_start = true,
                "end_time" => wanted_end = true,
                "*" => (wanted_title, wanted_start, wanted_end) = (true, true, true),
                other => unknown.push(format!("{other:?}")),
            }
        }
        if !unknown.is_empty() {
            let expected = format!("expected title, start_time, end_time or *, got {}", unknown.join(", "));
            return Err(ApiError::invalid_field("update_mask", expected));
        }
    }
    let title = wanted_title.then(|| title(&message.title)).transpose();
    let start = wanted_start.then(|| required_time("start_time", message.start_time.as_ref())).transpose();
    let end = wanted_end.then(|| required_time("end_time", message.end_time.as_ref())).transpose();
    ApiError::all([title.as_ref().err(), start.as_ref().err(), end.as_ref().err()])?;
    Ok(Change { title: title?, start: start?, end: end? })
}

fn refused(refusal: Refusal, id: &TicketId, request_id: &str) -> ApiError {
    match refusal {
        Refusal::RequestIdReused => {
            ApiError::new(ErrorReason::RequestIdReused).with("ticket_id", id).with("request_id", request_id)
        }
        Refusal::Domain(domain::Refusal::NotFound) => ApiError::new(ErrorReason::TicketNotFound).with("ticket_id", id),
        Refusal::Domain(domain::Refusal::AlreadyExists) => {
            ApiError::new(ErrorReason::TicketAlreadyExists).with("ticket_id", id)
        }
        Refusal::Domain(domain::Refusal::Withdrawn) => {
            ApiError::new(ErrorReason::TicketWithdrawn).with("ticket_id", id)
        }
        Refusal::Domain(domain::Refusal::EtagMismatch { current }) => {
            ApiError::new(ErrorReason::EtagMismatch).with("ticket_id", id).with("current_etag", current)
        }
        Refusal::Domain(domain::Refusal::EndNotAfterStart) => end_not_after_start(),
        Refusal::Domain(domain::Refusal::StartNotBeforeEnd { end }) => {
            let end = end.to_rfc3339_opts(SecondsFormat::AutoSi, true);
            ApiError::invalid_field("start_time", format!("expected a time earlier than the ticket's end_time, {end}"))
        }
        Refusal::Domain(domain::Refusal::EndNotAfterItsStart { start }) => {
            let start = start.to_rfc3339_opts(SecondsFormat::AutoSi, true);
            ApiError::invalid_field("end_time", format!("expected a time later than the ticket's start_time, {start}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(paths: &[&str]) -> UpdateTicketRequest {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        UpdateTicketRequest {
            title: "new".into(),
            end_time: Some(Timestamp { seconds: 10, nanos: 0 }),
            update_mask: Some(FieldMask { paths }),
            ..UpdateTicketRequest::default()
        }
    }

    #[test]
    fn without_a_mask_the_set_fields_are_updated() {
        for message in [request(&[]), UpdateTicketRequest { update_mask: None, ..request(&[]) }] {
            let change = change(&message).expect("a change");
            assert!(change.title.is_some() && change.start.is_none() && change.end.is_some());
        }
    }

    #[test]
    fn a_mask_selects_the_updated_fields() {
        let only_title = change(&request(&["title"])).expect("a change");
        assert!(only_title.title.is_some() && only_title.end.is_none());
        let unset = change(&request(&["start_time"])).expect_err("start_time is named and not set");
        assert_eq!(unset.reason(), ErrorReason::InvalidField);
        let unknown = change(&request(&["price", "title", "grade"])).expect_err("no such paths");
        assert!(unknown.to_string().ends_with("got \"price\", \"grade\""), "{unknown}");
    }

    #[test]
    fn the_message_shows_the_state_of_the_ticket() {
        let id: TicketId = "t-1".parse().expect("an id");
        let time = |seconds| DateTime::from_timestamp(seconds, 0).expect("a time");
        let schedule = Schedule::new(time(100), time(200)).expect("a schedule");
        let ticket = domain::register(None, id, title("a").expect("a title"), schedule, time(0)).expect("registered");
        let message = to_message(&ticket, time(200));
        assert_eq!(message.status(), eticket_proto::ticket::TicketStatus::Expired);
        assert_eq!((message.etag.as_str(), message.reservation_id.as_str()), ("1", ""));
        let held = Ticket { holder: Some(eticket_proto::ids::ReservationId::generate()), ..ticket };
        assert!(!shown(&held, time(0), &Caller::admin()).reservation_id.is_empty());
        assert_eq!(shown(&held, time(0), &Caller::default()).reservation_id, "", "only admins see the reservation");
    }
}
