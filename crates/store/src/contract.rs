//! The contract suite of the store, apart from the rows of services: the tests of each adapter run it unchanged.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use eticket_base::clock::ManualClock;
use eticket_bus::Message;
use tokio::sync::Notify;
use uuid::Uuid;

use super::{
    Commit, EncodedResponse, Error, Housekeeping, Idempotency, OutboxRow, Parked, RequestIdReused, WaitingRow, Work,
};

/// Bound of each wait.
const BOUND: Duration = Duration::from_secs(10);

/// An empty store without rows of a service.
pub(crate) struct Subject {
    pub(crate) housekeeping: Arc<dyn Housekeeping>,
    pub(crate) commits: Arc<dyn Commit<Keys = (), Rows = ()>>,
    pub(crate) outbox_written: Arc<Notify>,
    pub(crate) clock: Arc<ManualClock>,
}

/// Runs the suite.
pub(crate) async fn suite(subject: Subject) {
    subject.housekeeping.ping().await.expect("the store responds");
    an_empty_store_has_nothing(&subject).await;
    a_commit_with_outbox_rows_notifies(&subject).await;
    a_claim_has_all_rows_of_its_subjects_in_order(&subject).await;
    unpublished_rows_are_claimed_again(&subject).await;
    a_dropped_claim_releases_its_subjects(&subject).await;
    records_are_kept_until_they_are_purged(&subject).await;
    parked_messages_are_unchanged_and_paged(&subject).await;
    parking_replaces_and_applying_removes(&subject).await;
    discarding_deletes_one_message(&subject).await;
    a_discarded_message_is_not_parked_again(&subject).await;
    a_reason_with_a_nul_character_is_parked(&subject).await;
    the_epoch_of_the_stream_is_stored(&subject).await;
    a_closed_store_returns_errors(&subject).await;
}

async fn commit(subject: &Subject, change: impl Fn(&mut Work<()>) + Send + Sync) {
    subject.commits.commit(&(), &[], &mut |work: &mut Work<()>| change(work)).await.expect("committed");
}

fn message(subject: &str, body: &[u8]) -> Message {
    let headers = vec![("ce-id".into(), "t/1".to_owned()), ("x".into(), "제목 'quoted' \"twice\" \\".to_owned())];
    Message { subject: subject.to_owned(), headers, body: body.to_vec().into() }
}

async fn write(subject: &Subject, rows: &[(&str, i64)]) {
    commit(subject, |work| {
        for (name, revision) in rows {
            work.publish(OutboxRow { revision: *revision, message: message(name, &[0, 255, 1]) });
        }
    })
    .await;
}

/// Claims up to `most` subjects, and completes the claim with the published rows. Returns subject and revision of all
/// claimed rows.
async fn claim(subject: &Subject, most: usize, published: impl Fn(&WaitingRow) -> bool) -> Vec<Vec<(String, i64)>> {
    let mut claim = subject.housekeeping.claim_outbox(most).await.expect("claimed");
    let subjects = claim.subjects();
    let ids: Vec<i64> = subjects.iter().flatten().filter(|row| published(row)).map(|row| row.id).collect();
    subject.housekeeping.delete_sent(claim.sent(&ids)).await.expect("deleted");
    let shown = |row: &WaitingRow| (row.message.subject.clone(), row.revision);
    subjects.iter().map(|rows| rows.iter().map(shown).collect()).collect()
}

fn rows(subject: &str, revisions: &[i64]) -> Vec<(String, i64)> {
    revisions.iter().map(|revision| (subject.to_owned(), *revision)).collect()
}

async fn an_empty_store_has_nothing(subject: &Subject) {
    assert_eq!(claim(subject, 10, |_| true).await, [[]; 0]);
    assert_eq!(subject.housekeeping.outbox_depth().await.expect("read"), 0);
    assert_eq!(subject.housekeeping.oldest_waiting().await.expect("read"), None);
    assert_eq!(subject.housekeeping.parked_count().await.expect("read"), 0);
    assert_eq!(subject.housekeeping.stream_epoch().await.expect("read"), None);
    assert_eq!(subject.housekeeping.record(Uuid::new_v4()).await.expect("read"), None);
    assert_eq!(subject.housekeeping.parked("", 10).await.expect("read"), []);
    assert_eq!(subject.housekeeping.parked_by_id("nobody").await.expect("read"), None);
}

