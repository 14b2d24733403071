//! What those that keep prices compare themselves with, and what prices keep of tickets and reservations.

use std::collections::BTreeMap;

use async_trait::async_trait;
use eticket_base::{clock::SharedClock, telemetry::TraceContext};
use eticket_proto::{ids::TicketId, subjects};
use eticket_service::{
    audit::{Owner, State},
    batch,
};

use super::{About, Messages, News, Prices, WriteCommand, unavailable};
use crate::domain::Row;

/// The states that the pricing service owns.
pub struct PriceStates {
    prices: Prices,
    messages: Messages,
    clock: SharedClock,
}

impl PriceStates {
    pub fn new(prices: Prices, messages: Messages, clock: SharedClock) -> Self {
        Self { prices, messages, clock }
    }
}

#[async_trait]
impl Owner for PriceStates {
    async fn count(&self) -> Result<u64, batch::Error> {
        self.prices.count().await
    }

    async fn states(&self, after: &str, most: usize) -> Result<Vec<State>, batch::Error> {
        let (now, trace) = (self.clock.now(), TraceContext::new_root());
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let page = self.prices.store.page(after, most).await.map_err(unavailable)?;
        let state = |(id, row): (TicketId, Row)| {
            let row = (self.messages.event)(&id, &row, now, &trace)?;
            Some(State { key: id.to_string(), message: row.message })
        };
        Ok(page.into_iter().filter_map(state).collect())
    }

    async fn republish(&self, subjects: &[String]) -> Result<u64, batch::Error> {
        let ids: Vec<TicketId> = subjects.iter().filter_map(|subject| subjects::price_of(subject)).collect();
        let count = ids.len() as u64;
        futures::future::try_join_all(ids.into_iter().map(|id| self.prices.submit(WriteCommand::Republish(id))))
            .await?;
        Ok(count)
    }
}

impl Prices {
    /// Which of these news are newer than what is taken in.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn missing(&self, news: &[News]) -> Result<Vec<bool>, batch::Error> {
        let ids: Vec<TicketId> = news.iter().map(|news| news.ticket.clone()).collect();
        let known: BTreeMap<TicketId, Row> = self.store.rows_of(&ids).await.map_err(unavailable)?.into_iter().collect();
        let is_newer = |news: &News| {
            let row = known.get(&news.ticket);
            match news.about {
                About::Schedule(schedule) => row.map_or(0, |row| row.schedule_revision) < schedule.revision,
                About::Holder(holder) => row.map_or(0, |row| row.reservation_revision) < holder.revision,
            }
        };
        Ok(news.iter().map(is_newer).collect())
    }
}
