//! Servers that refuse, delay, freeze, die and recover.

use std::time::Instant;

use rustix::process::Signal;
use sqlx::{ConnectOptions, Executor};

use super::*;

/// Makes the next `times` writes fail with this code.
fn fail(server: &Postgres, code: &str, times: u32) {
    let statements = format!(
        "create sequence if not exists numbers.failures;
        create or replace function numbers.fail() returns trigger language plpgsql as $$ begin
            if nextval('numbers.failures') <= {times} then raise exception 'on purpose' using errcode = '{code}'; end if;
            return null;
        end $$;
        drop trigger if exists fail on numbers.number;
        select setval('numbers.failures', 1, false);
        create trigger fail after insert or update on numbers.number execute function numbers.fail()"
    );
    server.sql("postgres", &statements).unwrap();
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn errors_are_classified_and_leave_nothing() {
    let server = server();
    let store = store(&server).await;
    for code in ["22001", "23514", "23503", "54000"] {
        fail(&server, code, 1);
        let refused = count_all(&store, &["x"]).await;
        assert!(matches!(refused, Err(Error::Data(_))), "{code}: {refused:?}");
    }
    // Disk full, too many connections, read-only, missing privilege, missing table, I/O error, timeout, lock timeout,
    // bug of the server.
    for code in ["53100", "53300", "25006", "42501", "42P01", "58030", "57014", "55P03", "XX000"] {
        fail(&server, code, 1);
        let refused = count_all(&store, &["x"]).await;
        assert!(matches!(refused, Err(Error::Unavailable(_))), "{code}: {refused:?}");
    }
    for code in ["40P01", "40001"] {
        fail(&server, code, ATTEMPTS);
        let refused = count_all(&store, &["x"]).await;
        assert!(matches!(refused, Err(Error::Unavailable(_))), "{code}: {refused:?}");
    }
    assert_eq!((value(&store, "x").await, store.database.outbox_depth().await.unwrap()), (0, 0));
    for code in ["40P01", "40001"] {
        fail(&server, code, ATTEMPTS - 1);
        count_all(&store, &["x"]).await.unwrap();
    }
    assert_eq!(waiting(&store.database, "x").await, [1, 2], "retried, with one effect");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn a_wait_for_a_lock_ends_at_its_limit() {
    let server = server();
    let store = store(&server).await;
    count_all(&store, &["x"]).await.unwrap();
    let mut other_session = url_options(&server).connect().await.unwrap();
    other_session.execute("begin; update numbers.number set value = 7").await.unwrap();
    let begun = Instant::now();
    let refused = count_all(&store, &["x"]).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    let limits = Limits::default();
    assert!(begun.elapsed() >= limits.lock && begun.elapsed() < limits.commit, "{:?}", begun.elapsed());
    count_all(&store, &["y"]).await.unwrap();
    other_session.execute("rollback").await.unwrap();
    count_all(&store, &["x"]).await.unwrap();
    assert_eq!(value(&store, "x").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn a_commit_is_lost_with_a_dying_server_and_the_next_one_succeeds() {
    let mut server = server();
    let store = store(&server).await;
    count_all(&store, &["x"]).await.unwrap();
    let apply_batch = &mut |work: &mut Work<Rows<String, i64>>| {
        count(work, "x");
        server.kill().unwrap();
    };
    let lost = store.commit(&keys(&["x"]), &[], apply_batch).await;
    assert!(matches!(lost, Err(Error::Unavailable(_))), "{lost:?}");
    // While the server is down, every operation fails soon.
    let begun = Instant::now();
    assert!(matches!(count_all(&store, &["x"]).await, Err(Error::Unavailable(_))));
    assert!(matches!(store.database.ping().await, Err(Error::Unavailable(_))));
    // The row is in memory. It was sent, maybe, and cannot be deleted.
    let mut claim = store.database.claim_outbox(1).await.unwrap();
    let ids: Vec<i64> = claim.subjects().into_iter().flatten().map(|row| row.id).collect();
    assert_eq!(ids.len(), 1);
    assert!(matches!(store.database.delete_sent(claim.sent(&ids)).await, Err(Error::Unavailable(_))));
    assert!(matches!(store.database.record(Uuid::nil()).await, Err(Error::Unavailable(_))));
    assert!(begun.elapsed() < Limits::default().commit, "{:?}", begun.elapsed());
    server.start_again().unwrap();
    store.database.ping().await.unwrap();
    assert_eq!((value(&store, "x").await, waiting(&store.database, "x").await), (1, vec![1]));
    count_all(&store, &["x"]).await.unwrap();
    assert_eq!(value(&store, "x").await, 2);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn a_restart_between_two_commits_fails_neither() {
    let mut server = server();
    let store = store(&server).await;
    count_all(&store, &["x"]).await.unwrap();
    server.stop().unwrap();
    server.start_again().unwrap();
    count_all(&store, &["x"]).await.unwrap();
    assert_eq!(value(&store, "x").await, 2);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn a_frozen_server_costs_each_call_its_limit_and_no_connection() {
    let server = server();
    let short = Duration::from_millis(300);
    let limits = Limits { connect: short, read: short, commit: short, ping: short, ..Limits::default() };
    let store = Store::<Numbers>::new(database_with(&server, limits).await);
    count_all(&store, &["x"]).await.unwrap();
    let (mut claim, begun) = (store.database.claim_outbox(1).await.unwrap(), Instant::now());
    let ids: Vec<i64> = claim.subjects().into_iter().flatten().map(|row| row.id).collect();
    server.signal(Signal::STOP).unwrap();
    for _ in 0..3 {
        // More concurrent reads than connections: none of them keeps its place in the pool.
        let reads = futures::future::join_all((0..8).map(|_| store.database.record(Uuid::nil()))).await;
        assert!(reads.iter().all(|read| matches!(read, Err(Error::Unavailable(_)))), "{reads:?}");
        assert!(matches!(count_all(&store, &["x"]).await, Err(Error::Unavailable(_))));
        assert!(matches!(store.database.ping().await, Err(Error::Unavailable(_))));
    }
    assert!(matches!(store.database.delete_sent(claim.sent(&ids)).await, Err(Error::Unavailable(_))));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    // If the server never returns at this address, no connection may remain.
    contract::eventually(async || store.database.readers.size() + store.database.housekeepers.size() == 0).await;
    server.signal(Signal::CONT).unwrap();
    contract::eventually(async || store.database.ping().await.is_ok()).await;
    contract::eventually(async || store.database.record(Uuid::nil()).await.is_ok()).await;
    contract::eventually(async || count_all(&store, &["x"]).await.is_ok()).await;
    contract::eventually(async || !waiting(&store.database, "x").await.is_empty()).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn connections_to_a_read_only_server_are_replaced() {
    let server = server();
    let store = store(&server).await;
    count_all(&store, &["x"]).await.unwrap();
    let others =
        "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name like 'eticket-%'";
    // As after a failover in which the host name still refers to the old server.
    server.sql("postgres", "alter database postgres set default_transaction_read_only = on").unwrap();
    server.sql("postgres", others).unwrap();
    contract::eventually(async || store.database.ping().await.is_err_and(|error| is_read_only(&error))).await;
    assert!(matches!(count_all(&store, &["x"]).await, Err(Error::Unavailable(_))));
    server.sql("template1", "alter database postgres reset all").unwrap();
    count_all(&store, &["x"]).await.unwrap();
    assert_eq!(value(&store, "x").await, 2);
}

fn is_read_only(error: &Error) -> bool {
    matches!(error, Error::Unavailable(sqlx::Error::Protocol(text)) if text.contains("read-only"))
}
