//! Contract suite for reservation stores. The tests of each adapter run it unchanged.

use std::{collections::BTreeSet, future::Future, sync::Arc};

use chrono::{DateTime, Utc};
use eticket_proto::ids::{ReservationId, TicketId, UserGrade};
use eticket_store::{EncodedResponse, Error, Idempotency, OutboxRow, RequestIdReused, Work};
use tokio::{runtime::Handle, task::block_in_place};
use uuid::Uuid;

use crate::{
    application::{Filter, Keys, ReservationRows, ReservationStore},
    domain::{Ledger, Reservation, Status},
};

/// Runs the whole suite on one empty store.
pub(crate) async fn suite(store: Arc<dyn ReservationStore>) {
    committed_rows_are_read_unchanged(&*store).await;
    a_record_is_found_by_the_next_attempt(&*store).await;
    snapshots_read_at_once_belong_to_their_requests(&*store).await;
    a_second_active_reservation_is_refused_by_the_index(&*store).await;
    cancelling_and_rebooking_in_one_batch_passes_the_index(&*store).await;
    a_failed_commit_leaves_nothing(&*store).await;
    pages_show_each_row_once_by_every_filter(&*store).await;
    only_the_active_reservation_comes_with_a_ledger(&*store).await;
}

/// Tests two replicas on one store. `wait_until_blocked` returns once one replica waits for a lock of the other.
pub(crate) async fn replicas(
    one: Arc<dyn ReservationStore>,
    other: Arc<dyn ReservationStore>,
    wait_until_blocked: &(dyn Fn() + Sync),
) {
    concurrent_changes_of_a_row_see_each_other(&*one, other.clone(), wait_until_blocked).await;
    concurrent_inserts_of_a_row_see_each_other(&*one, &*other).await;
    a_concurrent_first_reservation_is_seen(&*one, &*other).await;
    a_concurrent_cancel_waits_and_reads_the_new_status(&*one, other, wait_until_blocked).await;
}

fn ticket(name: &str) -> TicketId {
    name.parse().expect("an id")
}

fn time() -> DateTime<Utc> {
    DateTime::from_timestamp(1_000, 123_456_000).expect("a time")
}

fn reservation(ticket: &str, user: &str, revision: i64, status: Status) -> Reservation {
    Reservation {
        id: ReservationId::generate(),
        ticket: self::ticket(ticket),
        user: user.parse().expect("an id"),
        grade: UserGrade::Gold,
        status,
        revision,
        reserve_time: time(),
        update_time: time(),
    }
}

async fn put(store: &dyn ReservationStore, reservations: &[Reservation]) -> Result<(), Error> {
    let tickets: BTreeSet<_> = reservations.iter().map(|reservation| reservation.ticket.clone()).collect();
    let ids = reservations.iter().map(|reservation| reservation.id).collect();
    let keys = Keys { tickets, reservations: ids, ..Keys::default() };
    let apply_batch = &mut |work: &mut Work<ReservationRows>| {
        for reservation in reservations {
            let active = (reservation.status == Status::Reserved).then_some(reservation.id);
            let (ticket, revision) = (reservation.ticket.clone(), reservation.revision);
            let closed = reservation.status == Status::Rejected;
            work.rows.ledgers.put(ticket.clone(), Ledger { ticket, revision, active, closed });
            work.rows.reservations.put(reservation.id, reservation.clone());
        }
    };
    store.commit(&keys, &[], apply_batch).await
}

/// Returns the rows that a commit with these keys reads.
async fn seen(store: &dyn ReservationStore, keys: Keys) -> (Vec<Ledger>, Vec<Reservation>) {
    let mut seen = (Vec::new(), Vec::new());
    let look = &mut |work: &mut Work<ReservationRows>| {
        seen.0 = work.rows.ledgers.iter().map(|(_, ledger)| ledger.clone()).collect();
        seen.1 = work.rows.reservations.iter().map(|(_, reservation)| reservation.clone()).collect();
    };
    store.commit(&keys, &[], look).await.expect("committed");
    seen
}

async fn committed_rows_are_read_unchanged(store: &dyn ReservationStore) {
    let made = reservation("written", "user-w", 3, Status::Reserved);
    put(store, std::slice::from_ref(&made)).await.expect("committed");
    assert_eq!(store.reservation(made.id).await.expect("read"), Some(made.clone()));
    let ledger = Ledger { ticket: ticket("written"), revision: 3, active: Some(made.id), closed: false };
    let by_reservation = Keys { reservations: [made.id].into(), ..Keys::default() };
    assert_eq!(seen(store, by_reservation).await, (vec![ledger.clone()], vec![made]));
    let (_, read) = store.read_snapshot(None, &ticket("written")).await.expect("read");
    assert_eq!(read, Some(ledger));
    assert_eq!(store.reservation(ReservationId::generate()).await.expect("read"), None);
}