async fn a_commit_with_outbox_rows_notifies(subject: &Subject) {
    write(subject, &[("bell", 1)]).await;
    tokio::time::timeout(BOUND, subject.outbox_written.notified()).await.expect("the notification arrives");
    assert_eq!(claim(subject, 10, |_| true).await, [rows("bell", &[1])]);
}

async fn a_claim_has_all_rows_of_its_subjects_in_order(subject: &Subject) {
    write(subject, &[("a", 2), ("b", 1)]).await;
    // The last row has the lowest revision, and one revision occurs twice, as after republishing.
    write(subject, &[("a", 1), ("b", 1), ("c", 7)]).await;
    assert_eq!(subject.housekeeping.outbox_depth().await.expect("read"), 5);
    let longest = subject.housekeeping.oldest_waiting().await.expect("read");
    assert_eq!(longest, Some(message("a", &[0, 255, 1])), "the first that was written, not the lowest revision");
    let mut oldest = subject.housekeeping.claim_outbox(1).await.expect("claimed");
    let subjects = oldest.subjects();
    assert_eq!(subjects.len(), 1, "bounded, the oldest first: {subjects:?}");
    assert_eq!(subjects[0][0].message, message("a", &[0, 255, 1]), "the message is unchanged");
    drop(oldest);
    let all = claim(subject, 10, |_| true).await;
    assert_eq!(all, [rows("a", &[1, 2]), rows("b", &[1, 1]), rows("c", &[7])]);
    assert_eq!(subject.housekeeping.outbox_depth().await.expect("read"), 0);
}

async fn unpublished_rows_are_claimed_again(subject: &Subject) {
    write(subject, &[("d", 1), ("d", 2), ("e", 1)]).await;
    claim(subject, 10, |row| row.message.subject == "d" && row.revision == 1).await;
    assert_eq!(claim(subject, 10, |_| true).await, [rows("d", &[2]), rows("e", &[1])]);
}

async fn a_dropped_claim_releases_its_subjects(subject: &Subject) {
    write(subject, &[("f", 1), ("g", 1)]).await;
    drop(subject.housekeeping.claim_outbox(10).await.expect("claimed"));
    // A store may need a moment to detect that the owner is gone.
    let mut sent = Vec::new();
    eventually(async || {
        sent.extend(claim(subject, 10, |_| true).await);
        sent.len() == 2
    })
    .await;
    assert_eq!(sent, [rows("f", &[1]), rows("g", &[1])]);
}

/// Polls until the condition holds.
pub(crate) async fn eventually(mut condition: impl AsyncFnMut() -> bool) {
    let until = tokio::time::Instant::now() + BOUND;
    while !condition().await {
        assert!(tokio::time::Instant::now() < until, "the condition did not hold within {BOUND:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn records_are_kept_until_they_are_purged(subject: &Subject) {
    let idempotency = Idempotency { request_id: Uuid::new_v4(), hash: [200; 32] };
    let type_name = Some("eticket.v1.Response".to_owned());
    let response = EncodedResponse { type_name, bytes: vec![0, 1, 255].into(), replayed: false };
    for attempt in 1..=2 {
        let mut ran = false;
        let mut answer = Ok(EncodedResponse::default());
        let apply_batch = &mut |work: &mut Work<()>| {
            answer = work.run::<RequestIdReused>(Some(idempotency), |_| {
                ran = true;
                Ok(response.clone())
            });
        };
        subject.commits.commit(&(), &[idempotency.request_id], apply_batch).await.expect("committed");
        let expected = if attempt == 1 { response.clone() } else { response.clone().replayed() };
        assert_eq!((answer, ran), (Ok(expected), attempt == 1));
    }
    let kept = subject.housekeeping.record(idempotency.request_id).await.expect("read").expect("kept");
    assert_eq!((kept.hash, kept.response), (idempotency.hash, response));
    let made = eticket_base::clock::Clock::now(&*subject.clock);
    assert_eq!(subject.housekeeping.purge_records(made).await.expect("purged"), 0, "it was not created before");
    assert_eq!(subject.housekeeping.purge_records(made + TimeDelta::microseconds(1)).await.expect("purged"), 1);
    assert_eq!(subject.housekeeping.record(idempotency.request_id).await.expect("read"), None);
}

fn time() -> DateTime<Utc> {
    DateTime::from_timestamp(1_000, 123_456_000).expect("a time")
}

fn parked(event_id: &str, reason: &str) -> Parked {
    let message = message("parked", &[0, 9]);
    Parked { event_id: event_id.to_owned(), message, reason: reason.to_owned(), attempts: 5, park_time: time() }
}

async fn parked_messages_are_unchanged_and_paged(subject: &Subject) {
    // In byte order, independent of the locale of the server: upper case before lower case.
    let ids = ["P/1", "p-2", "p/10", "p/2", "파"];
    let all: Vec<_> = ids.iter().map(|id| parked(id, "no reason")).collect();
    commit(subject, |work| all.iter().rev().for_each(|parked| work.park(parked.clone()))).await;
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let page = subject.housekeeping.parked(&after, 2).await.expect("read");
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 2);
        after.clone_from(&last.event_id);
        found.extend(page);
    }
    assert_eq!(found, all);
    assert_eq!(subject.housekeeping.parked_count().await.expect("read"), 5);
    assert_eq!(subject.housekeeping.parked_by_id("p/10").await.expect("read"), Some(parked("p/10", "no reason")));
    commit(subject, |work| ids.iter().for_each(|id| work.unpark((*id).to_owned()))).await;
    assert_eq!(subject.housekeeping.parked("", 10).await.expect("read"), []);
}

