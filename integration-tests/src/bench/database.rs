//! What PostgreSQL has done, by its own counters.

use eticket_local_servers::postgres::Postgres;

/// The line of the configuration that counts statements.
pub(crate) const COUNT_STATEMENTS: &str = "shared_preload_libraries = 'pg_stat_statements'";
const PREPARE: &str = "create extension if not exists pg_stat_statements";
// Statements of the protocol, such as `begin` and `commit`, count too.
const READ: &str =
    "select coalesce(sum(calls), 0), pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') from pg_stat_statements";

/// Work of the server, in all or for each call.
#[derive(Debug, Clone, Copy)]
pub struct DatabaseWork {
    pub statements: f64,
    /// Bytes of the write-ahead log.
    pub log_bytes: f64,
}

impl DatabaseWork {
    /// Reads the work since the start of the server.
    ///
    /// # Panics
    /// If the server does not count statements.
    pub(super) fn read(postgres: &Postgres) -> Self {
        let read = || {
            postgres.sql("postgres", PREPARE).expect("the extension comes with PostgreSQL");
            postgres.sql("postgres", READ).expect("statements are counted")
        };
        let row = tokio::task::block_in_place(read);
        let (statements, log_bytes) = row.split_once('|').expect("two columns");
        let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("{text} is not a number"));
        Self { statements: number(statements), log_bytes: number(log_bytes) }
    }

    /// Returns the work since `earlier` for each of `calls`.
    pub(super) fn since(self, earlier: Self, calls: f64) -> Self {
        Self {
            statements: (self.statements - earlier.statements) / calls,
            log_bytes: (self.log_bytes - earlier.log_bytes) / calls,
        }
    }
}
