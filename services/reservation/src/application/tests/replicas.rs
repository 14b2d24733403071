//! Tests of the use cases on two replicas that share a store.

use eticket_local_servers::postgres::Postgres;
use eticket_store::postgres;

use super::*;

async fn replica(server: &Postgres) -> Fixture {
    let clock = Arc::new(ManualClock::new(now()));
    let options = postgres::options(&server.url("postgres")).unwrap();
    let migrations = &crate::outbound::postgres::MIGRATIONS;
    let database = postgres::Database::open(&options, "reservation", migrations, clock.clone()).await.unwrap();
    let store = postgres::Store::<crate::outbound::postgres::ReservationTables>::new(database.clone());
    fixture_on(Arc::new(store), Arc::new(database), clock)
}

async fn replicas() -> (Postgres, [Fixture; 2]) {
    let server = Postgres::start().unwrap();
    let replicas = [replica(&server).await, replica(&server).await];
    (server, replicas)
}

/// Returns the revisions of all rows in the outbox, in ascending order. Each replica claims only its own.
fn waiting(server: &Postgres) -> Vec<i64> {
    let rows = server.sql("postgres", "select revision from reservation.outbox order by revision").unwrap();
    rows.lines().map(|revision| revision.parse().unwrap()).collect()
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn one_of_a_hundred_concurrent_reservations_at_two_replicas_succeeds() {
    let (server, replicas) = replicas().await;
    for ticket in ["hot", "hotter"] {
        let attempts = (0..100).map(|number| replicas[number % 2].reserve(ticket, None));
        let outcomes = futures::future::join_all(attempts).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == HELD).count(), 99);
    }
    assert_eq!(waiting(&server).len(), 2, "one event per effect");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn attempts_at_two_replicas_have_one_effect_and_one_response() {
    let (server, [one, other]) = replicas().await;
    for round in 0..20 {
        let (id, ticket) = (Some(Uuid::new_v4()), format!("t-{round}"));
        let (first, second) = tokio::join!(one.reserve(&ticket, id), other.reserve(&ticket, id));
        let (first, second) = (first.expect("reserved"), second.expect("replayed"));
        assert_eq!(first.bytes, second.bytes, "the same bytes");
        assert!(first.replayed != second.replayed, "only the second response is replayed");
    }
    assert_eq!(waiting(&server).len(), 20);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn commands_at_two_replicas_take_consecutive_revisions() {
    let (server, replicas) = replicas().await;
    for _ in 0..20 {
        // Both replicas try at the same time, in either order. A replica that reserves the ticket cancels it again.
        futures::future::join_all(replicas.iter().map(async |replica| {
            if let Ok(answer) = replica.reserve("t-1", None).await {
                replica.cancel(id_in(&Ok(answer))).await.expect("cancelled");
            }
        }))
        .await;
        let revisions = waiting(&server);
        let count = i64::try_from(revisions.len()).unwrap();
        assert_eq!(revisions, (1..=count).collect::<Vec<_>>(), "consecutive revisions");
    }
}
