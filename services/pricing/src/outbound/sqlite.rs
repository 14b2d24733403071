//! Storage of prices and policies in SQLite.

use std::{collections::BTreeSet, sync::LazyLock};

use async_trait::async_trait;
use eticket_proto::ids::TicketId;
use eticket_store::{
    Error,
    sqlite::{Column, NULL, Store, Table, Tables, id_list, micros, optional_text, query, query_one, time},
};
use rusqlite::{Connection, Row as Found, Transaction, params};
use sqlx::migrate::Migrator;

use crate::{
    application::{PriceStore, PricingRows},
    convert::{policy_from_bytes, policy_to_bytes},
    domain::{Currency, Discount, Money, Policy, Price, Row},
};

pub static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// Reads and writes the rows of a commit.
pub struct PriceTables;

const SELECT: &str = "select * from price where ticket_id = ?1";
static PRICES: LazyLock<Table<TicketId, Row>> = LazyLock::new(|| {
    Table::new(
        "price",
        [
            Column::fixed("ticket_id", |id, _| id.as_str().into()),
            Column::changing("start_time", |_, row| row.start.map_or(NULL, micros)),
            Column::changing("schedule_revision", |_, row| row.schedule_revision.into()),
            Column::changing("grade", |_, row| row.grade.map_or(NULL, |grade| grade.name().into())),
            Column::changing("reservation_revision", |_, row| row.reservation_revision.into()),
            Column::changing("policy_version", |_, row| row.policy_version.into()),
            Column::changing("revision", |_, row| row.revision.into()),
            Column::changing("currency", |_, row| {
                optional_text(row.price.as_ref().map(|price| price.base_price.currency()))
            }),
            Column::changing("base_price", |_, row| {
                row.price.as_ref().map_or(NULL, |price| smallest(price.base_price).into())
            }),
            Column::changing("discounted_price", |_, row| {
                row.price.as_ref().map_or(NULL, |price| smallest(price.discounted_price).into())
            }),
            Column::changing("discounts", |_, row| row.price.as_ref().map_or(NULL, |price| discounts(price).into())),
            Column::changing("update_time", |_, row| row.update_time.map_or(NULL, micros)),
        ],
    )
});
const SELECT_IN_FORCE: &str = "select body from policy order by version desc limit 1";
const INSERT_POLICY: &str = "insert into policy (version, body) values (?1, ?2)";

impl Tables for PriceTables {
    type Keys = BTreeSet<TicketId>;
    type Rows = PricingRows;

    fn read_in_tx(transaction: &Transaction<'_>, keys: &BTreeSet<TicketId>) -> Result<PricingRows, Error> {
        let mut rows = PricingRows { in_force: in_force(transaction)?, ..PricingRows::default() };
        for id in keys {
            if let Some((id, row)) = query_one(transaction, SELECT, [id.as_str()], price_row)? {
                rows.prices.insert_read(id, row);
            }
        }
        Ok(rows)
    }

    fn write_in_tx(transaction: &Transaction<'_>, rows: &PricingRows) -> Result<(), Error> {
        for policy in &rows.adopted {
            transaction.execute(INSERT_POLICY, params![policy.version(), policy_to_bytes(policy)])?;
        }
        PRICES.write(transaction, rows.prices.changed())
    }
}

/// SQLite has signed integers. An amount is always far below their largest.
fn smallest(money: Money) -> i64 {
    money.smallest().cast_signed()
}

/// Encodes discounts as a JSON array of arrays. No query reads parts of it.
fn discounts(price: &Price) -> String {
    let columns = price.discounts.iter();
    let columns: Vec<_> = columns.map(|taken| (&taken.rule_id, &taken.description, taken.amount.smallest())).collect();
    serde_json::json!(columns).to_string()
}

fn price_row(found: &Found<'_>) -> Result<(TicketId, Row), Error> {
    let grade: Option<String> = found.get("grade")?;
    let is_computed = found.get::<_, Option<i64>>("start_time")?.is_some();
    let row = Row {
        start: is_computed.then(|| time(found, "start_time")).transpose()?,
        schedule_revision: found.get("schedule_revision")?,
        grade: grade.map(|grade| grade.parse()).transpose().map_err(Error::data)?,
        reservation_revision: found.get("reservation_revision")?,
        policy_version: found.get("policy_version")?,
        revision: found.get("revision")?,
        price: is_computed.then(|| price(found)).transpose()?,
        update_time: is_computed.then(|| time(found, "update_time")).transpose()?,
    };
    Ok((ticket_id(found)?, row))
}

