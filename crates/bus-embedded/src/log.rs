//! The file of the embedded bus: messages, positions and epoch.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use eticket_bus::{MESSAGES_PER_SUBJECT, Message, matches};
use eticket_store::sqlite::{
    OwnedFile, Writer, hex,
    inspect::{Inspection, inspect_any},
    json_rows, migrate,
};
use serde_json::json;
use sqlx::{
    ConnectOptions, Connection, Row, SqliteConnection, SqlitePool,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous},
};
use tokio::sync::Mutex;
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

pub(super) struct Log {
    /// The file is unlocked after its connection is closed.
    writer: Mutex<Option<(Writer, OwnedFile)>>,
    readers: SqlitePool,
}

impl Log {
    pub(super) async fn open(path: &Path) -> sqlx::Result<(Self, Contents)> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(2))
            .disable_statement_logging();
        let file = OwnedFile::open(path)?;
        let mut migrator = Migrator::with_migrations(MIGRATIONS.iter().cloned().collect());
        // In a rollback an older program opens the file of a newer one. Migrations only add, and statements name their columns.
        migrator.set_ignore_missing(true);
        migrate(options.clone(), &migrator).await?;
        let mut writer = Writer::open(options.clone()).await?;
        let contents = contents(writer.ready().await?).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(2)
            .test_before_acquire(false)
            .connect_lazy_with(options.read_only(true).create_if_missing(false));
        Ok((Self { writer: Mutex::new(Some((writer, file))), readers }, contents))
    }

    /// In one durable transaction: appends messages, removes the oldest messages of their subjects beyond the limit,
    /// and stores positions. Returns the removed sequences.
    pub(super) async fn append(&self, messages: &[Stored], positions: &[Position]) -> sqlx::Result<Vec<u64>> {
        const INSERT: &str = "insert into message (sequence, subject, headers, body)
            select value ->> 0, value ->> 1, value ->> 2, unhex(value ->> 3) from json_each(?1)";
        // Uses the index message_by_subject twice: for the oldest sequence to keep, and for those below it.
        const TRIM: &str = "delete from message where sequence in (
            select old.sequence from json_each(?1) touched join message old on old.subject = touched.value
            where old.sequence <= (select sequence from message kept where kept.subject = touched.value
                                   order by kept.sequence desc limit 1 offset ?2)) returning sequence";
        const NOTE: &str = "insert or replace into position (name, filters, floor)
            select value ->> 0, value ->> 1, value ->> 2 from json_each(?1)";
        let mut writer = self.writer.lock().await;
        let (writer, file) = writer.as_mut().ok_or(sqlx::Error::PoolClosed)?;
        // Writes to a removed file succeed, and would be lost with the process.
        file.check()?;
        let mut transaction = writer.ready().await?.begin_with("begin immediate").await?;
        let mut dropped = Vec::new();
        if !messages.is_empty() {
            let rows = json_rows(messages.iter().map(|Stored { sequence, message }| {
                json!([sequence, message.subject, json!(message.headers).to_string(), hex(&message.body)])
            }));
            sqlx::query(INSERT).bind(rows).execute(&mut *transaction).await?;
            let mut subjects: Vec<_> = messages.iter().map(|stored| stored.message.subject.as_str()).collect();
            subjects.sort_unstable();
            subjects.dedup();
            let subjects = json_rows(subjects.into_iter().map(|subject| json!(subject)));
            let trim = sqlx::query_scalar::<_, i64>(TRIM).bind(subjects).bind(MESSAGES_PER_SUBJECT);
            dropped = trim.fetch_all(&mut *transaction).await?.into_iter().map(unsigned).collect();
        }
        if !positions.is_empty() {
            let rows =
                positions.iter().map(|Position { name, filters, floor }| json!([name, filters.join(","), floor]));
            sqlx::query(NOTE).bind(json_rows(rows)).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(dropped)
    }

    pub(super) async fn after(&self, sequence: u64, most: usize) -> sqlx::Result<Vec<Stored>> {
        const SELECT: &str =
            "select sequence, subject, headers, body from message where sequence > ?1 order by sequence limit ?2";
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let rows = sqlx::query(SELECT).bind(signed(sequence)).bind(most).fetch_all(&self.readers).await?;
        rows.iter().map(stored).collect()
    }

    pub(super) async fn at(&self, sequence: u64) -> sqlx::Result<Option<Arc<Message>>> {
        const SELECT: &str = "select sequence, subject, headers, body from message where sequence = ?1";
        let row = sqlx::query(SELECT).bind(signed(sequence)).fetch_optional(&self.readers).await?;
        row.as_ref().map(|row| Ok(stored(row)?.message)).transpose()
    }

    /// Counts the messages after the sequence `after` that match one of the filters. The wildcards of a filter must be
    /// at its end, and no two filters may match the same subject, which holds for all consumers.
    pub(super) async fn count_after(&self, filters: &[String], after: u64) -> sqlx::Result<u64> {
        // Uses the index message_by_subject, which also has the sequences, so no message is read.
        const COUNT: &str = "select count(*) from message where subject >= ?1 and subject < ?2 and sequence > ?3
            and (?4 is null or length(subject) - length(replace(subject, '.', '')) = ?4)";
        let mut count = 0;
        for filter in filters {
            let (first, end) = range(filter);
            let dots = i64::try_from(filter.matches('.').count()).unwrap_or(i64::MAX);
            let dots = (!filter.ends_with('>')).then_some(dots);
            let counted = sqlx::query_scalar::<_, i64>(COUNT).bind(first).bind(end).bind(signed(after)).bind(dots);
            count += unsigned(counted.fetch_one(&self.readers).await?);
        }
        Ok(count)
    }

    /// Returns the newest messages below `before` whose subjects match one of the filters, the newest first.
    pub(super) async fn history(&self, filters: &[&str], before: u64, most: usize) -> sqlx::Result<Vec<Stored>> {
        // Uses the index message_by_subject: a filter selects a range of subjects.
        const SUBJECTS: &str =
            "select sequence, subject from message where subject >= ?1 and subject < ?2 and sequence < ?3";
        const SELECT: &str = "select sequence, subject, headers, body from message
            where sequence in (select value from json_each(?1)) order by sequence desc";
        let mut sequences = Vec::new();
        for filter in filters {
            let (first, end) = range(filter);
            let rows = sqlx::query(SUBJECTS).bind(first).bind(end).bind(signed(before));
            for row in rows.fetch_all(&self.readers).await? {
                if matches(filter, row.try_get("subject")?) {
                    sequences.push(row.try_get::<i64, _>("sequence")?);
                }
            }
        }
        sequences.sort_unstable_by(|one, other| other.cmp(one));
        sequences.dedup();
        sequences.truncate(most);
        let sequences = json_rows(sequences.into_iter().map(|sequence| json!(sequence)));
        let rows = sqlx::query(SELECT).bind(sequences).fetch_all(&self.readers).await?;
        rows.iter().map(stored).collect()
    }

    /// Makes the file full until its connection is opened again.
    #[cfg(test)]
    pub(super) async fn fill(&self) {
        let mut writer = self.writer.lock().await;
        let connection = writer.as_mut().unwrap().0.ready().await.unwrap();
        // SQLite raises the limit to the current number of pages.
        sqlx::query("pragma max_page_count = 1").execute(connection).await.unwrap();
    }

    pub(super) async fn close(&self) {
        self.readers.close().await;
        let mut guard = self.writer.lock().await;
        if let Some((writer, _file)) = guard.take()
            && let Err(error) = writer.close().await
        {
            tracing::warn!(%error, "cannot close the bus file");
        }
    }
}

