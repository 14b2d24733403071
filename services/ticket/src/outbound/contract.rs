//! Contract suite for ticket stores. The tests of each adapter run it unchanged.

use std::{collections::BTreeSet, future::Future, sync::Arc};

use chrono::{DateTime, Utc};
use eticket_proto::ids::{ReservationId, TicketId};
use eticket_store::{Error, Work};
use tokio::{runtime::Handle, task::block_in_place};

use crate::{
    application::{TicketRows, TicketStore},
    domain::{self, Schedule, Status, Ticket, Title},
};

/// Runs the whole suite on one empty store.
pub(crate) async fn suite(store: Arc<dyn TicketStore>) {
    committed_rows_are_read_unchanged(&*store).await;
    tickets_read_at_once_belong_to_their_ids(&*store).await;
    pages_show_each_ticket_once_by_every_status(&*store).await;
    only_unannounced_expired_tickets_are_swept(&*store).await;
}

/// Tests two replicas on one store. `wait_until_blocked` returns once one replica waits for a lock of the other.
pub(crate) async fn replicas(
    one: Arc<dyn TicketStore>,
    other: Arc<dyn TicketStore>,
    wait_until_blocked: &(dyn Fn() + Sync),
) {
    concurrent_changes_of_a_row_see_each_other(&*one, other.clone(), wait_until_blocked).await;
    concurrent_inserts_of_a_row_see_each_other(&*one, &*other).await;
}

fn time(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 123_456_000).expect("a time")
}

fn ticket(name: &str, end: i64) -> Ticket {
    let title = Title::parse("제목 'quoted' \"twice\" \\").expect("a title");
    let schedule = Schedule::new(time(0), time(end)).expect("a schedule");
    domain::register(None, name.parse().expect("an id"), title, schedule, time(1)).expect("registered")
}

async fn put(store: &dyn TicketStore, tickets: &[Ticket]) -> Result<(), Error> {
    let keys: BTreeSet<TicketId> = tickets.iter().map(|ticket| ticket.id.clone()).collect();
    let apply_batch = &mut |work: &mut Work<TicketRows>| {
        for ticket in tickets {
            work.rows.put(ticket.id.clone(), ticket.clone());
        }
    };
    store.commit(&keys, &[], apply_batch).await
}

async fn committed_rows_are_read_unchanged(store: &dyn TicketStore) {
    let made = ticket("written", 100);
    put(store, std::slice::from_ref(&made)).await.expect("committed");
    assert_eq!(store.ticket(&made.id).await.expect("read"), Some(made.clone()));
    let asked = [made.id.clone(), "nobody".parse().expect("an id"), made.id.clone()];
    assert_eq!(store.tickets_of(&asked).await.expect("read"), std::slice::from_ref(&made));
    let changed = Ticket {
        holder: Some(ReservationId::generate()),
        reservation_revision: 5,
        announced: true,
        withdrawn: true,
        edits: 3,
        schedule_revision: 2,
        revision: 9,
        update_time: time(7),
        schedule: Schedule::new(time(2), time(200)).expect("a schedule"),
        title: Title::parse("another").expect("a title"),
        ..made.clone()
    };
    put(store, std::slice::from_ref(&changed)).await.expect("committed");
    assert_eq!(store.ticket(&made.id).await.expect("read"), Some(changed.clone()));
    let mut seen = None;
    let look = &mut |work: &mut Work<TicketRows>| seen = work.rows.get(&made.id).cloned();
    store.commit(&[made.id.clone()].into(), &[], look).await.expect("committed");
    assert_eq!(seen, Some(changed));
    assert_eq!(store.ticket(&"never".parse().expect("an id")).await.expect("read"), None);
}

async fn tickets_read_at_once_belong_to_their_ids(store: &dyn TicketStore) {
    let made: Vec<Ticket> = (0..20).map(|number| ticket(&format!("at-once-{number}"), 100)).collect();
    put(store, &made).await.expect("committed");
    let missing = ticket("at-once-missing", 100);
    let asked: Vec<&Ticket> = made.iter().chain([&missing, &made[0]]).collect();
    let found = futures::future::join_all(asked.iter().map(|ticket| store.ticket(&ticket.id))).await;
    for (asked, found) in asked.into_iter().zip(found) {
        let expected = (asked.id != missing.id).then_some(asked);
        assert_eq!(found.expect("read").as_ref(), expected);
    }
}

