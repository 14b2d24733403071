//! Events between prices and other services: publishes prices for other services, and applies the events from which
//! prices are computed.

use std::collections::BTreeMap;

use async_trait::async_trait;
use eticket_base::{clock::SharedClock, telemetry::TraceContext};
use eticket_proto::{ids::TicketId, subjects};
use eticket_service::{
    audit::{Owner, State},
    batch,
    consumer::{EventHandler, Incoming},
};
use eticket_store::Parked;

use super::{Input, Messages, PriceInput, Prices, WriteCommand, unavailable};
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
        self.prices.store.count().await.map(i64::unsigned_abs).map_err(unavailable)
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

#[async_trait]
impl EventHandler for Prices {
    type Event = PriceInput;

    async fn handle(&self, events: Vec<Incoming<PriceInput>>) -> Vec<Result<(), batch::Error>> {
        futures::future::join_all(events.into_iter().map(|event| self.submit(WriteCommand::Event(event)))).await
    }

    async fn park(&self, parked: Parked) -> Result<(), batch::Error> {
        self.submit(WriteCommand::Park(parked)).await
    }

    async fn missing(&self, events: &[PriceInput]) -> Result<Vec<bool>, batch::Error> {
        let ids: Vec<TicketId> = events.iter().map(|event| event.ticket.clone()).collect();
        let known: BTreeMap<TicketId, Row> = self.store.rows_of(&ids).await.map_err(unavailable)?.into_iter().collect();
        let is_newer = |event: &PriceInput| {
            let row = known.get(&event.ticket);
            match event.input {
                Input::Schedule(schedule) => row.map_or(0, |row| row.schedule_revision) < schedule.revision,
                Input::Holder(holder) => row.map_or(0, |row| row.reservation_revision) < holder.revision,
            }
        };
        Ok(events.iter().map(is_newer).collect())
    }
}
