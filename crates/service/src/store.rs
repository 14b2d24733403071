//! Opens the configured store, and explains what to do if it cannot be opened.

use std::{path::Path, sync::Arc, time::Duration};

use eticket_base::{
    clock::SharedClock,
    config::{
        self,
        urls::{self, StorePlace, StoreSupport},
    },
    exit::StartError,
};
use eticket_runtime::{config::Settings, context::Context};
use eticket_store::{
    Housekeeping,
    postgres::{self, OpenError},
    sqlite,
};
use sqlx::{migrate::Migrator, postgres::PgConnectOptions};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

/// Maximum time to wait for a server that does not respond.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// Checks the URL of a PostgreSQL server without connecting to it.
///
/// # Errors
/// If the text is not a URL, or has an unknown parameter.
pub fn check(settings: &Settings) -> Result<(), config::Error> {
    let Some(url) = settings.store.url.as_deref() else { return Ok(()) };
    match urls::store_place(StoreSupport::Any, url)? {
        StorePlace::Sqlite(_) => Ok(()),
        StorePlace::Postgres(_) => postgres_options(url).map(drop),
    }
}

pub(crate) fn postgres_options(url: &str) -> Result<PgConnectOptions, config::Error> {
    postgres::options(url).map_err(|reason| {
        let expected = format!("{reason}; expected postgres://user:password@host:port/database");
        config::Error::new("store.url", Some(url.to_owned()), expected)
    })
}

/// Opens or creates the store that `store.url` names, and migrates it. An unavailable server is retried for 30 seconds.
///
/// # Errors
/// If the store cannot be opened, created or written.
pub async fn open(context: &Context, migrations: Migrations) -> Result<OpenStore, StartError> {
    match context.store_place(StoreSupport::Any)? {
        StorePlace::Sqlite(path) => open_sqlite(&path, migrations.sqlite, context.clock.clone()).await,
        StorePlace::Postgres(url) => {
            let options = postgres_options(&url)?;
            let schema = Schema { name: context.name, url: &url, options: &options, migrations: migrations.postgres };
            open_postgres(&schema, context.clock.clone(), PATIENCE).await
        }
    }
}

/// Migrations of a service's own tables, for each supported store.
#[derive(Debug, Clone, Copy)]
pub struct Migrations {
    /// For a SQLite file.
    pub sqlite: &'static Migrator,
    /// For a PostgreSQL schema.
    pub postgres: &'static Migrator,
}

/// An open store, on which the service creates the access to its own tables.
#[derive(Clone)]
pub enum OpenStore {
    /// A SQLite file.
    Sqlite(sqlite::Database),
    /// A PostgreSQL schema.
    Postgres(postgres::Database),
}

impl OpenStore {
    /// Returns the store as the relay, the consumer and the operations use it.
    #[must_use]
    pub fn housekeeping(&self) -> Arc<dyn Housekeeping> {
        match self {
            Self::Sqlite(database) => Arc::new(database.clone()),
            Self::Postgres(database) => Arc::new(database.clone()),
        }
    }

    /// Returns the handle that is notified after each commit that adds rows to the outbox.
    #[must_use]
    pub fn outbox_written(&self) -> Arc<Notify> {
        match self {
            Self::Sqlite(database) => database.outbox_written(),
            Self::Postgres(database) => database.outbox_written(),
        }
    }
}

async fn open_sqlite(path: &Path, migrations: &Migrator, clock: SharedClock) -> Result<OpenStore, StartError> {
    match sqlite::Database::open(path, migrations, clock).await {
        Ok(database) => Ok(OpenStore::Sqlite(database)),
        Err(error) => {
            let what = format!(
                "the store {} cannot be opened: check the file and its folder, or set store.url",
                path.display()
            );
            Err(StartError::unavailable(what, error))
        }
    }
}

/// The schema to open.
struct Schema<'a> {
    name: &'static str,
    /// The URL for error messages.
    url: &'a str,
    options: &'a PgConnectOptions,
    migrations: &'a Migrator,
}

