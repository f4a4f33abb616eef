use std::{str::FromStr, time::Duration};

use event_box::Outbox;
use event_box_dev::{Database, Server, ServerOptions};
use event_box_tests::{Counted, PATIENCE, Proxy, Seen, seen_by};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::ABOUT_A_MINUTE;

/// A log on a server of the test's own, and a network to it that can be broken.
pub(super) struct Site {
    pub(super) pool: PgPool,
    /// What the consumer under test uses, through the proxy.
    pub(super) remote: PgPool,
    pub(super) proxy: Proxy,
    database: Database,
    _server: Server,
}

impl Site {
    pub(super) async fn new() -> Self {
        let server = Server::start(&ServerOptions::new().setting("fsync", "off")).unwrap();
        let database = server.create_database("network").await.unwrap();
        let pool = database.pool(20).await.unwrap();
        event_box::migrate(&pool).await.unwrap();
        sqlx::raw_sql(Seen::TABLE).execute(&pool).await.unwrap();
        let proxy = Proxy::start(server.port()).await;
        let options = PgConnectOptions::from_str(database.url()).unwrap().port(proxy.port()).application_name("remote");
        let remote = PgPoolOptions::new().max_connections(7).acquire_timeout(Duration::from_secs(5));
        Self { remote: remote.connect_lazy_with(options), pool, proxy, database, _server: server }
    }

    pub(super) async fn emit(&self, numbers: impl IntoIterator<Item = i64>) {
        for n in numbers {
            Outbox::new().emit(&self.pool, &Counted { key: "k".to_owned(), n }).await.unwrap();
        }
    }

    /// Waits until the group has handled this event, longer than a dead host's partition may stay locked.
    pub(super) async fn wait_for(&self, n: i64) {
        let deadline = tokio::time::Instant::now() + 2 * ABOUT_A_MINUTE;
        let seen = || {
            sqlx::query_scalar::<_, bool>("select exists (select from seen where n = $1)").bind(n).fetch_one(&self.pool)
        };
        while !seen().await.unwrap() {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{n} was not handled: {:?}",
                seen_by(&self.pool, "g").await
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the number that a query answers with is not 0.
    pub(super) async fn wait_until(&self, sql: &'static str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.number(sql).await == 0 {
            assert!(tokio::time::Instant::now() < deadline, "{sql}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(super) async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    pub(super) async fn assert_each_once_in_order(&self, last: i64) {
        assert_eq!(seen_by(&self.pool, "g").await, [("k".to_owned(), (1..=last).collect::<Vec<_>>())]);
        assert_eq!(self.number("select count(*) from event_box.parked").await, 0, "no event is blamed");
    }

    pub(super) async fn close(self) {
        self.pool.close().await;
        drop(self.remote);
        self.database.close().await.unwrap();
    }
}
