//! Classifies errors of PostgreSQL by SQLSTATE.

use sqlx::{error::DatabaseError, postgres::PgDatabaseError};

use crate::Error;

/// Classes caused by the data: data exception, integrity constraint violation, program limit exceeded (such as an index
/// entry that is too large). All others (missing table, missing privileges, disk full, shutdown, read-only, timeout)
/// are problems of the server, which end by themselves or are corrected there, and no command is at fault.
const DATA_CLASSES: [&str; 3] = ["22", "23", "54"];
const SERIALIZATION_FAILURE: &str = "40001";
const DEADLOCK_DETECTED: &str = "40P01";
const UNIQUE_VIOLATION: &str = "23505";
const LOCK_NOT_AVAILABLE: &str = "55P03";
const QUERY_CANCELED: &str = "57014";

/// Whether the data is at fault; `None` for an error of another database.
pub(crate) fn is_caused_by_data(error: &dyn DatabaseError) -> Option<bool> {
    let error = error.try_downcast_ref::<PgDatabaseError>()?;
    Some(error.code().get(..2).is_some_and(|class| DATA_CLASSES.contains(&class)))
}

/// Whether another process has inserted a key of this batch, or has locked its rows in another order; a retry sees the
/// current rows. Every unique index counts: the statements of a batch run in no particular order, so that of a second
/// index may come first. A violation that is no conflict is met again by each attempt.
pub(super) fn is_conflict(error: &Error) -> bool {
    let Some(error) = postgres_error(error) else { return false };
    matches!(error.code(), SERIALIZATION_FAILURE | DEADLOCK_DETECTED | UNIQUE_VIOLATION)
}

/// Whether the connection should be replaced. A wait that took too long says nothing about the server, and the outbox
/// rows of a session that ends are adopted by other processes.
pub(super) fn needs_new_connection(error: &Error) -> bool {
    let timed_out = postgres_error(error).is_some_and(|it| [LOCK_NOT_AVAILABLE, QUERY_CANCELED].contains(&it.code()));
    matches!(error, Error::Unavailable(_)) && !is_conflict(error) && !timed_out
}

/// Whether the server has returned this error. Then the statement has changed nothing.
pub(super) fn is_from_server(error: &Error) -> bool {
    postgres_error(error).is_some()
}

fn postgres_error(error: &Error) -> Option<&PgDatabaseError> {
    let error = match error {
        Error::Unavailable(error) => error,
        Error::Data(error) => error.downcast_ref::<sqlx::Error>()?,
    };
    error.as_database_error()?.try_downcast_ref()
}
