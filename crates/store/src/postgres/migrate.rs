//! Brings a schema up to date, on a connection of its own that is closed afterwards: one that failed in the middle would keep its
//! lock for as long as a pool keeps the connection.

use std::io;

use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, Row,
    migrate::{MigrateError, Migrator},
    postgres::{PgConnectOptions, PgDatabaseError},
};

use super::{
    session::{self, Limits},
    timed_out,
};

static BOOKKEEPING: Migrator = sqlx::migrate!("migrations/postgres");

/// The oldest that this is tested with.
const OLDEST_VERSION: i32 = 15;

/// Why a schema cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The server does not answer, or cannot do it now: the next attempt may succeed.
    #[error("the server does not answer, or cannot serve now")]
    NotNow(#[source] sqlx::Error),
    /// Waiting does not help; the text says what does.
    #[error("{advice}")]
    Refused {
        /// What is wrong and what to do.
        advice: String,
        /// What the server said.
        source: Option<Box<sqlx::Error>>,
    },
}

pub(super) async fn migrate(
    options: &PgConnectOptions,
    schema: &'static str,
    migrations: &Migrator,
    limits: &Limits,
) -> Result<(), OpenError> {
    let options = session::migration_options(options, schema, limits);
    let connecting = tokio::time::timeout(limits.connect, options.connect());
    let connection = connecting.await.unwrap_or_else(|_| Err(timed_out()));
    let mut connection = connection.map_err(|error| open_error(error, schema, &options))?;
    let outcome = on(&mut connection, schema, migrations, &options).await;
    // With it goes the lock, also after a failure.
    if let Err(error) = connection.close().await {
        tracing::debug!(%error, "the connection for migrations did not close cleanly");
    }
    outcome
}

async fn on(
    connection: &mut PgConnection,
    schema: &'static str,
    migrations: &Migrator,
    options: &PgConnectOptions,
) -> Result<(), OpenError> {
    let failed = |error| open_error(error, schema, options);
    check_server(connection).await?;
    // Of this schema only: services that share a database do not wait for each other.
    const LOCK: &str = "select pg_advisory_lock(hashtextextended('eticket migrations of ' || $1, 0))";
    sqlx::query(LOCK).bind(schema).execute(&mut *connection).await.map_err(failed)?;
    // Asked first: `if not exists` wants the right to create it also where it exists.
    const EXISTS: &str = "select exists (select from pg_namespace where nspname = $1)";
    let exists = sqlx::query_scalar::<_, bool>(EXISTS).bind(schema).fetch_one(&mut *connection).await;
    if !exists.map_err(failed)? {
        let create = AssertSqlSafe(format!("create schema \"{schema}\""));
        connection.execute(create).await.map_err(failed)?;
    }
    let all = BOOKKEEPING.iter().chain(migrations.iter()).cloned().collect();
    let mut migrator = Migrator::with_migrations(all);
    // The lock is ours. What is not known here a newer program has made, which expands before it contracts.
    migrator.set_locking(false).set_ignore_missing(true);
    match migrator.run_direct(None, connection, false).await {
        Ok(()) => Ok(()),
        Err(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) => Err(failed(error)),
        Err(error) => Err(OpenError::Refused {
            advice: format!("its schema {schema} was not made by this program, or was changed by hand: put it right"),
            source: Some(Box::new(sqlx::Error::Migrate(Box::new(error)))),
        }),
    }
}

async fn check_server(connection: &mut PgConnection) -> Result<(), OpenError> {
    const ABOUT: &str = "select current_setting('server_version_num')::integer, current_setting('server_version'),
        current_setting('server_encoding')";
    let row = sqlx::query(ABOUT).fetch_one(connection).await.map_err(OpenError::NotNow)?;
    let read = || Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
    let (number, version, encoding): (i32, String, String) = read().map_err(OpenError::NotNow)?;
    unfit(number, &version, &encoding).map_or(Ok(()), |advice| Err(OpenError::Refused { advice, source: None }))
}

/// What keeps this server from being used.
fn unfit(number: i32, version: &str, encoding: &str) -> Option<String> {
    if number / 10_000 < OLDEST_VERSION {
        return Some(format!("it is PostgreSQL {version}, and {OLDEST_VERSION} or newer is needed: set another"));
    }
    (encoding != "UTF8")
        .then(|| format!("its database is encoded in {encoding}, and UTF8 is needed: create one with that encoding"))
}

fn open_error(error: sqlx::Error, schema: &str, options: &PgConnectOptions) -> OpenError {
    let advice = match &error {
        sqlx::Error::Tls(_) => {
            Some("TLS cannot be used with it: look at sslmode and sslrootcert in the URL".to_owned())
        }
        // Of a socket it would mean that nobody has made it yet.
        sqlx::Error::Io(cause) if options.get_socket().is_none() && is_of_a_file(cause) => {
            Some("a file cannot be read: look at sslrootcert, sslcert and sslkey in the URL".to_owned())
        }
        // As rustls has its errors told.
        sqlx::Error::Io(cause) if cause.kind() == io::ErrorKind::InvalidData => {
            Some("its certificate is not accepted: look at sslmode and sslrootcert in the URL".to_owned())
        }
        sqlx::Error::Configuration(_) => Some("the URL cannot be used".to_owned()),
        sqlx::Error::Database(cause) => cause.try_downcast_ref().and_then(|cause| refused(cause, schema)),
        _ => None,
    };
    match advice {
        Some(advice) => OpenError::Refused { advice, source: Some(Box::new(error)) },
        None => OpenError::NotNow(error),
    }
}

fn is_of_a_file(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
}

/// What to do about a refusal that no waiting heals.
fn refused(error: &PgDatabaseError, schema: &str) -> Option<String> {
    let code = error.code();
    let advice = match code {
        "3D000" => "there is no such database: create it, or name another".to_owned(),
        "42501" | "3F000" => format!(
            "its user may not make the schema {schema} or tables in it: grant it create on the database, or make the \
             schema for it"
        ),
        _ if code.starts_with("28") => "it refuses the user, the password or the way of connecting".to_owned(),
        // Connection, transaction rolled back, resources, not now, lock not available, read-only: they pass.
        _ if ["08", "25", "40", "53", "55", "57", "58"].contains(&code.get(..2).unwrap_or_default()) => return None,
        _ => format!("its schema {schema} cannot be brought up to date: put it right"),
    };
    Some(advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_too_old_or_speaks_no_unicode_is_told() {
        assert_eq!(unfit(150_000, "15.0", "UTF8"), None);
        assert_eq!(unfit(180_001, "18.1", "UTF8"), None);
        let old = unfit(140_019, "14.19", "UTF8").expect("too old");
        assert!(old.contains("14.19") && old.contains("15 or newer"), "{old}");
        let latin = unfit(150_000, "15.0", "LATIN1").expect("no Unicode");
        assert!(latin.contains("LATIN1") && latin.contains("UTF8"), "{latin}");
    }
}
