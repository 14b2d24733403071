//! Storage of prices and policies in PostgreSQL.
//!
//! A commit computes prices with the policy in force. The adoption of a policy waits until all commits that compute
//! with the older policy have ended. Otherwise the repricing that follows would miss their rows.

use std::{collections::BTreeSet, sync::LazyLock};

use async_trait::async_trait;
use eticket_proto::ids::{TicketId, UserGrade};
use eticket_store::{
    Error,
    postgres::{Changes, Column, Store, Table, Tables, each},
};
use serde_json::json;
use sqlx::{Executor, PgConnection, Row as _, migrate::Migrator, postgres::PgRow};

use crate::{
    application::{PriceStore, PricingRows},
    convert::{policy_from_bytes, policy_to_bytes},
    domain::{Currency, Discount, Money, Policy, Price, Row},
};

pub static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// Reads and writes the rows of a commit.
#[derive(Default)]
pub struct PriceTables;

static PRICES: LazyLock<Table<TicketId, Row>> = LazyLock::new(|| {
    Table::new(
        "price",
        [
            Column::fixed("ticket_id", "text", |query, rows| each(query, rows, |id, _| id.as_str())),
            Column::changing("start_time", "timestamptz", |query, rows| each(query, rows, |_, row| row.start)),
            Column::changing("schedule_revision", "bigint", |query, rows| {
                each(query, rows, |_, row| row.schedule_revision)
            }),
            Column::changing("grade", "text", |query, rows| each(query, rows, |_, row| row.grade.map(UserGrade::name))),
            Column::changing("reservation_revision", "bigint", |query, rows| {
                each(query, rows, |_, row| row.reservation_revision)
            }),
            Column::changing("policy_version", "bigint", |query, rows| each(query, rows, |_, row| row.policy_version)),
            Column::changing("revision", "bigint", |query, rows| each(query, rows, |_, row| row.revision)),
            Column::changing("currency", "text", |query, rows| {
                each(query, rows, |_, row| row.price.as_ref().map(|price| price.base_price.currency().to_string()))
            }),
            Column::changing("base_price", "bigint", |query, rows| {
                each(query, rows, |_, row| row.price.as_ref().map(|price| smallest(price.base_price)))
            }),
            Column::changing("discounted_price", "bigint", |query, rows| {
                each(query, rows, |_, row| row.price.as_ref().map(|price| smallest(price.discounted_price)))
            }),
            Column::changing("discounts", "text", |query, rows| {
                each(query, rows, |_, row| row.price.as_ref().map(discounts))
            }),
            Column::changing("update_time", "timestamptz", |query, rows| each(query, rows, |_, row| row.update_time)),
        ],
    )
});

const COMPUTE: &str = "lock table policy in row share mode";
const ADOPT: &str = "lock table policy in exclusive mode";
// Uses the primary key, as the updates do.
static LOCK_BY_IDS: LazyLock<String> =
    LazyLock::new(|| PRICES.select("where ticket_id = any($1) order by ticket_id for update"));
static SELECT: LazyLock<String> = LazyLock::new(|| PRICES.select("where ticket_id = $1"));
static SELECT_BY_IDS: LazyLock<String> = LazyLock::new(|| PRICES.select("where ticket_id = any($1)"));
// Uses the primary key.
const SELECT_IN_FORCE: &str = "select body from policy order by version desc limit 1";
const INSERT_POLICIES: &str = "insert into policy (version, body)
    select new.* from unnest($1::bigint[], $2::bytea[]) as new (version, body) order by version";

#[async_trait]
impl Tables for PriceTables {
    type Keys = BTreeSet<TicketId>;
    type Rows = PricingRows;

    async fn lock_in_tx(connection: &mut PgConnection, keys: &BTreeSet<TicketId>) -> Result<PricingRows, Error> {
        connection.execute(COMPUTE).await?;
        let found = sqlx::query(SELECT_IN_FORCE).fetch_optional(&mut *connection).await?;
        let mut rows = PricingRows { in_force: policy(found)?, ..PricingRows::default() };
        if keys.is_empty() {
            return Ok(rows);
        }
        let ids: Vec<&str> = keys.iter().map(TicketId::as_str).collect();
        for found in sqlx::query(LOCK_BY_IDS.as_str()).bind(ids).fetch_all(connection).await? {
            let (id, row) = price_row(&found)?;
            rows.prices.insert_read(id, row);
        }
        Ok(rows)
    }

    async fn write_in_tx(
        connection: &mut PgConnection,
        rows: &PricingRows,
        changes: &mut Changes,
    ) -> Result<(), Error> {
        if !rows.adopted.is_empty() {
            connection.execute(ADOPT).await?;
            let query = sqlx::query(INSERT_POLICIES)
                .bind(rows.adopted.iter().map(Policy::version).collect::<Vec<_>>())
                .bind(rows.adopted.iter().map(policy_to_bytes).collect::<Vec<_>>());
            query.execute(&mut *connection).await?;
        }
        PRICES.update(changes, rows.prices.updated());
        PRICES.insert(changes, rows.prices.made());
        Ok(())
    }
}

