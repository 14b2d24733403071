//! Tests of the use cases over a real store.

use std::{fs, path::Path, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use eticket_base::{
    clock::{ManualClock, SystemClock},
    tasks::Tasks,
};
use eticket_bus::Message;
use eticket_proto::event::PriceEvent;
use eticket_service::{
    audit::{Owner, republish_all},
    batch::Limits,
    consumer::EventHandler,
};
use eticket_store::{
    OutboxStore, ParkedStore, StoreLifecycle,
    sqlite::{Database, Store},
};
use prost::Message as _;
use tokio::time::Instant;

use super::*;
use crate::{
    inbound::policy_watch::{self, PolicyWatch},
    outbound::{messages::PROTOBUF, sqlite},
    policy_file,
};

struct Fixture {
    prices: Prices,
    database: Database,
    folder: tempfile::TempDir,
}

/// How long the file must stay unchanged before it is used.
const SETTLE: Duration = Duration::from_secs(5);

/// A Wednesday in Seoul.
fn start() -> DateTime<Utc> {
    "2027-01-06T10:00:00Z".parse().expect("a time")
}

fn policy(version: i64, base_price: u64) -> String {
    policy_file::DEFAULT
        .replace("version: 1\n", &format!("version: {version}\n"))
        .replace("10000 KRW\n\n", &format!("{base_price} KRW\n\n"))
}

fn parsed(version: i64, base_price: u64) -> Policy {
    policy_file::parse(&policy(version, base_price)).expect("a policy")
}

fn id(text: &str) -> TicketId {
    text.parse().expect("an id")
}

impl Fixture {
    async fn new() -> Self {
        Self::on(tempfile::tempdir().expect("a folder")).await
    }

    async fn on(folder: tempfile::TempDir) -> Self {
        let clock: SharedClock = Arc::new(ManualClock::new(start()));
        let path = folder.path().join("pricing.db");
        let database = Database::open(&path, &sqlite::MIGRATIONS, clock.clone()).await.expect("a store");
        let store = Arc::new(Store::<sqlite::PriceTables>::new(database.clone()));
        let writer = PriceWriter { store: store.clone(), messages: PROTOBUF, clock };
        let writer = Batches::start("pricing", &Tasks::new(), Limits::default(), writer);
        Self { prices: Prices::new(store, writer), database, folder }
    }

    async fn with_policy() -> Self {
        let fixture = Self::new().await;
        assert_eq!(fixture.prices.offer(parsed(1, 10_000)).await, Ok(Offer::Adopt));
        fixture
    }

    async fn handle(&self, events: Vec<Incoming<PriceInput>>) {
        for outcome in self.prices.handle(events).await {
            assert_eq!(outcome, Ok(()));
        }
    }

    async fn won(&self, ticket: &str) -> i64 {
        let row = self.prices.row(&id(ticket)).await.expect("read").expect("a row");
        row.price.expect("a price").discounted_price.units()
    }

    /// Returns the revisions and prices of the events in the outbox, in the order of the relay.
    async fn published(&self) -> Vec<(i64, i64)> {
        let mut claim = self.database.claim_outbox(1_000).await.expect("read");
        let rows = claim.subjects().into_iter().flatten();
        rows.map(|row| {
            let event = PriceEvent::decode(row.message.body).expect("an event");
            let price = event.price.expect("a price");
            assert_eq!(row.revision, price.revision);
            (price.revision, price.discounted_price.expect("an amount").units)
        })
        .collect()
    }

    fn watch(&self) -> PolicyWatch {
        PolicyWatch::new(self.prices.clone(), Some(self.policy_file()), SETTLE)
    }

    fn policy_file(&self) -> std::path::PathBuf {
        self.folder.path().join("policy.yaml")
    }
}

fn incoming(ticket: &str, input: Input) -> Incoming<PriceInput> {
    let event = PriceInput { ticket: id(ticket), input };
    Incoming {
        event,
        message: Arc::new(Message::default()),
        event_id: "e".into(),
        was_parked: false,
        trace: TraceContext::new_root(),
    }
}

fn scheduled(ticket: &str, revision: i64) -> Incoming<PriceInput> {
    incoming(ticket, Input::Schedule(Schedule { start: start(), revision }))
}

fn held(ticket: &str, revision: i64, grade: Option<UserGrade>) -> Incoming<PriceInput> {
    incoming(ticket, Input::Holder(Holder { grade, revision }))
}

#[tokio::test]
async fn a_price_and_its_event_are_committed_together() {
    let fixture = Fixture::with_policy().await;
    fixture.handle(vec![scheduled("t", 1)]).await;
    fixture.handle(vec![held("t", 1, Some(UserGrade::Vip))]).await;
    fixture.handle(vec![held("t", 2, None)]).await;
    assert_eq!(fixture.won("t").await, 8_000);
    assert_eq!(fixture.published().await, [(1, 8_000), (2, 7_000), (3, 8_000)]);
}

#[tokio::test]
async fn events_of_one_ticket_in_one_batch_build_on_each_other() {
    let fixture = Fixture::with_policy().await;
    fixture
        .handle(vec![
            held("t", 1, Some(UserGrade::Silver)),
            scheduled("t", 1),
            held("t", 3, Some(UserGrade::Vip)),
            held("t", 2, None),
        ])
        .await;
    assert_eq!(fixture.won("t").await, 7_000, "the late cancellation of an earlier reservation is stale");
    assert_eq!(fixture.published().await, [(1, 8_000), (2, 7_000)], "one event per computation");
}

#[tokio::test]
async fn a_reservation_before_its_ticket_is_stored() {
    let fixture = Fixture::with_policy().await;
    fixture.handle(vec![held("t", 1, Some(UserGrade::Vip))]).await;
    assert_eq!(fixture.published().await, []);
    fixture.handle(vec![scheduled("t", 1)]).await;
    assert_eq!(fixture.published().await, [(1, 7_000)]);
}

#[tokio::test]
async fn repeated_events_change_nothing() {
    let fixture = Fixture::with_policy().await;
    for _ in 0..3 {
        fixture.handle(vec![scheduled("t", 1), held("t", 1, Some(UserGrade::Vip))]).await;
    }
    assert_eq!(fixture.published().await, [(1, 8_000), (2, 7_000)]);
}

#[tokio::test]
async fn without_a_policy_events_are_not_applied() {
    let fixture = Fixture::new().await;
    let outcome = fixture.prices.handle(vec![scheduled("t", 1)]).await;
    assert!(matches!(outcome[..], [Err(batch::Error::Failed(_))]), "{outcome:?}");
    assert_eq!(fixture.prices.row(&id("t")).await.expect("read"), None);
    assert_eq!(fixture.prices.reprice().await, Ok(0));
}

#[tokio::test]
async fn republishing_sends_every_price_once_and_raises_no_revision() {
    let fixture = Fixture::with_policy().await;
    fixture.handle((0..5).map(|number| scheduled(&format!("t{number}"), 1)).collect()).await;
    fixture.handle(vec![held("waits", 1, None)]).await;
    let states = events::PriceStates::new(fixture.prices.clone(), PROTOBUF, Arc::new(SystemClock));
    assert_eq!(states.count().await, Ok(5));
    let heard = std::sync::Mutex::new(Vec::new());
    let count = republish_all(&states, &|count| heard.lock().expect("no panic").push(count)).await;
    assert_eq!((count, heard.into_inner().expect("no panic")), (Ok(5), vec![5]));
    assert_eq!(fixture.published().await, [(1, 8_000); 10], "new rows in addition to the waiting ones");
}

#[tokio::test]
async fn a_parked_event_that_is_applied_is_no_longer_parked() {
    let fixture = Fixture::with_policy().await;
    let event = scheduled("t", 1);
    fixture.prices.park(event.park("no reason", 5, start())).await.expect("parked");
    assert!(fixture.database.parked_by_id("e").await.expect("read").is_some());
    fixture.handle(vec![Incoming { was_parked: true, ..event }]).await;
    assert_eq!(fixture.database.parked_by_id("e").await.expect("read"), None);
    assert_eq!(fixture.won("t").await, 8_000);
}

#[tokio::test]
async fn the_highest_adopted_policy_is_in_force_after_a_restart() {
    let fixture = Fixture::with_policy().await;
    assert_eq!(fixture.prices.offer(parsed(3, 20_000)).await, Ok(Offer::Adopt));
    assert_eq!(fixture.prices.offer(parsed(2, 1)).await, Ok(Offer::Lower));
    assert_eq!(fixture.prices.offer(parsed(3, 1)).await, Ok(Offer::OtherContent));
    fixture.database.close().await;
    let again = Fixture::on(fixture.folder).await;
    assert_eq!(again.prices.offer(parsed(3, 20_000)).await, Ok(Offer::Same));
    assert_eq!(again.prices.policy_in_force().await.expect("read"), Some(parsed(3, 20_000)));
    let quote = again.prices.quote(start(), Some(UserGrade::Vip)).await.expect("read").expect("a quote");
    assert_eq!(quote.discounted_price.units(), 15_000);
}

#[tokio::test]
async fn a_new_policy_reprices_only_tickets_without_a_holder() {
    let fixture = Fixture::with_policy().await;
    fixture.handle(vec![scheduled("free", 1), scheduled("held", 1), held("held", 1, Some(UserGrade::Vip))]).await;
    fixture.prices.offer(parsed(2, 20_000)).await.expect("adopted");
    assert_eq!(fixture.prices.reprice().await, Ok(1));
    assert_eq!(fixture.prices.reprice().await, Ok(0), "only once");
    assert_eq!((fixture.won("free").await, fixture.won("held").await), (16_000, 7_000));
    fixture.handle(vec![held("held", 2, None)]).await;
    assert_eq!(fixture.won("held").await, 16_000, "repriced by the next event");
}

#[tokio::test]
async fn changes_of_the_policy_file_are_adopted() {
    let fixture = Fixture::with_policy().await;
    fixture.handle(vec![scheduled("t", 1)]).await;
    let write = |text: &str| fs::write::<&Path, _>(&fixture.policy_file(), text).expect("written");
    let mut watch = fixture.watch();
    let mut now = Instant::now();
    assert_eq!(watch.run_once(now).await, policy_watch::Outcome::Unreadable, "a missing file changes nothing");
    write(&policy(2, 20_000));
    assert_eq!(watch.run_once(now).await, policy_watch::Outcome::Changing);
    now += SETTLE;
    assert_eq!(watch.run_once(now).await, policy_watch::Outcome::Offered(Offer::Adopt));
    assert_eq!(fixture.won("t").await, 16_000, "recomputed");
    assert_eq!(watch.run_once(now).await, policy_watch::Outcome::Unchanged);
    for (text, expected) in [
        ("version: [", policy_watch::Outcome::Unreadable),
        (policy(2, 1).as_str(), policy_watch::Outcome::Offered(Offer::OtherContent)),
        (policy(1, 1).as_str(), policy_watch::Outcome::Offered(Offer::Lower)),
    ] {
        write(text);
        assert_eq!(watch.run_once(now).await, policy_watch::Outcome::Changing);
        now += SETTLE;
        assert_eq!(watch.run_once(now).await, expected);
        assert_eq!(watch.run_once(now).await, policy_watch::Outcome::Unchanged, "reported once");
        assert_eq!(fixture.prices.policy_in_force().await.expect("read"), Some(parsed(2, 20_000)));
    }
}

#[tokio::test]
async fn outdated_prices_are_recomputed_at_the_start() {
    let fixture = Fixture::with_policy().await;
    fixture.handle(vec![scheduled("t", 1)]).await;
    fixture.prices.offer(parsed(2, 20_000)).await.expect("adopted by a process that ends before it reprices");
    PolicyWatch::new(fixture.prices.clone(), None, SETTLE).run_once(Instant::now()).await;
    assert_eq!(fixture.won("t").await, 16_000);
}

#[tokio::test]
async fn a_partly_written_file_is_not_used() {
    let fixture = Fixture::with_policy().await;
    let write = |text: &str| fs::write::<&Path, _>(&fixture.policy_file(), text).expect("written");
    let whole = policy(2, 20_000);
    let half = whole.split("  - rule_id: vip").next().expect("a part").to_owned();
    assert!(policy_file::parse(&half).is_ok(), "half of a policy is a valid policy");
    let (mut watch, begun) = (fixture.watch(), Instant::now());
    // Set an old modification time: it must be ignored, because the service has already read another text.
    write(&policy(1, 10_000));
    watch.run_once(begun).await;
    write(&half);
    let past = std::time::SystemTime::now() - SETTLE * 10;
    fs::File::options().write(true).open(fixture.policy_file()).and_then(|file| file.set_modified(past)).expect("old");
    for seconds in [1, 2, 5] {
        let outcome = watch.run_once(begun + Duration::from_secs(seconds)).await;
        assert_eq!(outcome, policy_watch::Outcome::Changing, "{seconds} s");
    }
    write(&whole);
    for (seconds, expected) in [
        (6, policy_watch::Outcome::Changing),
        (10, policy_watch::Outcome::Changing),
        (11, policy_watch::Outcome::Offered(Offer::Adopt)),
    ] {
        assert_eq!(watch.run_once(begun + Duration::from_secs(seconds)).await, expected, "{seconds} s");
    }
    assert_eq!(fixture.prices.policy_in_force().await.expect("read"), Some(parsed(2, 20_000)));
    // A single read never suffices, however long ago the previous read was.
    write(&policy(3, 1));
    let outcome = watch.run_once(begun + Duration::from_secs(3_600)).await;
    assert_eq!(outcome, policy_watch::Outcome::Changing);
}

#[tokio::test]
async fn the_start_uses_only_a_settled_file() {
    let in_force =
        async |fixture: &Fixture| fixture.prices.policy_in_force().await.expect("read").map(|policy| policy.version());
    let modified = |fixture: &Fixture, time: std::time::SystemTime| {
        let file = fs::File::options().write(true).open(fixture.policy_file()).expect("a file");
        file.set_modified(time).expect("a time");
    };
    let now = std::time::SystemTime::now();
    // A store with a policy keeps using it while the file settles.
    let fixture = Fixture::with_policy().await;
    fs::write(fixture.policy_file(), policy(2, 20_000)).expect("written");
    modified(&fixture, now + SETTLE * 1_000);
    fixture.watch().begin().await.expect("begun");
    assert_eq!(in_force(&fixture).await, Some(1), "written just now");
    modified(&fixture, now - SETTLE * 2);
    fixture.watch().begin().await.expect("begun");
    assert_eq!(in_force(&fixture).await, Some(2), "not written for a long time");

    // A new store has no policy, so the start waits until the file has settled.
    let fixture = Fixture::new().await;
    let begun = Instant::now();
    fs::write(fixture.policy_file(), policy(3, 20_000)).expect("written");
    let settle = Duration::from_secs(2);
    let mut watch = PolicyWatch::new(fixture.prices.clone(), Some(fixture.policy_file()), settle);
    watch.begin().await.expect("begun");
    assert_eq!(in_force(&fixture).await, Some(3));
    assert!(begun.elapsed() >= settle - Duration::from_millis(100), "{:?}", begun.elapsed());

    fs::write(fixture.policy_file(), "version: [").expect("written");
    modified(&fixture, now - SETTLE * 2);
    assert_eq!(fixture.watch().begin().await.expect_err("no policy").code(), 78);
}