async fn a_record_is_found_by_the_next_attempt(store: &dyn ReservationStore) {
    let idempotency = Idempotency { request_id: Uuid::new_v4(), hash: [7; 32] };
    let type_name = Some("eticket.reservation.v1.ReserveTicketResponse".to_owned());
    let response = EncodedResponse { type_name, bytes: vec![1, 2, 3].into(), replayed: false };
    for attempt in 1..=2 {
        let mut answer = Ok(EncodedResponse::default());
        let mut ran = false;
        let apply_batch = &mut |work: &mut Work<ReservationRows>| {
            answer = work.run::<RequestIdReused>(Some(idempotency), |work| {
                ran = true;
                work.publish(OutboxRow { revision: 1, message: Default::default() });
                Ok(response.clone())
            });
        };
        store.commit(&Keys::default(), &[idempotency.request_id], apply_batch).await.expect("committed");
        let expected = if attempt == 1 { response.clone() } else { response.clone().replayed() };
        assert_eq!((answer, ran), (Ok(expected), attempt == 1), "attempt {attempt}");
    }
    let (record, ledger) = store.read_snapshot(Some(idempotency), &ticket("never")).await.expect("read");
    assert_eq!((record.map(|record| record.response), ledger), (Some(response), None));
}

async fn snapshots_read_at_once_belong_to_their_requests(store: &dyn ReservationStore) {
    let numbers = 0..20_u8;
    let made: Vec<Reservation> = numbers
        .clone()
        .map(|number| reservation(&format!("at-once-{number}"), "user-o", 1, Status::Reserved))
        .collect();
    put(store, &made).await.expect("committed");
    let keys: Vec<Idempotency> =
        numbers.map(|number| Idempotency { request_id: Uuid::new_v4(), hash: [number; 32] }).collect();
    let requests: Vec<Uuid> = keys.iter().map(|idempotency| idempotency.request_id).collect();
    let record_every_other = &mut |work: &mut Work<ReservationRows>| {
        for idempotency in keys.iter().step_by(2) {
            let answer = work.run::<RequestIdReused>(Some(*idempotency), |_| Ok(EncodedResponse::default()));
            assert!(answer.is_ok());
        }
    };
    store.commit(&Keys::default(), &requests, record_every_other).await.expect("committed");
    let reads = keys.iter().zip(&made).map(|(idempotency, made)| store.read_snapshot(Some(*idempotency), &made.ticket));
    for (number, read) in futures::future::join_all(reads).await.into_iter().enumerate() {
        let (record, ledger) = read.expect("read");
        let hash = (number % 2 == 0).then_some(keys[number].hash);
        assert_eq!(record.map(|record| record.hash), hash, "{number}");
        assert_eq!(ledger.map(|ledger| ledger.ticket).as_ref(), Some(&made[number].ticket));
    }
}

async fn a_second_active_reservation_is_refused_by_the_index(store: &dyn ReservationStore) {
    put(store, &[reservation("doubled", "user-1", 1, Status::Reserved)]).await.expect("the first");
    let second = reservation("doubled", "user-2", 2, Status::Reserved);
    let refused = put(store, std::slice::from_ref(&second)).await;
    assert!(matches!(refused, Err(Error::Data(_))), "{refused:?}");
    assert_eq!(store.reservation(second.id).await.expect("read"), None);
}

async fn cancelling_and_rebooking_in_one_batch_passes_the_index(store: &dyn ReservationStore) {
    // The cancelled reservation has the lower id in one round and the higher id in the other: the result must not
    // depend on the order of the writes.
    for (cancelled, made) in [(0, 1), (1, 0)] {
        let name = format!("rebooked-{cancelled}");
        let mut pair =
            [reservation(&name, "user-1", 1, Status::Reserved), reservation(&name, "user-2", 3, Status::Reserved)];
        pair[cancelled].revision = 1;
        put(store, &pair[cancelled..=cancelled]).await.expect("held");
        pair[cancelled].status = Status::Cancelled;
        pair[made].revision = 3;
        put(store, &pair).await.expect("cancelled and reserved again");
        assert_eq!(store.reservation(pair[made].id).await.expect("read").map(|it| it.status), Some(Status::Reserved));
    }
}

