//! Many callers compete for one ticket: exactly one gets it, and all others get the reason.

use eticket_integration_tests::{Api, Protocol, process::Launch, race};
use tempfile::TempDir;

const CONNECTIONS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_a_thousand_callers_gets_the_ticket() {
    let data = TempDir::new().expect("a folder");
    // A thousand concurrent checks exceed the breaker's limits on a busy machine; the test is about the single winner.
    let eticket = Launch::all_in_one(data.path())
        .key("reservation.upstream.ticket.deadline_ms", "15000")
        .key("reservation.upstream.ticket.attempt_timeout_ms", "14000")
        .start()
        .await;
    let apis: Vec<Api> = (0..CONNECTIONS).map(|_| Api::new(&eticket, Protocol::Gateway)).collect();
    race::one_of_a_thousand_callers_gets_the_ticket(&apis).await;
    eticket.stop().await;
}
