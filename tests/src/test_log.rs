use event_box::Outbox;
use event_box_dev::{Database, Server, ServerOptions};
use sqlx::PgPool;
use tokio::sync::OnceCell;

use crate::PATIENCE;

/// A database of its own with an event log in it, on one server for the whole process.
#[derive(Debug)]
pub struct TestLog {
    /// Room for a few consumers.
    pub pool: PgPool,
    /// Writes to the log.
    pub outbox: Outbox,
    database: Database,
}

impl TestLog {
    /// A database with the log's tables.
    pub async fn new() -> Self {
        let log = Self::empty().await;
        event_box::migrate(&log.pool).await.expect("the log's tables");
        log
    }

    /// A database without anything.
    pub async fn empty() -> Self {
        static SERVER: OnceCell<Server> = OnceCell::const_new();
        let options = ServerOptions::new().setting("fsync", "off");
        let start = || async { Server::from_env_or_start_with(&options).expect("a PostgreSQL to test against") };
        let database = SERVER.get_or_init(start).await.create_database("test").await.expect("a database of its own");
        let pool = database.pool(40).await.expect("a pool");
        Self { pool, outbox: Outbox::new(), database }
    }

    /// Where other processes find it.
    pub fn url(&self) -> &str {
        self.database.url()
    }

    /// Runs SQL of the test's own.
    pub async fn sql(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&self.pool).await.expect(sql);
    }

    /// The one number that a query answers with.
    pub async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.expect(sql)
    }

    /// Waits until the one number that a query answers with is at least this.
    pub async fn wait_until(&self, sql: &'static str, at_least: i64) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let number = self.number(sql).await;
            if number >= at_least {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{sql}: {number} instead of {at_least}");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// Drops the database.
    pub async fn close(self) {
        self.pool.close().await;
        self.database.close().await.expect("the test's database can be dropped");
    }
}

/// So many keys that live in one partition.
pub async fn keys_of_one_partition(pool: &PgPool, n: i64) -> Vec<String> {
    let keys =
        "select 'k' || i from generate_series(1, 100000) as i where (hashtextextended('k' || i, 0) & 63) = 7 limit $1";
    sqlx::query_scalar(keys).bind(n).fetch_all(pool).await.expect("keys")
}
