//! The connection for commits, made anew after anything that leaves its state in doubt.

use std::time::Duration;

use sqlx::{ConnectOptions, Connection, Executor, PgConnection, postgres::PgConnectOptions};

use super::{fault, session, timed_out};
use crate::Error;

/// Whatever the database's own default is: rows are read under their locks, and must then show what was committed last.
const BEGIN: &str = "begin isolation level read committed";

pub(super) struct Writer {
    options: PgConnectOptions,
    connect: Duration,
    /// With no transaction open.
    idle: Option<PgConnection>,
    closed: bool,
}

impl Writer {
    /// It connects when it is first needed.
    pub(super) fn new(options: PgConnectOptions, connect: Duration) -> Self {
        Self { options, connect, idle: None, closed: false }
    }

    /// A connection with a transaction open. It is the caller's until it is given back.
    pub(super) async fn begin(&mut self) -> sqlx::Result<PgConnection> {
        if self.closed {
            return Err(sqlx::Error::PoolClosed);
        }
        // Whether one that lay idle still lives shows here, where nothing has been done on it yet.
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

    /// After an error it is not known whether the commit has happened.
    pub(super) async fn commit(&mut self, mut connection: PgConnection) -> sqlx::Result<()> {
        connection.execute("commit").await?;
        self.idle = Some(connection);
        Ok(())
    }

    /// A server that cannot do its work now may be another one at the next attempt: only what it did refuse keeps the connection.
    pub(super) async fn roll_back(&mut self, mut connection: PgConnection, error: &Error) {
        if !fault::is_of_the_server(error) && connection.execute("rollback").await.is_ok() {
            self.idle = Some(connection);
        }
    }

    pub(super) async fn close(&mut self) {
        self.closed = true;
        if let Some(connection) = self.idle.take()
            && let Err(error) = connection.close().await
        {
            tracing::debug!(%error, "a connection to the store did not close cleanly");
        }
    }
}
