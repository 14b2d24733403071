//! The outbox of a schema that several processes share.
//!
//! A row belongs to the session that wrote it: its column `writer` has the number of that session, which the session
//! holds as an advisory lock for as long as it lives. The process of the session sends the row. When the session ends,
//! its rows belong to nobody, and the first process that finds them takes them over. Nothing can commit under the number
//! of a session that has ended, also no commit whose outcome its process did not learn.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use eticket_bus::Message;
use sqlx::{PgConnection, Row, postgres::PgRow};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Database, bookkeeping::message, fault, within};
use crate::{
    Claim, Error, Sent, WaitingRow,
    handover::{Handover, Waiting},
};

const LOCK_NUMBER: &str = "select pg_advisory_lock($1)";
// An advisory lock with one key shows the high and the low half of the key. Rows of earlier versions have the number 0,
// which no session locks. Uses the primary key.
const ADOPT: &str = "with live as (
        select (classid::bigint << 32) | objid::bigint as number from pg_locks
        where locktype = 'advisory' and objsubid = 1 and granted
            and database = (select oid from pg_database where datname = current_database())
    ), searched as materialized (
        select id, writer from outbox where id > $1 order by id limit $2
    ), orphans as materialized (
        select id from searched where writer not in (select number from live)
    ), left_over as (
        select id from outbox where $4 and id in (select id from orphans) order by id for update skip locked
    ), adopted as (
        update outbox set writer = $3 from left_over where outbox.id = left_over.id
        returning outbox.id, subject, revision, headers, body
    )
    select (select case when count(*) >= $2 then max(id) end from searched) as last,
        (select count(*) from orphans) - (select count(*) from adopted) as orphans, adopted.*
    from (select 1) as one left join adopted on true";
const SELECT_OWN: &str = "select id, subject, revision, headers, body from outbox
    where id > $1 and writer = $2 order by id limit $3";
// A process of an earlier version may hold rows while it publishes them. It deletes them, or they are sent again. In the
// order of ids, so that two processes with the same rows cannot deadlock.
const DELETE: &str = "delete from outbox where id in
    (select id from outbox where id = any($1) order by id for update skip locked) returning id";

const SELECT_ONE: &str = "select id, subject, revision, headers, body from outbox where id = $1";
const COUNT_OWN: &str = "select count(*) from outbox where id > $1 and writer = $2";
// Rows that another process has deleted are gone as well.
const SELECT_LEFT: &str = "select id from outbox where id = any($1)";

/// Minimum time between two searches of the whole outbox for rows that nobody sends.
const AGAIN: Duration = Duration::from_secs(1);
/// Minimum time between two pages of a search, as a multiple of the time that the last one took. PostgreSQL may keep the
/// index entries of deleted rows for long, and a search passes them all.
const SHARE: u32 = 20;

/// Gives a session a number of its own.
pub(super) async fn lock_number(connection: &mut PgConnection) -> sqlx::Result<i64> {
    // Positive, and not 0.
    let number = i64::from_be_bytes(first_half(Uuid::new_v4())) & i64::MAX | 1;
    sqlx::query(LOCK_NUMBER).bind(number).execute(connection).await?;
    Ok(number)
}

fn first_half(id: Uuid) -> [u8; 8] {
    let mut half = [0; 8];
    half.copy_from_slice(&id.as_bytes()[..8]);
    half
}

/// When to search for rows that nobody sends.
#[derive(Debug, Default)]
pub(super) struct Search(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// `None` for at once.
    next: Option<Instant>,
    /// The search continues above this id.
    above: Option<i64>,
    /// The number of rows that nobody sends, as the last search of the whole outbox has left them.
    orphans: i64,
    /// The same of the current search, so far.
    orphans_so_far: i64,
}

/// A page of a search.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Page {
    /// The last row of a full page.
    last: Option<i64>,
    /// The number of rows that nobody sends.
    orphans: i64,
}

impl Search {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the id above which to search now; `None` if it is too early.
    fn begin(&self) -> Option<i64> {
        let state = self.state();
        let is_due = state.next.is_none_or(|next| next <= Instant::now());
        is_due.then(|| state.above.unwrap_or(i64::MIN))
    }

