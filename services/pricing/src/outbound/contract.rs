//! What every store of prices must do, as one suite: each adapter's tests run it unchanged.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use eticket_chassis::store::{Error, Work};
use eticket_proto::ids::{TicketId, UserGrade};

use crate::{
    application::{PriceStore, PricingRows},
    domain::{self, Holder, Policy, Row, Schedule},
    policy_file,
};

/// Runs all of it on one empty store.
pub(crate) async fn suite(store: Arc<dyn PriceStore>) {
    the_highest_version_is_in_force(&*store).await;
    what_was_committed_is_read_again(&*store).await;
    what_waits_for_its_ticket_is_kept_and_not_listed(&*store).await;
    only_what_nobody_holds_is_to_be_priced_anew(&*store).await;
    pages_show_each_row_once(&*store).await;
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
    let waiting = domain::take_in_reservation(&Row::default(), Holder { grade, revision: 1 }, &policy(version), time());
    let waiting = waiting.expect("a policy").expect("news");
    let schedule = Schedule { start: time(), revision: 4 };
    domain::take_in_ticket(&waiting, schedule, &policy(version), time()).expect("a policy").expect("news")
}

async fn put(store: &dyn PriceStore, rows: &[(TicketId, Row)]) -> Result<(), Error> {
    let keys = rows.iter().map(|(id, _)| id.clone()).collect();
    let work_off = &mut |work: &mut Work<PricingRows>| {
        for (id, row) in rows {
            work.rows.prices.put(id.clone(), row.clone());
        }
    };
    store.commit(&keys, &[], work_off).await
}

async fn adopt(store: &dyn PriceStore, version: i64) -> Result<(), Error> {
    let work_off = &mut |work: &mut Work<PricingRows>| work.rows.adopted.push(policy(version));
    store.commit(&[].into(), &[], work_off).await
}

async fn the_highest_version_is_in_force(store: &dyn PriceStore) {
    assert_eq!(store.policy_in_force().await.expect("read"), None);
    for version in [2, 7, 3] {
        adopt(store, version).await.expect("committed");
    }
    assert_eq!(store.policy_in_force().await.expect("read"), Some(policy(7)));
    assert!(matches!(adopt(store, 3).await, Err(Error::Data(_))), "a version is kept once");
    let mut seen = None;
    let look = &mut |work: &mut Work<PricingRows>| seen = work.rows.in_force.clone();
    store.commit(&[].into(), &[], look).await.expect("committed");
    assert_eq!(seen, Some(policy(7)), "commits see it too");
}

async fn what_was_committed_is_read_again(store: &dyn PriceStore) {
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
        assert_eq!(seen, Some(changed), "commits see the newer row");
    }
    assert_eq!(store.row(&id("never")).await.expect("read"), None);
}

async fn what_waits_for_its_ticket_is_kept_and_not_listed(store: &dyn PriceStore) {
    let before = store.count().await.expect("read");
    let row = Row { grade: Some(UserGrade::Vip), reservation_revision: 3, ..Row::default() };
    put(store, &[(id("waiting"), row.clone())]).await.expect("committed");
    assert_eq!(store.row(&id("waiting")).await.expect("read"), Some(row));
    assert_eq!(store.count().await.expect("read"), before);
    assert!(walk(store, 2).await.iter().all(|listed| listed.as_str() != "waiting"));
    assert!(!store.to_reprice(99, 1_000).await.expect("read").contains(&id("waiting")));
}

async fn only_what_nobody_holds_is_to_be_priced_anew(store: &dyn PriceStore) {
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
