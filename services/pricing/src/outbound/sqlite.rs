//! Storage of prices and policies in SQLite.

use std::collections::BTreeSet;

use async_trait::async_trait;
use eticket_proto::ids::{TicketId, UserGrade};
use eticket_store::{
    Error,
    sqlite::{Store, Tables, hex, json_rows, time},
};
use serde_json::json;
use sqlx::{Row as _, SqliteConnection, SqliteExecutor, migrate::Migrator, sqlite::SqliteRow};

use crate::{
    application::{PriceStore, PricingRows},
    convert::{policy_from_bytes, policy_to_bytes},
    domain::{Currency, Discount, Money, Policy, Price, Row},
};

pub static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// Reads and writes the rows of a commit.
pub struct PriceTables;

const SELECT_BY_IDS: &str = "select * from price where ticket_id in (select value from json_each(?1))";
const UPSERT: &str = "insert into price (ticket_id, start_time, schedule_revision, grade, reservation_revision,
        policy_version, revision, currency, base_price, discounted_price, discounts, update_time)
    select value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
        value ->> 8, value ->> 9, value ->> 10, value ->> 11
    from json_each(?1) where true
    on conflict (ticket_id) do update set start_time = excluded.start_time,
        schedule_revision = excluded.schedule_revision, grade = excluded.grade,
        reservation_revision = excluded.reservation_revision, policy_version = excluded.policy_version,
        revision = excluded.revision, currency = excluded.currency, base_price = excluded.base_price,
        discounted_price = excluded.discounted_price, discounts = excluded.discounts,
        update_time = excluded.update_time";
const SELECT_IN_FORCE: &str = "select body from policy order by version desc limit 1";
const INSERT_POLICY: &str =
    "insert into policy (version, body) select value ->> 0, unhex(value ->> 1) from json_each(?1)";

#[async_trait]
impl Tables for PriceTables {
    type Keys = BTreeSet<TicketId>;
    type Rows = PricingRows;

    async fn read_in_tx(connection: &mut SqliteConnection, keys: &BTreeSet<TicketId>) -> Result<PricingRows, Error> {
        let mut rows = PricingRows { in_force: in_force(&mut *connection).await?, ..PricingRows::default() };
        if keys.is_empty() {
            return Ok(rows);
        }
        let ids = json_rows(keys.iter().map(|id| json!(id.as_str())));
        for found in sqlx::query(SELECT_BY_IDS).bind(ids).fetch_all(connection).await? {
            let (id, row) = price_row(&found)?;
            rows.prices.insert_read(id, row);
        }
        Ok(rows)
    }

    async fn write_in_tx(connection: &mut SqliteConnection, rows: &PricingRows) -> Result<(), Error> {
        if !rows.adopted.is_empty() {
            let policies = rows.adopted.iter().map(|policy| json!([policy.version(), hex(&policy_to_bytes(policy))]));
            sqlx::query(INSERT_POLICY).bind(json_rows(policies)).execute(&mut *connection).await?;
        }
        let mut changed = rows.prices.changed().peekable();
        if changed.peek().is_some() {
            let prices = json_rows(changed.map(|(id, row)| to_json(id, row)));
            sqlx::query(UPSERT).bind(prices).execute(connection).await?;
        }
        Ok(())
    }
}

fn to_json(id: &TicketId, row: &Row) -> serde_json::Value {
    let price = row.price.as_ref();
    let discounts = price.map(|price| {
        let discounts = price.discounts.iter();
        json_rows(discounts.map(|taken| json!([taken.rule_id, taken.description, taken.amount.smallest()])))
    });
    json!([
        id.as_str(),
        row.start.map(|start| start.timestamp_micros()),
        row.schedule_revision,
        row.grade.map(UserGrade::name),
        row.reservation_revision,
        row.policy_version,
        row.revision,
        price.map(|price| price.base_price.currency().to_string()),
        price.map(|price| price.base_price.smallest()),
        price.map(|price| price.discounted_price.smallest()),
        discounts,
        row.update_time.map(|time| time.timestamp_micros()),
    ])
}

fn price_row(found: &SqliteRow) -> Result<(TicketId, Row), Error> {
    let id = found.try_get::<&str, _>("ticket_id")?.parse().map_err(Error::data)?;
    let grade: Option<&str> = found.try_get("grade")?;
    let is_computed = found.try_get::<Option<i64>, _>("start_time")?.is_some();
    let row = Row {
        start: is_computed.then(|| time(found, "start_time")).transpose()?,
        schedule_revision: found.try_get("schedule_revision")?,
        grade: grade.map(str::parse).transpose().map_err(Error::data)?,
        reservation_revision: found.try_get("reservation_revision")?,
        policy_version: found.try_get("policy_version")?,
        revision: found.try_get("revision")?,
        price: is_computed.then(|| price(found)).transpose()?,
        update_time: is_computed.then(|| time(found, "update_time")).transpose()?,
    };
    Ok((id, row))
}

fn price(found: &SqliteRow) -> Result<Price, Error> {
    let currency: Currency = found.try_get::<&str, _>("currency")?.parse().map_err(Error::data)?;
    let money = |smallest| Money::try_new(currency, smallest).map_err(Error::data);
    let column =
        |name| -> Result<Money, Error> { money(u64::try_from(found.try_get::<i64, _>(name)?).map_err(Error::data)?) };
    let discounts: Vec<(String, String, u64)> =
        serde_json::from_str(found.try_get("discounts")?).map_err(Error::data)?;
    let discounts = discounts
        .into_iter()
        .map(|(rule_id, description, smallest)| Ok(Discount { rule_id, description, amount: money(smallest)? }));
    Ok(Price {
        base_price: column("base_price")?,
        discounted_price: column("discounted_price")?,
        discounts: discounts.collect::<Result<_, Error>>()?,
    })
}

async fn in_force(executor: impl SqliteExecutor<'_>) -> Result<Option<Policy>, Error> {
    let body: Option<Vec<u8>> = sqlx::query_scalar(SELECT_IN_FORCE).fetch_optional(executor).await?;
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
        const SELECT: &str = "select * from price where ticket_id = ?1";
        let found = sqlx::query(SELECT).bind(id.as_str()).fetch_optional(self.database.readers()).await?;
        Ok(found.as_ref().map(price_row).transpose()?.map(|(_, row)| row))
    }

    async fn rows_of(&self, ids: &[TicketId]) -> Result<Vec<(TicketId, Row)>, Error> {
        let ids = json_rows(ids.iter().map(|id| json!(id.as_str())));
        sqlx::query(SELECT_BY_IDS).bind(ids).fetch_all(self.database.readers()).await?.iter().map(price_row).collect()
    }

    async fn page(&self, after: &str, most: i64) -> Result<Vec<(TicketId, Row)>, Error> {
        let query = sqlx::query(PAGE).bind(after).bind(most);
        query.fetch_all(self.database.readers()).await?.iter().map(price_row).collect()
    }

    async fn to_reprice(&self, version: i64, most: i64) -> Result<Vec<TicketId>, Error> {
        let query = sqlx::query_scalar::<_, String>(TO_REPRICE).bind(version).bind(most);
        let ids = query.fetch_all(self.database.readers()).await?;
        ids.iter().map(|id| id.parse().map_err(Error::data)).collect()
    }

    async fn policy_in_force(&self) -> Result<Option<Policy>, Error> {
        in_force(self.database.readers()).await
    }

    async fn count(&self) -> Result<i64, Error> {
        const COUNT: &str = "select count(*) from price where start_time is not null";
        Ok(sqlx::query_scalar(COUNT).fetch_one(self.database.readers()).await?)
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
