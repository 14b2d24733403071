//! The file of the embedded bus: messages, positions and epoch.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use eticket_bus::{MESSAGES_PER_SUBJECT, Message, matches};
use eticket_store::{
    Error, decode_headers, encode_headers,
    sqlite::{
        Durability, File,
        inspect::{Inspection, inspect_any},
        query, query_one,
    },
};
use rusqlite::{Row, Transaction, params};
use sqlx::migrate::Migrator;
use uuid::Uuid;

use super::Stored;

pub(super) static MIGRATIONS: Migrator = sqlx::migrate!();

/// Inspects the file without changing it, also beside the process that uses it. Returns `None` if there is no file.
///
/// # Errors
/// If it cannot be read or is not a database.
pub async fn inspect(path: &Path, patience: Duration) -> sqlx::Result<Option<Inspection>> {
    inspect_any(path, MIGRATIONS.iter(), patience).await
}

/// The position of a consumer: everything up to `floor` has been acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) name: String,
    pub(super) filters: Vec<String>,
    pub(super) floor: u64,
}

/// The contents of the file when it was opened.
pub(super) struct Contents {
    pub(super) epoch: String,
    pub(super) last_sequence: u64,
    pub(super) positions: Vec<Position>,
}

pub(super) struct Log(File);

impl Log {
    pub(super) async fn open(path: &Path) -> Result<(Self, Contents), Error> {
        // In a rollback an older program opens the file of a newer one. Migrations only add, and statements name their columns.
        let migrations = Migrator::with_migrations(MIGRATIONS.iter().cloned().collect());
        let file = File::open(path, migrations, Durability::Synced).await?;
        let contents = file.write(Durability::Synced, contents).outcome().await?;
        Ok((Self(file), contents))
    }

    /// In one durable transaction: appends messages, removes the oldest messages of their subjects beyond the limit,
    /// and stores positions. Returns the removed sequences.
    pub(super) async fn append(&self, messages: Vec<Stored>, positions: Vec<Position>) -> Result<Vec<u64>, Error> {
        const INSERT: &str = "insert into message (sequence, subject, headers, body) values (?1, ?2, ?3, ?4)";
        // Uses the index message_by_subject twice: for the oldest sequence to keep, and for those below it.
        const TRIM: &str = "delete from message where subject = ?1 and sequence <= (
            select sequence from message where subject = ?1 order by sequence desc limit 1 offset ?2) returning sequence";
        const NOTE: &str = "insert or replace into position (name, filters, floor) values (?1, ?2, ?3)";
        let appended = self.0.write(Durability::Synced, move |transaction| {
            let mut subjects = BTreeSet::new();
            for Stored { sequence, message } in &messages {
                let headers = encode_headers(message)?;
                let row = params![signed(*sequence), message.subject, headers, &message.body[..]];
                transaction.prepare_cached(INSERT)?.execute(row)?;
                subjects.insert(message.subject.as_str());
            }
            let mut dropped = Vec::new();
            for subject in subjects {
                let trim = params![subject, MESSAGES_PER_SUBJECT];
                dropped.extend(query(transaction, TRIM, trim, |row| Ok(unsigned(row.get(0)?)))?);
            }
            for Position { name, filters, floor } in &positions {
                transaction.prepare_cached(NOTE)?.execute(params![name, filters.join(","), signed(*floor)])?;
            }
            Ok(dropped)
        });
        appended.outcome().await
    }

    pub(super) async fn after(&self, sequence: u64, most: usize) -> Result<Vec<Stored>, Error> {
        const SELECT: &str =
            "select sequence, subject, headers, body from message where sequence > ?1 order by sequence limit ?2";
        let params = [signed(sequence), i64::try_from(most).unwrap_or(i64::MAX)];
        self.0.scan(move |connection| query(connection, SELECT, params, stored)).await
    }

    pub(super) async fn at(&self, sequence: u64) -> Result<Option<Arc<Message>>, Error> {
        const SELECT: &str = "select sequence, subject, headers, body from message where sequence = ?1";
        let found = self.0.look_up(|connection| query_one(connection, SELECT, [signed(sequence)], stored));
        Ok(found.await?.map(|stored| stored.message))
    }

    /// Counts the messages after the sequence `after` that match one of the filters. The wildcards of a filter must be
    /// at its end, and no two filters may match the same subject, which holds for all consumers.
    pub(super) async fn count_after(&self, filters: &[String], after: u64) -> Result<u64, Error> {
        // Uses the index message_by_subject, which also has the sequences, so no message is read.
        const COUNT: &str = "select count(*) from message where subject >= ?1 and subject < ?2 and sequence > ?3
            and (?4 is null or length(subject) - length(replace(subject, '.', '')) = ?4)";
        let filters = filters.to_vec();
        let count = self.0.scan(move |connection| {
            let mut count = 0;
            for filter in &filters {
                let (first, end) = range(filter);
                let dots = i64::try_from(filter.matches('.').count()).unwrap_or(i64::MAX);
                let dots = (!filter.ends_with('>')).then_some(dots);
                let params = params![first, end, signed(after), dots];
                count += query_one(connection, COUNT, params, |row| Ok(row.get(0)?))?.unwrap_or(0);
            }
            Ok(unsigned(count))
        });
        count.await
    }

    /// Returns the newest messages below `before` whose subjects match one of the filters, the newest first.
    pub(super) async fn history(&self, filters: &[&str], before: u64, most: usize) -> Result<Vec<Stored>, Error> {
        // Uses the index message_by_subject: a filter selects a range of subjects.
        const SUBJECTS: &str =
            "select sequence, subject from message where subject >= ?1 and subject < ?2 and sequence < ?3";
        const SELECT: &str = "select sequence, subject, headers, body from message
            where sequence in (select value from json_each(?1)) order by sequence desc";
        let filters: Vec<String> = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let history = self.0.scan(move |connection| {
            let mut sequences = BTreeSet::new();
            for filter in &filters {
                let (first, end) = range(filter);
                let found = query(connection, SUBJECTS, params![first, end, signed(before)], |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
                })?;
                sequences.extend(found.into_iter().filter(|(_, subject)| matches(filter, subject)).map(|(at, _)| at));
            }
            let newest: Vec<i64> = sequences.into_iter().rev().take(most).collect();
            query(connection, SELECT, [serde_json::json!(newest).to_string()], stored)
        });
        history.await
    }

    /// Makes the file full, or not any more.
    #[cfg(test)]
    pub(super) async fn set_full(&self, is_full: bool) {
        // SQLite raises the limit to the current number of pages.
        let most: u32 = if is_full { 1 } else { u32::MAX - 1 };
        let limited = self.0.with_connection(Durability::Synced, move |connection| {
            Ok(connection.pragma_update_and_check(None, "max_page_count", most, |_| Ok(()))?)
        });
        limited.outcome().await.unwrap();
    }

    pub(super) async fn close(&self) {
        self.0.close().await;
    }
}

