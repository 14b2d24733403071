//! Many callers compete for one ticket: exactly one gets it, and all others get the reason.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use chrono::Weekday;
use eticket_proto::{
    reservation::{ReservationStatus, ReserveTicketResponse, UserGrade},
    ticket::TicketStatus,
};
use futures::{StreamExt, stream::FuturesUnordered};
use tonic::Status;
use uuid::Uuid;

use crate::{Api, api::reason, calendar, eventually::SOON};

const CALLERS: usize = 1000;
/// Pause between two attempts of a caller.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs a thousand callers over these clients.
///
/// # Panics
/// Unless exactly one of them gets the ticket and all others are rejected because it is reserved.
pub async fn one_of_a_thousand_callers_gets_the_ticket(apis: &[Api]) {
    let registered = apis[0].register("hot", calendar::upcoming(Weekday::Tue)).await.expect("a new id is registered");
    apis[0].settled("hot", &registered.consistency_token).await;

    let mut calls: FuturesUnordered<_> = (0..CALLERS)
        .map(|caller| {
            let api = apis[caller % apis.len()].clone();
            tokio::spawn(async move { reserve(&api, &format!("user-{caller}")).await })
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
}

/// Reserves as clients do: a call that the store could not serve is repeated with the same `request_id`. A busy machine
/// may not serve a thousand calls within the limits of a store.
async fn reserve(api: &Api, user: &str) -> Result<ReserveTicketResponse, Status> {
    let (request_id, started) = (Uuid::new_v4().to_string(), Instant::now());
    loop {
        match api.reserve_as("hot", user, UserGrade::Silver, &request_id).await {
            Err(status) if reason(&status) == "STORE_UNAVAILABLE" && started.elapsed() < SOON => {
                tokio::time::sleep(PAUSE).await;
            }
            answer => return answer,
        }
    }
}
