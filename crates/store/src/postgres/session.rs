//! Connections and what holds on each of them: the schema, and the limits that the server keeps.

use std::time::Duration;

use sqlx::{
    ConnectOptions, Connection, Executor, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

/// All below the deadline of a call (`limits.default_deadline_ms`), so that its caller still hears why.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Of waiting for a lock that somebody holds.
    pub(super) lock: Duration,
    /// Of one statement.
    pub(super) statement: Duration,
    /// Of a transaction in which nothing happens: whoever opened it is gone, or frozen, and holds rows that others need.
    pub(super) idle_in_transaction: Duration,
    /// The same of a claim on the outbox: it is held while the bus takes what is published, however slow.
    pub(super) idle_claim: Duration,
    /// Of making a connection, or waiting for one of a pool.
    pub(super) connect: Duration,
    /// Of a read, by this process's clock.
    pub(super) read: Duration,
    /// Of a commit with all its attempts, by this process's clock.
    pub(super) commit: Duration,
    /// Of asking whether the server answers.
    pub(super) ping: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lock: Duration::from_secs(1),
            statement: Duration::from_secs(2),
            idle_in_transaction: Duration::from_secs(5),
            idle_claim: Duration::from_secs(5 * 60),
            connect: Duration::from_secs(1),
            read: Duration::from_secs(3),
            commit: Duration::from_secs(5),
            ping: Duration::from_secs(1),
        }
    }
}

/// With the one for commits a process has seven at the most, so fourteen of them fit into a server's usual hundred.
const READERS: u32 = 4;
/// One for the relay's claim, one for everything else.
const HOUSEKEEPERS: u32 = 2;
/// After so long it is made anew: after a failover the name of the server may stand for another one.
const LIFETIME: Duration = Duration::from_secs(10 * 60);
/// One that lay idle for longer is asked whether it still lives before it is used.
const FRESH: Duration = Duration::from_secs(1);
/// Waiting for other processes that migrate, and for tables that are in use.
const MIGRATION_LOCK: Duration = Duration::from_secs(5);
const MIGRATION_STATEMENT: Duration = Duration::from_secs(10 * 60);

/// For the one connection that commits.
pub(super) fn commit_options(options: &PgConnectOptions, schema: &str, limits: &Limits) -> PgConnectOptions {
    limited(options, schema, limits.statement, limits.lock, limits.idle_in_transaction)
}

/// For migrations, which may have much to do.
pub(super) fn migration_options(options: &PgConnectOptions, schema: &str, limits: &Limits) -> PgConnectOptions {
    limited(options, schema, MIGRATION_STATEMENT, MIGRATION_LOCK, limits.idle_in_transaction)
}

pub(super) fn readers(options: &PgConnectOptions, schema: &str, limits: &Limits) -> PgPool {
    pool(READERS, limits, commit_options(options, schema, limits))
}

pub(super) fn housekeepers(options: &PgConnectOptions, schema: &str, limits: &Limits) -> PgPool {
    let options = limited(options, schema, limits.statement, limits.lock, limits.idle_claim);
    // Losing the newest of these commits in a crash only repeats what is harmless to repeat.
    pool(HOUSEKEEPERS, limits, options.options([("synchronous_commit", "off")]))
}

/// With a weaker `synchronous_commit` of the server, the database or the role, a crash may lose a commit that was acknowledged.
/// `remote_apply`, which waits for more, stays. Always set, so that a default that is changed later does not count.
const DURABLE: &str = "select set_config('synchronous_commit', case current_setting('synchronous_commit')
    when 'remote_apply' then 'remote_apply' else 'on' end, false)";

/// Makes sure that an acknowledged commit is durable.
pub(super) async fn make_durable(connection: &mut PgConnection) -> sqlx::Result<()> {
    connection.execute(DURABLE).await?;
    Ok(())
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
        // The server lets go of the locks of a machine that is cut off.
        ("tcp_keepalives_idle", "10".to_owned()),
        ("tcp_keepalives_interval", "5".to_owned()),
        ("tcp_keepalives_count", "3".to_owned()),
        // Every query has its index. A plan made while a table was empty would go through all of it, and be kept while it grows.
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
        // The pool pings too, and without a limit: a server that froze meanwhile would keep the place of this connection for ever.
        .after_release(move |connection, _| Box::pin(async move { Ok(answers(connection, limit).await) }))
        .connect_lazy_with(options)
}

async fn answers(connection: &mut PgConnection, limit: Duration) -> bool {
    matches!(tokio::time::timeout(limit, connection.ping()).await, Ok(Ok(())))
}
