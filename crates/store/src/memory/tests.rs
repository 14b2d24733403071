//! The in-memory store passes the contract suite, and shows the interleavings of transactions.

use std::sync::atomic::AtomicU32;

use eticket_base::clock::{Clock, ManualClock};
use eticket_bus::Message;
use futures::FutureExt;

use super::*;
use crate::{
    EncodedResponse, Idempotency, OutboxStore, ParkedStore, RecordStore, RequestIdReused, Rows, StoreLifecycle,
    StreamEpochStore, Work,
};

fn response(byte: u8) -> EncodedResponse {
    EncodedResponse { type_name: None, bytes: vec![byte].into(), replayed: false }
}

/// Numbers by name.
#[derive(Default, Clone)]
struct Numbers(BTreeMap<String, i64>);

impl Tables for Numbers {
    type Keys = Vec<&'static str>;
    type Rows = Rows<String, i64>;

    fn locks(&self, keys: &Self::Keys) -> BTreeSet<String> {
        keys.iter().filter(|key| self.0.contains_key(**key)).map(|key| (*key).to_owned()).collect()
    }

    fn read(&self, keys: &Self::Keys) -> Self::Rows {
        let mut rows = Rows::default();
        for key in keys {
            self.0.get(*key).into_iter().for_each(|number| rows.insert_read((*key).to_owned(), *number));
        }
        rows
    }

    fn write(&mut self, rows: &Self::Rows) -> Result<(), Error> {
        for (name, number) in rows.changed() {
            self.0.insert(name.clone(), *number);
            if *number > 100 {
                return Err(Error::data("too high a number"));
            }
        }
        Ok(())
    }
}

type Numbered = Work<Rows<String, i64>>;

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(DateTime::from_timestamp(1_000, 0).unwrap()))
}

fn store() -> Store<Numbers> {
    Store::new(clock())
}

fn add(work: &mut Numbered, name: &str, number: i64) {
    let sum = work.rows.get(&name.to_owned()).copied().unwrap_or(0) + number;
    work.rows.put(name.to_owned(), sum);
}

async fn number(store: &Store<Numbers>, name: &str) -> Option<i64> {
    store.look(|numbers| numbers.0.get(name).copied()).await.unwrap()
}

async fn make(store: &Store<Numbers>, name: &'static str) {
    store.commit(&vec![name], &[], &mut |work: &mut Numbered| add(work, name, 1)).await.unwrap();
}

fn row(subject: &str, revision: i64) -> OutboxRow {
    OutboxRow { revision, message: Message { subject: subject.to_owned(), ..Message::default() } }
}

async fn write(store: &Store<Numbers>, rows: &[OutboxRow]) {
    let apply_batch = &mut |work: &mut Numbered| rows.iter().cloned().for_each(|row| work.publish(row));
    store.commit(&vec![], &[], apply_batch).await.unwrap();
}

type Claimed = (crate::Claim, Vec<Vec<(String, i64)>>, Vec<i64>);

async fn claimed(store: &Store<Numbers>, most: usize) -> Claimed {
    let mut claim = store.claim_outbox(most).await.unwrap();
    let name = |row: &crate::WaitingRow| (row.message.subject.clone(), row.revision);
    let subjects = claim.subjects();
    let ids = subjects.iter().flatten().map(|row| row.id).collect();
    (claim, subjects.iter().map(|rows| rows.iter().map(name).collect()).collect(), ids)
}

#[tokio::test]
async fn a_failed_write_leaves_nothing() {
    let store = store();
    let apply_batch = &mut |work: &mut Numbered| {
        work.publish(row("a", 1));
        add(work, "low", 1);
        add(work, "top", 101);
    };
    assert!(matches!(store.commit(&vec!["low", "top"], &[], apply_batch).await, Err(Error::Data(_))));
    assert_eq!((number(&store, "low").await, store.outbox_depth().await.unwrap()), (None, 0));
}

#[tokio::test]
async fn a_transaction_sees_the_row_as_left_by_the_previous_one() {
    let store = store();
    make(&store, "n").await;
    let mut transaction = store.begin().await.unwrap();
    transaction.lock("n".to_owned()).await.unwrap();
    let apply_batch = &mut |work: &mut Numbered| add(work, "n", 10);
    let keys = vec!["n"];
    let mut other = store.commit(&keys, &[], apply_batch).boxed_local();
    assert!((&mut other).now_or_never().is_none(), "the row is locked");
    let mut work = transaction.read(&keys, &[]).expect("it is locked");
    add(&mut work, "n", 1);
    assert_eq!(transaction.commit(&keys, &[], &work).await.unwrap(), Outcome::Committed);
    other.await.unwrap();
    assert_eq!(number(&store, "n").await, Some(12));
}

#[tokio::test]
async fn an_overtaken_transaction_begins_again() {
    let store = store();
    let idempotency = Idempotency { request_id: Uuid::from_u128(1), hash: [1; 32] };
    let requests = [idempotency.request_id];
    // Neither row nor record exists when the first transaction reads, so nothing locks the second one out.
    let keys = vec!["n"];
    let mut transaction = store.begin().await.unwrap();
    let mut work = transaction.read(&keys, &requests).expect("there is nothing to lock");
    let mut effects = 0;
    let apply_batch = &mut |work: &mut Numbered| {
        let effect = |work: &mut Numbered| {
            effects += 1;
            add(work, "n", 1);
            Ok(response(7))
        };
        assert_eq!(work.run::<RequestIdReused>(Some(idempotency), effect), Ok(response(7)));
    };
    store.commit(&keys, &requests, apply_batch).await.unwrap();
    assert!(work.run::<RequestIdReused>(Some(idempotency), |_| Ok(response(9))).is_ok());
    assert_eq!(transaction.commit(&keys, &requests, &work).await.unwrap(), Outcome::Overtaken);
    assert_eq!(store.record(idempotency.request_id).await.unwrap().map(|it| it.response), Some(response(7)));
    assert_eq!((effects, number(&store, "n").await), (1, Some(1)));
}

