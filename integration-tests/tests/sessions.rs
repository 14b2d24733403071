//! Sessions and histories as clients use them: through the gateway, against the real programs.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::time::Duration;

use chrono::Weekday;
use eticket_integration_tests::{
    Api, Eticket, Protocol,
    api::{TIMEOUT_WITH_REASON, channel, reason},
    calendar,
};
use eticket_proto::{
    ERROR_DOCUMENTATION, headers,
    query::{
        GetTicketHistoryRequest, ListTicketViewsRequest, ListUserReservationsRequest, TicketHistoryEntry,
        query_service_client::QueryServiceClient, ticket_history_entry::State,
    },
    reservation::{
        CancelReservationRequest, ReservationStatus, ReserveTicketRequest, UserGrade,
        reservation_service_client::ReservationServiceClient,
    },
    ticket::{RegisterTicketRequest, WithdrawTicketRequest, ticket_service_client::TicketServiceClient},
    time::to_proto,
    token::Consistency,
};
use tempfile::TempDir;
use tonic::{Request, Response, metadata::MetadataMap, transport::Channel};
use tonic_types::StatusExt;
use uuid::Uuid;

struct World {
    eticket: Eticket,
    channel: Channel,
    _data: TempDir,
}

impl World {
    async fn start() -> Self {
        let data = TempDir::new().expect("a folder");
        let eticket = Eticket::start(data.path()).await;
        let channel = channel(eticket.address("gateway"));
        Self { eticket, channel, _data: data }
    }

    fn query(&self) -> QueryServiceClient<Channel> {
        QueryServiceClient::new(self.channel.clone())
    }

    fn reservations(&self) -> ReservationServiceClient<Channel> {
        ReservationServiceClient::new(self.channel.clone())
    }

    async fn register(&self, ticket: &str, correlation_id: &str) -> MetadataMap {
        let slot = calendar::upcoming(Weekday::Wed);
        let request = RegisterTicketRequest {
            ticket_id: ticket.to_owned(),
            title: format!("Ticket {ticket}"),
            start_time: Some(to_proto(slot.start)),
            end_time: Some(to_proto(slot.end)),
            ..Default::default()
        };
        let mut tickets = TicketServiceClient::new(self.channel.clone());
        let response = tickets.register_ticket(caused_by(request, correlation_id)).await.expect("registered");
        assert_eq!(token(&response), response.get_ref().consistency_token);
        response.metadata().clone()
    }
}

/// Returns the token in the metadata of a response.
fn token<T>(response: &Response<T>) -> &str {
    response.metadata().get(headers::CONSISTENCY_TOKEN).expect("each command has a token").to_str().expect("text")
}

fn caused_by<T>(message: T, correlation_id: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(headers::CORRELATION_ID, correlation_id.parse().expect("a header"));
    request
}

fn with<T>(message: T, tokens: &[String]) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_secs(20));
    for token in tokens {
        request.metadata_mut().append(headers::CONSISTENCY_TOKEN, token.parse().expect("a header"));
    }
    request
}

