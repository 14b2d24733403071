//! Conversion of reservations to the messages of the contract, shared by the inbound and outbound adapters.

use eticket_proto::{
    reservation::{self as pb, ReservationStatus},
    time::to_proto,
};

use crate::domain::{Reservation, Status};

/// The `status_reason` of a rejection. A withdrawal is the only cause of a rejection.
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

/// Converts the status filter of a list request; `None` for UNSPECIFIED.
///
/// # Errors
/// If the number is not a value of the enum.
pub fn status_filter(number: i32) -> Result<Option<Status>, prost::UnknownEnumValue> {
    Ok(match ReservationStatus::try_from(number)? {
        ReservationStatus::Unspecified => None,
        ReservationStatus::Reserved => Some(Status::Reserved),
        ReservationStatus::Cancelled => Some(Status::Cancelled),
        ReservationStatus::Rejected => Some(Status::Rejected),
    })
}
