//! In-memory storage of tickets, for tests and simulations.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use eticket_proto::ids::TicketId;
use eticket_store::{
    Error,
    memory::{Store, Tables},
};

use crate::{
    application::{TicketRows, TicketStore},
    domain::{Status, Ticket},
};

/// All rows, by ticket id.
#[derive(Default, Clone)]
pub struct TicketTables(BTreeMap<TicketId, Ticket>);

impl Tables for TicketTables {
    type Keys = BTreeSet<TicketId>;
    type Rows = TicketRows;

    fn locks(&self, keys: &BTreeSet<TicketId>) -> BTreeSet<String> {
        keys.iter().filter(|id| self.0.contains_key(*id)).map(ToString::to_string).collect()
    }

    fn read(&self, keys: &BTreeSet<TicketId>) -> TicketRows {
        let mut rows = TicketRows::default();
        for ticket in keys.iter().filter_map(|id| self.0.get(id)) {
            rows.insert_read(ticket.id.clone(), ticket.clone());
        }
        rows
    }

    fn write(&mut self, rows: &TicketRows) -> Result<(), Error> {
        self.0.extend(rows.changed().map(|(id, ticket)| (id.clone(), ticket.clone())));
        Ok(())
    }
}

#[async_trait]
impl TicketStore for Store<TicketTables> {
    async fn ticket(&self, id: &TicketId) -> Result<Option<Ticket>, Error> {
        self.look(|tickets| tickets.0.get(id).cloned()).await
    }

    async fn tickets_of(&self, ids: &[TicketId]) -> Result<Vec<Ticket>, Error> {
        let ids: BTreeSet<&TicketId> = ids.iter().collect();
        self.look(|tickets| ids.iter().filter_map(|id| tickets.0.get(*id)).cloned().collect()).await
    }

    async fn page(
        &self,
        status: Option<Status>,
        now: DateTime<Utc>,
        after: &str,
        most: i64,
    ) -> Result<Vec<Ticket>, Error> {
        let wanted =
            |ticket: &&Ticket| ticket.id.as_str() > after && status.is_none_or(|status| ticket.status(now) == status);
        let most = usize::try_from(most).unwrap_or(0);
        self.look(|tickets| tickets.0.values().filter(wanted).take(most).cloned().collect()).await
    }

    async fn to_announce(&self, now: DateTime<Utc>, most: i64) -> Result<Vec<TicketId>, Error> {
        let wanted = |ticket: &&Ticket| ticket.status(now) == Status::Expired && !ticket.announced;
        let most = usize::try_from(most).unwrap_or(0);
        self.look(|tickets| tickets.0.values().filter(wanted).take(most).map(|it| it.id.clone()).collect()).await
    }

    async fn count(&self) -> Result<i64, Error> {
        self.look(|tickets| i64::try_from(tickets.0.len()).unwrap_or(i64::MAX)).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use eticket_base::clock::SystemClock;

    use super::*;
    use crate::outbound::contract;

    #[tokio::test]
    async fn keeps_the_contract() {
        contract::suite(Arc::new(Store::<TicketTables>::new(Arc::new(SystemClock)))).await;
    }
}
