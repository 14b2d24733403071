//! `reserve`, `cancel` and `reservations`.

use eticket_proto::{
    query::{ListUserReservationsRequest, UserReservation, query_service_client::QueryServiceClient},
    reservation::{
        CancelReservationRequest, CancelReservationResponse, GetReservationRequest, ListReservationsRequest,
        Reservation, ReservationStatus, ReserveTicketRequest, reservation_service_client::ReservationServiceClient,
    },
};
use uuid::Uuid;

use super::{Done, PAGE_SIZE, Session, missing, pages, request_id};
use crate::{
    Outcome,
    args::{Cancel, Reservations, Reserve, Wait, grade_number},
    bulk::{self, Kind, Line},
    error::Error,
    resources,
};

pub(super) async fn reserve(args: Reserve) -> Outcome {
    let id = request_id(&args.effect);
    let request = ReserveTicketRequest {
        ticket_id: args.ticket.clone(),
        user_id: args.user.unwrap_or_default(),
        user_grade: grade_number(args.grade),
        request_id: id.to_string(),
    };
    let session = Session::open(&args.common).await?;
    let call = |channel, request| async move { ReservationServiceClient::new(channel).reserve_ticket(request).await };
    let response = session.server.call(request, call).await.map_err(|error| error.of_command(id))?;
    let reservation = response.reservation.ok_or_else(|| missing("reservation"))?;
    let done = Done {
        headline: format!("Reserved {} for {}", args.ticket, reservation.user_id),
        field: "reservation",
        lines: resources::reservation_lines(&reservation, args.common.zone),
        ticket_id: args.ticket,
        token: response.consistency_token,
        resource: reservation,
    };
    session.done(done, args.effect.wait).await
}

pub(super) async fn cancel(args: Cancel) -> Outcome {
    if let ([reservation], false) = (&args.reservations[..], args.dry_run) {
        let session = Session::open(&args.common).await?;
        let response = cancel_one(&session, reservation, request_id(&args.effect)).await?;
        let reservation = response.reservation.ok_or_else(|| missing("reservation"))?;
        let done = Done {
            headline: format!("Cancelled {}", reservation.reservation_id),
            field: "reservation",
            lines: resources::reservation_lines(&reservation, args.common.zone),
            ticket_id: reservation.ticket_id.clone(),
            token: response.consistency_token,
            resource: reservation,
        };
        return session.done(done, args.effect.wait).await;
    }
    if args.effect.request_id.is_some() {
        return Err(Error::usage("--request-id belongs to one command: give one reservation, and no --dry-run"));
    }
    let ids = bulk::distinct(args.reservations);
    let (session, wait) = (Session::open(&args.common).await?, args.effect.wait);
    if args.dry_run {
        return bulk::run(&session.screen, Kind::DryRun, ids, String::as_str, |id: String| planned(&session, id)).await;
    }
    bulk::run(&session.screen, Kind::Command, ids, String::as_str, |id: String| cancelled(&session, id, wait)).await
}

async fn planned(session: &Session, id: String) -> Line {
    let request = GetReservationRequest { reservation_id: id.clone() };
    let call = |channel, request| async move { ReservationServiceClient::new(channel).get_reservation(request).await };
    let found = match session.server.call(request, call).await {
        Ok(response) => response.reservation.unwrap_or_default(),
        Err(error) => return Line::failed(&id, &error),
    };
    let detail = format!("{} of {}", found.ticket_id, found.user_id);
    match ReservationStatus::try_from(found.status) {
        Ok(ReservationStatus::Reserved) => Line::done(&id, "would cancel", detail),
        _ => Line::refused(&id, "refused", format!("{detail} is {}", resources::reservation_status(found.status))),
    }
}

async fn cancelled(session: &Session, id: String, wait: Option<Wait>) -> Line {
    let done = async {
        let response = cancel_one(session, &id, Uuid::new_v4()).await?;
        let reservation = response.reservation.unwrap_or_default();
        if wait.is_some() {
            session.view(&reservation.ticket_id, &response.consistency_token, wait).await?;
        }
        Ok(Line::done(&id, "cancelled", format!("{} of {}", reservation.ticket_id, reservation.user_id)))
    };
    done.await.unwrap_or_else(|error: Error| Line::failed(&id, &error))
}

async fn cancel_one(session: &Session, id: &str, request_id: Uuid) -> Result<CancelReservationResponse, Error> {
    let request = CancelReservationRequest { reservation_id: id.to_owned(), request_id: request_id.to_string() };
    let call =
        |channel, request| async move { ReservationServiceClient::new(channel).cancel_reservation(request).await };
    session.server.call(request, call).await.map_err(|error| error.of_command(request_id))
}

pub(super) async fn list(args: Reservations) -> Outcome {
    let session = Session::open(&args.common).await?;
    match (&args.user, &args.ticket) {
        (Some(user), None) => session.screen.list(&of_user(&session, user, &args).await?),
        _ => session.screen.list(&of_owner(&session, &args).await?),
    }
}

/// From the view, which also has the tickets. It has no filter by status, so that is done here, on whole pages.
async fn of_user(session: &Session, user: &str, args: &Reservations) -> Result<Vec<UserReservation>, Error> {
    let status = args.status.map(|status| i32::from(status.to_proto()));
    let is_wanted = |entry: &UserReservation| {
        status.is_none() || entry.reservation.as_ref().map(|reservation| reservation.status) == status
    };
    let found = pages(args.limit, async |_, page_token| {
        let request = ListUserReservationsRequest { user_id: user.to_owned(), page_size: PAGE_SIZE, page_token };
        let call =
            |channel, request| async move { QueryServiceClient::new(channel).list_user_reservations(request).await };
        let page = session.server.call(request, call).await?;
        Ok((page.reservations.into_iter().filter(is_wanted).collect(), page.next_page_token))
    });
    found.await
}

async fn of_owner(session: &Session, args: &Reservations) -> Result<Vec<Reservation>, Error> {
    let found = pages(args.limit, async |page_size, page_token| {
        let request = ListReservationsRequest {
            filter_user_id: args.user.clone().unwrap_or_default(),
            filter_ticket_id: args.ticket.clone().unwrap_or_default(),
            filter_status: args.status.map(|status| status.to_proto().into()).unwrap_or_default(),
            page_size,
            page_token,
        };
        let call =
            |channel, request| async move { ReservationServiceClient::new(channel).list_reservations(request).await };
        let page = session.server.call(request, call).await?;
        Ok((page.reservations, page.next_page_token))
    });
    found.await
}
