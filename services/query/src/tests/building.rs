//! A view that has never caught up is incomplete and refuses reads.

use eticket_proto::{
    error::ErrorReason,
    query::{
        GetTicketViewRequest, ListTicketViewsRequest, ListUserReservationsRequest, WaitFor, WatchTicketViewsRequest,
        query_service_server::QueryService,
    },
};
use eticket_rpc_server::error::ApiError;
use tonic::Status;

use super::*;

/// Returns the errors of all kinds of plain reads. They must all be the same.
async fn refusals(grpc: &Grpc) -> Vec<Option<Status>> {
    let view = GetTicketViewRequest { ticket_id: "a".to_owned(), ..Default::default() };
    let user = ListUserReservationsRequest { user_id: "ann".to_owned(), ..Default::default() };
    vec![
        grpc.get_ticket_view(by_admin(view)).await.err(),
        grpc.list_ticket_views(by_admin(ListTicketViewsRequest::default())).await.err(),
        grpc.list_user_reservations(by_admin(user)).await.err(),
        // Before the first stream is known, a watch that is not refused waits.
        timeout(BOUND, grpc.watch_ticket_views(by_admin(WatchTicketViewsRequest::default())))
            .await
            .expect("refused or begun")
            .err(),
    ]
}

#[tokio::test]
async fn a_view_refuses_reads_until_it_has_caught_up() {
    let mut fixture = Fixture::new().await;
    fixture.views.changes = Changes::default();
    fixture.reader.changes = fixture.views.changes.clone();
    for event in &free() {
        fixture.publish(&id("a"), event).await;
    }
    for status in refusals(&fixture.grpc()).await {
        let status = status.expect("refused");
        assert_eq!(ApiError::from_status(&status), Some(ErrorReason::StoreUnavailable), "{status:?}");
        assert!(status.metadata().contains_key(headers::RETRY_PUSHBACK), "a retry delay");
    }
    let waits = GetTicketViewRequest {
        ticket_id: "a".to_owned(),
        wait: WaitFor::Settled.into(),
        ..GetTicketViewRequest::default()
    };
    let waiting = tokio::spawn({
        let grpc = fixture.grpc();
        async move { grpc.get_ticket_view(by_admin(waits)).await }
    });
    until("a waiting call", async || fixture.views.changes.waiting() == 1).await;
    assert!(!fixture.store().has_caught_up().await.unwrap());
    fixture.read_all().await;
    timeout(BOUND, waiting).await.expect("in time").unwrap().expect("a waiting call is not refused");
    assert!(refusals(&fixture.grpc()).await.iter().all(Option::is_none));
    assert!(fixture.store().has_caught_up().await.unwrap(), "a restart without the bus needs the mark");
}

async fn rebuild(fixture: &Fixture) {
    let mut progress = fixture.rebuild().start();
    let done = progress.wait_for(|progress| matches!(progress, crate::application::rebuild::Progress::Done { .. }));
    timeout(BOUND, done).await.expect("in time").unwrap();
    assert!(fixture.store().has_caught_up().await.unwrap(), "the new rows have the mark");
}

#[tokio::test]
async fn a_rebuilt_view_has_caught_up() {
    let fixture = Fixture::new().await;
    fixture.take(&id("a"), &free()).await;
    rebuild(&fixture).await;
}

#[tokio::test]
async fn a_view_rebuilt_without_the_newest_messages_has_caught_up() {
    let stream = MemoryStream::default();
    let mut fixture = Fixture::reading(&stream).await;
    fixture.keep_in_memory();
    tokio::time::pause();
    fixture.take(&id("a"), &free()).await;
    stream.lose(|sequence, _| sequence == 2);
    rebuild(&fixture).await;
}
