//! Lists: every row appears once, in the requested order, for every page size.

use std::collections::BTreeSet;

use eticket_proto::{
    error::ErrorReason,
    query::{
        ListTicketViewsRequest, ListUserReservationsRequest, TicketView, UserReservation,
        query_service_server::QueryService,
    },
    reservation::ReservationStatus as ReservationStatusPb,
    ticket::TicketStatus,
};
use eticket_rpc_server::error::ApiError;

use super::*;

/// Rows with ties in every sort field except the id, in every status, some without a price.
async fn filled() -> Fixture {
    let fixture = Fixture::new().await;
    for number in 0..24_i64 {
        let ticket_id = id(&format!("t-{:02}", (number * 7) % 24));
        let held = number % 4 == 1;
        let part = TicketPart {
            start: time(1_000 + number % 3),
            end: if number % 4 == 2 { time(5_000) } else { time(9_000) },
            withdrawn: number % 4 == 3,
            update_time: time(number % 5),
            ..ticket(1, i64::from(held), held.then_some(number as u128))
        };
        fixture.publish(&ticket_id, &Event::Ticket(part)).await;
        if held {
            let row = reservation(&ticket_id, number as u128, 1, ReservationStatus::Reserved);
            let user_id = if number % 8 == 1 { "ann" } else { "bob" }.parse().unwrap();
            let row = Reservation { user_id, update_time: time(0), ..row };
            fixture.publish(&ticket_id, &reserved(row)).await;
        }
        if number % 6 != 0 {
            let part = PricePart { update_time: time(0), ..price(1, 0, 8_000 + (number % 2) * 1_000) };
            fixture.publish(&ticket_id, &Event::Price(part)).await;
        }
    }
    fixture.read_all().await;
    fixture.clock.set(time(6_000));
    fixture
}

async fn pages(fixture: &Fixture, request: ListTicketViewsRequest) -> Vec<TicketView> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListTicketViewsRequest { page_token, ..request.clone() };
        let page = fixture.grpc().list_ticket_views(by_admin(request)).await.unwrap().into_inner();
        all.extend(page.views);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return all;
        }
        assert!(all.len() <= 100, "the list does not end");
    }
}

/// Compares rows as the contract defines it, by the fields of the messages.
fn compare(order: &[(&str, bool)], a: &TicketView, b: &TicketView) -> std::cmp::Ordering {
    let seconds = |time: Option<prost_types::Timestamp>| time.map_or(i64::MIN, |time| time.seconds);
    let units = |view: &TicketView| view.discounted_price.as_ref().map_or(i64::MIN, |price| price.units);
    let mut ordering = std::cmp::Ordering::Equal;
    for (field, descending) in order {
        let next = match *field {
            "start_time" => seconds(a.start_time).cmp(&seconds(b.start_time)),
            "update_time" => seconds(a.update_time).cmp(&seconds(b.update_time)),
            "discounted_price" => units(a).cmp(&units(b)),
            _ => a.ticket_id.cmp(&b.ticket_id),
        };
        ordering = ordering.then(if *descending { next.reverse() } else { next });
    }
    ordering
}

#[tokio::test]
async fn pages_show_every_row_once_in_every_order() {
    let fixture = filled().await;
    let orders: [&[(&str, bool)]; 10] = [
        &[("start_time", false)],
        &[("start_time", true)],
        &[("start_time", true), ("ticket_id", false)],
        &[("ticket_id", false)],
        &[("ticket_id", true)],
        &[("discounted_price", false)],
        &[("discounted_price", true), ("start_time", false)],
        &[("update_time", true), ("discounted_price", false), ("ticket_id", true)],
        &[("update_time", false)],
        &[("start_time", false), ("update_time", true), ("discounted_price", true)],
    ];
    for order in orders {
        let text = order.iter().map(|(field, descending)| format!("{field}{}", if *descending { " desc" } else { "" }));
        let order_by = text.collect::<Vec<_>>().join(", ");
        for page_size in [1, 2, 3, 50] {
            let request =
                ListTicketViewsRequest { order_by: order_by.clone(), page_size, ..ListTicketViewsRequest::default() };
            let all = pages(&fixture, request).await;
            let ids: BTreeSet<&str> = all.iter().map(|view| view.ticket_id.as_str()).collect();
            assert_eq!((all.len(), ids.len()), (24, 24), "{order_by}, {page_size} a page");
            let sorted = all.is_sorted_by(|a, b| compare(order, a, b).is_le());
            assert!(sorted, "{order_by}, {page_size} a page: {:?}", ids);
        }
    }
}

