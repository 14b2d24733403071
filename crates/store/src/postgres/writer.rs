//! The connection for commits, replaced after anything that leaves its state in doubt.

use std::time::Duration;

use sqlx::{ConnectOptions, Connection, Executor, PgConnection, postgres::PgConnectOptions};

use super::{fault, session, timed_out};
use crate::Error;

/// Independent of the default of the database: rows read under their locks must show the latest commit.
const BEGIN: &str = "begin isolation level read committed";

pub(super) struct Writer {
    options: PgConnectOptions,
    connect: Duration,
    /// A connection without an open transaction.
    idle: Option<PgConnection>,
    closed: bool,
}

impl Writer {
    /// Creates a writer that connects at first use.
    pub(super) fn new(options: PgConnectOptions, connect: Duration) -> Self {
        Self { options, connect, idle: None, closed: false }
    }

    /// Begins a transaction. The caller owns the connection until `commit` or `roll_back`.
    pub(super) async fn begin(&mut self) -> sqlx::Result<PgConnection> {
        if self.closed {
            return Err(sqlx::Error::PoolClosed);
        }
        // A dead idle connection is detected here, before anything was done on it.
        if let Some(mut connection) = self.idle.take()
            && connection.execute(BEGIN).await.is_ok()
        {
            return Ok(connection);
        }
        let connecting = async {
            let mut connection = self.options.connect().await?;
            session::make_durable(&mut connection).await?;
            Ok::<_, sqlx::Error>(connection)
        };
        let connected = tokio::time::timeout(self.connect, connecting).await;
        let mut connection = connected.unwrap_or_else(|_| Err(timed_out()))?;
        connection.execute(BEGIN).await?;
        Ok(connection)
    }

    /// Commits. After an error, the outcome of the commit is unknown.
    pub(super) async fn commit(&mut self, mut connection: PgConnection) -> sqlx::Result<()> {
        connection.execute("commit").await?;
        self.idle = Some(connection);
        Ok(())
    }

    /// Rolls back. The connection is kept only if the error is not a problem of the server: the next attempt may reach
    /// another server.
    pub(super) async fn roll_back(&mut self, mut connection: PgConnection, error: &Error) {
        if !fault::needs_new_connection(error) && connection.execute("rollback").await.is_ok() {
            self.idle = Some(connection);
        }
    }

    pub(super) async fn close(&mut self) {
        self.closed = true;
        if let Some(connection) = self.idle.take()
            && let Err(error) = connection.close().await
        {
            tracing::debug!(%error, "cannot close a connection to the store");
        }
    }
}
