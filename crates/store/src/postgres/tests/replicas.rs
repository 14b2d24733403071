//! Two replicas on one schema.

use std::sync::atomic::{AtomicUsize, Ordering};

use uuid::Uuid;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn an_insert_conflict_is_retried() {
    let server = server();
    let (one, other) = (store(&server).await, store(&server).await);
    let mut calls = 0;
    let apply_batch = &mut |work: &mut Work<Rows<String, i64>>| {
        calls += 1;
        if calls == 1 {
            meanwhile(count_all(&other, &["x"])).unwrap();
        }
        count(work, "x");
    };
    one.commit(&keys(&["x"]), &[], apply_batch).await.unwrap();
    assert_eq!(calls, 2);
    assert_eq!((value(&one, "x").await, waiting(&one.database, "x").await), (2, vec![1, 2]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn two_replicas_on_the_same_rows_assign_consecutive_revisions() {
    const ROUNDS: i64 = 40;
    let server = server();
    let (one, other) = (store(&server).await, store(&server).await);
    let names = ["a", "b", "c", "d", "e"];
    let backwards: Vec<&str> = names.iter().rev().copied().collect();
    let all = async |store: &Store<Numbers>, names: &[&str]| {
        for _ in 0..ROUNDS {
            count_all(store, names).await.unwrap();
        }
    };
    tokio::join!(all(&one, &names), all(&other, &backwards));
    for name in names {
        assert_eq!(value(&one, name).await, 2 * ROUNDS, "{name}");
        assert_eq!(waiting(&one.database, name).await, (1..=2 * ROUNDS).collect::<Vec<_>>(), "{name}");
    }
    assert!(!server.log().contains("deadlock detected"), "{}", server.log());
}

/// Runs a command with a request id; returns its response, and whether it had an effect.
async fn with_record(
    store: &Store<Numbers>,
    request_id: Uuid,
    during: impl Fn() + Send + Sync,
) -> (EncodedResponse, bool) {
    let idempotency = Some(Idempotency { request_id, hash: [1; 32] });
    let mut outcome = (EncodedResponse::default(), false);
    let apply_batch = &mut |work: &mut Work<Rows<String, i64>>| {
        let mut ran = false;
        let answer = work.run::<RequestIdReused>(idempotency, |work| {
            ran = true;
            during();
            Ok(response(count(work, "x")))
        });
        outcome = (answer.unwrap(), ran);
    };
    store.commit(&keys(&["x"]), &[request_id], apply_batch).await.unwrap();
    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn two_attempts_at_two_replicas_have_one_effect_and_one_response() {
    let server = server();
    let (one, other) = (store(&server).await, store(&server).await);
    // A missing row cannot be locked: both attempts insert it, and the later one is retried.
    let (id, calls, first) = (Uuid::new_v4(), AtomicUsize::new(0), Mutex::new(EncodedResponse::default()));
    let during = || {
        if calls.fetch_add(1, Ordering::SeqCst) == 0 {
            *first.lock().unwrap() = meanwhile(with_record(&other, id, || ())).0;
        }
    };
    let again = with_record(&one, id, during).await;
    assert_eq!(again, (first.into_inner().unwrap().replayed(), false));
    assert_eq!((value(&one, "x").await, waiting(&one.database, "x").await), (1, vec![1]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn the_record_is_read_under_the_lock() {
    let server = server();
    let (one, other) = (store(&server).await, Arc::new(store(&server).await));
    count_all(&one, &["x"]).await.unwrap();
    let id = Uuid::new_v4();
    let (attempts, second) = (Arc::new(AtomicUsize::new(0)), Mutex::new(None));
    let during = || {
        let (other, attempts) = (other.clone(), attempts.clone());
        let count_attempts = move || {
            attempts.fetch_add(1, Ordering::SeqCst);
        };
        *second.lock().unwrap() = Some(tokio::spawn(async move { with_record(&other, id, count_attempts).await }));
        tokio::task::block_in_place(|| server.wait_until_blocked()).unwrap();
    };
    let (first, ran) = with_record(&one, id, during).await;
    let second = second.into_inner().unwrap().unwrap().await.unwrap();
    assert_eq!((ran, second), (true, (first.replayed(), false)));
    assert_eq!(attempts.load(Ordering::SeqCst), 0, "found by reading, not by a conflict when writing the record");
    assert_eq!(value(&one, "x").await, 2);
}
