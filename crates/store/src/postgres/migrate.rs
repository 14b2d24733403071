//! Applies migrations on a dedicated connection, which is closed afterwards: in a pool, a connection that failed midway
//! would keep its lock.

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

pub(super) static BOOKKEEPING: Migrator = sqlx::migrate!("migrations/postgres");

/// The oldest version that is tested.
const OLDEST_VERSION: i32 = 15;

/// Why a schema cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The server does not respond, or cannot serve now. A retry may succeed.
    #[error("the server does not respond or cannot serve now")]
    NotNow(#[source] sqlx::Error),
    /// Retries do not help; the text says what to do.
    #[error("{advice}")]
    Refused {
        /// The problem and what to do about it.
        advice: String,
        /// The error of the server.
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
    // Closing it also releases the lock after a failure.
    if let Err(error) = connection.close().await {
        tracing::debug!(%error, "cannot close the connection for migrations");
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
    // A lock per schema: services that share a database do not wait for each other.
    const LOCK: &str = "select pg_advisory_lock(hashtextextended('eticket migrations of ' || $1, 0))";
    sqlx::query(LOCK).bind(schema).execute(&mut *connection).await.map_err(failed)?;
    // Checked first: `if not exists` needs the privilege to create a schema even if it exists.
    const EXISTS: &str = "select exists (select from pg_namespace where nspname = $1)";
    let exists = sqlx::query_scalar::<_, bool>(EXISTS).bind(schema).fetch_one(&mut *connection).await;
    if !exists.map_err(failed)? {
        let create = AssertSqlSafe(format!("create schema \"{schema}\""));
        connection.execute(create).await.map_err(failed)?;
    }
    let all = BOOKKEEPING.iter().chain(migrations.iter()).cloned().collect();
    let mut migrator = Migrator::with_migrations(all);
    // The lock is already held. Unknown migrations are of a newer program, which only adds at first.
    migrator.set_locking(false).set_ignore_missing(true);
    match migrator.run_direct(None, connection, false).await {
        Ok(()) => Ok(()),
        Err(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) => Err(failed(error)),
        Err(error) => Err(OpenError::Refused {
            advice: format!(
                "its schema {schema} was created by another program or changed by hand: correct it, or use another"
            ),
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
    incompatibility(number, &version, &encoding)
        .map_or(Ok(()), |advice| Err(OpenError::Refused { advice, source: None }))
}

/// Why this server cannot be used.
pub(super) fn incompatibility(number: i32, version: &str, encoding: &str) -> Option<String> {
    if number / 10_000 < OLDEST_VERSION {
        return Some(format!(
            "it runs PostgreSQL {version}, but {OLDEST_VERSION} or newer is needed: use another server"
        ));
    }
    (encoding != "UTF8").then(|| {
        format!("its database has the encoding {encoding}, but UTF8 is needed: create a database with that encoding")
    })
}

pub(super) fn open_error(error: sqlx::Error, schema: &str, options: &PgConnectOptions) -> OpenError {
    let advice = match &error {
        sqlx::Error::Tls(_) => Some("TLS failed: check sslmode and sslrootcert in the URL".to_owned()),
        // For a socket, the error means that the server has not created it yet.
        sqlx::Error::Io(cause) if options.get_socket().is_none() && is_file_error(cause) => {
            Some("a file cannot be read: check sslrootcert, sslcert and sslkey in the URL".to_owned())
        }
        // rustls reports its errors in this way.
        sqlx::Error::Io(cause) if cause.kind() == io::ErrorKind::InvalidData => {
            Some("its certificate is not trusted: check sslmode and sslrootcert in the URL".to_owned())
        }
        sqlx::Error::Configuration(_) => Some("the URL is invalid".to_owned()),
        sqlx::Error::Database(cause) => cause.try_downcast_ref().and_then(|cause| permanent_advice(cause, schema)),
        _ => None,
    };
    match advice {
        Some(advice) => OpenError::Refused { advice, source: Some(Box::new(error)) },
        None => OpenError::NotNow(error),
    }
}

fn is_file_error(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
}

/// Advice for an error that no retry can solve; `None` for temporary errors.
fn permanent_advice(error: &PgDatabaseError, schema: &str) -> Option<String> {
    let code = error.code();
    let advice = match code {
        "3D000" => "there is no such database: create it, or set another in the URL".to_owned(),
        "42501" | "3F000" => format!(
            "its user may not create the schema {schema} or tables in it: grant CREATE on the database, or create \
             the schema for the user"
        ),
        _ if code.starts_with("28") => {
            "it rejects the user, the password or the type of connection: check the URL and pg_hba.conf".to_owned()
        }
        // Temporary: connection, transaction rollback, resources, object in use, lock not available, read-only.
        _ if ["08", "25", "40", "53", "55", "57", "58"].contains(&code.get(..2).unwrap_or_default()) => return None,
        _ => format!("its schema {schema} cannot be migrated: correct it"),
    };
    Some(advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_are_too_old_or_not_utf8_are_refused() {
        assert_eq!(incompatibility(150_000, "15.0", "UTF8"), None);
        assert_eq!(incompatibility(180_001, "18.1", "UTF8"), None);
        let old = incompatibility(140_019, "14.19", "UTF8").expect("too old");
        assert!(old.contains("14.19") && old.contains("15 or newer"), "{old}");
        let latin = incompatibility(150_000, "15.0", "LATIN1").expect("no Unicode");
        assert!(latin.contains("LATIN1") && latin.contains("UTF8"), "{latin}");
    }
}
