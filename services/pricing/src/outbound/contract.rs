//! Contract suite for price stores. The tests of each adapter run it unchanged.

use std::{future::Future, sync::Arc};

use chrono::{DateTime, Utc};
use eticket_proto::ids::{TicketId, UserGrade};
use eticket_store::{Error, Work};
use tokio::{runtime::Handle, task::block_in_place};

use crate::{
    application::{PriceStore, PricingRows},
    domain::{self, Holder, Offer, Policy, Row, Schedule},
    policy_file,
};

/// Runs the whole suite on one empty store.
pub(crate) async fn suite(store: Arc<dyn PriceStore>) {
    the_highest_version_is_in_force(&*store).await;
    committed_rows_are_read_unchanged(&*store).await;
    rows_without_a_ticket_are_stored_and_not_listed(&*store).await;
    only_tickets_without_a_holder_are_repriced(&*store).await;
    pages_show_each_row_once(&*store).await;
}

/// Tests two replicas on one store. `wait_until_blocked` returns once one replica waits for a lock of the other.
pub(crate) async fn replicas(
    one: Arc<dyn PriceStore>,
    other: Arc<dyn PriceStore>,
    wait_until_blocked: &(dyn Fn() + Sync),
) {
    adopt(&*one, 1).await.expect("committed");
    concurrent_changes_of_a_row_see_each_other(&*one, other.clone(), wait_until_blocked).await;
    concurrent_inserts_of_a_row_see_each_other(&*one, &*other).await;
    an_adoption_waits_for_commits_with_the_older_policy(&*one, other.clone(), wait_until_blocked).await;
    only_one_of_two_adopts_the_same_policy(&*one, &*other).await;
}

fn id(text: &str) -> TicketId {
    text.parse().expect("an id")
}

fn policy(version: i64) -> Policy {
    let text = policy_file::DEFAULT.replace("version: 1\n", &format!("version: {version}\n"));
    policy_file::parse(&text).expect("a policy")
}

fn time() -> DateTime<Utc> {
    // A Wednesday in Seoul.
    "2027-01-06T10:00:00.123456Z".parse().expect("a time")
}

fn priced(grade: Option<UserGrade>, version: i64) -> Row {
    let waiting = domain::apply_reservation(&Row::default(), Holder { grade, revision: 1 }, &policy(version), time());
    let waiting = waiting.expect("a policy").expect("applied");
    let schedule = Schedule { start: time(), revision: 4 };
    domain::apply_ticket(&waiting, schedule, &policy(version), time()).expect("a policy").expect("applied")
}

async fn put(store: &dyn PriceStore, rows: &[(TicketId, Row)]) -> Result<(), Error> {
    let keys = rows.iter().map(|(id, _)| id.clone()).collect();
    let apply_batch = &mut |work: &mut Work<PricingRows>| {
        for (id, row) in rows {
            work.rows.prices.put(id.clone(), row.clone());
        }
    };
    store.commit(&keys, &[], apply_batch).await
}

async fn adopt(store: &dyn PriceStore, version: i64) -> Result<(), Error> {
    let apply_batch = &mut |work: &mut Work<PricingRows>| work.rows.adopted.push(policy(version));
    store.commit(&[].into(), &[], apply_batch).await
}

async fn the_highest_version_is_in_force(store: &dyn PriceStore) {
    assert_eq!(store.policy_in_force().await.expect("read"), None);
    for version in [2, 7, 3] {
        adopt(store, version).await.expect("committed");
    }
    assert_eq!(store.policy_in_force().await.expect("read"), Some(policy(7)));
    assert!(matches!(adopt(store, 3).await, Err(Error::Data(_))), "a version is stored once");
    let mut seen = None;
    let look = &mut |work: &mut Work<PricingRows>| seen = work.rows.in_force.clone();
    store.commit(&[].into(), &[], look).await.expect("committed");
    assert_eq!(seen, Some(policy(7)), "commits read it too");
}

async fn committed_rows_are_read_unchanged(store: &dyn PriceStore) {
    for (name, grade) in
        [("kept-vip", Some(UserGrade::Vip)), ("kept-silver", Some(UserGrade::Silver)), ("kept-free", None)]
    {
        let (id, row) = (id(name), priced(grade, 1));
        put(store, &[(id.clone(), row.clone())]).await.expect("committed");
        assert_eq!(store.row(&id).await.expect("read"), Some(row.clone()));
        let changed = Row { revision: row.revision + 1, ..priced(None, 2) };
        put(store, &[(id.clone(), changed.clone())]).await.expect("committed again");
        let mut seen = None;
        let look = &mut |work: &mut Work<PricingRows>| seen = work.rows.prices.get(&id).cloned();
        store.commit(&[id.clone()].into(), &[], look).await.expect("committed");
        assert_eq!(seen, Some(changed), "commits read the newer row");
    }
    assert_eq!(store.row(&id("never")).await.expect("read"), None);
}

async fn rows_without_a_ticket_are_stored_and_not_listed(store: &dyn PriceStore) {
    let before = store.count().await.expect("read");
    let row = Row { grade: Some(UserGrade::Vip), reservation_revision: 3, ..Row::default() };
    put(store, &[(id("waiting"), row.clone())]).await.expect("committed");
    assert_eq!(store.row(&id("waiting")).await.expect("read"), Some(row));
    assert_eq!(store.count().await.expect("read"), before);
    assert!(walk(store, 2).await.iter().all(|listed| listed.as_str() != "waiting"));
    assert!(!store.to_reprice(99, 1_000).await.expect("read").contains(&id("waiting")));
}

