//! `CompareView`: finds differences, and does not report delayed messages as differences.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU32, Ordering},
};

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::*;
use crate::application::compare::{self, Comparison, Difference, OwnerError, Owners, Page, Report};

/// Owners with fixed states. The view catches up when a ticket has been requested the given number of times.
#[derive(Default)]
struct FakeOwners {
    tickets: BTreeMap<TicketId, TicketPart>,
    prices: BTreeMap<TicketId, PricePart>,
    reservations: Vec<Reservation>,
    asked: AtomicU32,
    catch_up_after: Option<(u32, Arc<Fixture>)>,
}

fn page<T>(all: Vec<T>, token: &str) -> Page<T> {
    // One row per page, so that the tests cover paging.
    let at: usize = token.parse().unwrap_or(0);
    let next = if at + 1 < all.len() { (at + 1).to_string() } else { String::new() };
    Page { rows: all.into_iter().skip(at).take(1).collect(), next }
}

#[async_trait]
impl Owners for FakeOwners {
    fn check(&self) -> Result<(), OwnerError> {
        Ok(())
    }

    async fn tickets(&self, token: &str) -> Result<Page<(TicketId, TicketPart)>, OwnerError> {
        Ok(page(self.tickets.clone().into_iter().collect(), token))
    }

    async fn ticket(&self, id: &TicketId) -> Result<Option<TicketPart>, OwnerError> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some((_, fixture)) = self.catch_up_after.as_ref().filter(|(after, _)| *after == asked) {
            fixture.read_all().await;
        }
        Ok(self.tickets.get(id).cloned())
    }

    async fn prices(&self, token: &str) -> Result<Page<(TicketId, PricePart)>, OwnerError> {
        Ok(page(self.prices.clone().into_iter().collect(), token))
    }

    async fn price(&self, id: &TicketId) -> Result<Option<PricePart>, OwnerError> {
        Ok(self.prices.get(id).cloned())
    }

    async fn reservations(&self, token: &str) -> Result<Page<Reservation>, OwnerError> {
        Ok(page(self.reservations.clone(), token))
    }

    async fn reservation(&self, id: ReservationId) -> Result<Option<Reservation>, OwnerError> {
        Ok(self.reservations.iter().find(|row| row.reservation_id == id).cloned())
    }
}

async fn compare(fixture: &Fixture, owners: FakeOwners) -> (Vec<Difference>, Report) {
    let (reports, mut shown) = mpsc::channel(1);
    let comparison = Comparison::new(fixture.reader.store.clone(), Arc::new(owners), reports, Duration::from_micros(1));
    let run = tokio::spawn(comparison.run());
    let (mut differences, mut last) = (Vec::new(), None);
    while let Some(report) = timeout(BOUND, shown.recv()).await.expect("in time") {
        differences.extend(report.difference.clone());
        last = Some(report);
    }
    run.await.unwrap().unwrap();
    (differences, last.expect("a report"))
}

/// A view and owners that agree.
async fn agreeing() -> (Fixture, FakeOwners) {
    let fixture = Fixture::new().await;
    let mut owners = FakeOwners::default();
    for (number, name) in (1..).zip(["a", "b", "c"]) {
        let row = reservation(&id(name), number, 1, ReservationStatus::Reserved);
        let (part, priced) = (ticket(2, 1, Some(number)), price(2, 1, 9_000));
        fixture
            .take(&id(name), &[reserved(row.clone()), Event::Ticket(part.clone()), Event::Price(priced.clone())])
            .await;
        owners.tickets.insert(id(name), part);
        owners.prices.insert(id(name), priced);
        owners.reservations.push(row);
    }
    (fixture, owners)
}

#[tokio::test]
async fn equal_sides_have_no_difference() {
    let (fixture, owners) = agreeing().await;
    let (differences, last) = compare(&fixture, owners).await;
    assert_eq!(differences, []);
    assert_eq!((last.compared, last.total), (9, 9));
}

#[tokio::test]
async fn each_difference_is_named_with_both_values() {
    let (fixture, mut owners) = agreeing().await;
    owners.tickets.get_mut(&id("a")).unwrap().title = "another".to_owned();
    owners.prices.get_mut(&id("b")).unwrap().discounted_price = money(1);
    owners.reservations[2].status = ReservationStatus::Cancelled;
    owners.tickets.insert(id("unseen"), ticket(4, 0, None));
    owners.prices.remove(&id("c"));
    let (differences, _) = compare(&fixture, owners).await;
    let named: Vec<_> = differences
        .iter()
        .map(|d| (d.ticket.as_str(), d.field.as_str(), d.view_value.as_str(), d.owner_value.as_str()))
        .collect();
    let c = format!("reservation {}", reservation_id(3));
    let (status, holds) = (format!("{c}.status"), format!("{c}.holds_the_ticket"));
    assert_eq!(
        named,
        [
            ("a", "ticket.title", "a title", "another"),
            ("unseen", "ticket", "", "revision 4"),
            ("b", "price.discounted_price", "9000 KRW", "1 KRW"),
            ("c", status.as_str(), "RESERVED", "CANCELLED"),
            ("c", holds.as_str(), "true", "false"),
            ("c", "price", "revision 2", ""),
        ]
    );
}

#[tokio::test]
async fn a_comparison_ends_if_its_client_does_not_read() {
    let (mut fixture, owners) = agreeing().await;
    fixture.keep_in_memory();
    tokio::time::pause();
    let (reports, shown) = mpsc::channel(1);
    let store = fixture.reader.store.clone();
    let outcome = Comparison::new(store, Arc::new(owners), reports, Duration::ZERO).run().await;
    assert!(matches!(outcome, Err(compare::Error::ClientTooSlow)), "{outcome:?}");
    drop(shown);
}

#[tokio::test]
async fn a_delayed_message_is_not_a_difference() {
    let (fixture, mut owners) = agreeing().await;
    let fixture = Arc::new(fixture);
    let newer = TicketPart { title: "newer".to_owned(), ..ticket(3, 1, Some(1)) };
    fixture.publish(&id("a"), &Event::Ticket(newer.clone())).await;
    owners.tickets.insert(id("a"), newer);
    // The view has read the message by the third check.
    owners.catch_up_after = Some((3, fixture.clone()));
    let (differences, _) = compare(&fixture, owners).await;
    assert_eq!(differences, []);
}