#[tokio::test]
async fn filters_select_by_status_holder_and_start() {
    let fixture = filled().await;
    let listed = async |request: ListTicketViewsRequest| pages(&fixture, request).await;
    for status in [TicketStatus::Available, TicketStatus::Reserved, TicketStatus::Expired, TicketStatus::Withdrawn] {
        for (order_by, page_size) in [("", 50), ("discounted_price desc", 2), ("ticket_id", 1)] {
            let request = ListTicketViewsRequest {
                filter_status: status.into(),
                order_by: order_by.to_owned(),
                page_size,
                ..ListTicketViewsRequest::default()
            };
            let found = listed(request).await;
            assert_eq!(found.len(), 6, "{status:?}");
            assert!(found.iter().all(|view| view.ticket_status() == status), "{status:?}");
        }
    }
    let of_ann =
        ListTicketViewsRequest { filter_user_id: "ann".to_owned(), page_size: 2, ..ListTicketViewsRequest::default() };
    let found = listed(of_ann.clone()).await;
    assert_eq!(found.len(), 3);
    assert!(found.iter().all(|view| view.user_id == "ann" && view.ticket_status() == TicketStatus::Reserved));
    let first_second = ListTicketViewsRequest {
        start_time_from: Some(to_proto(time(1_001))),
        start_time_to: Some(to_proto(time(1_002))),
        page_size: 3,
        ..ListTicketViewsRequest::default()
    };
    let found = listed(first_second.clone()).await;
    assert_eq!(found.len(), 8);
    assert!(
        found.iter().all(|view| view.start_time == Some(to_proto(time(1_001)))),
        "from is inclusive, to is exclusive"
    );
    let both = ListTicketViewsRequest { filter_user_id: "ann".to_owned(), ..first_second };
    assert_eq!(listed(both).await.len(), 1);
}

#[tokio::test]
async fn a_cancelled_reservation_holds_nothing() {
    let fixture = Fixture::new().await;
    let a = id("a");
    fixture.take(&a, &free()).await;
    fixture.take(&a, &[reserved(reservation(&a, 1, 1, ReservationStatus::Reserved))]).await;
    let request = ListTicketViewsRequest { filter_user_id: "ann".to_owned(), ..ListTicketViewsRequest::default() };
    assert_eq!(pages(&fixture, request.clone()).await.len(), 1);
    fixture.take(&a, &[reserved(reservation(&a, 1, 2, ReservationStatus::Cancelled))]).await;
    assert_eq!(pages(&fixture, request).await, []);
}

#[tokio::test]
async fn a_page_token_belongs_to_its_filter_and_order() {
    let fixture = filled().await;
    let list = async |request: ListTicketViewsRequest| fixture.grpc().list_ticket_views(by_admin(request)).await;
    let first = ListTicketViewsRequest { page_size: 1, ..ListTicketViewsRequest::default() };
    let page_token = list(first.clone()).await.unwrap().into_inner().next_page_token;
    let with_token = ListTicketViewsRequest { page_token, ..first };
    assert!(list(with_token.clone()).await.is_ok());
    let spelt_otherwise =
        ListTicketViewsRequest { order_by: " start_time asc,ticket_id".to_owned(), ..with_token.clone() };
    assert!(list(spelt_otherwise).await.is_ok(), "another spelling of the same order");
    for other in [
        ListTicketViewsRequest { order_by: "start_time desc".to_owned(), ..with_token.clone() },
        ListTicketViewsRequest { filter_user_id: "ann".to_owned(), ..with_token.clone() },
        ListTicketViewsRequest { filter_status: TicketStatus::Expired.into(), ..with_token.clone() },
        ListTicketViewsRequest { start_time_to: Some(to_proto(time(0))), ..with_token.clone() },
        ListTicketViewsRequest { page_token: "nonsense".to_owned(), ..with_token },
    ] {
        let status = list(other).await.expect_err("another list");
        assert_eq!(ApiError::from_status(&status), Some(ErrorReason::InvalidPageToken));
    }
}

