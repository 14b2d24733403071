//! The acceptance scenario, from the first registration to a cancellation that is delivered twice.

use chrono::Weekday;
use eticket_bus::Message;
use eticket_proto::{
    headers, pricing,
    query::{TicketView, WaitFor},
    reservation::{ReservationStatus, UserGrade},
    subjects,
    ticket::TicketStatus,
};
use tonic::Code;

use crate::{Api, api::reason, calendar};

async fn price(api: &Api, ticket: &str) -> i64 {
    let price: pricing::Price = api.price(ticket).await.expect("a settled ticket has a price");
    let money = price.discounted_price.expect("a price has an amount");
    assert_eq!((money.currency_code.as_str(), money.nanos), ("KRW", 0));
    money.units
}

/// Registers a ticket and waits until it has a price that the view shows too.
async fn register(api: &Api, ticket: &str, slot: calendar::Slot) -> i64 {
    let registered = api.register(ticket, slot).await.expect("a new id is registered");
    let view = api.settled(ticket, &registered.consistency_token).await;
    assert!(view.settled, "{view:?}");
    assert_eq!(view.base_price.as_ref().map(|money| money.units), Some(10_000));
    let price = price(api, ticket).await;
    assert_eq!(view.discounted_price.map(|money| money.units), Some(price));
    price
}

/// Reserves a ticket; returns the reservation's id, and the price after the saga has ended.
async fn reserve(api: &Api, user: &str, grade: UserGrade, ticket: &str) -> (String, i64) {
    let answer = api.reserve(ticket, user, grade).await.expect("an available ticket is reserved");
    let reservation = answer.reservation.expect("an answer has its resource");
    assert_eq!(reservation.status(), ReservationStatus::Reserved);
    let view = api.settled(ticket, &answer.consistency_token).await;
    assert_eq!((view.ticket_status(), view.user_id.as_str()), (TicketStatus::Reserved, user));
    assert_eq!((view.reservation_status(), view.user_grade()), (ReservationStatus::Reserved, grade));
    assert_eq!(view.reservation_id, reservation.reservation_id);
    let status = api.ticket(ticket).await.expect("it is there").status();
    assert_eq!(status, TicketStatus::Reserved);
    (reservation.reservation_id, price(api, ticket).await)
}

async fn refused(api: &Api, user: &str, grade: UserGrade, ticket: &str) -> String {
    let before = api.view(ticket, "", WaitFor::None).await.expect("it has a view");
    let refusal = api.reserve(ticket, user, grade).await.expect_err("it must be refused");
    assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal:?}");
    let after = api.view(ticket, "", WaitFor::None).await.expect("it has a view");
    assert_eq!(without_expiry(after), without_expiry(before), "nothing changes");
    reason(&refusal)
}

/// Removes what the service changes by itself once a ticket has expired.
fn without_expiry(mut view: TicketView) -> TicketView {
    if view.ticket_status() == TicketStatus::Expired {
        view.update_time = None;
        view.revisions.iter_mut().for_each(|revisions| revisions.ticket = 0);
    }
    view
}

/// Results of the first act that the second act needs.
pub struct FirstAct {
    first_of_3: String,
    second_of_3: String,
    before: TicketView,
}

/// Runs the scenario up to the second reservation of ticket 3.
///
/// # Panics
/// If a step has another result than the scenario expects.
pub async fn first_act(api: &Api) -> FirstAct {
    for (ticket, slot, expected) in [
        ("1", calendar::upcoming(Weekday::Tue), 10_000),
        ("2", calendar::upcoming(Weekday::Wed), 8_000),
        ("3", calendar::upcoming(Weekday::Wed), 8_000),
        ("4", calendar::upcoming(Weekday::Fri), 10_000),
        ("5", calendar::past(Weekday::Thu), 8_000),
    ] {
        assert_eq!(register(api, ticket, slot).await, expected, "price of ticket {ticket}");
    }
    assert_eq!(api.ticket("5").await.expect("it is there").status(), TicketStatus::Expired);

    assert_eq!(reserve(api, "A", UserGrade::Silver, "1").await.1, 10_000);
    assert_eq!(reserve(api, "A", UserGrade::Silver, "2").await.1, 8_000);
    let (first_of_3, price_of_3) = reserve(api, "B", UserGrade::Vip, "3").await;
    assert_eq!(price_of_3, 7_000);
    assert_eq!(refused(api, "B", UserGrade::Vip, "1").await, "TICKET_ALREADY_RESERVED");
    assert_eq!(refused(api, "B", UserGrade::Vip, "5").await, "TICKET_EXPIRED");

    let cancelled = api.cancel(&first_of_3).await.expect("a holder can cancel");
    let view = api.settled("3", &cancelled.consistency_token).await;
    assert_eq!(cancelled.reservation.expect("an answer has its resource").status(), ReservationStatus::Cancelled);
    assert_eq!(view.reservation_status(), ReservationStatus::Cancelled);
    assert_eq!(view.ticket_status(), TicketStatus::Available);
    assert_eq!(price(api, "3").await, 8_000);

    let (second_of_3, price_of_3) = reserve(api, "A", UserGrade::Silver, "3").await;
    assert_eq!(price_of_3, 8_000);
    let before = api.settled("3", "").await;
    FirstAct { first_of_3, second_of_3, before }
}

/// Returns whether a message is the cancellation of ticket 3's first reservation, which is delivered twice.
pub fn is_the_cancellation(first: &FirstAct, message: &Message) -> bool {
    message.subject == format!("{}{}", subject_of_reservations("3"), first.first_of_3)
        && message.header(headers::TYPE).is_some_and(|name| name.ends_with("ReservationCancelled"))
}

/// Checks that the second delivery of the cancellation has no effect.
///
/// # Panics
/// If it has one.
pub async fn second_act(api: &Api, first: &FirstAct) {
    // A later message of the stream: once it is applied, the cancellation before it is applied too.
    assert_eq!(register(api, "6", calendar::upcoming(Weekday::Thu)).await, 8_000);
    assert_eq!(reserve(api, "B", UserGrade::Vip, "6").await.1, 7_000);
    let after = api.settled("3", "").await;
    assert_eq!((after.ticket_status(), after.user_id.as_str()), (TicketStatus::Reserved, "A"));
    assert_eq!(after.reservation_id, first.second_of_3);
    assert_eq!(after.revisions, first.before.revisions, "a second delivery has no effect");
    assert_eq!(api.ticket("3").await.expect("it is there").status(), TicketStatus::Reserved);
    assert_eq!(price(api, "3").await, 8_000);
}

fn subject_of_reservations(ticket: &str) -> String {
    subjects::reservations_closed(&ticket.parse().expect("an id")).trim_end_matches("closed").to_owned()
}
