//! Upstreams that are missing, stop, break off and return.

use std::{collections::HashMap, time::Duration};

use eticket_proto::{error::ErrorReason, headers};
use eticket_rpc_server::error::ApiError;
use http::HeaderMap;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{
    World,
    calls::{ticket, watch},
    eventually,
    fake::{ONE_THEN_SILENCE, SLOW},
    web_client::{Web, method},
};
use crate::Backend;

fn assert_names(status: &Status, upstream: &str) {
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(ApiError::from_status(status), Some(ErrorReason::UpstreamUnavailable), "{status}");
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.metadata, HashMap::from([("upstream".to_owned(), upstream.to_owned())]));
    let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
    assert_eq!(delay, Some(Duration::from_secs(1)));
    assert_eq!(status.metadata().get(headers::RETRY_PUSHBACK).unwrap(), "1000");
}

#[tokio::test]
async fn a_stopped_upstream_is_named_and_found_after_its_restart() {
    let mut world = World::new().await;
    let mut client = world.tickets().await;
    let web = Web::connect(&world).await;
    for _ in 0..3 {
        assert!(client.get_ticket(ticket("t1")).await.is_ok());
        world.upstreams.kill(Backend::Ticket);
        assert_names(&client.get_ticket(ticket("t1")).await.unwrap_err(), "ticket");
        assert_names(&client.get_ticket(ticket("t1")).await.unwrap_err(), "ticket");
        for text in [false, true] {
            let answer = web.call(method::GET_TICKET, text, ticket("t1").get_ref(), &HeaderMap::new()).await;
            assert_names(&answer.status(), "ticket");
        }
        assert!(
            world.views().await.watch_ticket_views(watch(ONE_THEN_SILENCE)).await.is_ok(),
            "other upstreams still work"
        );
        world.upstreams.start_one(Backend::Ticket).await;
        eventually("the upstream is found again", async || {
            world.tickets().await.get_ticket(ticket("t1")).await.is_ok()
        })
        .await;
    }
}

#[tokio::test]
async fn little_time_left_forbids_a_retry() {
    let mut world = World::new().await;
    let mut client = world.tickets().await;
    world.upstreams.kill(Backend::Ticket);
    let mut hurried = ticket("t1");
    hurried.set_timeout(Duration::from_millis(900));
    let status = client.get_ticket(hurried).await.unwrap_err();
    assert_eq!(ApiError::from_status(&status), Some(ErrorReason::UpstreamUnavailable), "{status}");
    assert_eq!(status.metadata().get(headers::RETRY_PUSHBACK).unwrap(), "-1", "{status}");
    assert!(status.get_details_retry_info().is_some(), "{status}");
}

#[tokio::test]
async fn a_call_whose_upstream_dies_is_unavailable() {
    let mut world = World::new().await;
    let mut client = world.tickets().await;
    let call = tokio::spawn(async move { client.get_ticket(ticket(SLOW)).await });
    eventually("the call has arrived", async || world.upstreams.pending() == 1).await;
    world.upstreams.kill(Backend::Ticket);
    assert_names(&call.await.unwrap().unwrap_err(), "ticket");
}

#[tokio::test]
async fn a_stream_whose_upstream_dies_ends_with_a_status() {
    let mut world = World::new().await;
    let mut stream = world.views().await.watch_ticket_views(watch(ONE_THEN_SILENCE)).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    let (binary, text) = (Web::connect(&world).await, Web::connect(&world).await);
    let request = watch(ONE_THEN_SILENCE).into_inner();
    let headers = HeaderMap::new();
    let kill = async {
        eventually("all streams are open", async || world.upstreams.pending() == 3).await;
        world.upstreams.kill(Backend::Query);
    };
    let (binary, text, ()) = tokio::join!(
        binary.call(method::WATCH, false, &request, &headers),
        text.call(method::WATCH, true, &request, &headers),
        kill,
    );
    assert_names(&stream.message().await.unwrap_err(), "query");
    for answer in [binary, text] {
        assert_eq!(answer.messages.len(), 1);
        assert_names(&answer.status(), "query");
    }
}
