//! Comparisons over the in-memory bus, with an owner and a replica that are maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use eticket_base::clock::SystemClock;
use eticket_bus::{Bus, Bytes, memory::Stream};
use eticket_store::{
    Commit, OutboxRow, Work,
    memory::{Store, Tables},
};
use prost::Message as _;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::AuditConfig;

/// Revisions by subject.
type Revisions = Mutex<BTreeMap<String, i64>>;

/// An owner, and the revisions that a replica has applied of it.
#[derive(Default)]
struct Both {
    owned: Revisions,
    applied: Revisions,
    republished: Mutex<Vec<String>>,
    /// If set, republished states do not arrive.
    cut: AtomicBool,
    padding: usize,
}

impl Both {
    fn new(owned: &[(&str, i64)], applied: &[(&str, i64)]) -> Arc<Self> {
        let map =
            |pairs: &[(&str, i64)]| Mutex::new(pairs.iter().map(|(name, it)| ((*name).to_owned(), *it)).collect());
        Arc::new(Self { owned: map(owned), applied: map(applied), ..Self::default() })
    }

    fn republished(&self) -> Vec<String> {
        self.republished.lock().unwrap().clone()
    }
}

#[async_trait]
impl Owner for Both {
    async fn count(&self) -> Result<u64, batch::Error> {
        Ok(self.owned.lock().unwrap().len() as u64)
    }

    async fn states(&self, after: &str, most: usize) -> Result<Vec<State>, batch::Error> {
        let owned = self.owned.lock().unwrap();
        let above = owned.iter().filter(|(subject, _)| subject.as_str() > after).take(most);
        let state = |(subject, revision): (&String, &i64)| {
            let body = format!("{revision:0>width$}", width = self.padding.max(1));
            let message = Message { subject: subject.clone(), body: body.into(), ..Message::default() };
            State { key: subject.clone(), message }
        };
        Ok(above.map(state).collect())
    }

    async fn republish(&self, subjects: &[String]) -> Result<u64, batch::Error> {
        for subject in subjects {
            let revision = self.owned.lock().unwrap()[subject];
            self.republished.lock().unwrap().push(subject.clone());
            if !self.cut.load(Ordering::Relaxed) {
                self.applied.lock().unwrap().insert(subject.clone(), revision);
            }
        }
        Ok(subjects.len() as u64)
    }
}

#[async_trait]
impl Replica for Both {
    async fn missing(&self, states: Vec<Message>) -> Result<Vec<Message>, batch::Error> {
        let applied = self.applied.lock().unwrap();
        let revision = |state: &Message| std::str::from_utf8(&state.body).unwrap().parse::<i64>().unwrap();
        let known = |state: &Message| applied.get(&state.subject).copied().unwrap_or(0);
        Ok(states.into_iter().filter(|state| known(state) < revision(state)).collect())
    }
}

/// A service without tables.
#[derive(Default, Clone)]
struct Nothing;

impl Tables for Nothing {
    type Keys = ();
    type Rows = ();

    fn locks(&self, (): &()) -> BTreeSet<String> {
        BTreeSet::new()
    }

    fn read(&self, (): &()) {}

    fn write(&mut self, (): &()) -> Result<(), store::Error> {
        Ok(())
    }
}

const CONFIRM: Duration = Duration::from_secs(10);

struct Fixture {
    store: Store<Nothing>,
    comparer: Comparer,
    stopping: CancellationToken,
}

/// Serves `owner` as the owner of the name `owner`.
fn fixture(owner: &Arc<Both>, rows_per_second: u64) -> Fixture {
    let stream = Stream::default();
    let (store, stopping) = (Store::new(Arc::new(SystemClock)), CancellationToken::new());
    let bus: Arc<dyn Bus> = Arc::new(stream.connect());
    let responder =
        Responder { service: "owner", bus: bus.clone(), owner: owner.clone(), store: Arc::new(store.clone()) };
    tokio::spawn(responder.run(stopping.clone()));
    let config = AuditConfig { rows_per_second, confirm_after_ms: u64::try_from(CONFIRM.as_millis()).unwrap() };
    Fixture { store, comparer: Comparer { service: "test", owners: &["owner"], bus, config }, stopping }
}

