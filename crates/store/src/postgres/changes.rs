//! The changes of a batch, which one statement makes.

use std::fmt::Write as _;

use sqlx::{
    Arguments as _, AssertSqlSafe, Encode, PgConnection, Postgres, Type, error::BoxDynError, postgres::PgArguments,
};

use crate::Error;

/// Statements that run as one: a batch takes one round trip for all of them.
///
/// They run in no particular order, on the same snapshot, and must not change the same row. Statements of which one must
/// see the effect of another, or meet an index after it, belong in different [`Changes`].
#[derive(Default)]
pub struct Changes {
    statements: Vec<String>,
    arguments: PgArguments,
    /// An argument that cannot be encoded.
    error: Option<BoxDynError>,
    /// The `select` at the end, if it returns something.
    returned: Option<String>,
}

impl Changes {
    /// Adds a statement. The arguments that follow are its `$1`, `$2` and so on.
    pub fn add(&mut self, statement: &str) -> &mut Self {
        let statement = renumbered(statement, self.arguments.len());
        self.statements.push(statement);
        self
    }

    /// Binds the next argument of the last statement.
    pub fn bind<'v, T: Encode<'v, Postgres> + Type<Postgres>>(&mut self, value: T) -> &mut Self {
        if let Err(error) = self.arguments.add(value) {
            self.error.get_or_insert(error);
        }
        self
    }

    /// Makes [`Self::execute`] return the values of a column that the last statement returns, in ascending order.
    pub(super) fn returning(&mut self, column: &str) {
        let name = name_of(self.statements.len().saturating_sub(1));
        self.returned = Some(format!("select coalesce(array_agg({column} order by {column}), '{{}}') from {name}"));
    }

    /// Runs the statements.
    ///
    /// # Errors
    /// `Unavailable` if the server cannot be reached, or the error of a statement.
    pub async fn execute(self, connection: &mut PgConnection) -> Result<Vec<i64>, Error> {
        if self.statements.is_empty() {
            return Ok(Vec::new());
        }
        let text = self.text();
        if let Some(error) = self.error {
            return Err(sqlx::Error::Encode(error).into());
        }
        // The text is made of statements of this program; values are arguments.
        let query = sqlx::query_scalar_with(AssertSqlSafe(text), self.arguments);
        Ok(query.fetch_optional(connection).await?.unwrap_or_default())
    }

    fn text(&self) -> String {
        if let ([statement], None) = (self.statements.as_slice(), &self.returned) {
            return statement.clone();
        }
        let mut text = String::new();
        for (number, statement) in self.statements.iter().enumerate() {
            let word = if number == 0 { "with" } else { "," };
            // Writing to a `String` cannot fail.
            let _ = write!(text, "{word} {} as ({statement})", name_of(number));
        }
        let _ = write!(text, " {}", self.returned.as_deref().unwrap_or("select '{}'::bigint[]"));
        text
    }
}

fn name_of(number: usize) -> String {
    format!("change{number}")
}

/// Adds `before` to the numbers of all arguments.
fn renumbered(statement: &str, before: usize) -> String {
    let mut pieces = statement.split('$');
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let end = piece.find(|it: char| !it.is_ascii_digit()).unwrap_or(piece.len());
        let (number, rest) = piece.split_at(end);
        match number.parse::<usize>() {
            Ok(number) => {
                let _ = write!(text, "${}{rest}", number + before);
            }
            Err(_) => {
                let _ = write!(text, "${piece}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_joined_and_their_arguments_renumbered() {
        let mut changes = Changes::default();
        changes.add("delete from one where id = $1").bind(1_i64);
        assert_eq!(changes.text(), "delete from one where id = $1");
        changes.add("update two set name = $2 where id = $1").bind(2_i64).bind("x");
        assert_eq!(
            changes.text(),
            "with change0 as (delete from one where id = $1), change1 as (update two set name = $3 where id = $2) \
             select '{}'::bigint[]"
        );
        changes.add("insert into three select $1 returning id").bind(3_i64).returning("id");
        changes.add("delete from four");
        assert_eq!(
            changes.text(),
            "with change0 as (delete from one where id = $1), change1 as (update two set name = $3 where id = $2), \
             change2 as (insert into three select $4 returning id), change3 as (delete from four) \
             select coalesce(array_agg(id order by id), '{}') from change2"
        );
    }
}
