//! In-memory storage of prices and policies, for tests and simulations.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use eticket_proto::ids::TicketId;
use eticket_store::{
    Error,
    memory::{Store, Tables},
};

use crate::{
    application::{PriceStore, PricingRows},
    domain::{Policy, Row},
};

/// All rows and policies.
#[derive(Default, Clone)]
pub struct PriceTables {
    prices: BTreeMap<TicketId, Row>,
    /// Policies by version.
    policies: BTreeMap<i64, Policy>,
}

impl PriceTables {
    fn in_force(&self) -> Option<Policy> {
        self.policies.values().next_back().cloned()
    }

    /// Returns the rows that have a price.
    fn priced(&self) -> impl Iterator<Item = (&TicketId, &Row)> {
        self.prices.iter().filter(|(_, row)| row.start.is_some())
    }
}

impl Tables for PriceTables {
    type Keys = BTreeSet<TicketId>;
    type Rows = PricingRows;

    fn locks(&self, keys: &BTreeSet<TicketId>) -> BTreeSet<String> {
        keys.iter().filter(|id| self.prices.contains_key(*id)).map(ToString::to_string).collect()
    }

    fn read(&self, keys: &BTreeSet<TicketId>) -> PricingRows {
        let mut rows = PricingRows { in_force: self.in_force(), ..PricingRows::default() };
        for (id, row) in keys.iter().filter_map(|id| self.prices.get_key_value(id)) {
            rows.prices.insert_read(id.clone(), row.clone());
        }
        rows
    }

    fn write(&mut self, rows: &PricingRows) -> Result<(), Error> {
        for policy in &rows.adopted {
            if self.policies.insert(policy.version(), policy.clone()).is_some() {
                return Err(Error::data(format!("the policy version {} already exists", policy.version())));
            }
        }
        self.prices.extend(rows.prices.changed().map(|(id, row)| (id.clone(), row.clone())));
        Ok(())
    }
}

#[async_trait]
impl PriceStore for Store<PriceTables> {
    async fn row(&self, id: &TicketId) -> Result<Option<Row>, Error> {
        self.look(|tables| tables.prices.get(id).cloned()).await
    }

    async fn rows_of(&self, ids: &[TicketId]) -> Result<Vec<(TicketId, Row)>, Error> {
        let ids: BTreeSet<&TicketId> = ids.iter().collect();
        let found = |tables: &PriceTables| {
            let rows = ids.iter().filter_map(|id| tables.prices.get_key_value(*id));
            rows.map(|(id, row)| (id.clone(), row.clone())).collect()
        };
        self.look(found).await
    }

    async fn page(&self, after: &str, most: i64) -> Result<Vec<(TicketId, Row)>, Error> {
        let most = usize::try_from(most).unwrap_or(0);
        let page = |tables: &PriceTables| {
            let above = tables.priced().filter(|(id, _)| id.as_str() > after).take(most);
            above.map(|(id, row)| (id.clone(), row.clone())).collect()
        };
        self.look(page).await
    }

    async fn to_reprice(&self, version: i64, most: i64) -> Result<Vec<TicketId>, Error> {
        let most = usize::try_from(most).unwrap_or(0);
        let wanted = |row: &Row| row.grade.is_none() && row.policy_version < version;
        let found = |tables: &PriceTables| {
            tables.priced().filter(|(_, row)| wanted(row)).take(most).map(|(id, _)| id.clone()).collect()
        };
        self.look(found).await
    }

    async fn policy_in_force(&self) -> Result<Option<Policy>, Error> {
        self.look(PriceTables::in_force).await
    }

    async fn count(&self) -> Result<i64, Error> {
        self.look(|tables| i64::try_from(tables.priced().count()).unwrap_or(i64::MAX)).await
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
        contract::suite(Arc::new(Store::<PriceTables>::new(Arc::new(SystemClock)))).await;
    }
}
