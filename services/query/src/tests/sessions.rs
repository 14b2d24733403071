//! Reads with the consistency tokens of a session: they wait for the commands, and their errors name the
//! missing parts.

use eticket_proto::{
    error::ErrorReason,
    query::{
        GetTicketHistoryRequest, GetTicketViewRequest, ListTicketViewsRequest, ListUserReservationsRequest, WaitFor,
        WatchTicketViewsRequest, query_service_server::QueryService,
    },
    token::Consistency,
};
use eticket_rpc_server::error::ApiError;
use eticket_store::Parked;
use futures::StreamExt;
use tonic::{Request, Status};
use tonic_types::StatusExt;

use super::*;
use crate::application::changes::Trouble;

fn reserved_at(ticket: &str, revision: i64) -> Consistency {
    Consistency::Reservation { ticket: id(ticket), revision }
}

fn with<T>(message: T, tokens: &[Consistency], wait: Option<&'static str>) -> Request<T> {
    let mut request = by_admin(message);
    for token in tokens {
        request.metadata_mut().append(headers::CONSISTENCY_TOKEN, token.encode().parse().unwrap());
    }
    if let Some(wait) = wait {
        request.metadata_mut().insert(headers::WAIT, wait.parse().unwrap());
    }
    request
}

fn user() -> ListUserReservationsRequest {
    ListUserReservationsRequest { user_id: "ann".to_owned(), ..Default::default() }
}

fn of_ticket(ticket: &str) -> GetTicketViewRequest {
    GetTicketViewRequest { ticket_id: ticket.to_owned(), ..Default::default() }
}

fn reason(status: &Status) -> ErrorReason {
    ApiError::from_status(status).unwrap_or_else(|| panic!("no reason: {status}"))
}

/// Returns the metadata of the error: ticket, parts, wanted, seen, cause.
fn told(status: &Status) -> [String; 5] {
    assert_eq!(reason(status), ErrorReason::ViewNotCaughtUp, "{status}");
    let metadata = status.get_details_error_info().expect("a reason").metadata;
    ["ticket_id", "waiting_for", "wanted", "seen", "cause"].map(|key| metadata[key].clone())
}

/// Ticket a without a reservation.
async fn free_ticket() -> Arc<Fixture> {
    let fixture = Fixture::new().await;
    fixture.take(&id("a"), &free()).await;
    Arc::new(fixture)
}

/// Ticket a without a reservation, under a paused clock: a wait that nothing ends reaches its deadline at once.
async fn free_ticket_while_time_is_paused() -> Fixture {
    let fixture = Fixture::in_memory().await;
    fixture.take(&id("a"), &free()).await;
    tokio::time::pause();
    fixture
}

/// Waits until `count` reads wait, then reserves ticket a at revision 1.
async fn reserve_while_waiting(fixture: &Fixture, count: usize) {
    until("waiting reads", async || fixture.views.changes.waiting() == count).await;
    let held = reservation(&id("a"), 1, 1, ReservationStatus::Reserved);
    fixture.take(&id("a"), &[reserved(held)]).await;
}

#[tokio::test]
async fn a_list_waits_for_the_tokens_of_its_session() {
    let fixture = free_ticket().await;
    let (views, own) = (fixture.clone(), fixture.clone());
    let tokens = [reserved_at("a", 1)];
    let views = {
        let tokens = tokens.clone();
        tokio::spawn(async move {
            views.grpc().list_ticket_views(with(ListTicketViewsRequest::default(), &tokens, None)).await
        })
    };
    let own = tokio::spawn(async move { own.grpc().list_user_reservations(with(user(), &tokens, None)).await });
    reserve_while_waiting(&fixture, 2).await;
    let views = timeout(BOUND, views).await.expect("in time").unwrap().unwrap().into_inner().views;
    assert_eq!(views[0].user_id, "ann");
    let own = timeout(BOUND, own).await.expect("in time").unwrap().unwrap().into_inner().reservations;
    assert_eq!(own.len(), 1);
    assert_eq!(fixture.views.changes.waiting(), 0);
}

