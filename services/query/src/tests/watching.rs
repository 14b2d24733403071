//! `WatchTicketViews`: snapshots, tokens, and the reasons why a stream ends.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
};

use eticket_proto::{
    error::ErrorReason,
    query::{WatchTicketViewsRequest, WatchTicketViewsResponse, query_service_server::QueryService},
    token::{Kind, open, seal},
};
use eticket_rpc_server::{error::ApiError, on_demand::PATIENCE, server::Draining};
use eticket_store::memory::Steps;
use futures::{FutureExt, StreamExt, stream::BoxStream};
use tonic::Status;

use super::*;
use crate::application::{Watched, reader::Session, rebuild::Progress, recent, watch::HEARTBEAT};

type Stream = BoxStream<'static, Result<WatchTicketViewsResponse, Status>>;

async fn watch(fixture: &Fixture, ids: &[&str], resume_token: &str) -> Stream {
    let ticket_ids = ids.iter().map(|id| (*id).to_owned()).collect();
    let request = WatchTicketViewsRequest { ticket_ids, resume_token: resume_token.to_owned() };
    fixture.grpc().watch_ticket_views(by_admin(request)).await.unwrap().into_inner()
}

async fn next(stream: &mut Stream) -> (String, i64, String) {
    let response = timeout(BOUND, stream.next()).await.expect("in time").expect("open").expect("no error");
    let (ticket, revision) = response
        .view
        .map_or((String::new(), 0), |view| (view.ticket_id, view.revisions.map_or(0, |revisions| revisions.ticket)));
    (ticket, revision, response.resume_token)
}

async fn end(stream: &mut Stream) -> ErrorReason {
    let status = timeout(BOUND, stream.next()).await.expect("in time").expect("a final status").expect_err("an error");
    assert!(stream.next().await.is_none(), "the status is the last item");
    ApiError::from_status(&status).unwrap()
}

fn registered(revision: i64) -> Event {
    Event::Ticket(ticket(revision, 0, None))
}

#[tokio::test]
async fn the_last_row_of_a_snapshot_has_the_token() {
    let fixture = Fixture::new().await;
    for ticket in ["c", "a", "b"] {
        fixture.publish(&id(ticket), &registered(1)).await;
    }
    fixture.publish(&id("d"), &free()[1]).await;
    fixture.read_all().await;
    let mut stream = watch(&fixture, &[], "").await;
    let rows = [next(&mut stream).await, next(&mut stream).await, next(&mut stream).await];
    let ids: BTreeSet<&str> = rows.iter().map(|(id, ..)| id.as_str()).collect();
    assert_eq!(ids, BTreeSet::from(["a", "b", "c"]), "rows without a ticket part are not shown");
    assert_eq!(rows.each_ref().map(|(.., token)| !token.is_empty()), [false, false, true]);
    fixture.take(&id("d"), &[registered(1)]).await;
    let (ticket, _, token) = next(&mut stream).await;
    assert_eq!(ticket, "d");
    assert!(!token.is_empty(), "each later row has a token");
}

#[tokio::test]
async fn an_empty_snapshot_sends_the_token_alone() {
    let fixture = Fixture::new().await;
    fixture.take(&id("a"), &[registered(1)]).await;
    let mut stream = watch(&fixture, &["new"], "").await;
    let (ticket, _, token) = next(&mut stream).await;
    assert_eq!((ticket.as_str(), token.is_empty()), ("", false));
    fixture.take(&id("a"), &[registered(2)]).await;
    fixture.take(&id("new"), &[registered(1)]).await;
    assert_eq!(next(&mut stream).await.0, "new", "only the watched ticket is shown");
}

