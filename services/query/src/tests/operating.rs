//! `OperationsService`: parked messages, unsettled rows, and methods that the view does not implement.

use async_trait::async_trait;
use eticket_proto::{
    error::ErrorReason,
    operations::{
        CompareViewRequest, DiscardParkedEventRequest, GetStatusRequest, ListParkedEventsRequest, ListUnsettledRequest,
        RepublishRequest, ResendParkedEventRequest, operations_service_server::OperationsService,
    },
};
use eticket_rpc_server::error::ApiError;
use eticket_service::status::{Observed, Reporter};
use eticket_store::Parked;
use tonic::Code;

use super::*;
use crate::{
    application::{
        compare::{OwnerError, Owners, Page},
        monitor::Monitor,
        watch::Sent,
    },
    inbound::operations::{Operations, one_comparison},
    outbound::owners_client::{Addresses, OwnersClient},
};

fn operations(fixture: &Fixture) -> Operations {
    let connect = |tasks: &Tasks, credentials| -> Arc<dyn Owners> {
        Arc::new(OwnersClient::new(&Addresses::default(), tasks, credentials))
    };
    Operations {
        reader: fixture.reader.clone(),
        rebuild: fixture.rebuild(),
        connect: Arc::new(connect),
        tasks: fixture.tasks.clone(),
        comparing: one_comparison(),
        reporter: Reporter { health: fixture.health.clone(), observed: Observed::new("query"), breakers: Vec::new() },
    }
}

/// Parks a message as if it could not be applied on arrival.
async fn park(fixture: &Fixture, event_id: &str, message: Message) {
    let parked = Parked {
        event_id: event_id.to_owned(),
        message,
        reason: "a reason".to_owned(),
        attempts: 5,
        park_time: time(1),
    };
    let apply_batch = &mut |work: &mut Work<ViewRows>| work.park(parked.clone());
    fixture.store().commit(&Keys::default(), &[], apply_batch).await.unwrap();
}

async fn parked(fixture: &Fixture) -> Vec<String> {
    let request = by_admin(ListParkedEventsRequest::default());
    let listed = operations(fixture).list_parked_events(request).await.unwrap().into_inner();
    listed.parked_events.into_iter().map(|event| event.event_id).collect()
}

#[tokio::test]
async fn parked_messages_are_applied_again_and_watchers_receive_them() {
    let fixture = Fixture::new().await;
    fixture.take(&id("a"), &[Event::Ticket(ticket(1, 0, None))]).await;
    let mut watch =
        fixture.views.watch(crate::application::Watched::All, None, CancellationToken::new()).await.unwrap();
    assert!(matches!(watch.next().await, Ok(Sent { resume: Some(_), .. })));
    park(&fixture, "ticket/b/1", message(&id("b"), &Event::Ticket(ticket(1, 0, None)))).await;
    park(&fixture, "x", Message { subject: subjects::ticket(&id("c")), body: vec![0xff].into(), ..Default::default() })
        .await;
    assert_eq!(parked(&fixture).await, ["ticket/b/1", "x"]);
    let resend = async |event_id: &str| {
        let request = by_admin(ResendParkedEventRequest { event_id: event_id.to_owned() });
        operations(&fixture).resend_parked_event(request).await.map(|response| response.into_inner().resent_count)
    };
    assert_eq!(resend("").await.unwrap(), 1);
    assert_eq!(parked(&fixture).await, ["x"], "an undecodable message stays parked");
    let mut seen = Vec::new();
    while let Some(sent) = watch.next_now().await.unwrap() {
        seen.extend(sent.row.map(|(id, _)| id.to_string()));
    }
    assert!(seen.contains(&"b".to_owned()), "{seen:?}");
    assert_eq!(resend("x").await.unwrap(), 0);
    let status = resend("nobody").await.expect_err("no such message");
    assert_eq!(ApiError::from_status(&status), Some(ErrorReason::InvalidField));
    let discard = async |event_id: &str| {
        let request = by_admin(DiscardParkedEventRequest { event_id: event_id.to_owned() });
        operations(&fixture).discard_parked_event(request).await.map(|response| response.into_inner().discarded_count)
    };
    assert_eq!(discard("x").await.unwrap(), 1);
    assert_eq!(parked(&fixture).await, [""; 0]);
    assert_eq!(resend("").await.unwrap(), 0, "a discarded message is removed");
    for nothing in ["x", ""] {
        let status = discard(nothing).await.expect_err("no such message");
        assert_eq!(ApiError::from_status(&status), Some(ErrorReason::InvalidField));
    }
}

#[tokio::test]
async fn a_stale_parked_message_changes_nothing() {
    let fixture = Fixture::new().await;
    fixture.take(&id("a"), &[Event::Ticket(ticket(3, 0, None))]).await;
    park(&fixture, "ticket/a/2", message(&id("a"), &Event::Ticket(ticket(2, 0, None)))).await;
    let request = by_admin(ResendParkedEventRequest::default());
    assert_eq!(operations(&fixture).resend_parked_event(request).await.unwrap().into_inner().resent_count, 1);
    assert_eq!(fixture.view(&id("a")).await.ticket.unwrap().revision, 3);
}

