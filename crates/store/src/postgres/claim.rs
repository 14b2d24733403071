//! Outbox subjects claimed by one relay: a transaction that stays open while the relay publishes.
//!
//! The lock on the oldest row of a subject stands for the subject. The rows of a subject are committed in the order of
//! their ids, because they are written under the lock of their aggregate. So the owner of the oldest row owns all rows,
//! including those added later.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{PgPool, Postgres, Row, Transaction};

use super::{bookkeeping::message, within};
use crate::{Claim, Error, WaitingRow};

// Scans the primary key, and looks up the subject of each row in outbox_by_subject, so that the cost does not grow with
// the size of the outbox. With a join, the planner might scan the whole table.
const LOCK_OLDEST: &str = "select subject from outbox one
    where id = (select min(other.id) from outbox other where other.subject = one.subject)
    order by id limit $1 for update skip locked";
// A separate statement, so that it sees everything committed before the lock. Uses outbox_by_subject.
const SELECT_WAITING: &str = "select waiting.* from unnest($1::text[]) as owned (subject) cross join lateral (
        select id, subject, revision, headers, body from outbox where outbox.subject = owned.subject
        order by revision, id limit $2
    ) waiting order by subject, revision, id";
const DELETE_SENT: &str = "delete from outbox where id = any($1)";

/// Maximum number of rows per subject in one claim. The rest of the subject is claimed as well, and returned by a later
/// claim, so that a long queue does not delay other subjects.
const ROWS: i64 = 16;

struct PostgresClaim {
    /// Dropping it rolls back and releases the subjects.
    transaction: Transaction<'static, Postgres>,
    subjects: Vec<Vec<WaitingRow>>,
    limit: Duration,
}

pub(super) async fn claim(pool: &PgPool, most: usize, limit: Duration) -> Result<Box<dyn Claim>, Error> {
    let mut transaction = within(limit, pool.begin_with("begin isolation level read committed")).await?;
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let oldest = sqlx::query_scalar::<_, String>(LOCK_OLDEST).bind(most).fetch_all(&mut *transaction);
    let owned = within(limit, oldest).await?;
    let mut subjects: Vec<Vec<WaitingRow>> = Vec::new();
    if !owned.is_empty() {
        let waiting = sqlx::query(SELECT_WAITING).bind(&owned).bind(ROWS).fetch_all(&mut *transaction);
        for row in within(limit, waiting).await? {
            let waiting =
                WaitingRow { id: row.try_get("id")?, revision: row.try_get("revision")?, message: message(&row)? };
            match subjects.last_mut() {
                Some(same) if same.last().is_some_and(|last| last.message.subject == waiting.message.subject) => {
                    same.push(waiting);
                }
                _ => subjects.push(vec![waiting]),
            }
        }
    }
    Ok(Box::new(PostgresClaim { transaction, subjects, limit }))
}

#[async_trait]
impl Claim for PostgresClaim {
    fn subjects(&mut self) -> Vec<Vec<WaitingRow>> {
        std::mem::take(&mut self.subjects)
    }

    async fn done(self: Box<Self>, published: &[i64]) -> Result<(), Error> {
        let Self { mut transaction, limit, .. } = *self;
        if !published.is_empty() {
            let delete = sqlx::query(DELETE_SENT).bind(published).execute(&mut *transaction);
            within(limit, delete).await?;
        }
        within(limit, transaction.commit()).await
    }
}

/// The statement whose cost must not grow with the queue, for `explain`.
#[cfg(test)]
pub(super) fn explained() -> String {
    LOCK_OLDEST.replace("$1", "256")
}
