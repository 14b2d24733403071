//! The columns of a table, named once.

use sqlx::{Encode, Postgres, Type};

use super::Changes;

/// A column of a table: how statements name it, and how the values of several rows are bound to it.
pub struct Column<K: 'static, R: 'static> {
    name: &'static str,
    sql_type: &'static str,
    is_fixed: bool,
    bind: for<'r> fn(&mut Changes, &[(&'r K, &'r R)]),
}

impl<K, R> Column<K, R> {
    /// Describes a column whose value never changes. `bind` binds one array, usually by [`each`].
    pub const fn fixed(
        name: &'static str,
        sql_type: &'static str,
        bind: for<'r> fn(&mut Changes, &[(&'r K, &'r R)]),
    ) -> Self {
        Self { name, sql_type, is_fixed: true, bind }
    }

    /// Like [`Self::fixed`], for a value that an update can change.
    pub const fn changing(
        name: &'static str,
        sql_type: &'static str,
        bind: for<'r> fn(&mut Changes, &[(&'r K, &'r R)]),
    ) -> Self {
        Self { name, sql_type, is_fixed: false, bind }
    }
}

/// Binds an array with one value of each row.
pub fn each<'r, K, R, T>(changes: &mut Changes, rows: &[(&'r K, &'r R)], value: impl Fn(&'r K, &'r R) -> T)
where
    Vec<T>: Encode<'r, Postgres> + Type<Postgres>,
{
    changes.bind(rows.iter().map(|(key, row)| value(key, row)).collect::<Vec<T>>());
}

/// A table with a primary key of one column, which is the first of `columns`.
///
/// Every statement names its columns, because the schema of a newer version can have more.
pub struct Table<K: 'static, R: 'static> {
    name: &'static str,
    columns: Vec<Column<K, R>>,
    insert: String,
    update: String,
}

impl<K, R> Table<K, R> {
    /// Makes the statements of a table.
    #[must_use]
    pub fn new<const N: usize>(name: &'static str, columns: [Column<K, R>; N]) -> Self {
        let key = columns[0].name;
        let names = columns.each_ref().map(|column| column.name).join(", ");
        let arrays: Vec<String> =
            columns.iter().zip(1..).map(|(column, number)| format!("${number}::{}[]", column.sql_type)).collect();
        let new = format!("unnest({}) as new ({names})", arrays.join(", "));
        let changes: Vec<String> = columns
            .iter()
            .filter(|column| !column.is_fixed)
            .map(|Column { name, .. }| format!("{name} = new.{name}"))
            .collect();
        Self {
            name,
            // In the order of the keys: two processes that insert the same ones must not lock each other out.
            insert: format!("insert into {name} ({names}) select new.* from {new} order by {key}"),
            update: format!("update {name} set {} from {new} where {name}.{key} = new.{key}", changes.join(", ")),
            columns: columns.into(),
        }
    }

    /// Returns the names of all columns, each with the name of the table, for a list after `select`.
    #[must_use]
    pub fn names(&self) -> String {
        let names: Vec<String> = self.columns.iter().map(|column| format!("{}.{}", self.name, column.name)).collect();
        names.join(", ")
    }

    /// Returns a null for each column, in the order of [`Self::names`].
    #[must_use]
    pub fn nulls(&self) -> String {
        vec!["null"; self.columns.len()].join(", ")
    }

    /// Returns a statement that reads all columns, with `rest` after the name of the table.
    #[must_use]
    pub fn select(&self, rest: &str) -> String {
        format!("select {} from {} {rest}", self.names(), self.name)
    }

    /// Adds a statement that updates rows which exist, and inserts nothing.
    pub fn update<'r>(&self, changes: &mut Changes, rows: impl Iterator<Item = (&'r K, &'r R)>) {
        self.write(changes, &self.update, &rows.collect::<Vec<_>>());
    }

    /// Adds a statement that inserts rows. It fails if a row exists.
    pub fn insert<'r>(&self, changes: &mut Changes, rows: impl Iterator<Item = (&'r K, &'r R)>) {
        self.write(changes, &self.insert, &rows.collect::<Vec<_>>());
    }

    fn write<'r>(&self, changes: &mut Changes, statement: &str, rows: &[(&'r K, &'r R)]) {
        if rows.is_empty() {
            return;
        }
        changes.add(statement);
        for column in &self.columns {
            (column.bind)(changes, rows);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table<i64, String> {
        Table::new(
            "seat",
            [
                Column::fixed("number", "bigint", |query, rows| each(query, rows, |number, _| *number)),
                Column::changing("label", "text", |query, rows| each(query, rows, |_, label| label.as_str())),
                Column::fixed("length", "bigint", |query, rows| each(query, rows, |_, label| label.len() as i64)),
            ],
        )
    }

    #[test]
    fn statements_name_every_column() {
        assert_eq!(
            table().select("where number = $1"),
            "select seat.number, seat.label, seat.length from seat where number = $1"
        );
        assert_eq!(
            table().insert,
            "insert into seat (number, label, length) select new.* from \
             unnest($1::bigint[], $2::text[], $3::bigint[]) as new (number, label, length) order by number"
        );
    }

    #[test]
    fn an_update_leaves_fixed_columns() {
        assert_eq!(
            table().update,
            "update seat set label = new.label from unnest($1::bigint[], $2::text[], $3::bigint[]) \
             as new (number, label, length) where seat.number = new.number"
        );
    }
}