#[tokio::test]
async fn in_the_same_epoch_only_rows_above_the_token_are_sent() {
    let fixture = Fixture::new().await;
    for ticket in ["a", "b", "c"] {
        fixture.take(&id(ticket), &[registered(1)]).await;
    }
    let mut stream = watch(&fixture, &[], "").await;
    let mut token = String::new();
    for _ in 0..3 {
        token = next(&mut stream).await.2;
    }
    drop(stream);
    fixture.take(&id("b"), &[registered(2), registered(3)]).await;
    fixture.take(&id("a"), &[registered(2)]).await;
    let mut stream = watch(&fixture, &[], &token).await;
    let (first, second) = (next(&mut stream).await, next(&mut stream).await);
    assert_eq!((first.0.as_str(), first.1), ("b", 3), "only the newest state");
    assert_eq!((second.0.as_str(), second.1), ("a", 2));
    // The first token resumes after the first row; after the second token there is nothing left.
    let mut stream = watch(&fixture, &[], &first.2).await;
    assert_eq!(next(&mut stream).await, second);
    let mut stream = watch(&fixture, &[], &second.2).await;
    fixture.take(&id("c"), &[registered(2)]).await;
    assert_eq!(next(&mut stream).await.0, "c");
}

#[tokio::test]
async fn in_the_same_epoch_a_lagging_replica_sends_no_snapshot() {
    let bus = MemoryStream::default();
    let ahead = Fixture::reading(&bus).await;
    let behind = Fixture::reading(&bus).await;
    bus.append(message(&id("a"), &registered(1)));
    behind.read_all().await;
    bus.append(message(&id("a"), &registered(2)));
    ahead.read_all().await;
    let token = next(&mut watch(&ahead, &[], "").await).await.2;
    let mut stream = watch(&behind, &[], &token).await;
    behind.read_all().await;
    bus.append(message(&id("b"), &registered(1)));
    behind.read_all().await;
    assert_eq!(next(&mut stream).await.0, "b", "the state of a was sent before");
}

#[tokio::test]
async fn another_epoch_ends_the_watch_and_requires_a_snapshot() {
    let first = MemoryStream::default();
    let mut fixture = Fixture::reading(&first).await;
    first.append(message(&id("a"), &registered(1)));
    first.append(message(&id("b"), &registered(1)));
    fixture.read_all().await;
    let mut all = watch(&fixture, &[], "").await;
    next(&mut all).await;
    let token = next(&mut all).await.2;
    let mut one = watch(&fixture, &["a"], &token).await;
    let other = MemoryStream::default();
    other.wipe();
    fixture.turn_to(Arc::new(other.connect()));
    fixture.read_all().await;
    assert_eq!(
        (end(&mut all).await, end(&mut one).await),
        (ErrorReason::StoreUnavailable, ErrorReason::StoreUnavailable)
    );
    other.append(message(&id("b"), &registered(1)));
    fixture.read_all().await;
    let mut stream = watch(&fixture, &[], &token).await;
    let rows = [next(&mut stream).await, next(&mut stream).await];
    assert_eq!(rows.map(|(id, ..)| id), ["a", "b"], "all rows with any sequence");
}

#[tokio::test]
async fn rows_that_change_during_a_snapshot_are_sent_again() {
    let fixture = Fixture::new().await;
    for ticket in ["a", "b"] {
        fixture.take(&id(ticket), &[registered(1)]).await;
    }
    let mut stream = watch(&fixture, &[], "").await;
    assert_eq!(next(&mut stream).await.0, "a");
    fixture.take(&id("a"), &[registered(2)]).await;
    let (second, third) = (next(&mut stream).await, next(&mut stream).await);
    assert_eq!((second.0.as_str(), second.2.is_empty()), ("b", false));
    assert_eq!((third.0.as_str(), third.1), ("a", 2));
}

#[tokio::test]
async fn a_slow_client_gets_the_newest_state_of_each_row() {
    let fixture = Fixture::new().await;
    fixture.take(&id("a"), &[registered(1)]).await;
    let mut stream = watch(&fixture, &["a"], "").await;
    assert_eq!(next(&mut stream).await.1, 1);
    for revision in 2..=50 {
        fixture.take(&id("a"), &[registered(revision)]).await;
    }
    assert_eq!(next(&mut stream).await.1, 50);
}

