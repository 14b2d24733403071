//! Failures of the embedded bus: unreadable messages, and the loss of the whole stream.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::{fs, path::Path};

use chrono::Weekday;
use eticket_bus::{Bus, Message};
use eticket_bus_embedded::Embedded;
use eticket_integration_tests::{
    Api, Eticket, Protocol, calendar,
    eventually::{SOON, eventually},
    redelivery::BUS_FILE,
};
use eticket_proto::{
    headers,
    operations::{
        ListParkedEventsRequest, ListParkedEventsResponse, ParkedEvent, ResendParkedEventRequest,
        ResendParkedEventResponse,
    },
    query::TicketView,
    reservation::UserGrade,
    ticket::TicketStatus,
};
use tempfile::TempDir;
use tonic::{Request, Status};

/// Calls an operations RPC of one service through the gateway.
async fn operations<Q, A>(api: &Api, service: &'static str, method: &'static str, message: Q) -> Result<A, Status>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let mut request = Request::new(message);
    request.metadata_mut().insert(headers::SERVICE, service.parse().expect("ASCII"));
    api.call_with(method, request).await
}

async fn parked(api: &Api, service: &'static str) -> Vec<ParkedEvent> {
    let method = "eticket.operations.v1.OperationsService/ListParkedEvents";
    let answer: Result<ListParkedEventsResponse, Status> =
        operations(api, service, method, ListParkedEventsRequest::default()).await;
    answer.expect("it lists").parked_events
}

async fn publish(data: &Path, messages: &[Message]) {
    let bus = Embedded::open(&data.join(BUS_FILE)).await.expect("no other process has opened the file");
    for message in messages {
        bus.publish(message.clone()).await.expect("the bus takes a message");
    }
    bus.close().await;
}

/// Registers and reserves a ticket; returns the view after both sagas.
async fn reserved(api: &Api, ticket: &str) -> TicketView {
    api.register(ticket, calendar::upcoming(Weekday::Wed)).await.expect("registered");
    let answer = api.reserve(ticket, "A", UserGrade::Vip).await.expect("reserved");
    api.settled(ticket, &answer.consistency_token).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreadable_messages_are_parked_and_others_are_applied() {
    let data = TempDir::new().expect("a folder");
    let eticket = Eticket::start(data.path()).await;
    reserved(&Api::new(&eticket, Protocol::Gateway), "before").await;
    eticket.stop().await;

    let garbage = |subject: &str, id: &str| Message {
        subject: subject.to_owned(),
        headers: vec![(headers::ID.into(), id.to_owned()), (headers::TYPE.into(), "a.Type".to_owned())],
        body: vec![0xff; 9].into(),
    };
    let messages = [
        garbage("eticket.v1.ticket.x", "garbage/ticket"),
        garbage("eticket.v1.reservation.x.y", "garbage/reservation"),
    ];
    publish(data.path(), &messages).await;

    let eticket = Eticket::start(data.path()).await;
    let api = Api::new(&eticket, Protocol::Gateway);
    // Later on the stream than the garbage: once it is applied, the garbage was processed.
    let view = reserved(&api, "after").await;
    assert_eq!((view.settled, view.ticket_status()), (true, TicketStatus::Reserved));
    for (service, expected) in [
        ("ticket", vec!["garbage/reservation"]),
        ("reservation", vec!["garbage/ticket"]),
        ("pricing", vec!["garbage/reservation", "garbage/ticket"]),
        ("query", vec!["garbage/reservation", "garbage/ticket"]),
    ] {
        let parked = parked(&api, service).await;
        let ids: Vec<_> = parked.iter().map(|event| event.event_id.as_str()).collect();
        assert_eq!(ids, expected, "{service}");
        assert!(parked.iter().all(|event| !event.reason.is_empty() && event.event_type == "a.Type"), "{parked:?}");
        let method = "eticket.operations.v1.OperationsService/ResendParkedEvent";
        let resent: Result<ResendParkedEventResponse, Status> =
            operations(&api, service, method, ResendParkedEventRequest::default()).await;
        assert_eq!(resent.expect("it tries").resent_count, 0, "it still cannot be read");
    }
    eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_republish_their_states_after_the_loss_of_the_bus() {
    let data = TempDir::new().expect("a folder");
    let eticket = Eticket::start(data.path()).await;
    let api = Api::new(&eticket, Protocol::Gateway);
    let mut before = Vec::new();
    for number in 0..20 {
        let ticket = format!("t-{number}");
        let mut view = reserved(&api, &ticket).await;
        if number % 3 == 0 {
            let cancelled = api.cancel(&view.reservation_id).await.expect("cancelled");
            view = api.settled(&ticket, &cancelled.consistency_token).await;
        }
        if number % 5 == 0 {
            let withdrawn = api.withdraw(&ticket, "").await.expect("withdrawn");
            view = api.settled(&ticket, &withdrawn.consistency_token).await;
        }
        before.push(view);
    }
    eticket.stop().await;

    // The view is deleted too, so its later content can only come from republished states.
    for entry in fs::read_dir(data.path()).expect("the folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if name.starts_with("bus.db") || name.starts_with("query.db") {
            fs::remove_file(path).expect("removed");
        }
    }

    let eticket = Eticket::start(data.path()).await;
    let api = Api::new(&eticket, Protocol::Gateway);
    for old in before {
        let new = eventually(SOON, "the view is restored", async || {
            let view = api.settled(&old.ticket_id, "").await;
            // The newest reservation event may arrive before the ledger's closing, so there may be an earlier settled
            // state.
            if view.revisions == old.revisions { Ok(view) } else { Err(view.revisions) }
        })
        .await;
        assert_eq!(TicketView { update_time: None, ..new }, TicketView { update_time: None, ..old });
    }
    let view = reserved(&api, "afterwards").await;
    assert!(view.settled);
    eticket.stop().await;
}
