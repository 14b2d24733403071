//! Subjects of the outbox that one relay owns: a transaction that is open while it publishes.
//!
//! The lock on a subject's oldest row stands for the subject. No row of a subject is committed after one with a higher id, because
//! both are written under the lock of the same aggregate; so whoever holds the oldest holds all, those too that come meanwhile.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{PgPool, Postgres, Row, Transaction};

use super::{bookkeeping::message, within};
use crate::{Claim, Error, WaitingRow};

// Goes along the primary key, and looks for each row's subject into outbox_by_subject: what it costs does not grow with what waits.
// Of a join the planner might make one over the whole table.
const LOCK_OLDEST: &str = "select subject from outbox one
    where id = (select min(other.id) from outbox other where other.subject = one.subject)
    order by id limit $1 for update skip locked";
// A statement of its own, so that it sees all that was committed before the lock. Uses outbox_by_subject.
const SELECT_WAITING: &str = "select waiting.* from unnest($1::text[]) as owned (subject) cross join lateral (
        select id, subject, revision, headers, body from outbox where outbox.subject = owned.subject
        order by revision, id limit $2
    ) waiting order by subject, revision, id";
const DELETE_SENT: &str = "delete from outbox where id = any($1)";

/// Rows of a subject in one claim: what it has beyond them is owned too, and claimed next time. So a subject with a long queue does
/// not keep the others waiting.
const ROWS: i64 = 16;

struct PostgresClaim {
    /// Dropped, it is rolled back, and others may have the subjects.
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

/// The statement that a long queue must not make slow, with its argument.
#[cfg(test)]
pub(super) fn explained() -> String {
    LOCK_OLDEST.replace("$1", "256")
}
