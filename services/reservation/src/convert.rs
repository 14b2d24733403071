//! Reservations in the contract's words, for the adapters on both sides.

use eticket_proto::{
    reservation::{self as pb, ReservationStatus},
    time::to_proto,
};

use crate::domain::{Reservation, Status};

/// What `status_reason` says of a rejection: there is only one way to it.
const REJECTED_BECAUSE: &str = "TICKET_WITHDRAWN";

pub fn to_message(reservation: &Reservation) -> pb::Reservation {
    let status_reason = if reservation.status == Status::Rejected { REJECTED_BECAUSE } else { "" };
    pb::Reservation {
        reservation_id: reservation.id.to_string(),
        ticket_id: reservation.ticket.to_string(),
        user_id: reservation.user.to_string(),
        user_grade: reservation.grade.to_proto().into(),
        status: status_to_proto(reservation.status).into(),
        status_reason: status_reason.to_owned(),
        revision: reservation.revision,
        reserve_time: Some(to_proto(reservation.reserve_time)),
        update_time: Some(to_proto(reservation.update_time)),
    }
}

fn status_to_proto(status: Status) -> ReservationStatus {
    match status {
        Status::Reserved => ReservationStatus::Reserved,
        Status::Cancelled => ReservationStatus::Cancelled,
        Status::Rejected => ReservationStatus::Rejected,
    }
}

/// The status that a filter names; `None` for UNSPECIFIED, an error for a number that is none.
pub fn status_filter(number: i32) -> Result<Option<Status>, prost::UnknownEnumValue> {
    Ok(match ReservationStatus::try_from(number)? {
        ReservationStatus::Unspecified => None,
        ReservationStatus::Reserved => Some(Status::Reserved),
        ReservationStatus::Cancelled => Some(Status::Cancelled),
        ReservationStatus::Rejected => Some(Status::Rejected),
    })
}
