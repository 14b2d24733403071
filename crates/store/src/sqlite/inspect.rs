//! Inspects a file without changing it, also beside the process that uses it.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use eticket_base::config::regular_file;
use sqlx::{
    ConnectOptions, Connection, Row, SqliteConnection,
    migrate::{Migration, Migrator},
    sqlite::SqliteConnectOptions,
};

use super::{BOOKKEEPING, BUSY_TIMEOUT};
use crate::inspection::{Applied, Schema};

/// The first bytes of every database.
const MAGIC: &[u8] = b"SQLite format 3\0";
/// The byte of the header that is 2 in WAL mode.
const READ_VERSION: usize = 19;
const HEADER: usize = 100;
/// The number of steps of SQLite between two looks at the clock.
const STEPS: i32 = 1_000;

/// The result of `quick_check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Integrity {
    /// It found nothing.
    Sound,
    /// The first problem that it found.
    Damaged(String),
    /// It did not end in time; it found nothing until then.
    Unfinished,
}

/// What was seen of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// The size of the file in bytes, without its WAL.
    pub bytes: u64,
    /// Whether it is in WAL mode, as this program leaves it.
    pub wal: bool,
    /// The result of `quick_check`.
    pub integrity: Integrity,
    /// The state of the schema.
    pub schema: Schema,
}

/// Inspects the file of a store with these migrations in addition to the common ones. Returns `None` if there is no file, or an
/// empty one.
///
/// # Errors
/// If the file cannot be read or is not a database.
pub async fn inspect(path: &Path, migrations: &Migrator, patience: Duration) -> sqlx::Result<Option<Inspection>> {
    inspect_any(path, BOOKKEEPING.iter().chain(migrations.iter()), patience).await
}

/// Like [`inspect`], for a file that has only these migrations.
///
/// # Errors
/// Like [`inspect`].
pub async fn inspect_any<'a>(
    path: &Path,
    migrations: impl IntoIterator<Item = &'a Migration>,
    patience: Duration,
) -> sqlx::Result<Option<Inspection>> {
    let Some((bytes, wal)) = header(path)? else { return Ok(None) };
    let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(BUSY_TIMEOUT.min(patience));
    // Without a WAL, nobody has the file open. A connection that is only read-only would create one.
    let options = options.immutable(wal && !wal_of(path).exists()).disable_statement_logging();
    let mut connection = options.connect().await?;
    let outcome = read(&mut connection, migrations, patience).await;
    connection.close().await.ok();
    let (integrity, schema) = outcome?;
    Ok(Some(Inspection { bytes, wal, integrity, schema }))
}

fn wal_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// The size of the file, and whether it is in WAL mode.
fn header(path: &Path) -> io::Result<Option<(u64, bool)>> {
    let metadata = match fs::metadata(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        metadata => metadata?,
    };
    regular_file::check(&metadata)?;
    let mut header = Vec::new();
    File::open(path)?.take(HEADER as u64).read_to_end(&mut header)?;
    match header.get(READ_VERSION) {
        None if header.is_empty() => Ok(None),
        Some(version) if header.starts_with(MAGIC) => Ok(Some((metadata.len(), *version == 2))),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a SQLite database")),
    }
}

async fn read<'a>(
    connection: &mut SqliteConnection,
    migrations: impl IntoIterator<Item = &'a Migration>,
    patience: Duration,
) -> sqlx::Result<(Integrity, Schema)> {
    const TABLE: &str = "select count(*) from sqlite_schema where name = '_sqlx_migrations'";
    const APPLIED: &str = "select version, checksum, success from _sqlx_migrations";
    let has_table: i64 = sqlx::query_scalar(TABLE).fetch_one(&mut *connection).await?;
    let rows = match has_table {
        0 => Vec::new(),
        _ => sqlx::query(APPLIED).fetch_all(&mut *connection).await?,
    };
    let applied = rows
        .iter()
        .map(|row| Ok(Applied { version: row.try_get(0)?, checksum: row.try_get(1)?, success: row.try_get(2)? }));
    let schema = Schema::compare(migrations, &applied.collect::<sqlx::Result<Vec<_>>>()?);
    Ok((integrity(connection, patience).await?, schema))
}

