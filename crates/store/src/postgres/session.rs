//! Connection options and pools, with the schema and the limits that the server enforces.

use std::time::Duration;

use sqlx::{
    ConnectOptions, Connection, Executor, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

/// All limits are below the deadline of a call (`limits.default_deadline_ms`), so that its caller still gets the
/// reason.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Wait for a lock.
    pub(super) lock: Duration,
    /// Duration of one statement.
    pub(super) statement: Duration,
    /// Idle time within a transaction. Its client may be gone or frozen, and holds rows that others need.
    pub(super) idle_in_transaction: Duration,
    /// Idle time of the session for commits. Its process is gone or frozen, and its outbox rows are for the others.
    pub(super) idle_session: Duration,
    /// Connecting, or waiting for a connection of a pool.
    pub(super) connect: Duration,
    /// Duration of a read, measured by this process.
    pub(super) read: Duration,
    /// Duration of a commit with all attempts, measured by this process.
    pub(super) commit: Duration,
    /// Duration of a ping.
    pub(super) ping: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lock: Duration::from_secs(1),
            statement: Duration::from_secs(2),
            idle_in_transaction: Duration::from_secs(5),
            idle_session: Duration::from_secs(5 * 60),
            connect: Duration::from_secs(1),
            read: Duration::from_secs(3),
            commit: Duration::from_secs(5),
            ping: Duration::from_secs(1),
        }
    }
}

/// With the commit connection, a process has at most seven connections: 14 processes fit into the default limit of 100.
const READERS: u32 = 4;
/// One for the relay, one for everything else.
const HOUSEKEEPERS: u32 = 2;
/// A connection is replaced after this time: after a failover, the host name may refer to another server.
const LIFETIME: Duration = Duration::from_secs(10 * 60);
/// A connection that was idle for longer is pinged before use.
const FRESH: Duration = Duration::from_secs(1);
/// Wait for other processes that migrate, and for tables in use.
const MIGRATION_LOCK: Duration = Duration::from_secs(5);
const MIGRATION_STATEMENT: Duration = Duration::from_secs(10 * 60);

/// Options of the commit connection.
pub(super) fn commit_options(options: &PgConnectOptions, schema: &str, limits: &Limits) -> PgConnectOptions {
    let idle_session = limits.idle_session.as_millis().to_string();
    session_options(options, schema, limits).options([("idle_session_timeout", idle_session)])
}

/// Options for migrations, which may take long.
pub(super) fn migration_options(options: &PgConnectOptions, schema: &str, limits: &Limits) -> PgConnectOptions {
    limited(options, schema, MIGRATION_STATEMENT, MIGRATION_LOCK, limits.idle_in_transaction)
}

pub(super) fn readers(options: &PgConnectOptions, schema: &str, limits: &Limits) -> PgPool {
    pool(READERS, limits, session_options(options, schema, limits))
}

pub(super) fn housekeepers(options: &PgConnectOptions, schema: &str, limits: &Limits) -> PgPool {
    let options = session_options(options, schema, limits);
    // If a crash loses the newest of these commits, repeating them is harmless.
    pool(HOUSEKEEPERS, limits, options.options([("synchronous_commit", "off")]))
}

/// With a weaker `synchronous_commit` default of the server, database or role, a crash could lose an acknowledged
/// commit. `remote_apply`, which is stricter, is kept. The setting is always set, so that a later change of the default
/// has no effect.
const DURABLE: &str = "select set_config('synchronous_commit', case current_setting('synchronous_commit')
    when 'remote_apply' then 'remote_apply' else 'on' end, false)";

/// Ensures that acknowledged commits are durable.
pub(super) async fn make_durable(connection: &mut PgConnection) -> sqlx::Result<()> {
    connection.execute(DURABLE).await?;
    Ok(())
}

fn session_options(options: &PgConnectOptions, schema: &str, limits: &Limits) -> PgConnectOptions {
    limited(options, schema, limits.statement, limits.lock, limits.idle_in_transaction)
}

fn limited(
    options: &PgConnectOptions,
    schema: &str,
    statement: Duration,
    lock: Duration,
    idle_in_transaction: Duration,
) -> PgConnectOptions {
    let milliseconds = |limit: Duration| limit.as_millis().to_string();
    let name = options.get_application_name().map_or_else(|| format!("eticket-{schema}"), str::to_owned);
    options.clone().application_name(&name).disable_statement_logging().options([
        ("search_path", schema.to_owned()),
        ("statement_timeout", milliseconds(statement)),
        ("lock_timeout", milliseconds(lock)),
        ("idle_in_transaction_session_timeout", milliseconds(idle_in_transaction)),
        // The server releases the locks of a client that was cut off.
        ("tcp_keepalives_idle", "10".to_owned()),
        ("tcp_keepalives_interval", "5".to_owned()),
        ("tcp_keepalives_count", "3".to_owned()),
        // Every query has an index. A plan made while a table is empty would scan the table, and be kept while it
        // grows.
        ("enable_seqscan", "off".to_owned()),
        ("client_min_messages", "warning".to_owned()),
    ])
}

fn pool(most: u32, limits: &Limits, options: PgConnectOptions) -> PgPool {
    let limit = limits.ping;
    PgPoolOptions::new()
        .max_connections(most)
        .acquire_timeout(limits.connect)
        .max_lifetime(LIFETIME)
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if meta.idle_for > FRESH {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        // The pool also pings, but without a timeout: if the server froze, the connection would occupy its place
        // forever.
        .after_release(move |connection, _| Box::pin(async move { Ok(responds(connection, limit).await) }))
        .connect_lazy_with(options)
}

async fn responds(connection: &mut PgConnection, limit: Duration) -> bool {
    matches!(tokio::time::timeout(limit, connection.ping()).await, Ok(Ok(())))
}
