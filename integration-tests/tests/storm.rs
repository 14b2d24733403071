//! kill -9 twenty times in the middle of a storm of reservations, cancellations, withdrawals, updates and retries: every answered
//! command is there, a retry gives the first answer, no ticket is held twice, every view settles, watchers that resume miss
//! nothing.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::{path::Path, sync::Arc, time::Duration};

use eticket_integration_tests::{
    Api, Eticket, Wire,
    eventually::{SOON, eventually},
    process::Launch,
    storm::{Arena, client::Client, judge, watcher::Watcher},
};
use eticket_proto::{
    operations::{
        CompareViewRequest, ListUnsettledRequest, ListUnsettledResponse,
        operations_service_client::OperationsServiceClient,
    },
    query::WaitFor,
    reservation::{ListReservationsRequest, ListReservationsResponse, Reservation},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tempfile::TempDir;
use tokio::time::timeout;

const KILLS: usize = 20;
const CLIENTS: u64 = 6;
/// Of answers, between a start and a kill: at random up to here.
const ANSWERS: usize = 400;

/// The clients' own patience shall decide what is too slow, not the breaker on a busy machine.
async fn start(data: &Path) -> Eticket {
    Launch::all_in_one(data)
        .key("reservation.upstream.ticket.deadline_ms", "15000")
        .key("reservation.upstream.ticket.attempt_timeout_ms", "14000")
        .key("reservation.upstream.ticket.breaker.slow_call_ms", "14000")
        .start()
        .await
}

fn seed() -> u64 {
    let given = std::env::var("ETICKET_STORM_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let seed = given.unwrap_or_else(rand::random);
    eprintln!("ETICKET_STORM_SEED={seed} has clients choose the same again");
    seed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_kills_lose_nothing_and_double_nothing() {
    let seed = seed();
    let (mut random, data) = (StdRng::seed_from_u64(seed), TempDir::new().expect("a folder"));
    let (arena, watcher) = (Arc::new(Arena::default()), Watcher::default());
    let mut clients: Vec<Client> = (0..CLIENTS).map(|number| Client::new(seed ^ (number + 1))).collect();
    let (mut eticket, mut cut_off) = (start(data.path()).await, 0);
    for round in 0..KILLS {
        let enough = arena.answered() + random.random_range(0..=ANSWERS);
        let watching = tokio::spawn(watcher.clone().watch(watched_at(&eticket, round)));
        let working = clients.into_iter().enumerate().map(|(number, mut client)| {
            let wire = if (round + number).is_multiple_of(2) { Wire::Direct } else { Wire::Gateway };
            let (api, arena) = (Api::new(&eticket, wire), arena.clone());
            tokio::spawn(async move {
                client.work(&api, &arena).await;
                client
            })
        });
        let working: Vec<_> = working.collect();
        timeout(SOON, arena.reached(enough)).await.expect("the storm goes on");
        eticket.kill().await;
        clients = Vec::new();
        for client in working {
            clients.push(client.await.expect("a client does not panic"));
        }
        cut_off += clients.iter().filter(|client| client.is_cut_off()).count();
        watching.await.expect("the watcher does not panic");
        eticket = start(data.path()).await;
    }
    eprintln!("{} commands were answered, {cut_off} lost their answer to a kill", arena.answered());
    assert!(arena.answered() > KILLS && cut_off > KILLS, "the kills hit nothing");

    let watching = tokio::spawn(watcher.clone().watch(watched_at(&eticket, KILLS)));
    let asking = clients.into_iter().map(|mut client| {
        let (api, arena) = (Api::new(&eticket, Wire::Direct), arena.clone());
        async move {
            client.ask_everything_again(&api, &arena).await;
            client
        }
    });
    let clients = futures::future::join_all(asking).await;
    judge_all(&eticket, &clients, &watcher).await;
    compare_views(&eticket).await;
    let exit = eticket.stop().await;
    assert!(!exit.log.contains("panicked"), "{}", exit.log);
    watching.await.expect("the watcher does not panic");
}

/// Both ways to the view take their turns.
fn watched_at(eticket: &Eticket, round: usize) -> String {
    eticket.address(if round.is_multiple_of(2) { "query" } else { "gateway" }).to_owned()
}

async fn judge_all(eticket: &Eticket, clients: &[Client], watcher: &Watcher) {
    let api = Api::new(eticket, Wire::Direct);
    let stories = judge::stories(clients.iter().flat_map(Client::commands));
    let mut views = std::collections::BTreeMap::new();
    for (id, story) in &stories {
        story.check_by_itself(id);
        let view = api.view(id, "", WaitFor::Settled).await.expect("every view settles");
        let ticket = api.ticket(id).await.expect("it is there");
        story.check_end(&reservations(&api, id).await, &ticket, &view);
        let price = api.price(id).await.expect("it is there");
        let (shown, owned) = (&view.discounted_price, &price.discounted_price);
        assert_eq!((shown, price.reservation_revision), (owned, ticket.reservation_revision), "{view:?}, {price:?}");
        views.insert(id.clone(), view);
    }
    eventually(Duration::from_secs(10), "the watcher has the newest state of every ticket", async || {
        let seen = watcher.views();
        let differs = views.iter().find(|(id, view)| seen.get(*id) != Some(*view));
        differs.map_or(Ok(()), |(id, view)| Err(Box::new((view.clone(), seen.get(id).cloned()))))
    })
    .await;
    assert_eq!(watcher.views().len(), views.len(), "it was sent no ticket that nobody registered");
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

/// What the query service itself finds, when it asks the owners.
async fn compare_views(eticket: &Eticket) {
    let api = Api::at(eticket.address("query"));
    let method = "eticket.operations.v1.OperationsService/ListUnsettled";
    let answer: ListUnsettledResponse = api.call(method, ListUnsettledRequest::default()).await.expect("a page");
    assert_eq!(answer.unsettled, [], "every view is settled");
    let address = eticket_integration_tests::api::channel(eticket.address("query"));
    let stream = OperationsServiceClient::new(address).compare_view(CompareViewRequest {}).await.expect("it compares");
    let mut stream = stream.into_inner();
    let mut compared = 0;
    while let Some(answer) = stream.message().await.expect("it ends well") {
        assert_eq!(answer.difference, None, "the view agrees with the owners");
        compared = answer.compared_count;
    }
    assert!(compared > 0, "it compared {compared} tickets");
}