async fn pages_show_each_ticket_once_by_every_status(store: &dyn TicketStore) {
    let mut tickets: Vec<_> = (0..12).map(|number| ticket(&format!("page-{number:02}"), 500 + number % 2)).collect();
    for (index, ticket) in tickets.iter_mut().enumerate() {
        ticket.withdrawn = index % 4 == 3;
        ticket.holder = (index % 4 == 2).then(ReservationId::generate);
    }
    put(store, &tickets).await.expect("committed");
    // The clock is between the two end times.
    let now = time(500);
    for status in [Status::Available, Status::Reserved, Status::Expired, Status::Withdrawn] {
        let expected: Vec<_> =
            tickets.iter().filter(|ticket| ticket.status(now) == status).map(|it| it.id.clone()).collect();
        assert_eq!(expected.len(), 3, "{status:?}");
        let found = walk(store, Some(status), now).await;
        let found: Vec<_> = found.into_iter().filter(|id| id.as_str().starts_with("page-")).collect();
        assert_eq!(found, expected, "{status:?}");
    }
    let all = walk(store, None, now).await;
    assert!(all.is_sorted());
    assert_eq!(i64::try_from(all.len()).expect("few"), store.count().await.expect("read"));
}

/// Returns all pages, with a page size of two rows.
async fn walk(store: &dyn TicketStore, status: Option<Status>, now: DateTime<Utc>) -> Vec<TicketId> {
    let mut ids: Vec<TicketId> = Vec::new();
    loop {
        let after = ids.last().map(ToString::to_string).unwrap_or_default();
        let page = store.page(status, now, &after, 2).await.expect("read");
        if page.is_empty() {
            return ids;
        }
        ids.extend(page.into_iter().map(|ticket| ticket.id));
    }
}

async fn only_unannounced_expired_tickets_are_swept(store: &dyn TicketStore) {
    let expired = ticket("sweep-1", 10);
    let announced = Ticket { announced: true, ..ticket("sweep-2", 10) };
    let held = Ticket { holder: Some(ReservationId::generate()), ..ticket("sweep-3", 10) };
    let withdrawn = Ticket { withdrawn: true, ..ticket("sweep-4", 10) };
    let valid = ticket("sweep-5", 1_000);
    put(store, &[expired.clone(), announced, held, withdrawn, valid]).await.expect("committed");
    assert_eq!(store.to_announce(time(10), 100).await.expect("read"), [expired.id]);
    assert_eq!(store.to_announce(time(9), 100).await.expect("read"), []);
}

/// Edits a ticket, and creates it if it does not exist. Returns how often the edit was started. `during` runs in the
/// middle of the first attempt.
async fn edit(store: &dyn TicketStore, id: &TicketId, during: &mut (dyn FnMut() + Send)) -> usize {
    let mut begun = 0;
    let apply_batch = &mut |work: &mut Work<TicketRows>| {
        begun += 1;
        if begun == 1 {
            during();
        }
        let seen = work.rows.get(id).cloned().unwrap_or_else(|| ticket(id.as_str(), 100));
        work.rows.put(id.clone(), Ticket { edits: seen.edits + 1, ..seen });
    };
    store.commit(&[id.clone()].into(), &[], apply_batch).await.expect("committed");
    begun
}

async fn edits(store: &dyn TicketStore, id: &TicketId) -> i64 {
    store.ticket(id).await.expect("read").expect("a row").edits
}

/// Runs a future to completion inside `apply_batch`, which is synchronous.
fn meanwhile<T>(future: impl Future<Output = T>) -> T {
    block_in_place(|| Handle::current().block_on(future))
}

async fn concurrent_changes_of_a_row_see_each_other(
    one: &dyn TicketStore,
    other: Arc<dyn TicketStore>,
    wait_until_blocked: &(dyn Fn() + Sync),
) {
    let id: TicketId = "shared".parse().expect("an id");
    put(one, &[ticket("shared", 100)]).await.expect("committed");
    let before = edits(one, &id).await;
    let mut second = None;
    let mut during = || {
        let (other, id) = (other.clone(), id.clone());
        second = Some(tokio::spawn(async move { edit(&*other, &id, &mut || ()).await }));
        block_in_place(wait_until_blocked);
    };
    assert_eq!(edit(one, &id, &mut during).await, 1);
    assert_eq!(second.expect("spawned").await.expect("completed"), 1, "waits for the lock and reads the new row");
    assert_eq!(edits(one, &id).await, before + 2);
}

async fn concurrent_inserts_of_a_row_see_each_other(one: &dyn TicketStore, other: &dyn TicketStore) {
    let id: TicketId = "made-by-both".parse().expect("an id");
    let mut during = || assert_eq!(meanwhile(edit(other, &id, &mut || ())), 1);
    assert_eq!(edit(one, &id, &mut during).await, 2, "starts again after a concurrent insert");
    assert_eq!(edits(one, &id).await, ticket("made-by-both", 100).edits + 2);
}