    /// Notes a page of a search that took this long. After an error, the search continues at the same page.
    fn end(&self, took: Duration, found: &Result<Page, Error>) {
        let mut state = self.state();
        let pause = match found {
            Ok(Page { last, orphans }) => {
                state.above = *last;
                state.orphans_so_far += orphans;
                if last.is_none() {
                    state.orphans = std::mem::take(&mut state.orphans_so_far);
                }
                let least = if last.is_some() { Duration::ZERO } else { AGAIN };
                least.max(took * SHARE)
            }
            Err(error) if fault::is_from_server(error) => AGAIN.max(took * SHARE),
            // The search waited for a server that did not work for it.
            Err(_) => AGAIN,
        };
        state.next = Some(Instant::now() + pause);
    }

    fn orphans(&self) -> i64 {
        self.state().orphans
    }

    /// Begins another search with the next claim.
    #[cfg(test)]
    pub(super) fn again(&self) {
        *self.state() = State::default();
    }
}

fn waiting(row: &PgRow) -> Result<WaitingRow, Error> {
    Ok(WaitingRow {
        id: row.try_get("id")?,
        revision: row.try_get("revision")?,
        message: message(row)?,
        was_read: true,
    })
}

/// Reads again what an adoption may have taken over, unless it has ended well.
struct Adoption<'a> {
    handover: &'a Handover,
    above: Option<i64>,
}

impl Drop for Adoption<'_> {
    fn drop(&mut self) {
        if let Some(above) = self.above {
            self.handover.also_read_above(above);
        }
    }
}

impl Database {
    fn page(&self) -> i64 {
        i64::try_from(self.handover.limits.page).unwrap_or(i64::MAX)
    }

    /// Returns the number of the session for commits; `None` if the first one is not there yet.
    async fn number(&self) -> Result<Option<i64>, Error> {
        // While a commit has the session, it is in use, and nobody must wait for it here.
        let number = match self.writer.try_lock() {
            Ok(mut writer) => within(self.limits.read, writer.number()).await?,
            Err(_) => self.session.load(Ordering::Relaxed),
        };
        Ok(Some(number).filter(|number| *number != 0))
    }

    /// Takes over rows whose session has ended. Rows in memory must not wait for it, so its errors are only logged.
    async fn adopt(&self) {
        let Some(above) = self.search.begin() else { return };
        let began = Instant::now();
        let found = self.adopt_above(above).await;
        self.search.end(began.elapsed(), &found);
        if let Err(error) = found {
            tracing::warn!(%error, "cannot search the outbox for rows of processes that have ended");
        }
    }

    async fn adopt_above(&self, above: i64) -> Result<Page, Error> {
        // In any case: the server ends a session that is not used.
        let Some(number) = self.number().await? else { return Ok(Page::default()) };
        let mut adoption = Adoption { handover: &self.handover, above: Some(above) };
        let adopt = sqlx::query(ADOPT).bind(above).bind(self.page()).bind(number).bind(self.handover.may_adopt());
        let found = within(self.limits.read, adopt.fetch_all(&self.housekeepers)).await;
        if found.as_ref().is_err_and(fault::is_from_server) {
            adoption.above = None;
        }
        let found = found?;
        let page = match found.first() {
            Some(row) => Page { last: row.try_get("last")?, orphans: row.try_get("orphans")? },
            None => Page::default(),
        };
        // Without an adopted row, there is one row with nulls.
        let found = found.iter().filter(|row| row.try_get::<Option<i64>, _>("id").is_ok_and(|id| id.is_some()));
        // A row that cannot be decoded is not sent, like one of this process.
        let found = found.map(waiting).collect::<Result<Vec<_>, _>>()?;
        adoption.above = None;
        self.handover.adopt(found);
        Ok(page)
    }

    /// Reads rows of this process that are not in memory.
    async fn read_own(&self) -> Result<(), Error> {
        // All rows of a page may be on their way already.
        while let Some(above) = self.handover.begin_read() {
            let Some(number) = self.number().await? else { return Ok(()) };
            let select = sqlx::query(SELECT_OWN).bind(above).bind(number).bind(self.page());
            let found = within(self.limits.read, select.fetch_all(&self.housekeepers)).await?;
            let found = found.iter().map(waiting).collect::<Result<Vec<_>, _>>()?;
            self.handover.end_read(found);
        }
        Ok(())
    }

