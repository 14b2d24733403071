//! A write connection that is replaced when it can no longer write.
//!
//! When SQLite cannot write, for example because the disk is full, it ends the transaction by itself. sqlx then fails
//! to roll back, counts the transaction as open forever, and would refuse all further transactions, even when there is
//! space again.

use sqlx::{ConnectOptions, Connection, SqliteConnection, sqlite::SqliteConnectOptions};

/// The connection, and the options to open it again.
#[derive(Debug)]
pub struct Writer {
    options: SqliteConnectOptions,
    connection: SqliteConnection,
}

impl Writer {
    /// Opens the database for writing.
    ///
    /// # Errors
    /// Fails if it cannot be opened.
    pub async fn open(options: SqliteConnectOptions) -> sqlx::Result<Self> {
        let connection = options.connect().await?;
        Ok(Self { options, connection })
    }

    /// Returns the connection without an open transaction.
    ///
    /// # Errors
    /// Fails if a lost connection cannot be opened again.
    pub async fn ready(&mut self) -> sqlx::Result<&mut SqliteConnection> {
        if self.connection.is_in_transaction() && !self.has_rolled_back().await {
            let lost = std::mem::replace(&mut self.connection, self.options.connect().await?);
            tracing::info!("replacing a store connection that was lost in a failed transaction");
            // It may still hold the write lock, which the new connection needs.
            if let Err(error) = lost.close().await {
                tracing::debug!(%error, "cannot close the lost connection");
            }
        }
        Ok(&mut self.connection)
    }

    /// Whether the rollback of a dropped transaction has finished. It runs in the background; the connection works in
    /// order, so it has finished after a ping.
    async fn has_rolled_back(&mut self) -> bool {
        self.connection.ping().await.is_ok() && !self.connection.is_in_transaction()
    }

    /// Closes the connection.
    ///
    /// # Errors
    /// Fails if pending writes cannot be completed.
    pub async fn close(self) -> sqlx::Result<()> {
        self.connection.close().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn insert(writer: &mut Writer, bytes: u32) -> sqlx::Result<()> {
        let mut transaction = writer.ready().await?.begin_with("begin immediate").await?;
        sqlx::query("insert into thing values (zeroblob(?1))").bind(bytes).execute(&mut *transaction).await?;
        transaction.commit().await
    }

    async fn writer(folder: &tempfile::TempDir) -> Writer {
        let path = folder.path().join("test.db");
        let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
        let mut writer = Writer::open(options).await.unwrap();
        sqlx::query("create table thing (bytes)").execute(writer.ready().await.unwrap()).await.unwrap();
        writer
    }

    #[tokio::test]
    async fn writing_resumes_when_there_is_space_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = writer(&folder).await;
        // The limit belongs to the connection, and simulates a full disk until the connection is replaced.
        sqlx::query("pragma max_page_count = 10").execute(writer.ready().await.unwrap()).await.unwrap();
        let full = insert(&mut writer, 1_000_000).await.unwrap_err();
        assert_eq!(full.as_database_error().and_then(|error| error.code()).as_deref(), Some("13"), "{full}");
        insert(&mut writer, 1_000_000).await.unwrap();
        let rows =
            sqlx::query_scalar::<_, i64>("select count(*) from thing").fetch_one(writer.ready().await.unwrap()).await;
        assert_eq!(rows.unwrap(), 1, "the failed insert left no row");
    }

    #[tokio::test]
    async fn a_dropped_transaction_does_not_replace_the_connection() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = writer(&folder).await;
        sqlx::query("create temp table of_this_connection (a)").execute(writer.ready().await.unwrap()).await.unwrap();
        drop(writer.ready().await.unwrap().begin_with("begin immediate").await.unwrap());
        let connection = writer.ready().await.unwrap();
        assert!(!connection.is_in_transaction());
        sqlx::query("select * from of_this_connection").execute(connection).await.unwrap();
    }
}
