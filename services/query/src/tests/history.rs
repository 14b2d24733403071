//! `GetTicketHistory`: pages of a ticket's events, the newest first.

use eticket_proto::{
    error::ErrorReason,
    query::{
        GetTicketHistoryRequest, GetTicketHistoryResponse, TicketHistoryEntry, query_service_server::QueryService,
        ticket_history_entry::State,
    },
    reservation::ReservationStatus as ReservationStatusPb,
    token::Consistency,
};
use eticket_rpc_server::error::ApiError;
use tonic::Status;
use tonic_types::StatusExt;

use super::*;

/// Publishes an event of ticket `ticket` as its owner does, with the headers that people read.
async fn publish(fixture: &Fixture, ticket: &str, event: &Event, event_type: &str, command: &str) {
    let mut message = message(&id(ticket), event);
    let more = [
        (headers::TYPE, format!("eticket.event.v1.{event_type}")),
        (headers::TIME, "2027-01-15T08:00:05.25Z".to_owned()),
        (headers::CORRELATION_ID, command.to_owned()),
    ];
    message.headers.extend(more.map(|(name, value)| (name.into(), value)));
    fixture.bus.publish(message).await.unwrap();
}

/// The life of ticket a, among events of another ticket.
async fn life() -> Fixture {
    let fixture = Fixture::new().await;
    let [registered, priced] = free();
    let row = |revision, status| reserved(reservation(&id("a"), 1, revision, status));
    for (event, event_type, command) in [
        (registered, "TicketRegistered", "register"),
        (priced, "PriceCalculated", "register"),
        (row(1, ReservationStatus::Reserved), "ReservationPlaced", "reserve"),
        (Event::Ticket(ticket(2, 1, Some(1))), "TicketReserved", "reserve"),
        (row(2, ReservationStatus::Cancelled), "ReservationCancelled", "cancel"),
        (Event::Ledger(LedgerPart { revision: 3, active: None, closed: true }, None), "ReservationsClosed", "withdraw"),
    ] {
        publish(&fixture, "a", &event, event_type, command).await;
        publish(&fixture, "a-2", &free()[0], "TicketUpdated", "other").await;
    }
    fixture.read_all().await;
    fixture
}

async fn page(fixture: &Fixture, size: i32, token: &str) -> Result<GetTicketHistoryResponse, Status> {
    let (ticket_id, page_token) = ("a".to_owned(), token.to_owned());
    let request = GetTicketHistoryRequest { ticket_id, page_size: size, page_token };
    fixture.grpc().get_ticket_history(by_admin(request)).await.map(tonic::Response::into_inner)
}

fn reason(status: &Status) -> ErrorReason {
    ApiError::from_status(status).unwrap_or_else(|| panic!("no reason: {status}"))
}

fn told(entry: &TicketHistoryEntry) -> (&str, i64, &str) {
    (&entry.event_type, entry.revision, &entry.correlation_id)
}

#[tokio::test]
async fn a_history_has_the_events_of_a_ticket_newest_first() {
    let fixture = life().await;
    let response = page(&fixture, 0, "").await.unwrap();
    let expected = [
        ("ReservationsClosed", 3, "withdraw"),
        ("ReservationCancelled", 2, "cancel"),
        ("TicketReserved", 2, "reserve"),
        ("ReservationPlaced", 1, "reserve"),
        ("PriceCalculated", 1, "register"),
        ("TicketRegistered", 1, "register"),
    ];
    assert_eq!(response.entries.iter().map(told).collect::<Vec<_>>(), expected);
    assert_eq!(response.next_page_token, "");
    let time = response.entries[0].event_time.expect("a time");
    assert_eq!((time.seconds, time.nanos), (super::time(5).timestamp(), 250_000_000));
    let states: Vec<_> = response.entries.into_iter().map(|entry| entry.state).collect();
    assert_eq!(states[0], None, "no reservation");
    let Some(State::Reservation(cancelled)) = &states[1] else { panic!("{states:?}") };
    assert_eq!((cancelled.status(), cancelled.user_id.as_str()), (ReservationStatusPb::Cancelled, "ann"));
    assert!(matches!(&states[2], Some(State::Ticket(ticket)) if !ticket.reservation_id.is_empty()));
    assert!(matches!(&states[4], Some(State::Price(price)) if price.revision == 1));
}

#[tokio::test]
async fn pages_have_every_entry_once_while_new_ones_arrive() {
    let fixture = life().await;
    let (mut read, mut token) = (Vec::new(), String::new());
    loop {
        let response = page(&fixture, 4, &token).await.unwrap();
        assert!(response.entries.len() <= 4, "more entries than requested: {response:?}");
        read.extend(response.entries.iter().map(|entry| entry.event_type.clone()));
        token = response.next_page_token;
        if token.is_empty() {
            break;
        }
        publish(&fixture, "a", &Event::Ticket(ticket(9, 1, None)), "TicketReleased", "later").await;
    }
    assert_eq!((read.len(), read[0].as_str(), read[5].as_str()), (6, "ReservationsClosed", "TicketRegistered"));
}