/// hyper polls a body only while the client grants flow-control window. After one poll, each stream has begun to read
/// the store.
#[tokio::test]
async fn clients_that_stop_reading_hold_nothing_of_the_store() {
    let fixture = Fixture::new().await;
    fixture.take(&id("a"), &[registered(1)]).await;
    let unread = async || {
        let mut streams = Vec::new();
        for _ in 0..32 {
            let mut stream = watch(&fixture, &[], "").await;
            assert!(stream.next().now_or_never().is_none(), "not ready at the first poll");
            streams.push(stream);
        }
        streams
    };
    let mut streams = unread().await;
    assert_eq!(fixture.view(&id("a")).await.ticket.unwrap().revision, 1);
    fixture.take(&id("a"), &[registered(2)]).await;
    for stream in &mut streams {
        assert_eq!(next(stream).await.0, "a", "the stream continues when its client reads");
    }
    // An exchange of all rows waits for the reads in progress, and all later reads wait for it.
    let _streams = unread().await;
    let beside = fixture.store().beside().await.unwrap();
    timeout(BOUND, fixture.store().exchange(beside)).await.expect("no client holds the rows").unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_read_loses_its_permit() {
    let fixture = Fixture::in_memory().await;
    fixture.take(&id("a"), &[registered(1)]).await;
    tokio::time::pause();
    let mut stream = watch(&fixture, &["a"], "").await;
    next(&mut stream).await;
    assert_eq!(fixture.views.watches.available_permits(), 63);
    let begun = Instant::now();
    fixture.tasks.finish().await;
    assert!((PATIENCE..PATIENCE + Duration::from_secs(1)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert_eq!((fixture.views.watches.available_permits(), fixture.views.changes.waiting()), (64, 0));
    assert_eq!(end(&mut stream).await, ErrorReason::ServiceOverloaded);
}

#[tokio::test]
async fn a_watch_without_changes_sends_heartbeats() {
    let fixture = Fixture::in_memory().await;
    fixture.take(&id("a"), &[registered(1)]).await;
    tokio::time::pause();
    for ids in [&["a"][..], &[]] {
        let mut stream = watch(&fixture, ids, "").await;
        let (_, _, token) = next(&mut stream).await;
        for _ in 0..3 {
            let begun = Instant::now();
            let response = stream.next().await.expect("open").expect("no error");
            assert_eq!((response.view, &response.resume_token), (None, &token));
            assert!(
                (HEARTBEAT..HEARTBEAT + Duration::from_secs(1)).contains(&begun.elapsed()),
                "{:?}",
                begun.elapsed()
            );
        }
    }
    assert_eq!(HEARTBEAT, Duration::from_secs(20), "the interval of the contract");
    let token = next(&mut watch(&fixture, &["a"], "").await).await.2;
    tokio::time::resume();
    let mut stream = watch(&fixture, &["a"], &token).await;
    fixture.take(&id("a"), &[registered(2)]).await;
    assert_eq!(next(&mut stream).await.1, 2, "a watch resumes from a heartbeat's token");
}

#[tokio::test]
async fn a_token_beyond_the_end_of_the_stream_gets_a_snapshot() {
    let mut fixture = Fixture::new().await;
    fixture.take(&id("a"), &[registered(1), registered(2)]).await;
    let (_, _, token) = next(&mut watch(&fixture, &[], "").await).await;
    let place = open(Kind::Resume, &token).unwrap();
    let (sequence, epoch) = place.split_first_chunk::<8>().unwrap();
    // As in tokens of earlier versions, which do not name the message.
    let epoch = epoch.split(|byte| *byte == b'#').next().unwrap();
    let end = u64::from_be_bytes(*sequence);
    let at = |sequence: u64| seal(Kind::Resume, &[&sequence.to_be_bytes()[..], epoch].concat());
    for beyond in [end + 1, u64::MAX] {
        let mut stream = watch(&fixture, &[], &at(beyond)).await;
        assert_eq!(next(&mut stream).await, ("a".to_owned(), 2, token.clone()), "{beyond}");
    }
    let mut stream = watch(&fixture, &[], &at(end)).await;
    fixture.take(&id("b"), &[registered(1)]).await;
    assert_eq!(next(&mut stream).await.0, "b", "the end of the stream is a valid position");
    // Only the stream shows where it ends. Without it, a lagging replica and an invalid token cannot be distinguished.
    let closed = MemoryStream::default().connect();
    closed.close().await;
    fixture.views.bus = Arc::new(closed);
    let request = WatchTicketViewsRequest { resume_token: at(u64::MAX), ..Default::default() };
    let status = match fixture.grpc().watch_ticket_views(by_admin(request)).await {
        Err(status) => status,
        Ok(_) => panic!("not refused"),
    };
    assert_eq!(ApiError::from_status(&status), Some(ErrorReason::UpstreamUnavailable));
    next(&mut watch(&fixture, &[], &at(end)).await).await;
}

#[tokio::test]
async fn a_token_of_a_message_that_the_stream_has_lost_begins_with_a_snapshot() {
    let bus = MemoryStream::default();
    let fixture = Fixture::reading(&bus).await;
    fixture.take(&id("a"), &[registered(1)]).await;
    fixture.take(&id("b"), &[registered(1)]).await;
    let mut stream = watch(&fixture, &[], "").await;
    next(&mut stream).await;
    let (.., token) = next(&mut stream).await;
    // The lost sequence is assigned to another message, which a watcher behind the token would miss.
    bus.lose_last(1);
    bus.append(message(&id("c"), &registered(1)));
    bus.append(message(&id("b"), &registered(1)));
    fixture.read_all().await;
    assert_eq!(end(&mut stream).await, ErrorReason::StoreUnavailable, "a running watch ends");
    let mut stream = watch(&fixture, &[], &token).await;
    let rows = [next(&mut stream).await.0, next(&mut stream).await.0, next(&mut stream).await.0];
    assert_eq!(BTreeSet::from(rows), ["a", "b", "c"].map(str::to_owned).into());
}

#[tokio::test]
async fn watches_end_when_the_server_or_the_connection_drains() {
    let fixture = Fixture::new().await;
    fixture.take(&id("a"), &[registered(1)]).await;
    let mut stream = watch(&fixture, &["a"], "").await;
    next(&mut stream).await;
    let connection = CancellationToken::new();
    let mut request = by_admin(WatchTicketViewsRequest::default());
    request.extensions_mut().insert(Draining(connection.clone()));
    let mut by_connection = fixture.grpc().watch_ticket_views(request).await.unwrap().into_inner();
    next(&mut by_connection).await;
    connection.cancel();
    assert_eq!(end(&mut by_connection).await, ErrorReason::ShuttingDown);
    fixture.views.draining.cancel();
    assert_eq!(end(&mut stream).await, ErrorReason::ShuttingDown);
    assert_eq!(fixture.views.changes.waiting(), 0, "no waiter is left");
}

#[tokio::test]
async fn invalid_requests_are_refused() {
    let mut fixture = Fixture::new().await;
    fixture.read_all().await;
    let refused = async |fixture: &Fixture, request| {
        let status = match fixture.grpc().watch_ticket_views(by_admin(request)).await {
            Err(status) => status,
            Ok(_) => panic!("not refused"),
        };
        (ApiError::from_status(&status).unwrap(), status.message().to_owned())
    };
    let consistency = eticket_proto::token::Consistency::Reservation { ticket: id("a"), revision: 1 }.encode();
    for resume_token in ["nonsense".to_owned(), consistency] {
        let request = WatchTicketViewsRequest { resume_token, ..Default::default() };
        let (reason, text) = refused(&fixture, request).await;
        assert_eq!(reason, ErrorReason::InvalidField);
        assert!(text.starts_with("resume_token"), "{text}");
    }
    let bad_id = WatchTicketViewsRequest { ticket_ids: vec!["a".into(), "b.c".into()], ..Default::default() };
    let (reason, text) = refused(&fixture, bad_id).await;
    assert_eq!(reason, ErrorReason::InvalidField);
    assert!(text.starts_with("ticket_ids[1]"), "{text}");
    let too_many = WatchTicketViewsRequest { ticket_ids: vec!["a".into(); 1001], ..Default::default() };
    assert_eq!(refused(&fixture, too_many).await.0, ErrorReason::InvalidField);
    fixture.views.watches = Arc::new(Semaphore::new(0));
    let one = WatchTicketViewsRequest::default();
    assert_eq!(refused(&fixture, one).await.0, ErrorReason::ServiceOverloaded);
}

/// Counts the operations of a store.
#[derive(Default)]
struct Counted(AtomicUsize);

#[async_trait::async_trait]
impl Steps for Counted {
    async fn step(&self, _: &'static str) -> Result<(), eticket_store::Error> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Returns the number of operations of the store for ten commits that all of these watchers receive.
async fn operations_of_ten_commits(watchers: usize) -> usize {
    let mut fixture = Fixture::reading(&MemoryStream::default()).await;
    let counted = Arc::new(Counted::default());
    let store = Arc::new(MemoryViews::new(fixture.clock.clone(), counted.clone()));
    (fixture.reader.store, fixture.views.store) = (store.clone(), store);
    fixture.views.watches = Arc::new(Semaphore::new(watchers));
    fixture.take(&id("first"), &[registered(1)]).await;
    let mut session = fixture.reader.attach().await.unwrap();
    let (mut all, draining) = (Vec::new(), CancellationToken::new());
    for _ in 0..watchers {
        let mut watch = fixture.views.watch(Watched::All, None, draining.clone()).await.unwrap();
        let sent = watch.next().await.unwrap();
        assert_eq!(sent.row.expect("a row").0, id("first"));
        all.push(watch);
    }
    let before = counted.0.load(Ordering::Relaxed);
    for number in 0..10 {
        let ticket = id(&format!("t{number}"));
        fixture.publish(&ticket, &registered(1)).await;
        let batch = session_batch(&mut session).await;
        session.apply(batch).await.unwrap();
        for watch in &mut all {
            let sent = timeout(BOUND, watch.next()).await.expect("in time").unwrap();
            assert_eq!(sent.row.expect("a row").0, ticket);
            assert_eq!(watch.next_now().await.unwrap(), None);
        }
    }
    counted.0.load(Ordering::Relaxed) - before
}

async fn session_batch(session: &mut Session<'_>) -> Vec<eticket_bus::Delivery> {
    timeout(BOUND, session.next()).await.expect("there is more").unwrap()
}

#[tokio::test]
async fn a_thousand_watchers_add_no_operation_of_the_store_to_a_commit() {
    assert_eq!(operations_of_ten_commits(1000).await, operations_of_ten_commits(1).await);
}

#[tokio::test]
async fn a_watcher_that_has_fallen_behind_receives_each_row_from_the_store() {
    let fixture = Fixture::in_memory().await;
    fixture.take(&id("first"), &[registered(1)]).await;
    let mut session = fixture.reader.attach().await.unwrap();
    let mut watch = fixture.views.watch(Watched::All, None, CancellationToken::new()).await.unwrap();
    watch.next().await.unwrap();
    let tickets: Vec<TicketId> = (0..recent::CAPACITY + 10).map(|number| id(&format!("t{number}"))).collect();
    for ticket in &tickets {
        fixture.publish(ticket, &registered(1)).await;
    }
    while session.progress().0 <= tickets.len() as u64 {
        let batch = session_batch(&mut session).await;
        session.apply(batch).await.unwrap();
    }
    for ticket in &tickets {
        let sent = watch.next_now().await.unwrap().expect("a row");
        assert_eq!(sent.row.expect("a row").0, *ticket);
    }
    assert_eq!(watch.next_now().await.unwrap(), None);
}

#[tokio::test]
async fn rows_that_are_exchanged_are_read_from_the_store() {
    let fixture = Fixture::in_memory().await;
    fixture.take(&id("a"), &[registered(1)]).await;
    let mut stream = watch(&fixture, &[], "").await;
    next(&mut stream).await;
    // The new rows hold an event that the old reader has not read.
    fixture.publish(&id("b"), &registered(1)).await;
    let progress = fixture.rebuild().start();
    until("the view is rebuilt", async || matches!(*progress.borrow(), Progress::Done { .. })).await;
    assert_eq!(next(&mut stream).await.0, "b");
}

#[tokio::test]
async fn rows_above_the_position_of_the_reader_are_read_from_the_store() {
    let fixture = Fixture::in_memory().await;
    fixture.take(&id("a"), &[registered(1)]).await;
    let token = next(&mut watch(&fixture, &[], "").await).await.2;
    let position = fixture.store().position().await.unwrap().expect("a position");
    for ticket in ["b", "c"] {
        fixture.take(&id(ticket), &[registered(1)]).await;
    }
    fixture.stand_at(position).await;
    let _session = fixture.reader.attach().await.unwrap();
    let mut stream = watch(&fixture, &[], &token).await;
    assert_eq!((next(&mut stream).await.0, next(&mut stream).await.0), ("b".to_owned(), "c".to_owned()));
}
