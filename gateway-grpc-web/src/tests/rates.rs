//! The rate limit of callers, over each protocol.

use std::time::Duration;

use eticket_proto::{error::ErrorReason, headers};
use eticket_rpc_server::{config::LimitsConfig, error::ApiError};
use http::{StatusCode, header, response::Parts};
use serde_json::Value;
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt;

use super::{
    World,
    calls::{raw_unary, ticket, watch},
    fake::ONE_THEN_SILENCE,
    web_client::{Web, plain, read_json},
};

/// More calls than the limit lets pass, also on a machine that stops for seconds.
const MANY: usize = 100;

async fn limited() -> World {
    let one = 1.try_into().ok();
    World::with_limits(LimitsConfig { requests_per_second: one, burst: one, ..LimitsConfig::default() }).await
}

/// Repeats a call until it is refused. A slow machine lets more calls pass than a fast one.
async fn refused<T>(mut call: impl AsyncFnMut() -> Result<(), T>) -> T {
    for _ in 0..MANY {
        if let Err(refused) = call().await {
            return refused;
        }
    }
    panic!("{MANY} calls in a row were not refused");
}

async fn refused_over_grpc(world: &World) -> Status {
    let client = world.tickets().await;
    refused(async || client.clone().get_ticket(ticket("t1")).await.map(drop)).await
}

async fn refused_over_http(
    world: &World,
    verb: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (Parts, Value) {
    let web = Web::connect(world).await;
    refused(async || match read_json(web.send(plain(verb, path, headers, body.to_owned())).await).await {
        (head, _) if head.status == StatusCode::OK => Ok(()),
        refused => Err(refused),
    })
    .await
}

fn assert_too_many(status: &Status) {
    assert_eq!(ApiError::from_status(status), Some(ErrorReason::TooManyRequests), "{status:?}");
    let delay = status.get_details_retry_info().and_then(|info| info.retry_delay).expect("a delay");
    assert!(delay > Duration::ZERO && delay <= Duration::from_secs(1), "{delay:?}");
}

#[tokio::test]
async fn a_caller_above_its_rate_is_refused_over_each_protocol() {
    let world = limited().await;
    let status = refused_over_grpc(&world).await;
    assert_too_many(&status);
    let pushback: u64 = status.metadata().get(headers::RETRY_PUSHBACK).expect("it").to_str().unwrap().parse().unwrap();
    assert!((1..=1000).contains(&pushback), "{pushback}");
    let over_web = refused(async || match raw_unary(&world, ticket("t1")).await {
        status if status.code() == Code::Ok => Ok(()),
        status => Err(status),
    });
    assert_too_many(&over_web.await);
    // What a client says about its address does not count.
    let forwarded = [("x-forwarded-for", "192.0.2.7"), ("forwarded", "for=192.0.2.7")];
    let (head, body) = refused_over_http(&world, "GET", "/v1/tickets/t1", &forwarded, "").await;
    assert_eq!((head.status, &body["code"]), (StatusCode::TOO_MANY_REQUESTS, &8.into()));
    assert_eq!(head.headers[header::RETRY_AFTER], "1");
    let json = [("content-type", "application/json")];
    let path = "/eticket.ticket.v1.TicketService/GetTicket";
    let (head, body) = refused_over_http(&world, "POST", path, &json, r#"{"ticketId": "t1"}"#).await;
    assert_eq!((head.status, &body["code"]), (StatusCode::TOO_MANY_REQUESTS, &"resource_exhausted".into()));
}

#[tokio::test]
async fn health_and_open_streams_do_not_count() {
    let world = limited().await;
    let mut stream = world.views().await.watch_ticket_views(watch(ONE_THEN_SILENCE)).await.unwrap().into_inner();
    refused_over_grpc(&world).await;
    let mut health = HealthClient::new(world.channel().await);
    for _ in 0..MANY {
        health.check(HealthCheckRequest::default()).await.expect("health has no limit");
    }
    assert!(stream.message().await.unwrap().is_some(), "a stream that has begun goes on");
}
