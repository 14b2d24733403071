//! The columns of a table, named once.

use chrono::{DateTime, Utc};
use rusqlite::{
    Transaction, params_from_iter,
    types::{ToSqlOutput, ValueRef},
};

use crate::Error;

/// The value of a column without one.
pub const NULL: ToSqlOutput<'static> = ToSqlOutput::Borrowed(ValueRef::Null);

/// A column of a table: its name, and its value in a row.
pub struct Column<K: 'static, R: 'static> {
    name: &'static str,
    is_fixed: bool,
    value: for<'r> fn(&'r K, &'r R) -> ToSqlOutput<'r>,
}

impl<K, R> Column<K, R> {
    /// Describes a column whose value never changes.
    pub const fn fixed(name: &'static str, value: for<'r> fn(&'r K, &'r R) -> ToSqlOutput<'r>) -> Self {
        Self { name, is_fixed: true, value }
    }

    /// Describes a column whose value an update can change.
    pub const fn changing(name: &'static str, value: for<'r> fn(&'r K, &'r R) -> ToSqlOutput<'r>) -> Self {
        Self { name, is_fixed: false, value }
    }
}

/// Encodes a time as [`time`](super::time) reads it.
#[must_use]
pub fn micros(time: DateTime<Utc>) -> ToSqlOutput<'static> {
    time.timestamp_micros().into()
}

/// Encodes a value as its text, and none as null.
pub fn optional_text(value: Option<impl ToString>) -> ToSqlOutput<'static> {
    value.map_or(NULL, |value| value.to_string().into())
}

/// A table with a primary key of one column, which is the first of `columns`.
pub struct Table<K: 'static, R: 'static> {
    columns: Vec<Column<K, R>>,
    upsert: String,
}

impl<K, R> Table<K, R> {
    /// Makes the statement that writes a row. It names no fixed column of a row that exists, because SQLite writes the
    /// entry of each index with a column that an update names.
    #[must_use]
    pub fn new<const N: usize>(name: &str, columns: [Column<K, R>; N]) -> Self {
        let key = columns[0].name;
        let names = columns.each_ref().map(|column| column.name).join(", ");
        let values: Vec<String> = (1..=N).map(|number| format!("?{number}")).collect();
        let changes: Vec<String> = columns
            .iter()
            .filter(|column| !column.is_fixed)
            .map(|Column { name, .. }| format!("{name} = excluded.{name}"))
            .collect();
        let upsert = format!(
            "insert into {name} ({names}) values ({}) on conflict ({key}) do update set {}",
            values.join(", "),
            changes.join(", ")
        );
        Self { columns: columns.into(), upsert }
    }

    /// Writes rows, whether they exist or not.
    ///
    /// # Errors
    /// If the file cannot be written, or refuses a row.
    pub fn write<'r>(
        &self,
        transaction: &Transaction<'_>,
        rows: impl Iterator<Item = (&'r K, &'r R)>,
    ) -> Result<(), Error> {
        let mut statement = transaction.prepare_cached(&self.upsert)?;
        for (key, row) in rows {
            statement.execute(params_from_iter(self.columns.iter().map(|column| (column.value)(key, row))))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    #[test]
    fn a_row_that_exists_keeps_its_fixed_columns() {
        let table: Table<i64, &str> = Table::new(
            "seat",
            [
                Column::fixed("number", |number, _| (*number).into()),
                Column::changing("label", |_, label| (*label).into()),
                Column::fixed("first_label", |_, label| (*label).into()),
            ],
        );
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("create table seat (number integer primary key, label, first_label)").unwrap();
        let transaction = connection.transaction().unwrap();
        table.write(&transaction, [(&1, &"a"), (&2, &"b"), (&1, &"c")].into_iter()).unwrap();
        let mut statement = transaction.prepare("select * from seat order by number").unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
        let rows: Vec<(i64, String, String)> = rows.collect::<Result<_, _>>().unwrap();
        assert_eq!(rows, [(1, "c".into(), "a".into()), (2, "b".into(), "b".into())]);
    }
}