    pub(super) async fn claim(&self, most: usize) -> Result<Claim, Error> {
        if self.housekeepers.is_closed() {
            return Err(sqlx::Error::PoolClosed.into());
        }
        self.read_own().await?;
        self.adopt().await;
        Ok(self.handover.claim(most))
    }

    pub(super) async fn delete(&self, mut sent: Sent) -> Result<Vec<i64>, Error> {
        let ids = sent.ids();
        let delete = sqlx::query_scalar(DELETE).bind(&ids).fetch_all(&self.housekeepers);
        let deleted: Vec<i64> = within(self.limits.read, delete).await?;
        let mut left = Vec::new();
        if deleted.len() < ids.len() {
            let select = sqlx::query_scalar(SELECT_LEFT).bind(&ids).fetch_all(&self.housekeepers);
            left = within(self.limits.read, select).await?;
        }
        let still_there: HashSet<i64> = left.iter().copied().collect();
        sent.deleted(ids.into_iter().filter(|id| !still_there.contains(id)));
        Ok(left)
    }

    pub(super) async fn depth(&self) -> Result<i64, Error> {
        let waiting = self.handover.waiting();
        let mut unread = 0;
        if let Some(above) = waiting.unread_above {
            let number = self.session.load(Ordering::Relaxed);
            let count = sqlx::query_scalar(COUNT_OWN).bind(above).bind(number).fetch_one(&self.housekeepers);
            unread = within(self.limits.read, count).await?;
        }
        Ok(waiting.depth(unread).saturating_add(self.search.orphans()))
    }

    pub(super) async fn oldest(&self) -> Result<Option<Message>, Error> {
        let Waiting { lowest, unread_above, .. } = self.handover.waiting();
        let number = self.session.load(Ordering::Relaxed);
        let select = match (lowest, unread_above) {
            (Some(id), _) => sqlx::query(SELECT_ONE).bind(id),
            (None, Some(above)) => sqlx::query(SELECT_OWN).bind(above).bind(number).bind(1_i64),
            (None, None) => return Ok(None),
        };
        let found = within(self.limits.read, select.fetch_optional(&self.housekeepers)).await?;
        found.as_ref().map(message).transpose()
    }
}

/// The statement that searches, for `explain`.
#[cfg(test)]
pub(super) fn explained() -> String {
    ADOPT.replace("$1", "0").replace("$2", "4096").replace("$3", "1").replace("$4", "true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_search_takes_a_small_share_of_the_time() {
        let (search, seconds) = (Search::default(), Duration::from_secs);
        assert_eq!(search.begin(), Some(i64::MIN));
        search.end(seconds(3), &Ok(Page { last: Some(7), orphans: 2 }));
        assert_eq!(search.begin(), None);
        tokio::time::advance(seconds(60)).await;
        assert_eq!(search.begin(), Some(7));
        search.end(Duration::ZERO, &Ok(Page { last: Some(9), orphans: 3 }));
        assert_eq!(search.begin(), Some(9), "the next page at once");
        search.end(seconds(3), &Ok(Page::default()));
        assert_eq!(search.orphans(), 5);
        tokio::time::advance(seconds(59)).await;
        assert_eq!(search.begin(), None);
        tokio::time::advance(seconds(1)).await;
        assert_eq!(search.begin(), Some(i64::MIN));
        search.end(Duration::from_millis(1), &Ok(Page::default()));
        tokio::time::advance(AGAIN).await;
        assert!(search.begin().is_some());
        assert_eq!(search.orphans(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_search_continues_soon_after_a_server_did_not_respond() {
        let search = Search::default();
        search.end(Duration::ZERO, &Ok(Page { last: Some(7), orphans: 2 }));
        search.end(Duration::from_secs(3), &Err(super::super::timed_out().into()));
        tokio::time::advance(AGAIN).await;
        assert_eq!(search.begin(), Some(7));
        search.end(Duration::ZERO, &Ok(Page { last: None, orphans: 3 }));
        assert_eq!(search.orphans(), 5);
    }
}
