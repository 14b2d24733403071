//! Callers that do not read their responses must not block calls of others to the same service.

use std::{sync::atomic::Ordering, time::Duration};

use eticket_proto::query::{GetTicketViewRequest, ListTicketViewsRequest, query_service_client::QueryServiceClient};
use tokio::time::timeout;
use tonic::transport::Endpoint;

use super::{World, calls::watch, fake::FLOOD};

/// The number of unread streams, and of unread downloads. Each may fill a window; with windows of 1 MiB these exceeded
/// the window of a connection.
const UNREAD: usize = 8;
/// The number of other calls after which no more unread data may have arrived.
const QUIET: usize = 50;

#[tokio::test]
async fn callers_that_do_not_read_do_not_block_others() {
    let world = World::new().await;
    let endpoint = Endpoint::from_shared(format!("http://{}", world.address)).expect("an address");
    let endpoint = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    let mut unread = QueryServiceClient::new(endpoint.connect().await.expect("the gateway listens"));
    let mut streams = Vec::new();
    let mut downloads = tokio::task::JoinSet::new();
    for _ in 0..UNREAD {
        streams.push(unread.watch_ticket_views(watch(FLOOD)).await.expect("it begins").into_inner());
        let mut unread = unread.clone();
        downloads.spawn(async move { unread.list_ticket_views(ListTicketViewsRequest::default()).await });
    }
    let mut others = world.views().await;
    let (mut made, mut quiet) = (0, 0);
    while quiet < QUIET {
        let call = others.get_ticket_view(GetTicketViewRequest::default());
        timeout(Duration::from_secs(5), call).await.expect("other calls do not block it").expect("an answer");
        let now = world.upstreams.fake.made.load(Ordering::SeqCst);
        quiet = if now == made && now >= UNREAD { quiet + 1 } else { 0 };
        made = now;
    }
    assert!(made * 10_000 < 4 * 1024 * 1024, "unread data is bounded: {made} views of 10 kB");
    assert!(downloads.try_join_next().is_none(), "the downloads are unread");
}
