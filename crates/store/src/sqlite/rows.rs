//! Rows of a query.

use rusqlite::{Connection, Params, Row};

use crate::Error;

/// Returns the rows of a query. The statement is prepared once for each connection.
///
/// # Errors
/// If the file cannot be read, or `decode` fails.
pub fn query<T>(
    connection: &Connection,
    statement: &str,
    params: impl Params,
    mut decode: impl FnMut(&Row<'_>) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    let mut statement = connection.prepare_cached(statement)?;
    let mut rows = statement.query(params)?;
    let mut decoded = Vec::new();
    while let Some(row) = rows.next()? {
        decoded.push(decode(row)?);
    }
    Ok(decoded)
}

/// Like [`query`], for at most one row.
///
/// # Errors
/// Like [`query`].
pub fn query_one<T>(
    connection: &Connection,
    statement: &str,
    params: impl Params,
    decode: impl FnOnce(&Row<'_>) -> Result<T, Error>,
) -> Result<Option<T>, Error> {
    let mut statement = connection.prepare_cached(statement)?;
    let mut rows = statement.query(params)?;
    rows.next()?.map(decode).transpose()
}

/// Encodes ids to bind as one value, for `in (select value from json_each(?))`. SQLite has no other form that keeps the
/// text of the statement independent of the number of ids.
pub fn id_list(ids: impl IntoIterator<Item = impl ToString>) -> String {
    let ids: Vec<String> = ids.into_iter().map(|id| id.to_string()).collect();
    serde_json::json!(ids).to_string()
}

/// Reads a time column: microseconds since 1970, UTC.
///
/// # Errors
/// `Data` if the value is not a time.
pub fn time(row: &Row<'_>, column: &str) -> Result<chrono::DateTime<chrono::Utc>, Error> {
    let micros = row.get(column)?;
    chrono::DateTime::from_timestamp_micros(micros).ok_or_else(|| Error::data(format!("{column} is out of range")))
}
