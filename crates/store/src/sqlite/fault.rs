//! Errors of SQLite as errors of the store.

use std::{borrow::Cow, fmt};

use sqlx::error::{DatabaseError, ErrorKind};

use crate::Error;

/// Whether the data is at fault. Primary result codes: 18 too big, 19 constraint, 20 type mismatch, 25 bind out of
/// range.
pub(crate) fn is_caused_by_data(extended_code: Option<&str>) -> bool {
    let code = extended_code.and_then(|code| code.parse::<u32>().ok()).map(|code| code & 0xff);
    matches!(code, Some(18 | 19 | 20 | 25))
}

/// An error that SQLite has returned. Migrations run over sqlx, and have the same form.
#[derive(Debug)]
struct Fault {
    /// The extended result code.
    code: i32,
    message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "(code: {}) {}", self.code, self.message)
    }
}

impl std::error::Error for Fault {}

impl DatabaseError for Fault {
    fn message(&self) -> &str {
        &self.message
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        Some(self.code.to_string().into())
    }

    fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
        self
    }

    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        let (code, message) = match error {
            rusqlite::Error::SqliteFailure(cause, message) => {
                (cause.extended_code, message.unwrap_or_else(|| cause.to_string()))
            }
            // A column does not hold what this program writes.
            error @ (rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::Utf8Error(..)) => return Self::data(error),
            // The statement does not fit the file: no command is at fault.
            error => return Self::Unavailable(sqlx::Error::Protocol(error.to_string())),
        };
        sqlx::Error::Database(Box::new(Fault { code, message })).into()
    }
}
