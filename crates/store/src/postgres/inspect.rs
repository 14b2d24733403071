//! Inspects a server and the schema of a service without changing them.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, PgConnection, Row, migrate::Migrator, postgres::PgConnectOptions,
};

use super::{
    migrate::{BOOKKEEPING, OpenError, incompatibility, open_error},
    timed_out,
};
use crate::inspection::{Applied, Schema};

/// What was seen of a server.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspection {
    /// The version of the server, as it reports it.
    pub version: String,
    /// Why this program cannot use the server.
    pub incompatibility: Option<String>,
    /// The user and the database of the connection.
    pub user: String,
    /// The database of the connection.
    pub database: String,
    /// Settings on which the durability of commits depends.
    pub durability: Durability,
    /// Whether the server or the transactions of the user are read-only.
    pub read_only: bool,
    /// Rights of the user on the schema of the service.
    pub rights: Rights,
    /// The state of the schema.
    pub schema: Schema,
    /// The clock of the server minus the clock of this machine.
    pub clock_difference: TimeDelta,
}

/// Settings on which the durability of commits depends; `on` or `off`, and further values of `synchronous_commit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durability {
    /// `fsync`.
    pub fsync: String,
    /// `full_page_writes`.
    pub full_page_writes: String,
    /// `synchronous_commit`, for sessions that do not set it.
    pub synchronous_commit: String,
}

/// Rights of a user on the schema of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// The schema exists, and the user can use and migrate it.
    Enough,
    /// The schema does not exist, and the user can create it.
    CanCreate,
    /// The schema does not exist, and the user cannot create it.
    CannotCreate,
    /// The user cannot use the schema, or not create tables in it.
    NotOnSchema,
    /// The user cannot read and write all of its tables.
    NotOnTables,
}

const SERVER: &str = "select current_setting('server_version_num')::integer, current_setting('server_version'),
    current_setting('server_encoding'), current_user::text, current_database()::text, current_setting('fsync'),
    current_setting('full_page_writes'), current_setting('synchronous_commit'),
    pg_is_in_recovery() or current_setting('default_transaction_read_only') = 'on'";
// A schema that the user may not use is still in the catalogue, unlike in the information schema.
const RIGHTS: &str = "select has_database_privilege(current_database(), 'CREATE'),
    n.oid is not null,
    coalesce(has_schema_privilege(n.oid, 'USAGE') and has_schema_privilege(n.oid, 'CREATE'), false),
    coalesce((select bool_and(has_table_privilege(c.oid, 'SELECT') and has_table_privilege(c.oid, 'INSERT')
        and has_table_privilege(c.oid, 'UPDATE') and has_table_privilege(c.oid, 'DELETE'))
        from pg_class c where c.relnamespace = n.oid and c.relkind in ('r', 'p')), true),
    exists (select from pg_class c where c.relnamespace = n.oid and c.relname = '_sqlx_migrations')
    from (select 1) one left join pg_namespace n on n.nspname = $1";

/// Connects, and inspects the server and the schema. Every step has `patience`.
///
/// # Errors
/// `OpenError`, which says what to do if a retry cannot help.
pub async fn inspect(
    options: &PgConnectOptions,
    schema: &'static str,
    migrations: &Migrator,
    patience: Duration,
) -> Result<Inspection, OpenError> {
    let options = options.clone().application_name("eticket-doctor").disable_statement_logging();
    let connecting = tokio::time::timeout(patience, options.connect());
    let connection = connecting.await.unwrap_or_else(|_| Err(timed_out()));
    let mut connection = connection.map_err(|error| open_error(error, schema, &options))?;
    let outcome = tokio::time::timeout(patience, read(&mut connection, schema, migrations)).await;
    let outcome = outcome.unwrap_or_else(|_| Err(timed_out()));
    // A server that hangs does not end the connection in order.
    tokio::time::timeout(patience / 4, connection.close()).await.ok();
    outcome.map_err(|error| open_error(error, schema, &options))
}

async fn read(connection: &mut PgConnection, schema: &str, migrations: &Migrator) -> sqlx::Result<Inspection> {
    let row = sqlx::query(SERVER).fetch_one(&mut *connection).await?;
    let (number, version, encoding): (i32, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let durability =
        Durability { fsync: row.try_get(5)?, full_page_writes: row.try_get(6)?, synchronous_commit: row.try_get(7)? };
    let clock_difference = clock_difference(connection).await?;
    let (rights, has_migrations) = rights(connection, schema).await?;
    let applied = match (rights, has_migrations) {
        (Rights::Enough, true) => applied(connection, schema).await?,
        _ => Vec::new(),
    };
    Ok(Inspection {
        incompatibility: incompatibility(number, &version, &encoding),
        version,
        user: row.try_get(3)?,
        database: row.try_get(4)?,
        durability,
        read_only: row.try_get(8)?,
        rights,
        schema: Schema::compare(BOOKKEEPING.iter().chain(migrations.iter()), &applied),
        clock_difference,
    })
}

async fn rights(connection: &mut PgConnection, schema: &str) -> sqlx::Result<(Rights, bool)> {
    let row = sqlx::query(RIGHTS).bind(schema).fetch_one(connection).await?;
    let (can_create, exists, on_schema, on_tables, has_migrations): (bool, bool, bool, bool, bool) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?, row.try_get(4)?);
    let rights = match (exists, on_schema, on_tables) {
        (false, ..) if can_create => Rights::CanCreate,
        (false, ..) => Rights::CannotCreate,
        (true, false, _) => Rights::NotOnSchema,
        (true, true, false) => Rights::NotOnTables,
        (true, true, true) => Rights::Enough,
    };
    Ok((rights, has_migrations))
}

async fn applied(connection: &mut PgConnection, schema: &str) -> sqlx::Result<Vec<Applied>> {
    // The name of the schema is that of a service, and has no quotes.
    let select = format!("select version, checksum, success from \"{schema}\"._sqlx_migrations");
    let rows = sqlx::query(AssertSqlSafe(select)).fetch_all(connection).await?;
    let applied = |row: &sqlx::postgres::PgRow| {
        Ok(Applied { version: row.try_get(0)?, checksum: row.try_get(1)?, success: row.try_get(2)? })
    };
    rows.iter().map(applied).collect()
}

/// Compares with the middle of the request: half of the round trip is before the server reads its clock.
async fn clock_difference(connection: &mut PgConnection) -> sqlx::Result<TimeDelta> {
    let before = Utc::now();
    let theirs: DateTime<Utc> = sqlx::query_scalar("select clock_timestamp()").fetch_one(connection).await?;
    Ok(theirs - (before + (Utc::now() - before) / 2))
}