fn ticket_id(found: &Found<'_>) -> Result<TicketId, Error> {
    found.get::<_, String>("ticket_id")?.parse().map_err(Error::data)
}

fn price(found: &Found<'_>) -> Result<Price, Error> {
    let currency: Currency = found.get::<_, String>("currency")?.parse().map_err(Error::data)?;
    let money = |smallest| Money::try_new(currency, smallest).map_err(Error::data);
    let column =
        |name| -> Result<Money, Error> { money(u64::try_from(found.get::<_, i64>(name)?).map_err(Error::data)?) };
    let discounts: Vec<(String, String, u64)> =
        serde_json::from_str(&found.get::<_, String>("discounts")?).map_err(Error::data)?;
    let discounts = discounts
        .into_iter()
        .map(|(rule_id, description, smallest)| Ok(Discount { rule_id, description, amount: money(smallest)? }));
    Ok(Price {
        base_price: column("base_price")?,
        discounted_price: column("discounted_price")?,
        discounts: discounts.collect::<Result<_, Error>>()?,
    })
}

fn in_force(connection: &Connection) -> Result<Option<Policy>, Error> {
    let body: Option<Vec<u8>> = query_one(connection, SELECT_IN_FORCE, [], |row| Ok(row.get(0)?))?;
    body.map(|body| policy_from_bytes(&body).map_err(Error::data)).transpose()
}

// Uses `price_computed`.
const PAGE: &str = "select * from price where start_time is not null and ticket_id > ?1 order by ticket_id limit ?2";
// Uses `price_to_recompute`.
const TO_REPRICE: &str = "select ticket_id from price where start_time is not null and grade is null
    and policy_version < ?1 order by policy_version limit ?2";

#[async_trait]
impl PriceStore for Store<PriceTables> {
    async fn row(&self, id: &TicketId) -> Result<Option<Row>, Error> {
        let found = self.database.look_up(|connection| query_one(connection, SELECT, [id.as_str()], price_row));
        Ok(found.await?.map(|(_, row)| row))
    }

    async fn rows_of(&self, ids: &[TicketId]) -> Result<Vec<(TicketId, Row)>, Error> {
        const SELECT_BY_IDS: &str = "select * from price where ticket_id in (select value from json_each(?1))";
        let ids = [id_list(ids)];
        self.database.scan(|connection| query(connection, SELECT_BY_IDS, ids, price_row)).await
    }

    async fn page(&self, after: &str, most: i64) -> Result<Vec<(TicketId, Row)>, Error> {
        let after = after.to_owned();
        self.database.scan(move |connection| query(connection, PAGE, params![after, most], price_row)).await
    }

    async fn to_reprice(&self, version: i64, most: i64) -> Result<Vec<TicketId>, Error> {
        self.database.scan(move |connection| query(connection, TO_REPRICE, [version, most], ticket_id)).await
    }

    async fn policy_in_force(&self) -> Result<Option<Policy>, Error> {
        self.database.look_up(in_force).await
    }

    async fn count(&self) -> Result<i64, Error> {
        self.database.count("select count(*) from price where start_time is not null").await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use eticket_base::clock::SystemClock;
    use eticket_store::sqlite::Database;

    use super::*;
    use crate::outbound::contract;

    #[tokio::test]
    async fn keeps_the_contract() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pricing.db");
        let database = Database::open(&path, &MIGRATIONS, Arc::new(SystemClock)).await.unwrap();
        contract::suite(Arc::new(Store::<PriceTables>::new(database))).await;
    }

    #[tokio::test]
    async fn every_list_has_its_index() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("t.db"), &MIGRATIONS, Arc::new(SystemClock)).await.unwrap();
        for (statement, index) in [(PAGE, "price_computed"), (TO_REPRICE, "price_to_recompute")] {
            let plan = database.plan(statement).await.unwrap();
            assert!(plan.contains(index) && !plan.contains("TEMP B-TREE"), "{statement}: {plan}");
        }
    }
}
