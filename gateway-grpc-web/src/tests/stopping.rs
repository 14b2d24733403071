//! A gateway that stops while calls hang in the services behind it: no client sees a broken connection.

use std::time::{Duration, Instant};

use eticket_proto::error::ErrorReason;
use eticket_rpc_server::error::ApiError;
use http::HeaderMap;
use tonic::Status;
use tonic_types::StatusExt;

use super::{
    World,
    calls::{ticket, watch},
    eventually,
    fake::{ONE_THEN_SILENCE, SLOW},
    web_client::{Web, method},
};

fn is_shutting_down(status: &Status) {
    assert_eq!(ApiError::from_status(status), Some(ErrorReason::ShuttingDown), "{status:?}");
    assert!(status.get_details_retry_info().is_some() && status.get_details_localized_message().is_some());
    assert!(status.metadata().contains_key(eticket_proto::headers::RETRY_PUSHBACK), "{status:?}");
}

/// The hard cap is 25 s; calls would be aborted after 15 s.
#[tokio::test]
async fn waits_and_streams_end_with_a_status_in_their_protocol() {
    let world = World::new().await;
    let (mut tickets, mut views) = (world.tickets().await, world.views().await);
    let mut stream = views.watch_ticket_views(watch(ONE_THEN_SILENCE)).await.unwrap().into_inner();
    stream.message().await.unwrap().expect("the first view");
    let wait = tokio::spawn(async move { tickets.get_ticket(ticket(SLOW)).await.unwrap_err() });
    let mut web = Vec::new();
    for text in [false, true] {
        let client = Web::connect(&world).await;
        web.push(tokio::spawn(async move {
            client.call(method::GET_TICKET, text, ticket(SLOW).get_ref(), &HeaderMap::new()).await
        }));
        let client = Web::connect(&world).await;
        web.push(tokio::spawn(async move {
            client.call(method::WATCH, text, watch(ONE_THEN_SILENCE).get_ref(), &HeaderMap::new()).await
        }));
    }
    eventually("all are under way", async || world.upstreams.pending() == 6).await;
    let began = Instant::now();
    let stopping = tokio::spawn(world.gateway.stop());
    is_shutting_down(&stream.message().await.unwrap_err());
    is_shutting_down(&wait.await.unwrap());
    for answer in web {
        is_shutting_down(&answer.await.unwrap().status());
    }
    stopping.await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(8), "the stop ends before the cap: {:?}", began.elapsed());
    eventually("no call is left at the upstreams", async || {
        world.upstreams.fake.pending.load(std::sync::atomic::Ordering::SeqCst) == 0
    })
    .await;
}
