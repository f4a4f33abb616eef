use std::thread;
use std::time::Duration;

use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use uuid::Uuid;

use crate::Error;

/// A database of its own on a [`Server`](crate::Server), empty at first. [`close`](Self::close) drops it; so does dropping
/// the value, for as long as 5 s and without a word where that fails.
#[derive(Debug)]
pub struct Database {
    name: String,
    url: String,
    server_url: String,
    closed: bool,
}

impl Database {
    pub(crate) async fn create(prefix: &str, server_url: &str) -> Result<Self, Error> {
        let name = format!("{prefix}_{}", Uuid::now_v7().simple());
        // template0 has no visitors and none of the owner's additions.
        let sql = format!("create database {} template template0", quoted(&name));
        execute(server_url, sql).await.map_err(Error::database(format!("create database {name}")))?;
        Ok(Self { url: with_database(server_url, &name), name, server_url: server_url.to_owned(), closed: false })
    }

    /// Its name: the prefix and a unique part.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A new pool on it.
    ///
    /// # Errors
    /// [`Error::Database`] where no connection can be had.
    pub async fn pool(&self, max_connections: u32) -> Result<PgPool, Error> {
        let options = PgPoolOptions::new().max_connections(max_connections);
        options.connect(&self.url).await.map_err(Error::database(format!("connect to database {}", self.name)))
    }

    /// Drops it, whoever may still be connected.
    ///
    /// # Errors
    /// [`Error::Database`] where the server refuses or is gone.
    pub async fn close(mut self) -> Result<(), Error> {
        self.closed = true;
        execute(&self.server_url, self.drop_statement())
            .await
            .map_err(Error::database(format!("drop database {}", self.name)))
    }

    fn drop_statement(&self) -> String {
        format!("drop database if exists {} with (force)", quoted(&self.name))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if self.closed {
            return;
        }
        let (url, sql) = (self.server_url.clone(), self.drop_statement());
        // A thread, because the one we are on may be in the middle of a runtime, which may be ending.
        let dropping = thread::spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
            let _ = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(5), execute(&url, sql)).await });
        });
        let _ = dropping.join();
    }
}

async fn execute(url: &str, sql: String) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
    connection.close().await
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `url` with another database: sqlx's options cannot be written as a URL without loss.
pub(crate) fn with_database(url: &str, database: &str) -> String {
    let (base, query) = url.split_once('?').map_or((url, ""), |(base, query)| (base, query));
    let (scheme, rest) = base.split_once("://").unwrap_or(("postgres", base));
    let authority = rest.split('/').next().unwrap_or_default();
    let separator = if query.is_empty() { "" } else { "?" };
    format!("{scheme}://{authority}/{database}{separator}{query}")
}

#[cfg(test)]
mod tests {
    use super::with_database;

    #[test]
    fn the_database_of_a_url_is_replaced() {
        for (url, expected) in [
            ("postgres://postgres@127.0.0.1:5432/postgres", "postgres://postgres@127.0.0.1:5432/x"),
            ("postgresql://u:p%2F@host/a?sslmode=disable", "postgresql://u:p%2F@host/x?sslmode=disable"),
            ("postgres://host", "postgres://host/x"),
            ("postgres:///a?host=/tmp/run", "postgres:///x?host=/tmp/run"),
        ] {
            assert_eq!(with_database(url, "x"), expected);
        }
    }
}
