//! Runs the contract, and checks that an index serves each list, so that the cost of a page does not depend on the size
//! of the table.

use eticket_base::clock::SystemClock;
use sqlx::{
    Connection, SqlSafeStr, SqliteConnection,
    migrate::{Migration, MigrationType},
    sqlite::SqliteConnectOptions,
};

use super::*;
use crate::{domain::TicketStatus, outbound::contract};

async fn database() -> (tempfile::TempDir, Database) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("query.db");
    let database = Database::open_with(&path, &MIGRATIONS, Arc::new(SystemClock), Durability::Unsynced).await.unwrap();
    (folder, database)
}

#[tokio::test]
async fn keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteViews::open(&folder.path().join("query.db"), Arc::new(SystemClock)).await.unwrap();
    contract::suite(Arc::new(store)).await;
}

#[tokio::test]
async fn a_file_migrated_by_a_newer_version_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("query.db");
    let clock: SharedClock = Arc::new(SystemClock);
    let column = Migration::new(
        199,
        "of a test".into(),
        MigrationType::Simple,
        "alter table view add column more text".into_sql_str(),
        false,
    );
    let newer = Migrator::with_migrations(MIGRATIONS.iter().cloned().chain([column]).collect());
    let database = Database::open_with(&path, &newer, clock.clone(), Durability::Unsynced).await.unwrap();
    database.close().await;
    // If the file were kept, every commit would fail: the rows of this version have one column less.
    let store = SqliteViews::open(&path, clock).await.unwrap();
    contract::suite(Arc::new(store)).await;
}

#[tokio::test]
async fn only_damage_and_another_schema_make_a_file_unusable() {
    let folder = tempfile::tempdir().unwrap();
    let error_of = async |name: &str, create: bool| {
        let options = SqliteConnectOptions::new().filename(folder.path().join(name)).create_if_missing(create);
        let opened = SqliteConnection::connect_with(&options).await;
        let outcome = match opened {
            Ok(mut connection) => sqlx::query("select * from absent").execute(&mut connection).await.map(drop),
            Err(error) => Err(error),
        };
        outcome.unwrap_err()
    };
    // SQLite reports a lack of descriptors like this, as SQLITE_CANTOPEN.
    let cannot_open = async || error_of("absent/query.db", true).await;
    let executed = |error| sqlx::Error::Migrate(Box::new(MigrateError::Execute(error)));
    let migrating = |error| sqlx::Error::Migrate(Box::new(MigrateError::ExecuteMigration(error, 101)));
    assert_eq!(primary_code(&cannot_open().await), Some(14));
    assert!(!is_unusable(&cannot_open().await));
    assert!(!is_unusable(&executed(cannot_open().await)));
    assert!(!is_unusable(&migrating(cannot_open().await)));
    assert!(!is_unusable(&executed(sqlx::Error::PoolTimedOut)));

    std::fs::write(folder.path().join("text.db"), [b'x'; 4096]).unwrap();
    assert!(is_unusable(&error_of("text.db", false).await));
    assert!(is_unusable(&executed(error_of("text.db", false).await)));
    // Another schema.
    assert!(is_unusable(&migrating(error_of("empty.db", true).await)));
    assert!(!is_unusable(&error_of("empty.db", true).await));
    for error in [MigrateError::VersionMissing(1), MigrateError::VersionMismatch(1)] {
        assert!(is_unusable(&sqlx::Error::Migrate(Box::new(error))));
    }
}

#[tokio::test]
async fn a_file_locked_by_a_tool_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("query.db");
    // A new file in the mode of the view: opening needs no lock for writing, but the first migration does.
    let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let options = options.journal_mode(sqlx::sqlite::SqliteJournalMode::Wal);
    let mut tool = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("create table of_a_tool (id integer)").execute(&mut tool).await.unwrap();
    let transaction = tool.begin_with("begin immediate").await.unwrap();
    let clock: SharedClock = Arc::new(SystemClock);
    assert!(SqliteViews::open(&path, clock.clone()).await.is_err());
    transaction.rollback().await.unwrap();
    sqlx::query("select * from of_a_tool").execute(&mut tool).await.expect("a row");
    tool.close().await.unwrap();
    SqliteViews::open(&path, clock.clone()).await.unwrap().close().await;
    let mut tool = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("select * from of_a_tool").execute(&mut tool).await.expect("the same file");
}

#[tokio::test]
async fn every_order_and_filter_has_its_index() {
    let (_folder, database) = database().await;
    let of_status = |status| Filter { status: Some(status), ..Filter::default() };
    let of_user = Filter { user: Some("ann".parse().unwrap()), ..Filter::default() };
    let from = Filter { start_from: Some(DateTime::UNIX_EPOCH), ..Filter::default() };
    for (filter, order, index) in [
        (Filter::default(), "", "view_by_start"),
        (Filter::default(), "start_time desc", "view_by_start"),
        (from, "", "view_by_start"),
        // The table itself is sorted by id.
        (Filter::default(), "ticket_id", "view"),
        (Filter::default(), "ticket_id desc", "view"),
        (Filter::default(), "discounted_price", "view_by_price"),
        (Filter::default(), "discounted_price desc", "view_by_price"),
        (Filter::default(), "update_time desc", "view_by_update"),
        (of_status(TicketStatus::Withdrawn), "", "view_withdrawn"),
        (of_status(TicketStatus::Reserved), "start_time desc", "view_reserved"),
        (of_status(TicketStatus::Available), "", "view_free"),
        (of_status(TicketStatus::Expired), "", "view_free"),
        (of_user, "", "view_by_holder"),
    ] {
        let order = SortOrder::parse(order).unwrap();
        let key = order.key(&"t".parse().unwrap(), &View::default());
        for after in [None, Some(key.as_slice())] {
            let query = pages::query(&filter, &order, after, DateTime::UNIX_EPOCH, 51);
            let plan = database.plan(&query.text).await.unwrap();
            assert!(plan.contains(index), "{filter:?} {order}: {plan}");
            assert!(!plan.contains("TEMP B-TREE"), "{filter:?} {order}: {plan}");
        }
    }
}

#[tokio::test]
async fn every_other_list_has_its_index() {
    let (_folder, database) = database().await;
    for (statement, index) in [
        (pages::USER_RESERVATIONS, "reservation_by_user"),
        (pages::CHANGED, "view_by_sequence"),
        (pages::CHANGED_OF_THESE, "PRIMARY KEY"),
        (pages::SNAPSHOT, "PRIMARY KEY"),
        (pages::SNAPSHOT_OF_THESE, "PRIMARY KEY"),
        (pages::UNSETTLED, "view_unsettled"),
        (pages::OLDEST_UNSETTLED, "view_by_unsettled_since"),
    ] {
        let plan = database.plan(statement).await.unwrap();
        assert!(plan.contains(index), "{statement}: {plan}");
    }
}
