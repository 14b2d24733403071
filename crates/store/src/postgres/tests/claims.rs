//! An outbox shared by two relays.

use sqlx::{ConnectOptions, Connection, Executor};

use super::*;
use crate::{Claim, WaitingRow};

fn names(subjects: &[Vec<WaitingRow>]) -> Vec<(String, Vec<i64>)> {
    let revisions = |rows: &[WaitingRow]| rows.iter().map(|row| row.revision).collect();
    subjects.iter().map(|rows| (rows[0].message.subject.clone(), revisions(rows))).collect()
}

async fn claimed(database: &Database, most: usize) -> (Box<dyn Claim>, Vec<(String, Vec<i64>)>, Vec<i64>) {
    let mut claim = database.claim_outbox(most).await.unwrap();
    let subjects = claim.subjects();
    let ids = subjects.iter().flatten().map(|row| row.id).collect();
    (claim, names(&subjects), ids)
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn relays_share_the_outbox_by_subject() {
    let server = server();
    let (store, other) = (store(&server).await, database(&server).await);
    count_all(&store, &["a", "b", "a", "c", "b", "d"]).await.unwrap();
    let (one, of_one, ids) = claimed(&store.database, 2).await;
    assert_eq!(of_one, [("a".into(), vec![1, 2]), ("b".into(), vec![1, 2])]);
    // New rows of a claimed subject are not for others: they would overtake the rows that the owner still publishes.
    count_all(&store, &["a", "e"]).await.unwrap();
    let (two, of_two, _) = claimed(&other, 10).await;
    assert_eq!(of_two, [("c".into(), vec![1]), ("d".into(), vec![1]), ("e".into(), vec![1])]);
    one.done(&ids).await.unwrap();
    let (three, of_three, _) = claimed(&store.database, 10).await;
    assert_eq!(of_three, [("a".into(), vec![3])], "c, d and e are still claimed");
    drop(two);
    drop(three);
    contract::eventually(async || claimed(&store.database, 10).await.1.len() == 4).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn claims_may_be_idle_for_longer_than_other_transactions() {
    let server = server();
    // Committed by another process, because a commit on a busy machine may be idle for longer than this limit.
    count_all(&store(&server).await, &["a"]).await.unwrap();
    let limits = Limits { idle_in_transaction: Duration::from_millis(100), ..Limits::default() };
    let database = database_with(&server, limits).await;
    let (claim, _, ids) = claimed(&database, 10).await;
    // Idle for less time than the claim, so when the server ends it for idling, the claim has been idle for longer.
    let mut idle = session::commit_options(&url_options(&server), SCHEMA, &limits).connect().await.unwrap();
    idle.execute("begin").await.unwrap();
    let sessions = "select count(*) from pg_stat_activity where state = 'idle in transaction'";
    contract::eventually(async || server.sql("postgres", sessions).unwrap() == "1").await;
    assert!(idle.ping().await.is_err(), "the server has ended it");
    claim.done(&ids).await.unwrap();
    assert_eq!(database.outbox_depth().await.unwrap(), 0);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn subjects_of_a_dead_relay_are_released_with_their_rows() {
    let server = server();
    let (store, other) = (store(&server).await, database(&server).await);
    count_all(&store, &["a"]).await.unwrap();
    let (dead, _, ids) = claimed(&store.database, 10).await;
    let (nothing, of_nothing, _) = claimed(&other, 10).await;
    assert_eq!(of_nothing, []);
    nothing.done(&[]).await.unwrap();
    let sessions = "select count(pg_terminate_backend(pid)) from pg_stat_activity where state = 'idle in transaction'";
    assert_eq!(server.sql("postgres", sessions).unwrap(), "1");
    contract::eventually(async || claimed(&other, 10).await.1.len() == 1).await;
    assert!(matches!(dead.done(&ids).await, Err(Error::Unavailable(_))));
    assert_eq!(other.outbox_depth().await.unwrap(), 1);
    // Its connection is replaced.
    assert_eq!(claimed(&store.database, 10).await.1.len(), 1);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn a_long_queue_does_not_slow_down_claims() {
    let server = server();
    // The plan is what counts. A busy machine may need longer than the limit of a service.
    let limit = Duration::from_secs(60);
    let limits = Limits { read: limit, statement: limit, ..Limits::default() };
    let store = Store::<Numbers>::new(database_with(&server, limits).await);
    // One subject far ahead of many, without statistics: the planner has no information about the new rows.
    let fill = "insert into numbers.outbox (subject, revision, headers, body)
        select case when n <= 20000 then 'hot' else 's' || n % 5000 end, n, '[]', '' from generate_series(1, 200000) n";
    server.sql("postgres", fill).unwrap();
    let (claim, subjects, _) = claimed(&store.database, 256).await;
    assert_eq!(
        (subjects.len(), subjects[0].0.as_str(), subjects[0].1.len()),
        (256, "hot", 16),
        "all subjects get a turn"
    );
    claim.done(&[]).await.unwrap();
    let plan = server.sql("postgres", &format!("set search_path = numbers; explain {}", claim::explained())).unwrap();
    assert!(plan.contains("outbox_pkey") && plan.contains("outbox_by_subject") && !plan.contains("Seq Scan"), "{plan}");
}