async fn integrity(connection: &mut SqliteConnection, patience: Duration) -> sqlx::Result<Integrity> {
    let until = Instant::now() + patience;
    connection.lock_handle().await?.set_progress_handler(STEPS, move || Instant::now() < until);
    let found = sqlx::query_scalar::<_, String>("pragma quick_check(1)").fetch_one(&mut *connection).await;
    connection.lock_handle().await?.remove_progress_handler();
    match found {
        Ok(text) if text == "ok" => Ok(Integrity::Sound),
        Ok(text) => Ok(Integrity::Damaged(text)),
        Err(_) if Instant::now() >= until => Ok(Integrity::Unfinished),
        Err(sqlx::Error::Database(error)) => Ok(Integrity::Damaged(error.to_string())),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

    use eticket_base::clock::SystemClock;

    use super::*;
    use crate::{StoreLifecycle, sqlite::Database};

    const PATIENCE: Duration = Duration::from_secs(5);

    fn none() -> Migrator {
        Migrator::with_migrations(Vec::new())
    }

    async fn open(path: &Path) -> Database {
        Database::open(path, &none(), Arc::new(SystemClock)).await.unwrap()
    }

    fn files(folder: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
        let files = fs::read_dir(folder).unwrap().map(|entry| {
            let metadata = entry.as_ref().unwrap().metadata().unwrap();
            (entry.unwrap().path(), (metadata.len(), metadata.modified().unwrap()))
        });
        files.collect()
    }

    #[tokio::test]
    async fn a_file_is_inspected_unchanged_after_its_process_and_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        assert_eq!(inspect(&path, &none(), PATIENCE).await.unwrap(), None);
        assert!(files(folder.path()).is_empty(), "an absent file stays absent");
        open(&path).await.close().await;
        let before = files(folder.path());
        let inspection = inspect(&path, &none(), PATIENCE).await.unwrap().unwrap();
        assert_eq!((inspection.wal, &inspection.integrity), (true, &Integrity::Sound));
        assert!(matches!(inspection.schema, Schema::Current { .. }), "{inspection:?}");
        assert_eq!(files(folder.path()), before);

        let database = open(&path).await;
        let before = files(folder.path());
        assert_eq!(inspect(&path, &none(), PATIENCE).await.unwrap().unwrap().integrity, Integrity::Sound);
        let unshared = |mut files: BTreeMap<PathBuf, _>| {
            files.retain(|path, _| !path.to_str().unwrap().ends_with("-shm"));
            files
        };
        assert_eq!(unshared(files(folder.path())), unshared(before));
        // The process goes on.
        database.ping().await.unwrap();
    }

    #[tokio::test]
    async fn a_damaged_file_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        open(&path).await.close().await;
        let mut bytes = fs::read(&path).unwrap();
        let page = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
        for byte in &mut bytes[page..2 * page] {
            *byte = 0xff;
        }
        fs::write(&path, bytes).unwrap();
        let found = inspect(&path, &none(), PATIENCE).await;
        let damaged = match &found {
            Ok(Some(inspection)) => matches!(inspection.integrity, Integrity::Damaged(_)),
            Ok(None) => false,
            Err(error) => error.to_string().contains("malformed"),
        };
        assert!(damaged, "{found:?}");
        fs::write(&path, "not a database").unwrap();
        let error = inspect(&path, &none(), PATIENCE).await.unwrap_err().to_string();
        assert!(error.contains("not a SQLite database"), "{error}");
    }

    #[tokio::test]
    async fn the_check_of_a_large_file_ends_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        open(&path).await.close().await;
        let mut connection = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
        let fill = "create table more (a text); create index by_a on more (a);
            with recursive n(x) as (select 1 union all select x + 1 from n where x < 50000)
            insert into more select printf('%0200d', x) from n";
        sqlx::raw_sql(fill).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        let inspection = inspect(&path, &none(), Duration::ZERO).await.unwrap().unwrap();
        assert_eq!(inspection.integrity, Integrity::Unfinished);
    }
}
