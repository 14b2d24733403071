//! Checks after a storm.

use std::{collections::BTreeMap, time::Duration};

use eticket_proto::{
    operations::{
        CompareViewRequest, ListUnsettledRequest, ListUnsettledResponse,
        operations_service_client::OperationsServiceClient,
    },
    query::WaitFor,
    reservation::{ListReservationsRequest, ListReservationsResponse, Reservation},
};

use super::{client::Client, judge, watcher::Watcher};
use crate::{Api, api::channel, eventually};

/// Longer than every recovery, such as redeliveries of unacknowledged messages and timeouts of hanging connections.
const BOUND: Duration = Duration::from_secs(60);

/// Checks all records of the clients against the settled state of the services; returns the number of tickets.
///
/// # Panics
/// If an acknowledged command is lost or was applied twice, if a view does not settle, or if the watcher has missed a
/// change.
pub async fn judge_all(api: &Api, clients: &[Client], watcher: &Watcher) -> usize {
    let stories = judge::stories(clients.iter().flat_map(Client::commands));
    let mut views = BTreeMap::new();
    for (id, story) in &stories {
        story.check_by_itself(id);
        let (reservations, ticket, view) = eventually(BOUND, "every view settles", async || {
            // The bus may lack messages that the view must show, so the view is compared with the owners.
            let view = api.view(id, "", WaitFor::None).await.map_err(|status| format!("{status:?}"))?;
            let ticket = api.ticket(id).await.expect("it is there");
            let reservations = reservations(api, id).await;
            let rests = story.is_at_rest(&reservations, &ticket, &view);
            if rests {
                Ok((reservations, ticket, view))
            } else {
                Err(format!("{view:?}\n{ticket:?}\n{reservations:?}"))
            }
        })
        .await;
        story.check_end(&reservations, &ticket, &view);
        let price = api.price(id).await.expect("it is there");
        let (shown, owned) = (&view.discounted_price, &price.discounted_price);
        assert_eq!((shown, price.reservation_revision), (owned, ticket.reservation_revision), "{view:?}, {price:?}");
        views.insert(id.clone(), view);
    }
    eventually(BOUND, "the watcher has the newest state of every ticket", async || {
        let seen = watcher.views();
        let differs = views.iter().find(|(id, view)| seen.get(*id) != Some(*view));
        differs.map_or(Ok(()), |(id, view)| Err(Box::new((view.clone(), seen.get(id).cloned()))))
    })
    .await;
    views.len()
}

async fn reservations(api: &Api, ticket: &str) -> Vec<Reservation> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListReservationsRequest {
            filter_ticket_id: ticket.to_owned(),
            page_size: 7,
            page_token,
            ..Default::default()
        };
        let method = "eticket.reservation.v1.ReservationService/ListReservations";
        let page: ListReservationsResponse = api.call(method, request).await.expect("a page");
        all.extend(page.reservations);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return all;
        }
    }
}

/// Runs the query service's own comparison with the owners.
///
/// # Panics
/// If it finds a difference, or a view that has not settled.
pub async fn compare_views(query: &str) {
    let api = Api::at(query);
    let method = "eticket.operations.v1.OperationsService/ListUnsettled";
    eventually(BOUND, "every view is settled", async || {
        let request = ListUnsettledRequest::default();
        let answer: ListUnsettledResponse = api.call(method, request).await.map_err(|status| format!("{status:?}"))?;
        if answer.unsettled.is_empty() { Ok(()) } else { Err(format!("{:?}", answer.unsettled)) }
    })
    .await;
    let channel = channel(query);
    let stream = OperationsServiceClient::new(channel).compare_view(CompareViewRequest {}).await.expect("it compares");
    let mut stream = stream.into_inner();
    let mut compared = 0;
    while let Some(answer) = stream.message().await.expect("it ends well") {
        assert_eq!(answer.difference, None, "the view agrees with the owners");
        compared = answer.compared_count;
    }
    assert!(compared > 0, "it compared {compared} tickets");
}
