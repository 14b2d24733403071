//! The session for commits, replaced after anything that leaves its state in doubt.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use sqlx::{ConnectOptions, Connection, Executor, PgConnection, postgres::PgConnectOptions};

use super::{fault, outbox, session, timed_out};
use crate::Error;

/// Independent of the default of the database: rows read under their locks must show the latest commit.
const BEGIN: &str = "begin isolation level read committed";

/// A connection, and the number that its rows of the outbox have.
pub(super) struct Session {
    pub(super) connection: PgConnection,
    pub(super) number: i64,
}

pub(super) struct Writer {
    options: PgConnectOptions,
    connect: Duration,
    /// A session without an open transaction.
    idle: Option<Session>,
    /// The number of the newest session; 0 before the first one.
    newest: Arc<AtomicI64>,
    closed: bool,
}

impl Writer {
    /// Creates a writer that connects at first use.
    pub(super) fn new(options: PgConnectOptions, connect: Duration) -> Self {
        Self { options, connect, idle: None, newest: Arc::default(), closed: false }
    }

    /// The number of the newest session, which follows a change of sessions; 0 before the first one.
    pub(super) fn newest(&self) -> Arc<AtomicI64> {
        self.newest.clone()
    }

    /// Uses the session, so that the server does not end it, and returns its number. Connects if there is none.
    pub(super) async fn number(&mut self) -> sqlx::Result<i64> {
        let mut session = self.begin().await?;
        session.connection.execute("rollback").await?;
        let number = session.number;
        self.idle = Some(session);
        Ok(number)
    }

    /// Begins a transaction. The caller owns the session until `commit` or `roll_back`.
    pub(super) async fn begin(&mut self) -> sqlx::Result<Session> {
        if self.closed {
            return Err(sqlx::Error::PoolClosed);
        }
        // A dead idle session is detected here, before anything was done in it.
        if let Some(mut session) = self.idle.take()
            && session.connection.execute(BEGIN).await.is_ok()
        {
            return Ok(session);
        }
        let connecting = async {
            let mut connection = self.options.connect().await?;
            session::make_durable(&mut connection).await?;
            let number = outbox::lock_number(&mut connection).await?;
            self.newest.store(number, Ordering::Relaxed);
            Ok::<_, sqlx::Error>(Session { connection, number })
        };
        let connected = tokio::time::timeout(self.connect, connecting).await;
        let mut session = connected.unwrap_or_else(|_| Err(timed_out()))?;
        session.connection.execute(BEGIN).await?;
        Ok(session)
    }

    /// Commits. After an error, the outcome of the commit is unknown.
    pub(super) async fn commit(&mut self, mut session: Session) -> sqlx::Result<()> {
        session.connection.execute("commit").await?;
        self.idle = Some(session);
        Ok(())
    }

    /// Rolls back. The session is kept only if the error is not a problem of the server: the next attempt may reach
    /// another server.
    pub(super) async fn roll_back(&mut self, mut session: Session, error: &Error) {
        if !fault::needs_new_connection(error) && session.connection.execute("rollback").await.is_ok() {
            self.idle = Some(session);
        }
    }

    pub(super) async fn close(&mut self) {
        self.closed = true;
        if let Some(session) = self.idle.take()
            && let Err(error) = session.connection.close().await
        {
            tracing::debug!(%error, "cannot close a connection to the store");
        }
    }
}