#[tokio::test]
async fn the_size_of_a_page_is_bounded() {
    let fixture = Fixture::new().await;
    for revision in 1..=5 {
        let part = TicketPart { title: "x".repeat(900_000), ..ticket(revision, 0, None) };
        publish(&fixture, "a", &Event::Ticket(part), "TicketUpdated", "update").await;
    }
    let (mut revisions, mut token) = (Vec::new(), String::new());
    loop {
        let response = page(&fixture, 1000, &token).await.unwrap();
        assert!(prost::Message::encoded_len(&response) <= 2 * 1024 * 1024 + 100, "{}", response.entries.len());
        revisions.extend(response.entries.iter().map(|entry| entry.revision));
        token = response.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(revisions, [5, 4, 3, 2, 1]);
}

#[tokio::test]
async fn events_after_those_that_cannot_be_decoded_are_not_lost() {
    let fixture = Fixture::new().await;
    let row = |number: u128| reservation(&id("a"), number, 1, ReservationStatus::Reserved);
    for number in 1..=70 {
        let mut message = message(&id("a"), &reserved(row(number)));
        message.body = vec![0xff; 40_000].into();
        fixture.bus.publish(message).await.unwrap();
    }
    let first = page(&fixture, 1000, "").await.unwrap();
    assert!(first.entries.len() < 70 && first.entries[0].state.is_none(), "{}", first.entries.len());
    let second = page(&fixture, 1000, &first.next_page_token).await.unwrap();
    assert_eq!((first.entries.len() + second.entries.len(), second.next_page_token.as_str()), (70, ""));
}

#[tokio::test]
async fn an_unknown_ticket_is_not_found_and_lost_events_are_not_an_error() {
    let mut fixture = Fixture::new().await;
    assert_eq!(reason(&page(&fixture, 0, "").await.unwrap_err()), ErrorReason::TicketNotFound);
    fixture.take(&id("a"), &free()).await;
    let folder = tempfile::tempdir().unwrap();
    fixture.turn_to(Arc::new(Embedded::open(&folder.path().join("bus.db")).await.unwrap()));
    assert_eq!(page(&fixture, 0, "").await.unwrap(), GetTicketHistoryResponse::default());
}

#[tokio::test]
async fn a_token_of_another_stream_or_list_is_refused() {
    let mut fixture = life().await;
    let token = page(&fixture, 1, "").await.unwrap().next_page_token;
    let request =
        GetTicketHistoryRequest { ticket_id: "b".to_owned(), page_token: token.clone(), ..Default::default() };
    let other = fixture.grpc().get_ticket_history(by_admin(request)).await.unwrap_err();
    assert_eq!(reason(&other), ErrorReason::InvalidPageToken);
    let folder = tempfile::tempdir().unwrap();
    fixture.turn_to(Arc::new(Embedded::open(&folder.path().join("bus.db")).await.unwrap()));
    assert_eq!(reason(&page(&fixture, 1, &token).await.unwrap_err()), ErrorReason::InvalidPageToken);
    assert_eq!(reason(&page(&fixture, -1, "").await.unwrap_err()), ErrorReason::InvalidField);
}

#[tokio::test]
async fn without_the_bus_the_error_is_retryable() {
    let fixture = life().await;
    fixture.bus.close().await;
    let status = page(&fixture, 0, "").await.unwrap_err();
    assert_eq!(reason(&status), ErrorReason::UpstreamUnavailable);
    assert_eq!(status.get_details_error_info().unwrap().metadata["upstream"], "bus");
    assert!(status.metadata().contains_key(headers::RETRY_PUSHBACK));
}

#[tokio::test]
async fn a_history_waits_for_the_tokens_of_its_ticket() {
    let fixture = Arc::new(life().await);
    let ask = |ticket: &str| {
        let token = Consistency::Reservation { ticket: id(ticket), revision: 4 };
        let request = GetTicketHistoryRequest { ticket_id: "a".to_owned(), ..Default::default() };
        let mut request = by_admin(request);
        request.metadata_mut().insert(headers::CONSISTENCY_TOKEN, token.encode().parse().unwrap());
        let fixture = fixture.clone();
        tokio::spawn(async move { fixture.grpc().get_ticket_history(request).await })
    };
    assert!(timeout(BOUND, ask("b")).await.expect("no wait for another ticket").unwrap().is_ok());
    let asked = ask("a");
    until("a waiting call", async || fixture.views.changes.waiting() == 1).await;
    let row = reserved(reservation(&id("a"), 2, 4, ReservationStatus::Reserved));
    publish(&fixture, "a", &row, "ReservationPlaced", "again").await;
    fixture.read_all().await;
    let response = timeout(BOUND, asked).await.expect("in time").unwrap().unwrap().into_inner();
    assert_eq!(told(&response.entries[0]), ("ReservationPlaced", 4, "again"));
}
