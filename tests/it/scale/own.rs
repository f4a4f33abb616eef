use event_box_dev::{Database, Server, ServerOptions};
use event_box_tests::Seen;
use sqlx::{AssertSqlSafe, PgPool};

/// A log on a server of its own, where nobody else's transactions stay open and nothing is vacuumed but by the test.
pub(super) struct Own {
    pub(super) pool: PgPool,
    database: Database,
    _server: Server,
}

impl Own {
    pub(super) async fn new(prepared_transactions: i64) -> Self {
        let options = ServerOptions::new().setting("fsync", "off").setting("autovacuum", "off");
        // What a checkpoint adds to the write-ahead log is a matter of chance.
        let options =
            options.setting("full_page_writes", "off").setting("max_prepared_transactions", prepared_transactions);
        let server = Server::start(&options).expect("a PostgreSQL of its own");
        let database = server.create_database("test").await.unwrap();
        let pool = database.pool(20).await.unwrap();
        event_box::migrate(&pool).await.unwrap();
        sqlx::raw_sql(Seen::TABLE).execute(&pool).await.unwrap();
        let version: String = sqlx::query_scalar("show server_version").fetch_one(&pool).await.unwrap();
        println!("PostgreSQL {version}");
        Self { pool, database, _server: server }
    }

    pub(super) fn url(&self) -> &str {
        self.database.url()
    }

    pub(super) async fn number(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&self.pool).await.expect(sql)
    }

    pub(super) async fn close(self) {
        self.pool.close().await;
        self.database.close().await.unwrap();
    }
}
