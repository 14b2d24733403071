//! What an error of PostgreSQL means for the batch that met it, by its SQLSTATE.

use sqlx::{error::DatabaseError, postgres::PgDatabaseError};

use crate::Error;

/// Classes that speak of the data: data exception, integrity constraint, program limit (as an index entry that is too large).
/// All others (no such table, no rights, no room, shutting down, read-only, too slow) are the server's, and pass or are put right
/// there: no command is to blame.
const OF_THE_DATA: [&str; 3] = ["22", "23", "54"];
const SERIALIZATION_FAILURE: &str = "40001";
const DEADLOCK_DETECTED: &str = "40P01";
const UNIQUE_VIOLATION: &str = "23505";

/// `None` for an error of another database.
pub(crate) fn lies_in_the_data(error: &dyn DatabaseError) -> Option<bool> {
    let error = error.try_downcast_ref::<PgDatabaseError>()?;
    Some(error.code().get(..2).is_some_and(|class| OF_THE_DATA.contains(&class)))
}

/// Another process has inserted a key of this batch, or holds its rows in another order: begun again it meets what is there now.
/// Keys are primary keys; any other unique index guards what only a bug can break.
pub(super) fn is_of_others(error: &Error) -> bool {
    let Some(error) = postgres_error(error) else { return false };
    match error.code() {
        SERIALIZATION_FAILURE | DEADLOCK_DETECTED => true,
        UNIQUE_VIOLATION => error.constraint().is_some_and(|name| name.ends_with("_pkey")),
        _ => false,
    }
}

/// Nothing more is to be expected of this connection.
pub(super) fn is_of_the_server(error: &Error) -> bool {
    matches!(error, Error::Unavailable(_)) && !is_of_others(error)
}

fn postgres_error(error: &Error) -> Option<&PgDatabaseError> {
    let error = match error {
        Error::Unavailable(error) => error,
        Error::Data(error) => error.downcast_ref::<sqlx::Error>()?,
    };
    error.as_database_error()?.try_downcast_ref()
}