#[tokio::test]
async fn unsettled_rows_are_listed_with_their_missing_reactions() {
    let fixture = Fixture::new().await;
    fixture.clock.set(time(50));
    fixture.take(&id("a"), &free()).await;
    fixture.take(&id("b"), &free()[..1]).await;
    fixture.take(&id("c"), &free()[1..]).await;
    let list = async |page_token: String| {
        let request = by_admin(ListUnsettledRequest { page_size: 1, page_token });
        operations(&fixture).list_unsettled(request).await.unwrap().into_inner()
    };
    let first = list(String::new()).await;
    let second = list(first.next_page_token).await;
    assert_eq!(second.next_page_token, "");
    let [b, c] = [&first.unsettled[0], &second.unsettled[0]];
    assert_eq!((b.ticket_id.as_str(), b.since_time), ("b", Some(to_proto(time(50)))));
    assert_eq!(
        (b.missing.as_slice(), c.missing.as_slice()),
        (&["price: no event yet".to_owned()][..], &["ticket: no event yet".to_owned()][..])
    );
    let oldest = fixture.store().oldest_unsettled().await.unwrap();
    assert_eq!(oldest, Some(time(50)));
}

#[tokio::test]
async fn republishing_is_unimplemented() {
    let fixture = Fixture::new().await;
    let status = match operations(&fixture).republish(by_admin(RepublishRequest {})).await {
        Err(status) => status,
        Ok(_) => panic!("expected UNIMPLEMENTED"),
    };
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_comparison_needs_the_addresses_of_the_owners() {
    let fixture = Fixture::new().await;
    let status = match operations(&fixture).compare_view(by_admin(CompareViewRequest {})).await {
        Err(status) => status,
        Ok(_) => panic!("expected an error"),
    };
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(ApiError::from_status(&status), Some(ErrorReason::UpstreamNotConfigured));
}

/// Owners that never respond.
struct SilentOwners;

#[async_trait]
impl Owners for SilentOwners {
    fn check(&self) -> Result<(), OwnerError> {
        Ok(())
    }

    async fn tickets(&self, _: &str) -> Result<Page<(TicketId, TicketPart)>, OwnerError> {
        std::future::pending().await
    }

    async fn ticket(&self, _: &TicketId) -> Result<Option<TicketPart>, OwnerError> {
        std::future::pending().await
    }

    async fn prices(&self, _: &str) -> Result<Page<(TicketId, PricePart)>, OwnerError> {
        std::future::pending().await
    }

    async fn price(&self, _: &TicketId) -> Result<Option<PricePart>, OwnerError> {
        std::future::pending().await
    }

    async fn reservations(&self, _: &str) -> Result<Page<Reservation>, OwnerError> {
        std::future::pending().await
    }

    async fn reservation(&self, _: ReservationId) -> Result<Option<Reservation>, OwnerError> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_replica_runs_one_comparison_at_a_time() {
    let fixture = Fixture::new().await;
    let silent = |_: &Tasks, _| -> Arc<dyn Owners> { Arc::new(SilentOwners) };
    let operations = Operations { connect: Arc::new(silent), ..operations(&fixture) };
    let compare = async || operations.compare_view(by_admin(CompareViewRequest {})).await;
    let first = compare().await.expect("the first comparison");
    let Err(status) = compare().await else { panic!("expected a refusal") };
    assert_eq!(ApiError::from_status(&status), Some(ErrorReason::ServiceOverloaded));
    assert!(status.message().contains("another caller"), "{status:?}");
    // The owners do not respond, so only the end of the call can end the comparison.
    drop(first);
    until("the next comparison", async || compare().await.is_ok()).await;
}

#[tokio::test]
async fn the_status_has_the_lag_of_the_view() {
    let fixture = Fixture::new().await;
    let operations = operations(&fixture);
    let observed = operations.reporter.observed.clone();
    let monitor = Monitor { reader: fixture.reader.clone(), rebuild: fixture.rebuild(), observed };
    let status = async || {
        monitor.run_once().await;
        let response = operations.get_status(by_admin(GetStatusRequest {})).await.unwrap().into_inner();
        let [replica] = &response.replicas[..] else { panic!("one replica: {response:?}") };
        assert_eq!((replica.service.as_str(), &replica.outbox), ("query", &None), "the view publishes nothing");
        (replica.consumers[0].lag_event_count, replica.parked_event_count)
    };
    for _ in 0..3 {
        fixture.publish(&id("a"), &Event::Ticket(ticket(1, 0, None))).await;
    }
    assert_eq!(status().await, (Some(3), Some(0)));
    fixture.read_all().await;
    park(&fixture, "x", Message::default()).await;
    assert_eq!(status().await, (Some(0), Some(1)));
    let last = Position { epoch: "of another stream".to_owned(), sequence: 9, fingerprint: String::new() };
    fixture.stand_at(last).await;
    assert_eq!(status().await.0, Some(3), "the view reads this stream from its start");
}

#[tokio::test]
async fn a_file_deleted_while_the_service_runs_is_rebuilt() {
    let fixture = Fixture::new().await;
    fixture.take(&id("a"), &free()).await;
    for suffix in ["", "-wal", "-shm"] {
        std::fs::remove_file(fixture._folder.path().join(format!("query.db{suffix}"))).unwrap();
    }
    assert!(fixture.store().is_gone().await);
    let monitor =
        Monitor { reader: fixture.reader.clone(), rebuild: fixture.rebuild(), observed: Observed::new("query") };
    monitor.run_once().await;
    until("a new file", async || !fixture.store().is_gone().await).await;
    assert!(fixture.view(&id("a")).await.price.is_some());
    assert!(fixture.health.is_ready());
}
