//! The outbox, shared by two relays.

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
async fn relays_share_subjects_and_each_has_all_of_its_own() {
    let server = server();
    let (store, other) = (store(&server).await, database(&server).await);
    count_all(&store, &["a", "b", "a", "c", "b", "d"]).await.unwrap();
    let (one, of_one, ids) = claimed(&store.database, 2).await;
    assert_eq!(of_one, [("a".into(), vec![1, 2]), ("b".into(), vec![1, 2])]);
    // What comes meanwhile to a subject that is owned is not for others: it would overtake what its owner still sends.
    count_all(&store, &["a", "e"]).await.unwrap();
    let (two, of_two, _) = claimed(&other, 10).await;
    assert_eq!(of_two, [("c".into(), vec![1]), ("d".into(), vec![1]), ("e".into(), vec![1])]);
    one.done(&ids).await.unwrap();
    let (three, of_three, _) = claimed(&store.database, 10).await;
    assert_eq!(of_three, [("a".into(), vec![3])], "c, d and e are still the other's");
    drop(two);
    drop(three);
    contract::eventually(async || claimed(&store.database, 10).await.1.len() == 4).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn a_claim_outlives_a_slow_publish_and_other_transactions_do_not_stay_idle() {
    let server = server();
    let limits = Limits { idle_in_transaction: Duration::from_millis(100), ..Limits::default() };
    let store = Store::<Numbers>::new(database_with(&server, limits).await);
    count_all(&store, &["a"]).await.unwrap();
    let (claim, _, ids) = claimed(&store.database, 10).await;
    // Begun after the claim: when it has been ended for idling, the claim has been idle for longer.
    let mut idle = session::commit_options(&url_options(&server), SCHEMA, &limits).connect().await.unwrap();
    idle.execute("begin").await.unwrap();
    let sessions = "select count(*) from pg_stat_activity where state = 'idle in transaction'";
    contract::eventually(async || server.sql("postgres", sessions).unwrap() == "1").await;
    assert!(idle.ping().await.is_err(), "it was ended");
    claim.done(&ids).await.unwrap();
    assert_eq!(store.database.outbox_depth().await.unwrap(), 0);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn what_a_dead_relay_owned_is_free_again_and_its_end_deletes_nothing() {
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
async fn a_long_queue_makes_no_claim_slow() {
    let server = server();
    // The plan is what counts; a machine that is busy may take longer than a service would allow.
    let limits = Limits { read: Duration::from_secs(60), ..Limits::default() };
    let store = Store::<Numbers>::new(database_with(&server, limits).await);
    // One subject far ahead of many, and no statistics: the planner knows nothing of what was just written.
    let fill = "insert into numbers.outbox (subject, revision, headers, body)
        select case when n <= 20000 then 'hot' else 's' || n % 5000 end, n, '[]', '' from generate_series(1, 200000) n";
    server.sql("postgres", fill).unwrap();
    let (claim, subjects, _) = claimed(&store.database, 256).await;
    assert_eq!((subjects.len(), subjects[0].0.as_str(), subjects[0].1.len()), (256, "hot", 16), "all get their turn");
    claim.done(&[]).await.unwrap();
    let plan = server.sql("postgres", &format!("set search_path = numbers; explain {}", claim::explained())).unwrap();
    assert!(plan.contains("outbox_pkey") && plan.contains("outbox_by_subject") && !plan.contains("Seq Scan"), "{plan}");
}