async fn a_failed_commit_leaves_nothing(store: &dyn ReservationStore) {
    let good = reservation("half-done", "user-1", 1, Status::Reserved);
    let bad = reservation("doubled", "user-3", 9, Status::Reserved);
    assert!(put(store, &[good.clone(), bad]).await.is_err());
    assert_eq!(store.reservation(good.id).await.expect("read"), None);
    let (_, ledger) = store.read_snapshot(None, &ticket("half-done")).await.expect("read");
    assert_eq!(ledger, None);
}

async fn pages_show_each_row_once_by_every_filter(store: &dyn ReservationStore) {
    let mut made = Vec::new();
    for number in 0..9 {
        let status = [Status::Reserved, Status::Cancelled, Status::Rejected][number % 3];
        made.push(reservation(&format!("page-{number}"), "user-page", 1, status));
    }
    put(store, &made).await.expect("committed");
    let user = || Some("user-page".to_owned());
    for (filter, expected) in [
        (Filter { user: user(), ..Filter::default() }, 9),
        (Filter { user: user(), status: Some(Status::Cancelled), ..Filter::default() }, 3),
        (Filter { user: user(), ticket: Some(ticket("page-4")), ..Filter::default() }, 1),
        (Filter { ticket: Some(ticket("page-5")), ..Filter::default() }, 1),
        (Filter { ticket: Some(ticket("page-5")), status: Some(Status::Reserved), ..Filter::default() }, 0),
    ] {
        assert_eq!(walk(store, &filter).await.len(), expected, "{filter:?}");
    }
    for filter in [Filter::default(), Filter { status: Some(Status::Rejected), ..Filter::default() }] {
        let ids = walk(store, &filter).await;
        assert!(ids.is_sorted() && ids.iter().collect::<BTreeSet<_>>().len() == ids.len(), "{filter:?}");
        let wanted = made.iter().filter(|it| filter.status.is_none_or(|status| it.status == status));
        assert!(wanted.into_iter().all(|it| ids.contains(&it.id.to_string())), "{filter:?}");
    }
    let closed = store.closed_ledgers("", 100).await.expect("read");
    assert_eq!(closed, [ticket("page-2"), ticket("page-5"), ticket("page-8")]);
    assert_eq!(store.closed_ledgers("page-2", 1).await.expect("read"), [ticket("page-5")]);
    let asked = [ticket("page-2"), ticket("page-5"), ticket("page-nobody"), ticket("page-2")];
    let mut ledgers = store.ledgers_of(&asked).await.expect("read");
    ledgers.sort_by(|one, other| one.ticket.cmp(&other.ticket));
    assert!(ledgers.iter().all(|ledger| ledger.closed), "{ledgers:?}");
    assert_eq!(ledgers.into_iter().map(|ledger| ledger.ticket).collect::<Vec<_>>(), asked[..2]);
    let all = i64::try_from(walk(store, &Filter::default()).await.len()).expect("few");
    assert_eq!(store.count().await.expect("read"), all + 3);
}

/// Returns all pages, with a page size of two rows.
async fn walk(store: &dyn ReservationStore, filter: &Filter) -> Vec<String> {
    let mut ids: Vec<String> = Vec::new();
    loop {
        let after = ids.last().cloned().unwrap_or_default();
        let page = store.page(filter, &after, 2).await.expect("read");
        if page.is_empty() {
            return ids;
        }
        ids.extend(page.iter().map(|reservation| reservation.id.to_string()));
    }
}

async fn only_the_active_reservation_comes_with_a_ledger(store: &dyn ReservationStore) {
    let ended = reservation("active", "user-1", 1, Status::Cancelled);
    let active = reservation("active", "user-2", 2, Status::Reserved);
    put(store, &[ended, active.clone()]).await.expect("committed");
    let keys = Keys { active_of: [ticket("active")].into(), ..Keys::default() };
    let (ledgers, reservations) = seen(store, keys).await;
    assert_eq!((ledgers.len(), reservations), (1, vec![active]));
}