#[tokio::test]
async fn a_watch_waits_before_its_first_message() {
    let fixture = free_ticket().await;
    let watch = {
        let fixture = fixture.clone();
        tokio::spawn(async move {
            let request = with(WatchTicketViewsRequest::default(), &[reserved_at("a", 1)], None);
            fixture.grpc().watch_ticket_views(request).await
        })
    };
    reserve_while_waiting(&fixture, 1).await;
    let mut stream = timeout(BOUND, watch).await.expect("in time").unwrap().unwrap().into_inner();
    let first = timeout(BOUND, stream.next()).await.expect("in time").expect("open").expect("no error");
    assert_eq!(first.view.expect("a row").user_id, "ann");
}

#[tokio::test]
async fn a_watch_ignores_tokens_of_tickets_that_it_does_not_show() {
    let fixture = free_ticket().await;
    let request = WatchTicketViewsRequest { ticket_ids: vec!["a".to_owned()], ..Default::default() };
    let grpc = fixture.grpc();
    let watch = grpc.watch_ticket_views(with(request, &[reserved_at("b", 1)], None));
    assert!(timeout(BOUND, watch).await.expect("no wait").is_ok());
}

#[tokio::test]
async fn a_read_of_a_view_waits_for_metadata_and_fields() {
    let fixture = free_ticket_while_time_is_paused().await;
    let field = GetTicketViewRequest { consistency_token: reserved_at("a", 1).encode(), ..of_ticket("a") };
    for request in [
        with(of_ticket("a"), &[reserved_at("a", 1)], None),
        with(field.clone(), &[], Some("applied")),
        with(GetTicketViewRequest { wait: WaitFor::Applied.into(), ..field.clone() }, &[], Some("none")),
        with(GetTicketViewRequest { wait: WaitFor::None.into(), ..field.clone() }, &[reserved_at("a", 1)], None),
    ] {
        let late = fixture.grpc().get_ticket_view(request).await.expect_err("no reservation");
        assert_eq!(told(&late), ["a", "reservation", "1", "0", "late"]);
    }
    for request in [
        with(of_ticket("a"), &[reserved_at("a", 1)], Some("none")),
        with(of_ticket("a"), &[reserved_at("b", 1)], None),
        with(field.clone(), &[], None),
        with(GetTicketViewRequest { wait: WaitFor::None.into(), ..field }, &[], Some("applied")),
    ] {
        assert!(fixture.grpc().get_ticket_view(request).await.is_ok());
    }
}

#[tokio::test]
async fn a_read_waits_for_the_newest_token_of_a_ticket() {
    let fixture = free_ticket_while_time_is_paused().await;
    fixture.take(&id("a"), &[reserved(reservation(&id("a"), 1, 1, ReservationStatus::Reserved))]).await;
    for tokens in [[reserved_at("a", 1), reserved_at("a", 2)], [reserved_at("a", 2), reserved_at("a", 1)]] {
        let request = with(ListTicketViewsRequest::default(), &tokens, None);
        let late = fixture.grpc().list_ticket_views(request).await.expect_err("no revision 2");
        assert_eq!(told(&late), ["a", "reservation", "2", "1", "late"]);
    }
}

#[tokio::test]
async fn a_settled_wait_names_every_part_that_is_behind() {
    let fixture = free_ticket_while_time_is_paused().await;
    fixture.take(&id("a"), &[reserved(reservation(&id("a"), 1, 1, ReservationStatus::Reserved))]).await;
    let edited = Consistency::Ticket { ticket: id("a"), revision: 3, schedule_revision: 2, withdrawn: false };
    let request = with(of_ticket("a"), &[reserved_at("a", 1), edited], Some("settled"));
    let late = fixture.grpc().get_ticket_view(request).await.expect_err("no reactions");
    assert_eq!(told(&late), ["a", "ticket,price", "1,1", "0,0", "late"]);
}

