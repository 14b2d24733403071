//! What `doctor` checks of the store of a service and of the bus, without changing either.

mod bus;
mod postgres;
mod sqlite;

use chrono::TimeDelta;
use eticket_base::{
    config::urls::{self, StorePlace, StoreSupport},
    doctor::{Check, Group},
};
use eticket_runtime::examination::Examination;
use eticket_store::inspection::Schema;
use sqlx::migrate::Migrator;

pub use self::bus::check as bus;
use crate::store::{Migrations, postgres_options};

const STORE: Group = Group::Store;
/// Larger differences are a warning: the services order times of several machines.
const LARGEST_DIFFERENCE: TimeDelta = TimeDelta::seconds(1);

/// Checks the store of a service.
pub async fn store(examination: &Examination, migrations: Migrations) -> Vec<Check> {
    let checks = match examination.store_place(StoreSupport::Any) {
        Ok(Some(StorePlace::Sqlite(path))) => {
            sqlite::check(
                &path,
                examination.data.as_deref(),
                migrations.sqlite,
                sqlite::Newer::Opens,
                examination.patience,
            )
            .await
        }
        Ok(Some(StorePlace::Postgres(url))) => match postgres_options(&url) {
            Ok(options) => {
                let schema = (examination.name, migrations.postgres);
                postgres::check(&urls::without_password(&url), &options, schema, examination.patience).await
            }
            Err(error) => vec![Check::fail(STORE, "store-connection", error.to_string(), "correct store.url")],
        },
        Ok(None) => Vec::new(),
        Err(error) => vec![Check::fail(STORE, "store-connection", error.to_string(), "correct store.url")],
    };
    checks.into_iter().map(|check| check.of(examination.name)).collect()
}

/// Checks the store of a service that keeps a copy of other data in one SQLite file, which a file of a newer program does not fit.
pub async fn copy(examination: &Examination, migrations: &Migrator) -> Vec<Check> {
    let checks = match examination.store_place(StoreSupport::SqliteOnly) {
        Ok(Some(StorePlace::Sqlite(path))) => {
            sqlite::check(
                &path,
                examination.data.as_deref(),
                migrations,
                sqlite::Newer::IsReplaced,
                examination.patience,
            )
            .await
        }
        Ok(_) => Vec::new(),
        Err(error) => vec![Check::fail(STORE, "store-connection", error.to_string(), "correct store.url")],
    };
    checks.into_iter().map(|check| check.of(examination.name)).collect()
}

/// Judges the state of a schema. `newer` says what happens if a newer program has migrated it.
fn migrations(group: Group, schema: Schema, newer: &str) -> Check {
    const NAME: &str = "migrations";
    match schema {
        Schema::New => Check::ok(group, NAME, "no schema yet: the next start creates it"),
        Schema::Current { newest } => Check::ok(group, NAME, format!("current, version {newest}")),
        Schema::Behind { pending } => {
            Check::ok(group, NAME, format!("{pending} pending: the next start of this version applies them"))
        }
        Schema::Ahead { newest } => Check::warn(
            group,
            NAME,
            format!("version {newest} is from a newer version of eTicket; {newer}"),
            "finish the upgrade: run the newer version everywhere, or restore the backup from before it",
        ),
        Schema::Altered { version } => Check::fail(
            group,
            NAME,
            format!("version {version} was changed by hand, or is from another program"),
            "restore the store from a backup, or set store.url to a store of eTicket",
        ),
        Schema::Incomplete { version } => Check::fail(
            group,
            NAME,
            format!("version {version} was not completed"),
            "restore the store from the backup from before the upgrade",
        ),
    }
}

fn clock(whose: &str, difference: TimeDelta) -> Check {
    Check::clock(whose, difference, LARGEST_DIFFERENCE)
}

#[cfg(test)]
mod tests {
    use eticket_base::doctor::Status;

    use super::*;

    #[test]
    fn a_schema_of_a_newer_program_is_a_warning_and_a_changed_one_a_failure() {
        let status = |schema| migrations(STORE, schema, "it opens").status;
        for fine in [Schema::New, Schema::Current { newest: 103 }, Schema::Behind { pending: 2 }] {
            assert_eq!(status(fine), Status::Ok, "{fine:?}");
        }
        assert_eq!(status(Schema::Ahead { newest: 200 }), Status::Warn);
        assert_eq!(status(Schema::Altered { version: 1 }), Status::Fail);
        assert_eq!(status(Schema::Incomplete { version: 1 }), Status::Fail);
    }
}