/// Retries for up to `patience`, since the server may start at the same time as this process. Errors that do not pass
/// by waiting are returned at once.
async fn open_postgres(schema: &Schema<'_>, clock: SharedClock, patience: Duration) -> Result<OpenStore, StartError> {
    let url = urls::without_password(schema.url);
    let until = Instant::now() + patience;
    let mut has_told = false;
    loop {
        let opening = postgres::Database::open(schema.options, schema.name, schema.migrations, clock.clone());
        match opening.await {
            Ok(database) => return Ok(OpenStore::Postgres(database)),
            Err(OpenError::NotNow(error)) if Instant::now() < until => {
                if !std::mem::replace(&mut has_told, true) {
                    let seconds = patience.as_secs();
                    tracing::warn!(
                        service = schema.name, store.url = %url, %error,
                        "the store does not respond: start it, or set store.url; trying for {seconds} s"
                    );
                }
                sleep(PAUSE).await;
            }
            Err(OpenError::NotNow(error)) => {
                let what = format!("the store does not respond: start it, or set store.url, which is {url}");
                return Err(StartError::unavailable(what, error));
            }
            Err(error @ OpenError::Refused { .. }) => {
                let what = format!("the store cannot be used, and store.url is {url}");
                return Err(StartError::unavailable(what, error));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use eticket_base::clock::SystemClock;
    use eticket_local_servers::postgres::Postgres;

    use super::*;

    fn url(server: &Postgres, database: &str) -> String {
        server.url(database).replace("postgres@", "postgres:s3cret@")
    }

    async fn open(url: &str, patience: Duration) -> Result<OpenStore, StartError> {
        let none = Migrator::with_migrations(Vec::new());
        let options = postgres::options(url).unwrap();
        let schema = Schema { name: "ticket", url, options: &options, migrations: &none };
        open_postgres(&schema, Arc::new(SystemClock), patience).await
    }

    fn told(outcome: Result<OpenStore, StartError>) -> String {
        let error = outcome.map(drop).unwrap_err();
        assert_eq!(error.code(), 69);
        let text = eticket_base::error::chain(&error);
        assert!(text.contains("store.url") && text.contains("postgres:***@127.0.0.1"), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
        text
    }

    #[test]
    fn a_postgresql_url_is_checked_without_a_connection() {
        let mut settings = Settings::for_tests();
        for url in
            [None, Some("sqlite:a.db"), Some("postgres://u:p@db:5433/e?sslmode=require"), Some("postgresql://db/e")]
        {
            settings.store.url = url.map(str::to_owned);
            assert_eq!(check(&settings), Ok(()), "{url:?}");
        }
        for (url, word) in
            [("postgres://h:port/e", "expected postgres://"), ("postgres://u:secret@db/e?sslmod=require", "sslmod")]
        {
            settings.store.url = Some(url.to_owned());
            let error = check(&settings).unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains("secret"), "{error}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs PostgreSQL: cargo xtask test runs it"]
    async fn an_unavailable_server_is_retried_up_to_the_limit() {
        let mut server = Postgres::start().unwrap();
        let url = url(&server, "postgres");
        server.stop().unwrap();
        let begun = Instant::now();
        let text = told(open(&url, Duration::from_secs(1)).await);
        assert!(text.contains("start it"), "{text}");
        assert!((1..10).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        // `open` begins before the server has started, so its first attempt is refused.
        let (opened, started) = tokio::join!(biased; open(&url, PATIENCE), async {
            tokio::task::block_in_place(|| server.start_again())
        });
        started.unwrap();
        assert!(matches!(opened, Ok(OpenStore::Postgres(_))));
    }

    #[tokio::test]
    #[ignore = "needs PostgreSQL: cargo xtask test runs it"]
    async fn permanent_errors_are_not_retried() {
        let server = Postgres::start().unwrap();
        let begun = Instant::now();
        let text = told(open(&url(&server, "nowhere"), PATIENCE).await);
        assert!(text.contains("no such database") && text.contains("create it"), "{text}");
        assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
    }
}
