//! Converts rows of the view into messages of the contract.

pub mod parts;

use chrono::{DateTime, Utc};
use eticket_proto::{
    ids::TicketId,
    pricing,
    query::{self as pb, ticket_view::Revisions},
    reservation as reservation_pb,
    ticket::TicketStatus as TicketStatusPb,
    time::to_proto,
    r#type::Money as MoneyPb,
};

use crate::domain::{self, Discount, Money, PricePart, Reservation, ReservationStatus, TicketStatus, View};

/// Returns a row as the contract shows it at the time `now`.
pub fn to_message(id: &TicketId, view: &View, now: DateTime<Utc>) -> pb::TicketView {
    let revisions = Revisions {
        ticket: view.ticket.as_ref().map_or(0, |ticket| ticket.revision),
        reservation: view.ledger.revision,
        price: view.price.as_ref().map_or(0, |price| price.revision),
    };
    let mut message = pb::TicketView {
        ticket_id: id.to_string(),
        revisions: Some(revisions),
        settled: domain::settled(view),
        update_time: view.update_time().map(to_proto),
        ..pb::TicketView::default()
    };
    if let Some(ticket) = &view.ticket {
        message.title.clone_from(&ticket.title);
        message.ticket_status = status_to_proto(domain::status(ticket, now)).into();
        message.start_time = Some(to_proto(ticket.start));
        message.end_time = Some(to_proto(ticket.end));
    }
    if let Some(price) = &view.price {
        (message.base_price, message.discounted_price, message.discounts) = price_to_proto(price);
    }
    if let Some(newest) = &view.newest {
        message.reservation_id = newest.reservation_id.to_string();
        message.user_id = newest.user_id.to_string();
        message.user_grade = newest.user_grade.to_proto().into();
        message.reservation_status = reservation_status(newest.status).into();
        message.reserve_time = Some(to_proto(newest.reserve_time));
    }
    message
}

/// Returns a reservation with the parts of the ticket that its user may see. The price belongs to the row, so it is
/// shown only to the current holder of the ticket.
pub fn to_user_reservation(reservation: &Reservation, view: &View, now: DateTime<Utc>) -> pb::UserReservation {
    let mut message =
        pb::UserReservation { reservation: Some(to_reservation(reservation)), ..pb::UserReservation::default() };
    if let Some(ticket) = &view.ticket {
        message.title.clone_from(&ticket.title);
        message.ticket_status = status_to_proto(domain::status(ticket, now)).into();
        message.start_time = Some(to_proto(ticket.start));
        message.end_time = Some(to_proto(ticket.end));
    }
    let holds =
        reservation.status == ReservationStatus::Reserved && view.ledger.active == Some(reservation.reservation_id);
    if let Some(price) = view.price.as_ref().filter(|_| holds) {
        (message.base_price, message.discounted_price, message.discounts) = price_to_proto(price);
    }
    message
}

fn to_reservation(reservation: &Reservation) -> reservation_pb::Reservation {
    reservation_pb::Reservation {
        reservation_id: reservation.reservation_id.to_string(),
        ticket_id: reservation.ticket_id.to_string(),
        user_id: reservation.user_id.to_string(),
        user_grade: reservation.user_grade.to_proto().into(),
        status: reservation_status(reservation.status).into(),
        status_reason: reservation.status_reason.clone(),
        revision: reservation.revision,
        reserve_time: Some(to_proto(reservation.reserve_time)),
        update_time: Some(to_proto(reservation.update_time)),
    }
}

fn price_to_proto(price: &PricePart) -> (Option<MoneyPb>, Option<MoneyPb>, Vec<pricing::Discount>) {
    let discounts = price.discounts.iter().map(discount_to_proto).collect();
    (Some(money_to_proto(&price.base_price)), Some(money_to_proto(&price.discounted_price)), discounts)
}

fn discount_to_proto(discount: &Discount) -> pricing::Discount {
    pricing::Discount {
        rule_id: discount.rule_id.clone(),
        description: discount.description.clone(),
        amount: Some(money_to_proto(&discount.amount)),
    }
}

fn money_to_proto(money: &Money) -> MoneyPb {
    MoneyPb { currency_code: money.currency_code.clone(), units: money.units, nanos: money.nanos }
}

fn status_to_proto(status: TicketStatus) -> TicketStatusPb {
    match status {
        TicketStatus::Available => TicketStatusPb::Available,
        TicketStatus::Reserved => TicketStatusPb::Reserved,
        TicketStatus::Expired => TicketStatusPb::Expired,
        TicketStatus::Withdrawn => TicketStatusPb::Withdrawn,
    }
}

/// Returns the status that a filter names; `None` for UNSPECIFIED.
///
/// # Errors
/// If the number is not a status of the contract.
pub fn status_filter(number: i32) -> Result<Option<TicketStatus>, prost::UnknownEnumValue> {
    Ok(match TicketStatusPb::try_from(number)? {
        TicketStatusPb::Unspecified => None,
        TicketStatusPb::Available => Some(TicketStatus::Available),
        TicketStatusPb::Reserved => Some(TicketStatus::Reserved),
        TicketStatusPb::Expired => Some(TicketStatus::Expired),
        TicketStatusPb::Withdrawn => Some(TicketStatus::Withdrawn),
    })
}

fn reservation_status(status: ReservationStatus) -> reservation_pb::ReservationStatus {
    match status {
        ReservationStatus::Reserved => reservation_pb::ReservationStatus::Reserved,
        ReservationStatus::Cancelled => reservation_pb::ReservationStatus::Cancelled,
        ReservationStatus::Rejected => reservation_pb::ReservationStatus::Rejected,
    }
}