/// Increments the revision of a ledger, and creates it if it does not exist. Returns how often the commit was started.
/// `during` runs in the middle of the first attempt.
async fn raise(store: &dyn ReservationStore, id: &TicketId, during: &mut (dyn FnMut() + Send)) -> usize {
    let mut begun = 0;
    let apply_batch = &mut |work: &mut Work<ReservationRows>| {
        begun += 1;
        if begun == 1 {
            during();
        }
        let seen = work.rows.ledgers.get(id).cloned().unwrap_or_else(|| Ledger::new(id.clone()));
        work.rows.ledgers.put(id.clone(), Ledger { revision: seen.revision + 1, ..seen });
    };
    let keys = Keys { tickets: [id.clone()].into(), ..Keys::default() };
    store.commit(&keys, &[], apply_batch).await.expect("committed");
    begun
}

async fn revision(store: &dyn ReservationStore, id: &TicketId) -> i64 {
    let (_, ledger) = store.read_snapshot(None, id).await.expect("read");
    ledger.expect("a row").revision
}

/// Runs a future to completion inside `apply_batch`, which is synchronous.
fn meanwhile<T>(future: impl Future<Output = T>) -> T {
    block_in_place(|| Handle::current().block_on(future))
}

async fn concurrent_changes_of_a_row_see_each_other(
    one: &dyn ReservationStore,
    other: Arc<dyn ReservationStore>,
    wait_until_blocked: &(dyn Fn() + Sync),
) {
    let id = ticket("shared");
    raise(one, &id, &mut || ()).await;
    let mut second = None;
    let mut during = || {
        let (other, id) = (other.clone(), id.clone());
        second = Some(tokio::spawn(async move { raise(&*other, &id, &mut || ()).await }));
        block_in_place(wait_until_blocked);
    };
    assert_eq!(raise(one, &id, &mut during).await, 1);
    assert_eq!(second.expect("spawned").await.expect("completed"), 1, "waits for the lock and reads the new row");
    assert_eq!(revision(one, &id).await, 3);
}

async fn concurrent_inserts_of_a_row_see_each_other(one: &dyn ReservationStore, other: &dyn ReservationStore) {
    let id = ticket("made-by-both");
    let mut during = || assert_eq!(meanwhile(raise(other, &id, &mut || ())), 1);
    assert_eq!(raise(one, &id, &mut during).await, 2, "starts again after a concurrent insert");
    assert_eq!(revision(one, &id).await, 2);
}

async fn a_concurrent_first_reservation_is_seen(one: &dyn ReservationStore, other: &dyn ReservationStore) {
    let of = |user| reservation("reserved-by-both", user, 1, Status::Reserved);
    let (mine, theirs) = (of("user-1"), of("user-2"));
    let mut seen = Vec::new();
    let apply_batch = &mut |work: &mut Work<ReservationRows>| {
        let ticket = mine.ticket.clone();
        let active = work.rows.ledgers.get(&ticket).and_then(|ledger| ledger.active);
        if seen.is_empty() {
            meanwhile(put(other, std::slice::from_ref(&theirs))).expect("the other one reserves");
        }
        seen.push(active);
        if active.is_none() {
            let ledger = Ledger { ticket: ticket.clone(), revision: 1, active: Some(mine.id), closed: false };
            work.rows.ledgers.put(ticket, ledger);
            work.rows.reservations.put(mine.id, mine.clone());
        }
    };
    let keys = Keys { tickets: [mine.ticket.clone()].into(), ..Keys::default() };
    one.commit(&keys, &[], apply_batch).await.expect("committed");
    assert_eq!(seen, [None, Some(theirs.id)], "starts again, and nothing is reserved twice");
}

async fn a_concurrent_cancel_waits_and_reads_the_new_status(
    one: &dyn ReservationStore,
    other: Arc<dyn ReservationStore>,
    wait_until_blocked: &(dyn Fn() + Sync),
) {
    let held = reservation("cancelled-by-both", "user-1", 1, Status::Reserved);
    put(one, std::slice::from_ref(&held)).await.expect("held");
    let keys = || Keys { reservations: [held.id].into(), ..Keys::default() };
    let mut second = None;
    let apply_batch = &mut |work: &mut Work<ReservationRows>| {
        let (other, keys) = (other.clone(), keys());
        second = Some(tokio::spawn(async move { seen(&*other, keys).await }));
        block_in_place(wait_until_blocked);
        work.rows.reservations.put(held.id, Reservation { status: Status::Cancelled, ..held.clone() });
    };
    one.commit(&keys(), &[], apply_batch).await.expect("committed");
    let (_, reservations) = second.expect("spawned").await.expect("completed");
    assert_eq!(reservations[0].status, Status::Cancelled);
}