async fn serving(fixture: &Fixture) {
    while fixture.comparer.count_of("owner").await.is_err() {
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_state_missing_in_two_checks_is_republished() {
    let both = Both::new(&[("a", 2), ("b", 1), ("c", 1)], &[("a", 1), ("b", 1)]);
    let fixture = fixture(&both, 200);
    serving(&fixture).await;
    let before = Instant::now();
    fixture.comparer.pass(&*both, "owner").await.unwrap();
    assert_eq!(both.republished(), ["a", "c"]);
    assert!(before.elapsed() >= CONFIRM, "checked twice");
    fixture.comparer.pass(&*both, "owner").await.unwrap();
    assert_eq!(both.republished().len(), 2, "no further request");
}

#[tokio::test(start_paused = true)]
async fn a_state_that_arrives_between_the_checks_is_not_requested() {
    let both = Both::new(&[("a", 2)], &[("a", 1)]);
    let fixture = fixture(&both, 200);
    serving(&fixture).await;
    let late = async {
        sleep(CONFIRM / 2).await;
        both.applied.lock().unwrap().insert("a".to_owned(), 3);
    };
    tokio::join!(async { fixture.comparer.pass(&*both, "owner").await.unwrap() }, late);
    assert!(both.republished().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_comparison_repeats_in_the_background_and_can_be_disabled() {
    let both = Both::new(&[("a", 1)], &[]);
    let Fixture { mut comparer, stopping, .. } = fixture(&both, 0);
    timeout(CONFIRM, comparer.clone().run(both.clone(), stopping.clone())).await.expect("disabled");
    comparer.config.rows_per_second = 200;
    let running = tokio::spawn(comparer.run(both.clone(), stopping.clone()));
    for revision in [1, 2] {
        both.owned.lock().unwrap().insert("a".to_owned(), revision);
        let applied = async {
            while both.applied.lock().unwrap().get("a") != Some(&revision) {
                sleep(Duration::from_secs(1)).await;
            }
        };
        timeout(CONFIRM * 4, applied).await.expect("found");
    }
    stopping.cancel();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_missing_owner_and_an_unknown_request_are_errors() {
    let both = Both::new(&[], &[]);
    let fixture = fixture(&both, 200);
    assert!(matches!(fixture.comparer.pass(&*both, "another").await, Err(Error::Silent(_))));
    serving(&fixture).await;
    // A request of a later version of the protocol.
    let answer = fixture.comparer.bus.request("owner", Bytes::new()).await.unwrap().expect("a response");
    let answer = eticket_proto::audit::AuditResponse::decode(answer).unwrap();
    assert!(format!("{answer:?}").contains("does not know"), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn states_are_compared_in_bounded_pages_at_the_configured_rate() {
    let owned = (0..2_000).map(|number| (format!("s-{number:04}"), 1)).collect();
    let both = Arc::new(Both { owned: Mutex::new(owned), padding: 4_000, ..Both::default() });
    let fixture = fixture(&both, 100);
    serving(&fixture).await;
    let before = Instant::now();
    fixture.comparer.pass(&*both, "owner").await.unwrap();
    assert_eq!(both.republished().len(), 2_000);
    assert!(before.elapsed() >= Duration::from_secs(18), "{:?}", before.elapsed());
    let request = |page_size| {
        let list = eticket_proto::audit::ListStatesRequest { after: String::new(), page_size };
        let request = Some(eticket_proto::audit::audit_request::Request::ListStates(list));
        Bytes::from(eticket_proto::audit::AuditRequest { request }.encode_to_vec())
    };
    let largest = fixture.comparer.bus.request("owner", request(i32::MAX)).await.unwrap().expect("a page");
    assert!((400_000..600_000).contains(&largest.len()), "{}", largest.len());
    assert!(!fixture.comparer.bus.request("owner", request(-1)).await.unwrap().expect("a page").is_empty());
}

#[tokio::test(start_paused = true)]
async fn filling_waits_for_republished_states_with_a_bound() {
    let both = Both::new(&[("a", 1), ("b", 1)], &[("a", 1)]);
    let fixture = fixture(&both, 0);
    serving(&fixture).await;
    assert_eq!(fixture.comparer.fill(&*both, "owner").await.unwrap(), 1);
    assert_eq!(both.applied.lock().unwrap().len(), 2);
    assert_eq!(fixture.comparer.fill(&*both, "owner").await.unwrap(), 0);
    both.cut.store(true, Ordering::Relaxed);
    both.owned.lock().unwrap().insert("c".to_owned(), 1);
    assert_eq!(timeout(Duration::from_secs(60), fixture.comparer.fill(&*both, "owner")).await.unwrap().unwrap(), 1);
    assert_eq!(both.republished(), ["b", "c", "c", "c"], "requested three times");
}

#[tokio::test(start_paused = true)]
async fn an_owner_with_a_long_outbox_republishes_nothing() {
    let both = Both::new(&[("a", 1)], &[]);
    let fixture = fixture(&both, 200);
    serving(&fixture).await;
    let many = &mut |work: &mut Work<()>| {
        (0..1_001).for_each(|revision| work.publish(OutboxRow { revision, message: Message::default() }));
    };
    fixture.store.commit(&(), &[], many).await.unwrap();
    fixture.comparer.pass(&*both, "owner").await.unwrap();
    assert!(both.republished().is_empty());
}