/// Returns the range of subjects that a filter selects: the first one, and the end, which is not part of it.
fn range(filter: &str) -> (&str, String) {
    let first = filter.split(['*', '>']).next().unwrap_or_default();
    // Characters below and above all those of subjects.
    let end = if first == filter { '\u{1}' } else { char::MAX };
    (first, format!("{first}{end}"))
}

async fn contents(connection: &mut SqliteConnection) -> sqlx::Result<Contents> {
    sqlx::query("insert or ignore into stream (id, identity) values (1, ?1)")
        .bind(Uuid::new_v4().to_string())
        .execute(&mut *connection)
        .await?;
    let epoch = sqlx::query_scalar("select identity from stream").fetch_one(&mut *connection).await?;
    // The newest message of a subject is always kept, so the newest message of the stream is in the table.
    let last: Option<i64> = sqlx::query_scalar("select max(sequence) from message").fetch_one(&mut *connection).await?;
    let rows = sqlx::query("select name, filters, floor from position").fetch_all(connection).await?;
    let positions = rows.iter().map(|row| {
        let filters: String = row.try_get("filters")?;
        let filters = filters.split(',').map(str::to_owned).collect();
        Ok(Position { name: row.try_get("name")?, filters, floor: unsigned(row.try_get("floor")?) })
    });
    let positions = positions.collect::<sqlx::Result<_>>()?;
    Ok(Contents { epoch, last_sequence: unsigned(last.unwrap_or(0)), positions })
}

fn stored(row: &SqliteRow) -> sqlx::Result<Stored> {
    let headers = serde_json::from_str(row.try_get("headers")?).map_err(|error| sqlx::Error::Decode(error.into()))?;
    let body = Bytes::from(row.try_get::<Vec<u8>, _>("body")?);
    let message = Arc::new(Message { subject: row.try_get("subject")?, headers, body });
    Ok(Stored { sequence: unsigned(row.try_get("sequence")?), message })
}

/// SQLite has signed integers; sequences never come near the limit.
fn signed(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

fn unsigned(sequence: i64) -> u64 {
    u64::try_from(sequence).unwrap_or(0)
}