#[tokio::test]
async fn each_process_sends_its_rows_and_adopts_those_of_dead_ones() {
    let store = store();
    let other = store.process(clock(), Arc::new(NoSteps));
    let of = |subject: &str, revisions: &[i64]| -> Vec<(String, i64)> {
        revisions.iter().map(|revision| (subject.to_owned(), *revision)).collect()
    };
    write(&store, &[row("a", 2), row("b", 1), row("a", 1)]).await;
    write(&other, &[row("a", 3), row("c", 1)]).await;
    let (one, subjects, ids) = claimed(&store, 9).await;
    assert_eq!(subjects, [of("a", &[1, 2]), of("b", &[1])]);
    store.delete_sent(one.sent(&ids[..1])).await.unwrap();
    let (two, subjects, ids) = claimed(&store, 9).await;
    assert_eq!(subjects, [of("a", &[2]), of("b", &[1])], "what was not published is given back");
    store.delete_sent(two.sent(&ids)).await.unwrap();
    other.close().await;
    let (_, subjects, _) = claimed(&store, 9).await;
    assert_eq!(subjects, [of("a", &[3]), of("c", &[1])]);
}

#[tokio::test]
async fn rows_of_a_commit_whose_outcome_was_not_learned_are_adopted() {
    let store = store();
    // The steps are: begin, commit, committed.
    let process = store.process(clock(), Arc::new(Dies(AtomicU32::new(2))));
    let apply_batch = &mut |work: &mut Numbered| work.publish(row("a", 1));
    assert!(process.commit(&vec![], &[], apply_batch).await.is_err());
    let (_, subjects, _) = claimed(&store, 9).await;
    assert_eq!(subjects, [[("a".to_owned(), 1)]]);
}

#[tokio::test]
async fn bookkeeping_is_written() {
    let clock = clock();
    let store = Store::<Numbers>::new(clock.clone());
    assert_eq!(store.stream_epoch().await.unwrap(), None);
    store.set_stream_epoch("one").await.unwrap();
    assert_eq!(store.stream_epoch().await.unwrap().as_deref(), Some("one"));

    let parked = |event_id: &str| Parked {
        event_id: event_id.to_owned(),
        message: Message::default(),
        reason: "because".to_owned(),
        attempts: 1,
        park_time: clock.now(),
    };
    let park = &mut |work: &mut Numbered| ["c", "a", "b"].into_iter().for_each(|id| work.park(parked(id)));
    store.commit(&vec![], &[], park).await.unwrap();
    store.commit(&vec![], &[], &mut |work: &mut Numbered| work.unpark("b".to_owned())).await.unwrap();
    assert_eq!(store.parked("", 1).await.unwrap(), [parked("a")]);
    assert_eq!(store.parked("a", 9).await.unwrap(), [parked("c")]);
    assert_eq!(store.parked_by_id("b").await.unwrap(), None);

    let idempotency = Idempotency { request_id: Uuid::from_u128(1), hash: [1; 32] };
    let command = &mut |work: &mut Numbered| {
        work.run::<RequestIdReused>(Some(idempotency), |_| Ok(response(0))).unwrap();
    };
    store.commit(&vec![], &[idempotency.request_id], command).await.unwrap();
    assert_eq!(store.purge_records(clock.now()).await.unwrap(), 0);
    assert_eq!(store.purge_records(clock.now() + chrono::TimeDelta::seconds(1)).await.unwrap(), 1);
    store.close().await;
    assert!(store.ping().await.is_err());
}

/// Lets a process take this many steps before it dies.
struct Dies(AtomicU32);

#[async_trait]
impl Steps for Dies {
    async fn step(&self, _: &'static str) -> Result<(), Error> {
        let left = self.0.load(Ordering::Relaxed);
        self.0.store(left.saturating_sub(1), Ordering::Relaxed);
        if left == 0 { Err(Error::Unavailable(sqlx::Error::PoolClosed)) } else { Ok(()) }
    }
}

#[tokio::test]
async fn a_process_can_die_at_any_step_and_only_the_commit_counts() {
    // The steps are: begin, lock, commit, committed.
    for steps in 0..5 {
        let store = store();
        make(&store, "n").await;
        let process = store.process(clock(), Arc::new(Dies(AtomicU32::new(steps))));
        let outcome = process.commit(&vec!["n"], &[], &mut |work: &mut Numbered| add(work, "n", 1)).await;
        assert_eq!(outcome.is_ok(), steps == 4, "{steps}");
        assert_eq!(number(&store, "n").await, Some(if steps >= 3 { 2 } else { 1 }), "{steps}");
        store.commit(&vec!["n"], &[], &mut |work: &mut Numbered| add(work, "n", 1)).await.expect("nothing is locked");
    }
}
