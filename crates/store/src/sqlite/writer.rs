//! A connection for writing that is made anew once it can no longer write.
//!
//! Where SQLite cannot write, as on a full disk, it ends the transaction by itself. sqlx then fails to roll back what is no more,
//! counts it as open for ever, and would refuse every transaction to come, also when there is room again.

use sqlx::{ConnectOptions, Connection, SqliteConnection, sqlite::SqliteConnectOptions};

/// The connection, with what is needed to open it again.
#[derive(Debug)]
pub struct Writer {
    options: SqliteConnectOptions,
    connection: SqliteConnection,
}

impl Writer {
    /// Opens the database for writing.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub async fn open(options: SqliteConnectOptions) -> sqlx::Result<Self> {
        let connection = options.connect().await?;
        Ok(Self { options, connection })
    }

    /// The connection, with no transaction open.
    ///
    /// # Errors
    /// If a lost connection cannot be opened again.
    pub async fn ready(&mut self) -> sqlx::Result<&mut SqliteConnection> {
        if self.connection.is_in_transaction() && !self.has_rolled_back().await {
            let lost = std::mem::replace(&mut self.connection, self.options.connect().await?);
            tracing::info!("a connection to a store was lost in a failed transaction and is made anew");
            // It may still hold the file's lock for writing, which the new one needs.
            if let Err(error) = lost.close().await {
                tracing::debug!(%error, "the lost connection did not close cleanly");
            }
        }
        Ok(&mut self.connection)
    }

    /// A transaction that was dropped is rolled back behind our back. The connection works in order, so after a ping that is over.
    async fn has_rolled_back(&mut self) -> bool {
        self.connection.ping().await.is_ok() && !self.connection.is_in_transaction()
    }

    /// Closes the connection.
    ///
    /// # Errors
    /// If what it has written could not be finished.
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
    async fn it_writes_again_when_there_is_room_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = writer(&folder).await;
        // The limit belongs to the connection, and stands for a disk that is full until it is made anew.
        sqlx::query("pragma max_page_count = 10").execute(writer.ready().await.unwrap()).await.unwrap();
        let full = insert(&mut writer, 1_000_000).await.unwrap_err();
        assert_eq!(full.as_database_error().and_then(|error| error.code()).as_deref(), Some("13"), "{full}");
        insert(&mut writer, 1_000_000).await.unwrap();
        let rows =
            sqlx::query_scalar::<_, i64>("select count(*) from thing").fetch_one(writer.ready().await.unwrap()).await;
        assert_eq!(rows.unwrap(), 1, "nothing is left of the one that failed");
    }

    #[tokio::test]
    async fn a_transaction_that_was_dropped_costs_no_connection() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = writer(&folder).await;
        sqlx::query("create temp table of_this_connection (a)").execute(writer.ready().await.unwrap()).await.unwrap();
        drop(writer.ready().await.unwrap().begin_with("begin immediate").await.unwrap());
        let connection = writer.ready().await.unwrap();
        assert!(!connection.is_in_transaction());
        sqlx::query("select * from of_this_connection").execute(connection).await.unwrap();
    }
}
