//! The view in memory, for tests and simulations. Nothing outlives the process.

mod tables;

use std::{
    collections::BTreeSet,
    ops::Bound,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use eticket_base::clock::SharedClock;
use eticket_proto::ids::{ReservationId, TicketId, UserId};
use eticket_store::{
    ApplyBatch, Commit, Error, Parked, ParkedStore, StoreLifecycle,
    memory::{Steps, Store},
};
use uuid::Uuid;

use self::tables::{ViewTables, above, passes};
use crate::{
    application::{
        Counts, Keys, Position, StreamRows, ViewRows, ViewStore, Watched,
        listing::{Filter, KeyPart, SortOrder},
    },
    domain::{Reservation, View},
};

/// See the module.
pub struct MemoryViews {
    clock: SharedClock,
    steps: Arc<dyn Steps>,
    current: Mutex<Store<ViewTables>>,
    /// The store that is built to replace these rows.
    beside: Mutex<Option<Store<ViewTables>>>,
    gone: AtomicBool,
}

impl MemoryViews {
    /// Creates an empty view. `steps` is called before and after its operations.
    pub fn new(clock: SharedClock, steps: Arc<dyn Steps>) -> Self {
        let store = Store::new(clock.clone()).process(clock.clone(), steps.clone());
        Self::with_store(store, clock, steps)
    }

    /// Returns the same rows for the next process, or empty rows if they were deleted.
    pub fn process(&self, steps: Arc<dyn Steps>) -> Self {
        if self.gone.load(Ordering::Relaxed) {
            return Self::new(self.clock.clone(), steps);
        }
        Self::with_store(self.current().process(self.clock.clone(), steps.clone()), self.clock.clone(), steps)
    }

    fn with_store(store: Store<ViewTables>, clock: SharedClock, steps: Arc<dyn Steps>) -> Self {
        Self { clock, steps, current: Mutex::new(store), beside: Mutex::default(), gone: AtomicBool::new(false) }
    }

    /// Simulates the deletion of the file: open stores continue to serve.
    pub fn delete(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    fn current(&self) -> Store<ViewTables> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn look<R>(&self, look: impl FnOnce(&ViewTables) -> R) -> Result<R, Error> {
        self.current().look(look).await
    }
}

#[async_trait]
impl Commit for MemoryViews {
    type Keys = Keys;
    type Rows = ViewRows;

    async fn commit(&self, keys: &Keys, requests: &[Uuid], apply_batch: ApplyBatch<'_, ViewRows>) -> Result<(), Error> {
        self.current().commit(keys, requests, apply_batch).await
    }
}

fn bounded(most: i64) -> usize {
    usize::try_from(most).unwrap_or(0)
}

#[async_trait]
impl ViewStore for MemoryViews {
    async fn view(&self, id: &TicketId) -> Result<Option<View>, Error> {
        self.look(|tables| tables.views.get(id).filter(|view| view.ticket.is_some()).cloned()).await
    }

    async fn position(&self) -> Result<Option<Position>, Error> {
        self.look(|tables| tables.position.clone()).await
    }

    async fn has_caught_up(&self) -> Result<bool, Error> {
        self.look(|tables| tables.has_caught_up).await
    }

    async fn page(
        &self,
        filter: &Filter,
        order: &SortOrder,
        after: Option<&[KeyPart]>,
        now: DateTime<Utc>,
        most: i64,
    ) -> Result<Vec<(TicketId, View)>, Error> {
        let page = |tables: &ViewTables| {
            let mut found = tables.rows(|_, view| passes(filter, view, now));
            found.sort_by(|one, other| above(order, &order.key(&one.0, &one.1), &order.key(&other.0, &other.1)));
            found.retain(|(id, view)| after.is_none_or(|after| above(order, &order.key(id, view), after).is_gt()));
            found.truncate(bounded(most));
            found
        };
        self.look(page).await
    }

    async fn user_reservations(
        &self,
        user: &UserId,
        before: Option<(DateTime<Utc>, ReservationId)>,
        most: i64,
    ) -> Result<Vec<(Reservation, View)>, Error> {
        let found = |tables: &ViewTables| {
            let place = |row: &Reservation| (row.reserve_time, row.reservation_id);
            let wanted = |row: &&Reservation| row.user_id == *user && before.is_none_or(|before| place(row) < before);
            let mut rows: Vec<Reservation> = tables.reservations.values().filter(wanted).cloned().collect();
            rows.sort_by_key(|row| std::cmp::Reverse(place(row)));
            rows.truncate(bounded(most));
            let view = |row: &Reservation| tables.views.get(&row.ticket_id).cloned().unwrap_or_default();
            rows.into_iter().map(|row| (row.clone(), view(&row))).collect()
        };
        self.look(found).await
    }

    async fn changed_above(&self, watched: &Watched, sequence: u64, most: i64) -> Result<StreamRows, Error> {
        let changed = |tables: &ViewTables| {
            let mut rows = tables.watched(watched, |_, view| view.sequence > sequence);
            rows.sort_by_key(|(_, view)| view.sequence);
            tables.stream_rows(rows, bounded(most))
        };
        self.look(changed).await
    }

    async fn snapshot(&self, watched: &Watched, after: &str, most: i64) -> Result<StreamRows, Error> {
        let snapshot = |tables: &ViewTables| {
            tables.stream_rows(tables.watched(watched, |id, _| id.as_str() > after), bounded(most))
        };
        self.look(snapshot).await
    }

    async fn views_of(&self, ids: &[TicketId]) -> Result<Vec<(TicketId, View)>, Error> {
        let ids: BTreeSet<&TicketId> = ids.iter().collect();
        self.look(|tables| tables.any_rows(|id, _| ids.contains(id)).collect()).await
    }

    async fn reservations_of(&self, ids: &[ReservationId]) -> Result<Vec<Reservation>, Error> {
        let ids: BTreeSet<&ReservationId> = ids.iter().collect();
        self.look(|tables| ids.iter().filter_map(|id| tables.reservations.get(*id)).cloned().collect()).await
    }

    async fn all_views(&self, after: &str, most: i64) -> Result<Vec<(TicketId, View)>, Error> {
        self.look(|tables| tables.any_rows(|id, _| id.as_str() > after).take(bounded(most)).collect()).await
    }

    async fn all_reservations(&self, after: &str, most: i64) -> Result<Vec<Reservation>, Error> {
        let above = |tables: &ViewTables| match after.parse::<ReservationId>() {
            Ok(after) => {
                let rows = tables.reservations.range((Bound::Excluded(after), Bound::Unbounded));
                rows.take(bounded(most)).map(|(_, row)| row.clone()).collect()
            }
            Err(_) => tables.reservations.values().take(bounded(most)).cloned().collect(),
        };
        self.look(above).await
    }

    async fn unsettled(&self, after: &str, most: i64) -> Result<Vec<(TicketId, View)>, Error> {
        let wanted = |id: &TicketId, view: &View| id.as_str() > after && view.unsettled_since.is_some();
        self.look(|tables| tables.any_rows(wanted).take(bounded(most)).collect()).await
    }

    async fn oldest_unsettled(&self) -> Result<Option<DateTime<Utc>>, Error> {
        self.look(|tables| tables.views.values().filter_map(|view| view.unsettled_since).min()).await
    }

    async fn counts(&self) -> Result<Counts, Error> {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let counts = |tables: &ViewTables| Counts {
            tickets: count(tables.views.values().filter(|view| view.ticket.is_some()).count()),
            prices: count(tables.views.values().filter(|view| view.price.is_some()).count()),
            reservations: count(tables.reservations.len()),
            closed_ledgers: count(tables.views.values().filter(|view| view.ledger.closed).count()),
        };
        self.look(counts).await
    }

    async fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    async fn discarded(&self) -> Result<Vec<String>, Error> {
        self.current().discarded().await
    }

    async fn keep_discarded(&self, event_ids: &[String]) -> Result<(), Error> {
        self.current().keep_discarded(event_ids).await
    }

    async fn beside(&self) -> Result<Arc<dyn ViewStore>, Error> {
        let store = Store::new(self.clock.clone()).process(self.clock.clone(), self.steps.clone());
        *self.beside.lock().unwrap_or_else(PoisonError::into_inner) = Some(store.clone());
        Ok(Arc::new(Self::with_store(store, self.clock.clone(), self.steps.clone())))
    }

    async fn exchange(&self, beside: Arc<dyn ViewStore>) -> Result<(), Error> {
        drop(beside);
        let built = self.beside.lock().unwrap_or_else(PoisonError::into_inner).take();
        let built = built.ok_or_else(|| Error::data("no store was created beside this one"))?;
        self.steps.step("exchange").await?;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = built;
        self.gone.store(false, Ordering::Relaxed);
        Ok(())
    }
}

#[async_trait]
impl StoreLifecycle for MemoryViews {
    async fn ping(&self) -> Result<(), Error> {
        self.current().ping().await
    }

    async fn close(&self) {
        self.current().close().await;
    }
}

#[async_trait]
impl ParkedStore for MemoryViews {
    async fn parked(&self, after: &str, most: i64) -> Result<Vec<Parked>, Error> {
        self.current().parked(after, most).await
    }

    async fn parked_by_id(&self, event_id: &str) -> Result<Option<Parked>, Error> {
        self.current().parked_by_id(event_id).await
    }

    async fn parked_count(&self) -> Result<i64, Error> {
        self.current().parked_count().await
    }

    async fn discard_parked(&self, event_id: &str) -> Result<bool, Error> {
        self.current().discard_parked(event_id).await
    }

    async fn is_discarded(&self, event_id: &str) -> Result<bool, Error> {
        self.current().is_discarded(event_id).await
    }
}

#[cfg(test)]
mod tests {
    use eticket_base::clock::SystemClock;
    use eticket_store::memory::NoSteps;

    use super::*;
    use crate::outbound::contract;

    #[tokio::test]
    async fn keeps_the_contract() {
        contract::suite(Arc::new(MemoryViews::new(Arc::new(SystemClock), Arc::new(NoSteps)))).await;
    }
}
