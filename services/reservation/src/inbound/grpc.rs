//! `eticket.reservation.v1.ReservationService`: validates requests and converts results and errors to the contract.

mod holder;

use eticket_proto::{
    error::ErrorReason,
    field_text,
    ids::{InvalidId, ReservationId, UserGrade, UserId},
    reservation::{
        CancelReservationRequest, CancelReservationResponse, GetReservationRequest, GetReservationResponse,
        ListReservationsRequest, ListReservationsResponse, ReserveTicketRequest, ReserveTicketResponse,
        reservation_service_server::ReservationService,
    },
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
use prost::Message;
use tonic::{Request, Response, Status};

use crate::{
    application::{self, CheckError, Error, Filter, Refusal, Reservations},
    convert::{status_filter, to_message},
    domain::{self, NewReservation, Reservation},
};

pub struct Grpc {
    pub reservations: Reservations,
}

#[tonic::async_trait]
impl ReservationService for Grpc {
    async fn reserve_ticket(
        &self,
        request: Request<ReserveTicketRequest>,
    ) -> Result<Response<ReserveTicketResponse>, Status> {
        let call = Call::from_request(&request);
        let message = request.into_inner();
        let (new, request_id) = (new_reservation(&message, &call.caller), idempotency::request_id(&message.request_id));
        ApiError::all([new.as_ref().err(), request_id.as_ref().err()])?;
        let new = new?;
        let (ticket_id, request_id) = (message.ticket_id.clone(), message.request_id.clone());
        let fields = ReserveTicketRequest { request_id: String::new(), ..message };
        let fields = Fields { method: "ReserveTicket", request_id: &request_id, rest: fields.encode_to_vec() };
        let outcome = self.reservations.reserve(new, context(call, &fields)?).await;
        let outcome = outcome.map_err(|error| not_run(error, &ticket_id))?;
        match outcome {
            Ok(response) => {
                responses::respond(response, |response: &ReserveTicketResponse| &response.consistency_token)
            }
            Err(refusal) => Err(refused(refusal, ("ticket_id", &ticket_id), &request_id).into()),
        }
    }

    async fn cancel_reservation(
        &self,
        request: Request<CancelReservationRequest>,
    ) -> Result<Response<CancelReservationResponse>, Status> {
        let call = Call::from_request(&request);
        let message = request.into_inner();
        let (id, request_id) = (reservation_id(&message.reservation_id), idempotency::request_id(&message.request_id));
        ApiError::all([id.as_ref().err(), request_id.as_ref().err()])?;
        let (id, request_id) = (id?, message.request_id.clone());
        let fields = CancelReservationRequest { request_id: String::new(), ..message };
        let fields = Fields { method: "CancelReservation", request_id: &request_id, rest: fields.encode_to_vec() };
        self.check_own(id, &call.caller).await?;
        let outcome = self.reservations.cancel(id, context(call, &fields)?).await;
        match outcome.map_err(failure::batch_status)? {
            Ok(response) => {
                responses::respond(response, |response: &CancelReservationResponse| &response.consistency_token)
            }
            Err(refusal) => {
                let error = refused(refusal, ("reservation_id", &id.to_string()), &request_id);
                Err(self.with_its_ticket(error, id).await.into())
            }
        }
    }

    async fn get_reservation(
        &self,
        request: Request<GetReservationRequest>,
    ) -> Result<Response<GetReservationResponse>, Status> {
        let caller = Call::from_request(&request).caller;
        let id = reservation_id(&request.into_inner().reservation_id)?;
        let found = self.reservations.reservation(id).await.map_err(failure::store_status)?;
        let found = found.ok_or_else(|| ApiError::new(ErrorReason::ReservationNotFound).with("reservation_id", id))?;
        check_seen(&found, &caller)?;
        Ok(Response::new(GetReservationResponse { reservation: Some(to_message(&found)) }))
    }

    async fn list_reservations(
        &self,
        request: Request<ListReservationsRequest>,
    ) -> Result<Response<ListReservationsResponse>, Status> {
        let caller = Call::from_request(&request).caller;
        let message = request.into_inner();
        let (filter, size) = (filter(&message, &caller), Page::size(message.page_size));
        ApiError::all([filter.as_ref().err(), size.as_ref().err()])?;
        let filter = filter?;
        let scope = format!("ListReservations {filter:?}");
        let page = Page::parse(message.page_size, &message.page_token, &scope)?;
        let after = page.after.as_deref().unwrap_or_default();
        let found = self.reservations.page(&filter, after, page.rows_to_read()).await;
        let (reservations, last) = page.fill(found.map_err(failure::store_status)?, |found| Some(to_message(found)));
        let next_page_token = last.map(|last| paging::token(&scope, &last.id.to_string())).unwrap_or_default();
        Ok(Response::new(ListReservationsResponse { reservations, next_page_token }))
    }
}

impl Grpc {
    /// Checks that the reservation belongs to the caller. Its user never changes, so this check can run before the
    /// transaction of a command.
    async fn check_own(&self, id: ReservationId, caller: &Caller) -> Result<(), Status> {
        if caller.is_admin() {
            return Ok(());
        }
        match self.reservations.reservation(id).await.map_err(failure::store_status)? {
            Some(found) => Ok(check_seen(&found, caller)?),
            None => Err(ApiError::new(ErrorReason::ReservationNotFound).with("reservation_id", id).into()),
        }
    }

    /// Adds the ticket id to the error for a reservation that has ended. If the store is unavailable, the error is
    /// returned without it.
    async fn with_its_ticket(&self, error: ApiError, id: ReservationId) -> ApiError {
        if error.reason() != ErrorReason::ReservationNotActive {
            return error;
        }
        match self.reservations.reservation(id).await {
            Ok(Some(found)) => error.with("ticket_id", found.ticket),
            _ => error,
        }
    }
}

fn invalid(field: &'static str) -> impl Fn(InvalidId) -> ApiError {
    move |error| ApiError::invalid_field(field, error.to_string())
}

fn reservation_id(text: &str) -> Result<ReservationId, ApiError> {
    ReservationId::from_caller(text).map_err(invalid("reservation_id"))
}

fn check_seen(reservation: &Reservation, caller: &Caller) -> Result<(), ApiError> {
    if caller.may_see(reservation.user.as_str()) {
        return Ok(());
    }
    Err(ApiError::new(ErrorReason::NotYourReservation).with("reservation_id", reservation.id))
}

fn new_reservation(message: &ReserveTicketRequest, caller: &Caller) -> Result<NewReservation, ApiError> {
    let ticket = message.ticket_id.parse().map_err(invalid("ticket_id"));
    let (user, grade) = match holder::for_themselves(message, caller)? {
        Some((user, grade)) => (Ok(user), Ok(grade)),
        None => {
            let user = message.user_id.parse().map_err(invalid("user_id"));
            let grade = UserGrade::from_proto(message.user_grade)
                .ok_or_else(|| ApiError::invalid_field("user_grade", field_text::USER_GRADES));
            (user, grade)
        }
    };
    ApiError::all([ticket.as_ref().err(), user.as_ref().err(), grade.as_ref().err()])?;
    Ok(NewReservation { id: ReservationId::generate(), ticket: ticket?, user: user?, grade: grade? })
}

/// Users list their own reservations only.
fn filter(message: &ListReservationsRequest, caller: &Caller) -> Result<Filter, ApiError> {
    let user = Some(message.filter_user_id.as_str()).filter(|user| !user.is_empty());
    let user = match caller.is_admin() {
        true => user,
        false => Some(caller.only(user.unwrap_or_default())?),
    };
    let ticket = Some(message.filter_ticket_id.as_str()).filter(|ticket| !ticket.is_empty());
    let user = user.map(str::parse::<UserId>).transpose().map_err(invalid("filter_user_id"));
    let ticket = ticket.map(str::parse).transpose().map_err(invalid("filter_ticket_id"));
    let status = status_filter(message.filter_status)
        .map_err(|_| ApiError::invalid_field("filter_status", field_text::RESERVATION_STATUSES));
    ApiError::all([user.as_ref().err(), ticket.as_ref().err(), status.as_ref().err()])?;
    Ok(Filter { user: user?.map(|user| user.to_string()), ticket: ticket?, status: status? })
}

fn context(call: Call, fields: &Fields<'_>) -> Result<application::Request, ApiError> {
    let idempotency = idempotency::from_fields(&call.caller, fields)?;
    let credentials = call.caller.credentials().cloned();
    Ok(application::Request { idempotency, trace: call.trace, deadline: call.deadline, credentials })
}

fn refused(refusal: Refusal, about: (&'static str, &str), request_id: &str) -> ApiError {
    let error = ApiError::new(reason(refusal)).with(about.0, about.1);
    if refusal == Refusal::RequestIdReused { error.with("request_id", request_id) } else { error }
}

fn reason(refusal: Refusal) -> ErrorReason {
    match refusal {
        Refusal::RequestIdReused => ErrorReason::RequestIdReused,
        Refusal::Domain(domain::Refusal::TicketNotFound) => ErrorReason::TicketNotFound,
        Refusal::Domain(domain::Refusal::TicketWithdrawn) => ErrorReason::TicketWithdrawn,
        Refusal::Domain(domain::Refusal::TicketExpired) => ErrorReason::TicketExpired,
        Refusal::Domain(domain::Refusal::TicketAlreadyReserved) => ErrorReason::TicketAlreadyReserved,
        Refusal::Domain(domain::Refusal::ReservationNotFound) => ErrorReason::ReservationNotFound,
        Refusal::Domain(domain::Refusal::ReservationNotActive) => ErrorReason::ReservationNotActive,
    }
}

fn not_run(error: Error, ticket_id: &str) -> Status {
    match error {
        Error::Check(CheckError::Overloaded { retry_after }) => {
            let refused = ApiError::new(ErrorReason::TicketServiceOverloaded).with("ticket_id", ticket_id);
            retry_after.map_or(refused.clone(), |delay| refused.retry_after(delay)).into()
        }
        Error::Check(CheckError::DeadlineExceeded) => ApiError::new(ErrorReason::DeadlineExceeded).into(),
        Error::Store(error) => failure::store_status(error),
        Error::Batch(error) => failure::batch_status(error),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::SystemTime};

    use eticket_auth::Claims;
    use eticket_base::credentials::Credentials;

    use eticket_proto::ids::TicketId;

    use super::*;

    fn caller(user: &str, role: &str) -> Caller {
        let claims = Claims::new(user, &[role], None, SystemTime::now());
        Caller::with_token(Arc::new(claims), Credentials::new(String::new()))
    }

    #[test]
    fn only_its_user_and_admins_see_a_reservation() {
        let ticket: TicketId = "t".parse().expect("an id");
        let user: UserId = "kim".parse().expect("an id");
        let reservation = Reservation {
            id: ReservationId::generate(),
            ticket,
            user,
            grade: UserGrade::Silver,
            status: domain::Status::Reserved,
            revision: 1,
            reserve_time: chrono::DateTime::UNIX_EPOCH,
            update_time: chrono::DateTime::UNIX_EPOCH,
        };
        assert_eq!(check_seen(&reservation, &caller("kim", "user")), Ok(()));
        assert_eq!(check_seen(&reservation, &caller("lee", "admin")), Ok(()));
        let refused = check_seen(&reservation, &caller("lee", "user")).expect_err("another's");
        assert_eq!(refused.reason(), ErrorReason::NotYourReservation);
    }

    #[test]
    fn users_list_their_own_reservations() {
        let filtered = |user: &str, caller: &Caller| {
            let message = ListReservationsRequest { filter_user_id: user.to_owned(), ..Default::default() };
            filter(&message, caller).map(|filter| filter.user)
        };
        for named in ["", "kim"] {
            assert_eq!(filtered(named, &caller("kim", "user")), Ok(Some("kim".to_owned())));
        }
        assert_eq!(filtered("lee", &caller("kim", "user")).expect_err("another's").reason(), ErrorReason::NotAllowed);
        assert_eq!(filtered("", &caller("root", "admin")), Ok(None));
        assert_eq!(filtered("lee", &Caller::admin()), Ok(Some("lee".to_owned())));
    }
}