#[tokio::test]
async fn the_cause_of_a_late_view_is_named() {
    let fixture = free_ticket_while_time_is_paused().await;
    let cause = async || {
        let request = with(user(), &[reserved_at("a", 1)], None);
        let late = fixture.grpc().list_user_reservations(request).await.expect_err("no reservation");
        told(&late)[4].clone()
    };
    assert_eq!(cause().await, "late");
    let parked = |event_id: &str| Parked {
        event_id: event_id.to_owned(),
        message: Message::default(),
        reason: "a reason".to_owned(),
        attempts: 5,
        park_time: time(1),
    };
    let park = async |event_id: &str| {
        let apply_batch = &mut |work: &mut Work<ViewRows>| work.park(parked(event_id));
        fixture.store().commit(&Keys::default(), &[], apply_batch).await.unwrap();
    };
    park("reservation/a-2/x/1").await;
    assert_eq!(cause().await, "late", "an event of another ticket");
    park("reservation/a/x/1").await;
    assert_eq!(cause().await, "parked");
    for (trouble, name) in [(Trouble::Stalled, "stalled"), (Trouble::Bus, "bus_unavailable")] {
        fixture.views.changes.set_trouble(Some(trouble));
        assert_eq!(cause().await, name);
    }
    fixture.views.changes.set_rebuilding(true);
    assert_eq!(cause().await, "rebuilding");
}

#[tokio::test]
async fn every_read_refuses_invalid_metadata() {
    let fixture = free_ticket().await;
    let many: Vec<_> = (0..65).map(|ticket| reserved_at(&format!("t-{ticket}"), 1)).collect();
    for (tokens, wait) in [(&many[..], None), (&many[..0], Some("later"))] {
        let grpc = fixture.grpc();
        let history = GetTicketHistoryRequest { ticket_id: "a".to_owned(), ..Default::default() };
        let refused = [
            grpc.get_ticket_view(with(of_ticket("a"), tokens, wait)).await.err(),
            grpc.list_ticket_views(with(ListTicketViewsRequest::default(), tokens, wait)).await.err(),
            grpc.list_user_reservations(with(user(), tokens, wait)).await.err(),
            grpc.watch_ticket_views(with(WatchTicketViewsRequest::default(), tokens, wait)).await.err(),
            grpc.get_ticket_history(with(history, tokens, wait)).await.err(),
        ];
        for status in refused {
            assert_eq!(reason(&status.expect("refused")), ErrorReason::InvalidField);
        }
    }
    // One error names all invalid fields and headers.
    let wrong = with(of_ticket("a.b"), &many, Some("later"));
    let status = fixture.grpc().get_ticket_view(wrong).await.expect_err("refused");
    let fields = status.get_details_bad_request().expect("a BadRequest").field_violations;
    let fields: Vec<_> = fields.iter().map(|wrong| wrong.field.as_str()).collect();
    assert_eq!(fields, ["ticket_id", headers::CONSISTENCY_TOKEN, headers::WAIT]);
}

#[tokio::test]
async fn a_session_takes_one_permit_of_the_waiting_calls() {
    let mut fixture = Fixture::new().await;
    fixture.take(&id("a"), &free()).await;
    fixture.views.waits = Arc::new(Semaphore::new(1));
    let tokens = [reserved_at("a", 1), reserved_at("b", 1)];
    let fixture = Arc::new(fixture);
    let list = {
        let fixture = fixture.clone();
        tokio::spawn(async move {
            fixture.grpc().list_ticket_views(with(ListTicketViewsRequest::default(), &tokens, None)).await
        })
    };
    reserve_while_waiting(&fixture, 1).await;
    let refused = fixture.grpc().list_user_reservations(with(user(), &[reserved_at("c", 1)], None)).await;
    assert_eq!(reason(&refused.expect_err("one permit only")), ErrorReason::ServiceOverloaded);
    let held = reservation(&id("b"), 2, 1, ReservationStatus::Reserved);
    fixture.take(&id("b"), &[Event::Ticket(ticket(1, 0, None)), reserved(held)]).await;
    assert_eq!(timeout(BOUND, list).await.expect("in time").unwrap().unwrap().into_inner().views.len(), 2);
}