fn reservation_token(ticket: &str, revision: i64) -> String {
    Consistency::Reservation { ticket: ticket.parse().expect("an id"), revision }.encode()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_include_the_commands_of_their_tokens() {
    let world = World::start().await;
    for number in 0..20 {
        let ticket = format!("t-{number}");
        let registered = world.register(&ticket, "register").await;
        let token_of_ticket = registered.get(headers::CONSISTENCY_TOKEN).expect("a token").to_str().expect("text");
        let list = with(ListTicketViewsRequest::default(), &[token_of_ticket.to_owned()]);
        let views = world.query().list_ticket_views(list).await.expect("listed").into_inner().views;
        assert!(views.iter().any(|view| view.ticket_id == ticket), "{ticket} is missing in {views:?}");

        let request = ReserveTicketRequest {
            ticket_id: ticket.clone(),
            user_id: "ann".to_owned(),
            user_grade: UserGrade::Gold.into(),
            ..Default::default()
        };
        let reserved = world.reservations().reserve_ticket(request).await.expect("reserved");
        let own = ListUserReservationsRequest { user_id: "ann".to_owned(), ..Default::default() };
        // Both tokens of the ticket, in one value.
        let tokens = format!("{token_of_ticket}, {}", token(&reserved));
        let own = world.query().list_user_reservations(with(own, &[tokens])).await.expect("listed").into_inner();
        assert_eq!(own.reservations.len(), number + 1);
    }
    world.eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_and_unreached_tokens_are_errors_that_say_why() {
    let world = World::start().await;
    world.register("1", "register").await;
    let list = async |tokens: &[String]| {
        let mut request = with(ListTicketViewsRequest::default(), tokens);
        request.set_timeout(TIMEOUT_WITH_REASON);
        world.query().list_ticket_views(request).await.expect_err("refused")
    };
    let many: Vec<_> = (0..65).map(|number| reservation_token(&format!("t-{number}"), 1)).collect();
    let refused = list(&many).await;
    assert_eq!(reason(&refused), "INVALID_FIELD");
    let field = refused.get_details_bad_request().expect("a BadRequest").field_violations.remove(0).field;
    assert_eq!(field, headers::CONSISTENCY_TOKEN);
    assert_eq!(reason(&list(&["nonsense".to_owned()]).await), "INVALID_CONSISTENCY_TOKEN");

    let late = list(&[reservation_token("1", 7)]).await;
    assert_eq!(reason(&late), "VIEW_NOT_CAUGHT_UP");
    let metadata = late.get_details_error_info().expect("an ErrorInfo").metadata;
    let told = ["ticket_id", "waiting_for", "wanted", "seen", "cause"].map(|key| metadata[key].as_str());
    assert_eq!(told, ["1", "reservation", "7", "0", "late"]);
    let help = late.get_details_help().expect("a Help");
    assert_eq!(help.links[0].url, format!("{ERROR_DOCUMENTATION}#view_not_caught_up"));
    world.eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_response_is_marked_and_has_its_token() {
    let world = World::start().await;
    world.register("1", "register").await;
    let request = ReserveTicketRequest {
        ticket_id: "1".to_owned(),
        user_id: "ann".to_owned(),
        user_grade: UserGrade::Gold.into(),
        request_id: Uuid::new_v4().to_string(),
    };
    let first = world.reservations().reserve_ticket(request.clone()).await.expect("reserved");
    let again = world.reservations().reserve_ticket(request).await.expect("the same response");
    let replayed = |response: &Response<_>| response.metadata().get(headers::IDEMPOTENT_REPLAYED).cloned();
    assert_eq!((replayed(&first), replayed(&again)), (None, Some("true".parse().expect("a value"))));
    assert_eq!(token(&first), token(&again));
    assert_eq!(first.into_inner(), again.into_inner());
    world.eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_has_each_command_of_a_ticket_with_its_correlation_id() {
    let world = World::start().await;
    world.register("other", "another").await;
    world.register("1", "a-registration").await;
    let request = ReserveTicketRequest {
        ticket_id: "1".to_owned(),
        user_id: "ann".to_owned(),
        user_grade: UserGrade::Gold.into(),
        ..Default::default()
    };
    // Services publish on their own, so the order on the stream is that of the commands only if each has settled.
    let settled = Api::new(&world.eticket, Protocol::Gateway);
    let reserved = world.reservations().reserve_ticket(caused_by(request, "a-reservation")).await.expect("reserved");
    let reserved = reserved.into_inner();
    settled.settled("1", &reserved.consistency_token).await;
    let reservation_id = reserved.reservation.expect("a reservation").reservation_id;
    let request = CancelReservationRequest { reservation_id, ..Default::default() };
    let cancelled = world.reservations().cancel_reservation(caused_by(request, "a-cancellation")).await;
    settled.settled("1", &cancelled.expect("cancelled").into_inner().consistency_token).await;
    let request = WithdrawTicketRequest { ticket_id: "1".to_owned(), ..Default::default() };
    let mut tickets = TicketServiceClient::new(world.channel.clone());
    let withdrawn = tickets.withdraw_ticket(caused_by(request, "a-withdrawal")).await.expect("withdrawn").into_inner();
    settled.settled("1", &withdrawn.consistency_token).await;

    let mut entries: Vec<TicketHistoryEntry> = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = GetTicketHistoryRequest { ticket_id: "1".to_owned(), page_size: 2, page_token };
        let page = world.query().get_ticket_history(request).await.expect("a page").into_inner();
        assert!(page.entries.len() <= 2, "{page:?}");
        entries.extend(page.entries);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let place = |event_type: &str, correlation_id: &str| {
        let is_it =
            |entry: &TicketHistoryEntry| entry.event_type == event_type && entry.correlation_id == correlation_id;
        let found = entries.iter().position(is_it);
        found.unwrap_or_else(|| panic!("no {event_type} of {correlation_id} in {entries:#?}"))
    };
    // The newest first.
    let life = [
        place("TicketWithdrawn", "a-withdrawal"),
        place("ReservationCancelled", "a-cancellation"),
        place("ReservationPlaced", "a-reservation"),
        place("TicketRegistered", "a-registration"),
    ];
    assert!(life.is_sorted(), "{entries:#?}");
    // Reactions of other services belong to the command.
    place("TicketReserved", "a-reservation");
    place("PriceCalculated", "a-registration");
    place("ReservationsClosed", "a-withdrawal");
    let cancelled = &entries[life[1]];
    assert!(cancelled.event_time.is_some() && cancelled.revision == 2, "{cancelled:?}");
    let Some(State::Reservation(state)) = &cancelled.state else { panic!("{cancelled:?}") };
    assert_eq!((state.status(), state.user_id.as_str()), (ReservationStatus::Cancelled, "ann"));

    let nobody = GetTicketHistoryRequest { ticket_id: "nobody".to_owned(), ..Default::default() };
    let unknown = world.query().get_ticket_history(nobody).await.expect_err("no such ticket");
    assert_eq!(reason(&unknown), "TICKET_NOT_FOUND");
    world.eticket.stop().await;
}
