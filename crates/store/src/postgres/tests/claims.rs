//! An outbox that the relays of two processes share.

use sqlx::{ConnectOptions, Connection, Executor, PgConnection};

use super::*;
use crate::{Claim, NEWEST, WaitingRow};

fn names(subjects: &[Vec<WaitingRow>]) -> Vec<(String, Vec<i64>)> {
    let revisions = |rows: &[WaitingRow]| rows.iter().map(|row| row.revision).collect();
    subjects.iter().map(|rows| (rows[0].message.subject.clone(), revisions(rows))).collect()
}

async fn claimed(database: &Database, most: usize) -> (Claim, Vec<(String, Vec<i64>)>, Vec<i64>) {
    let mut claim = database.claim_outbox(most).await.unwrap();
    let subjects = claim.subjects();
    let ids = subjects.iter().flatten().map(|row| row.id).collect();
    (claim, names(&subjects), ids)
}

/// The number of rows in the table.
fn rows(server: &Postgres) -> String {
    server.sql("postgres", "select count(*) from numbers.outbox").unwrap()
}

/// Claims until there are rows, and publishes them all.
async fn published(database: &Database) -> Vec<(String, Vec<i64>)> {
    let mut found = Vec::new();
    contract::eventually(async || {
        let (claim, subjects, ids) = claimed(database, 100).await;
        database.delete_sent(claim.sent(&ids)).await.unwrap();
        found = subjects;
        !found.is_empty()
    })
    .await;
    found
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn each_process_sends_its_own_rows() {
    let server = server();
    let (store, other) = (store(&server).await, Store::<Numbers>::new(database(&server).await));
    count_all(&store, &["a", "b", "a"]).await.unwrap();
    count_all(&other, &["a", "c"]).await.unwrap();
    let (one, of_one, ids) = claimed(&store.database, 10).await;
    assert_eq!(of_one, [("a".into(), vec![1, 2]), ("b".into(), vec![1])]);
    let (two, of_two, _) = claimed(&other.database, 10).await;
    assert_eq!(of_two, [("a".into(), vec![3]), ("c".into(), vec![1])]);
    store.database.delete_sent(one.sent(&ids[..1])).await.unwrap();
    drop(two);
    // What was not published is given back.
    assert_eq!(published(&store.database).await, [("b".into(), vec![1]), ("a".into(), vec![2])]);
    assert_eq!(published(&other.database).await, [("a".into(), vec![3]), ("c".into(), vec![1])]);
    assert_eq!(rows(&server), "0");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn only_the_newest_rows_of_a_subject_are_sent() {
    let server = server();
    let store = store(&server).await;
    count_all(&store, &["a"; 7]).await.unwrap();
    let newest: Vec<i64> = (8 - i64::try_from(NEWEST).unwrap()..=7).collect();
    assert_eq!(published(&store.database).await, [("a".into(), newest)]);
    assert_eq!(rows(&server), "0", "the older ones are deleted too");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn rows_of_a_process_that_has_ended_are_adopted() {
    let server = server();
    let (store, other) = (store(&server).await, database(&server).await);
    count_all(&store, &["a", "b"]).await.unwrap();
    let (claim, ..) = claimed(&store.database, 1).await;
    store.database.close().await;
    drop(claim);
    assert_eq!(published(&other).await, [("a".into(), vec![1]), ("b".into(), vec![1])]);
    assert_eq!(rows(&server), "0");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn rows_of_an_earlier_version_are_adopted() {
    let server = server();
    let database = database(&server).await;
    server
        .sql("postgres", "insert into numbers.outbox (subject, revision, headers, body) values ('a', 1, '[]', '')")
        .unwrap();
    assert_eq!(published(&database).await, [("a".into(), vec![1])]);
}

/// A session of another process, with the number 7.
async fn session(server: &Postgres) -> PgConnection {
    let mut session = url_options(server).connect().await.unwrap();
    session.execute("select pg_advisory_lock(7); begin").await.unwrap();
    session
        .execute(
            "insert into numbers.outbox (writer, subject, revision, headers, body) values (7, 'late', 1, '[]', '')",
        )
        .await
        .unwrap();
    session
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn a_row_is_adopted_once_nothing_can_commit_in_its_session() {
    let server = server();
    let database = database(&server).await;
    let mut other = session(&server).await;
    // The outcome of this commit is unknown to its process, which has another session by now.
    other.execute("commit").await.unwrap();
    for _ in 0..3 {
        database.search.again();
        assert_eq!(claimed(&database, 10).await.1, [], "its session lives");
    }
    other.close().await.unwrap();
    assert_eq!(published(&database).await, [("late".into(), vec![1])]);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn rows_are_handed_over_only_after_their_commit() {
    let server = server();
    let store = store(&server).await;
    let trigger = "create function numbers.refuse() returns trigger language plpgsql as $$
            begin raise exception 'at the commit'; end $$;
        create constraint trigger refuse after insert on numbers.outbox deferrable initially deferred
            for each row execute function numbers.refuse();";
    server.sql("postgres", trigger).unwrap();
    assert!(count_all(&store, &["a"]).await.is_err());
    assert_eq!(claimed(&store.database, 10).await.1, []);
    server.sql("postgres", "drop trigger refuse on numbers.outbox").unwrap();
    count_all(&store, &["a"]).await.unwrap();
    assert_eq!(claimed(&store.database, 10).await.1, [("a".into(), vec![1])]);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn rows_of_a_lost_session_are_sent_by_the_next_one() {
    let server = server();
    let store = store(&server).await;
    count_all(&store, &["a"]).await.unwrap();
    let (claim, ..) = claimed(&store.database, 10).await;
    let end = "select count(pg_terminate_backend(pid)) from pg_locks where locktype = 'advisory'";
    assert_eq!(server.sql("postgres", end).unwrap(), "1");
    drop(claim);
    assert_eq!(published(&store.database).await, [("a".into(), vec![1])]);
    assert_eq!(rows(&server), "0");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn rows_of_a_frozen_process_are_adopted() {
    let server = server();
    let limits = Limits { idle_session: Duration::from_millis(200), ..Limits::default() };
    let (frozen, other) = (Store::<Numbers>::new(database_with(&server, limits).await), database(&server).await);
    count_all(&frozen, &["a"]).await.unwrap();
    // It does not use its session any more.
    assert_eq!(published(&other).await, [("a".into(), vec![1])]);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn a_process_whose_last_claim_failed_adopts_nothing() {
    let server = server();
    let (store, other) = (store(&server).await, Store::<Numbers>::new(database(&server).await));
    count_all(&store, &["a"]).await.unwrap();
    count_all(&other, &["b"]).await.unwrap();
    // Without a publication.
    drop(claimed(&store.database, 10).await);
    other.database.close().await;
    let sessions = "select count(*) from pg_locks where locktype = 'advisory'";
    contract::eventually(async || server.sql("postgres", sessions).unwrap() == "1").await;
    store.database.search.again();
    let (claim, subjects, ids) = claimed(&store.database, 10).await;
    assert_eq!(subjects, [("a".into(), vec![1])]);
    store.database.delete_sent(claim.sent(&ids)).await.unwrap();
    assert_eq!(published(&store.database).await, [("b".into(), vec![1])]);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn rows_are_sent_even_if_the_result_of_their_adoption_is_lost() {
    let server = server();
    let database = database(&server).await;
    // The adoption is committed before the program finds out that it cannot read the row.
    server
        .sql("postgres", "insert into numbers.outbox (subject, revision, headers, body) values ('a', 1, '?', '')")
        .unwrap();
    contract::eventually(async || matches!(database.claim_outbox(1).await.map(drop), Err(Error::Data(_)))).await;
    server.sql("postgres", "update numbers.outbox set headers = '[]'").unwrap();
    assert_eq!(published(&database).await, [("a".into(), vec![1])]);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn a_search_uses_the_index() {
    let server = server();
    // The plan is what counts. A busy machine may need longer than the limit of a service.
    let limit = Duration::from_secs(60);
    let limits = Limits { statement: limit, read: limit, ..Limits::default() };
    let database = database_with(&server, limits).await;
    let fill = "insert into numbers.outbox (subject, revision, headers, body)
        select 's' || n, 1, '[]', '' from generate_series(1, 20000) n; analyze numbers.outbox";
    server.sql("postgres", fill).unwrap();
    let plan = server
        .sql(
            "postgres",
            &format!("set search_path = numbers; set enable_seqscan = off; explain {}", outbox::explained()),
        )
        .unwrap();
    assert!(plan.contains("Index Cond: (id > 0)") && !plan.contains("Seq Scan on outbox"), "{plan}");
    let mut sent = 0;
    contract::eventually(async || {
        // Not after a pause: it is longer for each page than the bound of this wait allows on a busy machine.
        database.search.again();
        let (claim, subjects, ids) = claimed(&database, 20_000).await;
        database.delete_sent(claim.sent(&ids)).await.unwrap();
        sent += subjects.len();
        sent == 20_000
    })
    .await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn a_search_that_the_server_ends_leaves_the_rows_in_memory() {
    let server = server();
    let store = store(&server).await;
    count_all(&store, &["a"]).await.unwrap();
    // The search updates rows; the relay only deletes them.
    let trigger = "create function numbers.refuse() returns trigger language plpgsql as $$
            begin raise exception 'on purpose' using errcode = '57014'; end $$;
        create trigger refuse before update on numbers.outbox for each row execute function numbers.refuse();
        insert into numbers.outbox (subject, revision, headers, body) values ('orphan', 1, '[]', '')";
    server.sql("postgres", trigger).unwrap();
    store.database.search.again();
    let (claim, subjects, ids) = claimed(&store.database, 10).await;
    assert_eq!(subjects, [("a".into(), vec![1])]);
    store.database.delete_sent(claim.sent(&ids)).await.unwrap();
    assert_eq!(store.database.handover.begin_read(), None, "nothing is read again");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn rows_that_nobody_sends_are_counted() {
    let server = server();
    let store = store(&server).await;
    count_all(&store, &["a"]).await.unwrap();
    drop(claimed(&store.database, 10).await);
    server
        .sql("postgres", "insert into numbers.outbox (subject, revision, headers, body) values ('b', 1, '[]', '')")
        .unwrap();
    store.database.search.again();
    // This claim fails too, so the row is not adopted.
    drop(claimed(&store.database, 10).await);
    assert_eq!(store.database.outbox_depth().await.unwrap(), 2);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn rows_that_an_earlier_version_holds_are_left_and_claimed_again() {
    let server = server();
    let store = store(&server).await;
    count_all(&store, &["a"]).await.unwrap();
    // A relay of an earlier version locks the rows that it publishes.
    let mut old = url_options(&server).connect().await.unwrap();
    old.execute("begin; select id from numbers.outbox for update").await.unwrap();
    let (claim, _, ids) = claimed(&store.database, 10).await;
    assert_eq!(store.database.delete_sent(claim.sent(&ids)).await.unwrap(), ids);
    assert_eq!(claimed(&store.database, 10).await.1, [("a".into(), vec![1])]);
    old.execute("delete from numbers.outbox; commit").await.unwrap();
    let (claim, _, ids) = claimed(&store.database, 10).await;
    assert_eq!(store.database.delete_sent(claim.sent(&ids)).await.unwrap(), [0; 0]);
}