/// PostgreSQL has signed integers. An amount is always far below their largest.
fn smallest(money: Money) -> i64 {
    money.smallest().cast_signed()
}

fn discounts(price: &Price) -> String {
    let taken = price.discounts.iter();
    json!(taken.map(|it| json!([it.rule_id, it.description, it.amount.smallest()])).collect::<Vec<_>>()).to_string()
}

fn price_row(found: &PgRow) -> Result<(TicketId, Row), Error> {
    let id = found.try_get::<&str, _>("ticket_id")?.parse().map_err(Error::data)?;
    let grade: Option<&str> = found.try_get("grade")?;
    let start = found.try_get::<Option<_>, _>("start_time")?;
    let row = Row {
        start,
        schedule_revision: found.try_get("schedule_revision")?,
        grade: grade.map(str::parse).transpose().map_err(Error::data)?,
        reservation_revision: found.try_get("reservation_revision")?,
        policy_version: found.try_get("policy_version")?,
        revision: found.try_get("revision")?,
        price: start.map(|_| price(found)).transpose()?,
        update_time: found.try_get("update_time")?,
    };
    Ok((id, row))
}

fn price(found: &PgRow) -> Result<Price, Error> {
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

fn policy(found: Option<PgRow>) -> Result<Option<Policy>, Error> {
    found.map(|row| policy_from_bytes(row.try_get("body")?).map_err(Error::data)).transpose()
}

// Uses `price_computed`.
static PAGE: LazyLock<String> =
    LazyLock::new(|| PRICES.select("where start_time is not null and ticket_id > $1 order by ticket_id limit $2"));
// Uses `price_to_recompute`.
const TO_REPRICE: &str = "select ticket_id from price where start_time is not null and grade is null
    and policy_version < $1 order by policy_version limit $2";

#[async_trait]
impl PriceStore for Store<PriceTables> {
    async fn row(&self, id: &TicketId) -> Result<Option<Row>, Error> {
        let found = self.database.fetch_optional(sqlx::query(SELECT.as_str()).bind(id.as_str())).await?;
        Ok(found.as_ref().map(price_row).transpose()?.map(|(_, row)| row))
    }

    async fn rows_of(&self, ids: &[TicketId]) -> Result<Vec<(TicketId, Row)>, Error> {
        let ids: Vec<&str> = ids.iter().map(TicketId::as_str).collect();
        self.database.fetch_all(sqlx::query(SELECT_BY_IDS.as_str()).bind(ids)).await?.iter().map(price_row).collect()
    }

    async fn page(&self, after: &str, most: i64) -> Result<Vec<(TicketId, Row)>, Error> {
        self.database
            .fetch_all(sqlx::query(PAGE.as_str()).bind(after).bind(most))
            .await?
            .iter()
            .map(price_row)
            .collect()
    }

    async fn to_reprice(&self, version: i64, most: i64) -> Result<Vec<TicketId>, Error> {
        let rows = self.database.fetch_all(sqlx::query(TO_REPRICE).bind(version).bind(most)).await?;
        rows.iter().map(|row| row.try_get::<&str, _>(0)?.parse().map_err(Error::data)).collect()
    }

    async fn policy_in_force(&self) -> Result<Option<Policy>, Error> {
        policy(self.database.fetch_optional(sqlx::query(SELECT_IN_FORCE)).await?)
    }

    async fn count(&self) -> Result<i64, Error> {
        // Uses `price_computed`.
        const COUNT: &str = "select count(*) from price where start_time is not null";
        Ok(self.database.fetch_one(sqlx::query(COUNT)).await?.try_get(0)?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use eticket_base::clock::SystemClock;
    use eticket_local_servers::postgres::Postgres;
    use eticket_store::postgres::{self, Database};

    use super::*;
    use crate::outbound::contract;

    async fn store(server: &Postgres) -> Arc<Store<PriceTables>> {
        let options = postgres::options(&server.url("postgres")).expect("a URL");
        let opened = Database::open(&options, "pricing", &MIGRATIONS, Arc::new(SystemClock)).await;
        Arc::new(Store::new(opened.expect("a store")))
    }

    #[tokio::test]
    #[ignore = "needs PostgreSQL: cargo xtask test runs it"]
    async fn keeps_the_contract() {
        let server = Postgres::start().expect("a server");
        contract::suite(store(&server).await).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    #[ignore = "needs PostgreSQL: cargo xtask test runs it"]
    async fn replicas_see_the_changes_of_each_other() {
        let server = Postgres::start().expect("a server");
        let wait_until_blocked = || server.wait_until_blocked().expect("a blocked replica");
        contract::replicas(store(&server).await, store(&server).await, &wait_until_blocked).await;
    }
}