async fn parking_replaces_and_applying_removes(subject: &Subject) {
    let again = Parked { attempts: 7, ..parked("twice", "the newer") };
    commit(subject, |work| work.park(parked("twice", "the older"))).await;
    commit(subject, |work| {
        work.park(parked("twice", "in between"));
        work.park(again.clone());
    })
    .await;
    assert_eq!(subject.housekeeping.parked("", 10).await.expect("read"), [again]);
    commit(subject, |work| work.unpark("twice".to_owned())).await;
    assert_eq!(subject.housekeeping.parked_by_id("twice").await.expect("read"), None);
}

async fn discarding_deletes_one_message(subject: &Subject) {
    commit(subject, |work| ["p/1", "p/2"].iter().for_each(|id| work.park(parked(id, "never")))).await;
    assert!(subject.housekeeping.discard_parked("p/1").await.expect("discarded"));
    assert!(!subject.housekeeping.discard_parked("p/1").await.expect("asked"), "it was deleted");
    assert_eq!(subject.housekeeping.parked_by_id("p/1").await.expect("read"), None);
    assert_eq!(subject.housekeeping.parked("", 10).await.expect("read"), [parked("p/2", "never")]);
    assert!(!subject.housekeeping.is_discarded("p/2").await.expect("asked"));
    assert!(subject.housekeeping.discard_parked("p/2").await.expect("discarded"));
}

async fn a_discarded_message_is_not_parked_again(subject: &Subject) {
    commit(subject, |work| work.park(parked("d/1", "never"))).await;
    assert!(subject.housekeeping.discard_parked("d/1").await.expect("discarded"));
    assert!(subject.housekeeping.is_discarded("d/1").await.expect("asked"));
    // The stream delivers both again.
    commit(subject, |work| ["d/1", "d/2"].iter().for_each(|id| work.park(parked(id, "still not")))).await;
    assert_eq!(subject.housekeeping.parked("", 10).await.expect("read"), [parked("d/2", "still not")]);
    commit(subject, |work| work.unpark("d/2".to_owned())).await;
}

async fn a_reason_with_a_nul_character_is_parked(subject: &Subject) {
    commit(subject, |work| work.park(parked("odd", "expected an id, got \"\0\""))).await;
    let kept = subject.housekeeping.parked_by_id("odd").await.expect("read").expect("kept");
    assert!(kept.reason.starts_with("expected an id, got"), "{kept:?}");
    commit(subject, |work| work.unpark("odd".to_owned())).await;
}

async fn the_epoch_of_the_stream_is_stored(subject: &Subject) {
    for epoch in ["one", "other"] {
        subject.housekeeping.set_stream_epoch(epoch).await.expect("noted");
        assert_eq!(subject.housekeeping.stream_epoch().await.expect("read").as_deref(), Some(epoch));
    }
}

async fn a_closed_store_returns_errors(subject: &Subject) {
    subject.housekeeping.close().await;
    assert!(matches!(subject.housekeeping.ping().await, Err(Error::Unavailable(_))));
    assert!(matches!(subject.housekeeping.claim_outbox(1).await.map(drop), Err(Error::Unavailable(_))));
    let committed = subject.commits.commit(&(), &[], &mut |_: &mut Work<()>| ()).await;
    assert!(matches!(committed, Err(Error::Unavailable(_))), "{committed:?}");
    subject.housekeeping.close().await;
}