/// Returns the range of subjects that a filter selects: the first one, and the end, which is not part of it.
fn range(filter: &str) -> (&str, String) {
    let first = filter.split(['*', '>']).next().unwrap_or_default();
    // Characters below and above all those of subjects.
    let end = if first == filter { '\u{1}' } else { char::MAX };
    (first, format!("{first}{end}"))
}

fn contents(transaction: &Transaction<'_>) -> Result<Contents, Error> {
    let new = Uuid::new_v4().to_string();
    transaction.execute("insert or ignore into stream (id, identity) values (1, ?1)", [new])?;
    let epoch = transaction.query_row("select identity from stream", [], |row| row.get(0))?;
    // The newest message of a subject is always kept, so the newest message of the stream is in the table.
    let last: Option<i64> = transaction.query_row("select max(sequence) from message", [], |row| row.get(0))?;
    let positions = query(transaction, "select name, filters, floor from position", [], |row| {
        let filters: String = row.get(1)?;
        let filters = filters.split(',').map(str::to_owned).collect();
        Ok(Position { name: row.get(0)?, filters, floor: unsigned(row.get(2)?) })
    })?;
    Ok(Contents { epoch, last_sequence: unsigned(last.unwrap_or(0)), positions })
}

/// Decodes a row with the columns `sequence`, `subject`, `headers` and `body`.
fn stored(row: &Row<'_>) -> Result<Stored, Error> {
    let headers = decode_headers(&row.get::<_, String>(2)?)?;
    let message = Arc::new(Message { subject: row.get(1)?, headers, body: Bytes::from(row.get::<_, Vec<u8>>(3)?) });
    Ok(Stored { sequence: unsigned(row.get(0)?), message })
}

/// SQLite has signed integers; sequences never come near the limit.
fn signed(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

fn unsigned(sequence: i64) -> u64 {
    u64::try_from(sequence).unwrap_or(0)
}
