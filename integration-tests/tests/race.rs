//! Many callers, one ticket: exactly one may have it, and all others learn why they may not.

use std::collections::BTreeMap;

use chrono::Weekday;
use eticket_integration_tests::{Api, Wire, api::reason, calendar, process::Launch};
use eticket_proto::{
    reservation::{ReservationStatus, UserGrade},
    ticket::TicketStatus,
};
use futures::{StreamExt, stream::FuturesUnordered};
use tempfile::TempDir;

const CALLERS: usize = 1000;
const CONNECTIONS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_thousand_callers_one_gets_the_ticket() {
    let data = TempDir::new().expect("a folder");
    // A thousand first looks at once take longer than one may on a busy machine; what is tested is who wins.
    let eticket = Launch::all_in_one(data.path())
        .key("reservation.upstream.ticket.deadline_ms", "15000")
        .key("reservation.upstream.ticket.attempt_timeout_ms", "14000")
        .start()
        .await;
    let apis: Vec<Api> = (0..CONNECTIONS).map(|_| Api::new(&eticket, Wire::Gateway)).collect();
    let registered = apis[0].register("hot", calendar::upcoming(Weekday::Tue)).await.expect("a new id is registered");
    apis[0].settled("hot", &registered.consistency_token).await;

    let mut calls: FuturesUnordered<_> = (0..CALLERS)
        .map(|caller| {
            let api = apis[caller % CONNECTIONS].clone();
            tokio::spawn(async move { api.reserve("hot", &format!("user-{caller}"), UserGrade::Silver).await })
        })
        .collect();
    let mut winners = Vec::new();
    let mut refusals = BTreeMap::<String, usize>::new();
    while let Some(answer) = calls.next().await {
        match answer.expect("a caller does not panic") {
            Ok(answer) => winners.push(answer),
            Err(status) => *refusals.entry(format!("{:?} {}", status.code(), reason(&status))).or_default() += 1,
        }
    }

    let expected = BTreeMap::from([("FailedPrecondition TICKET_ALREADY_RESERVED".to_owned(), CALLERS - 1)]);
    assert_eq!((winners.len(), refusals), (1, expected));
    let winner = winners.remove(0);
    let view = apis[0].settled("hot", &winner.consistency_token).await;
    let reservation = winner.reservation.expect("an answer has its resource");
    assert_eq!(reservation.status(), ReservationStatus::Reserved);
    assert_eq!((view.ticket_status(), view.user_id), (TicketStatus::Reserved, reservation.user_id));
    assert_eq!(
        view.revisions.map(|revisions| revisions.reservation),
        Some(1),
        "nothing but the one reservation happened"
    );
    eticket.stop().await;
}