async fn only_tickets_without_a_holder_are_repriced(store: &dyn PriceStore) {
    put(
        store,
        &[
            (id("anew-free"), priced(None, 40)),
            (id("anew-held"), priced(Some(UserGrade::Gold), 40)),
            (id("anew-done"), priced(None, 41)),
        ],
    )
    .await
    .expect("committed");
    let to_reprice = store.to_reprice(41, 1_000).await.expect("read");
    let of_here: Vec<_> = to_reprice.iter().filter(|id| id.as_str().starts_with("anew")).collect();
    assert_eq!(of_here, [&id("anew-free")]);
    assert_eq!(store.to_reprice(41, 1).await.expect("read").len(), 1, "bounded");
}

async fn pages_show_each_row_once(store: &dyn PriceStore) {
    let rows: Vec<_> = (0..7).map(|number| (id(&format!("page-{number}")), priced(None, 1))).collect();
    put(store, &rows).await.expect("committed");
    let listed = walk(store, 3).await;
    let mut sorted = listed.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!(listed, sorted, "in the order of ids, each once");
    assert_eq!(listed.len(), usize::try_from(store.count().await.expect("read")).expect("a count"));
    assert!(rows.iter().all(|(id, _)| listed.contains(id)));
    let mut found = store.rows_of(&[id("page-3"), id("page-nobody"), id("page-1")]).await.expect("read");
    found.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(found, [rows[1].clone(), rows[3].clone()]);
}

async fn walk(store: &dyn PriceStore, most: i64) -> Vec<TicketId> {
    let (mut after, mut listed) = (String::new(), Vec::new());
    loop {
        let page = store.page(&after, most).await.expect("read");
        let Some((last, _)) = page.last() else { return listed };
        after = last.to_string();
        assert!(page.len() <= usize::try_from(most).expect("a size"));
        listed.extend(page.into_iter().map(|(id, _)| id));
    }
}

/// Increments the revision of a price, and creates it if it does not exist. Returns how often the commit was started.
/// `during` runs in the middle of the first attempt.
async fn raise(store: &dyn PriceStore, id: &TicketId, during: &mut (dyn FnMut() + Send)) -> usize {
    let mut begun = 0;
    let apply_batch = &mut |work: &mut Work<PricingRows>| {
        begun += 1;
        if begun == 1 {
            during();
        }
        let seen = work.rows.prices.get(id).cloned().unwrap_or_default();
        work.rows.prices.put(id.clone(), Row { revision: seen.revision + 1, ..seen });
    };
    store.commit(&[id.clone()].into(), &[], apply_batch).await.expect("committed");
    begun
}

async fn revision(store: &dyn PriceStore, id: &TicketId) -> i64 {
    store.row(id).await.expect("read").expect("a row").revision
}

/// Runs a future to completion inside `apply_batch`, which is synchronous.
fn meanwhile<T>(future: impl Future<Output = T>) -> T {
    block_in_place(|| Handle::current().block_on(future))
}

async fn concurrent_changes_of_a_row_see_each_other(
    one: &dyn PriceStore,
    other: Arc<dyn PriceStore>,
    wait_until_blocked: &(dyn Fn() + Sync),
) {
    let id = id("shared");
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

async fn concurrent_inserts_of_a_row_see_each_other(one: &dyn PriceStore, other: &dyn PriceStore) {
    let id = id("made-by-both");
    let mut during = || assert_eq!(meanwhile(raise(other, &id, &mut || ())), 1);
    assert_eq!(raise(one, &id, &mut during).await, 2, "starts again after a concurrent insert");
    assert_eq!(revision(one, &id).await, 2);
}

/// If the adoption did not wait, the repricing after it would miss prices that are still being computed.
async fn an_adoption_waits_for_commits_with_the_older_policy(
    one: &dyn PriceStore,
    other: Arc<dyn PriceStore>,
    wait_until_blocked: &(dyn Fn() + Sync),
) {
    let (id, row) = (id("in-between"), priced(None, 1));
    let mut second = None;
    let apply_batch = &mut |work: &mut Work<PricingRows>| {
        let other = other.clone();
        second = Some(tokio::spawn(async move {
            adopt(&*other, 2).await.expect("committed");
            other.to_reprice(2, 1_000).await.expect("read")
        }));
        block_in_place(wait_until_blocked);
        work.rows.prices.put(id.clone(), row.clone());
    };
    one.commit(&[id.clone()].into(), &[], apply_batch).await.expect("committed");
    assert!(second.expect("spawned").await.expect("completed").contains(&id));
}

async fn only_one_of_two_adopts_the_same_policy(one: &dyn PriceStore, other: &dyn PriceStore) {
    let offer = async |store: &dyn PriceStore| {
        let mut outcome = None;
        let apply_batch = &mut |work: &mut Work<PricingRows>| {
            let offer = domain::consider(work.rows.in_force.as_ref(), &policy(3));
            work.rows.adopted.extend((offer == Offer::Adopt).then(|| policy(3)));
            outcome = Some(offer);
        };
        // Both replicas may hold a lock that the other one needs. The store then reports a retryable error.
        while let Err(error) = store.commit(&[].into(), &[], apply_batch).await {
            assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
        }
        outcome
    };
    let (first, second) = tokio::join!(offer(one), offer(other));
    assert!(first != second && (first == Some(Offer::Adopt) || second == Some(Offer::Adopt)), "{first:?} {second:?}");
}