#[tokio::test]
async fn invalid_fields_are_named() {
    let fixture = Fixture::new().await;
    let bad_time = Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 });
    for (request, field) in [
        (ListTicketViewsRequest { order_by: "title".to_owned(), ..Default::default() }, "order_by"),
        (ListTicketViewsRequest { filter_status: 99, ..Default::default() }, "filter_status"),
        (ListTicketViewsRequest { filter_user_id: "\u{1}".to_owned(), ..Default::default() }, "filter_user_id"),
        (ListTicketViewsRequest { start_time_from: bad_time, ..Default::default() }, "start_time_from"),
        (ListTicketViewsRequest { start_time_to: bad_time, ..Default::default() }, "start_time_to"),
        (ListTicketViewsRequest { page_size: -1, ..Default::default() }, "page_size"),
    ] {
        let status = fixture.grpc().list_ticket_views(by_admin(request)).await.expect_err(field);
        assert_eq!(ApiError::from_status(&status), Some(ErrorReason::InvalidField));
        assert!(status.message().starts_with(field), "{status}");
    }
}

async fn reservations(fixture: &Fixture, user: &str, page_size: i32) -> Vec<UserReservation> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListUserReservationsRequest { user_id: user.to_owned(), page_size, page_token };
        let page = fixture.grpc().list_user_reservations(by_admin(request)).await.unwrap().into_inner();
        all.extend(page.reservations);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return all;
        }
        assert!(all.len() <= 100, "the list does not end");
    }
}

#[tokio::test]
async fn all_reservations_of_a_user_are_listed_newest_first() {
    let fixture = Fixture::new().await;
    for number in 1..=7_u128 {
        let ticket_id = id(&format!("t-{number}"));
        let status = if number % 2 == 0 { ReservationStatus::Cancelled } else { ReservationStatus::Reserved };
        // Three rows with equal times: their ids decide.
        let reserve_time = time(100 + i64::try_from(number / 3).unwrap());
        let row = Reservation { reserve_time, ..reservation(&ticket_id, number, 1, status) };
        fixture.publish(&ticket_id, &reserved(row)).await;
        if number != 7 {
            fixture.publish(&ticket_id, &Event::Ticket(ticket(1, 1, (number % 2 == 1).then_some(number)))).await;
            fixture.publish(&ticket_id, &Event::Price(price(1, 1, 9_000))).await;
        }
    }
    fixture.read_all().await;
    for page_size in [1, 2, 3, 50] {
        let all = reservations(&fixture, "ann", page_size).await;
        let ids: Vec<_> = all.iter().map(|row| row.reservation.as_ref().unwrap().reservation_id.clone()).collect();
        let expected: Vec<_> = (1..=7).rev().map(|number| reservation_id(number).to_string()).collect();
        assert_eq!(ids, expected, "{page_size} a page");
    }
    let all = reservations(&fixture, "ann", 0).await;
    assert_eq!((all[0].title.as_str(), all[0].ticket_status()), ("", TicketStatus::Unspecified), "not known yet");
    for row in &all[1..] {
        let status = row.reservation.as_ref().unwrap().status();
        let held = status == ReservationStatusPb::Reserved;
        assert_eq!(row.discounted_price.is_some(), held, "the price is shown while it is RESERVED");
        assert_eq!(row.title, "a title");
        let expected = if held { TicketStatus::Reserved } else { TicketStatus::Available };
        assert_eq!(row.ticket_status(), expected);
    }
    assert_eq!(reservations(&fixture, "nobody", 0).await, []);
}
