//! A log of its own for each test, on a real PostgreSQL.

use std::borrow::Cow;

use event_box_dev::{Database, Server, ServerOptions};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio::sync::OnceCell;

use crate::{DecodeError, Event, EventBox, group::Start, mode::Mode, schema::Schema};

/// Dropped with its database.
pub(crate) struct TestLog {
    pub(crate) pool: PgPool,
    pub(crate) schema: Schema,
    database: Database,
}

impl TestLog {
    pub(crate) async fn new() -> Self {
        static SERVER: OnceCell<Server> = OnceCell::const_new();
        let server = SERVER
            .get_or_init(async || {
                Server::from_env_or_start_with(&ServerOptions::new().setting("fsync", "off"))
                    .expect("a PostgreSQL to test against")
            })
            .await;
        let database = server.create_database("unit").await.expect("a database of its own");
        let pool = database.pool(40).await.expect("a pool");
        crate::migrate(&pool).await.expect("the log's tables");
        Self { pool, schema: Schema::default(), database }
    }

    pub(crate) async fn group(&self, name: &str, start: Start) {
        let mut connection = self.pool.acquire().await.unwrap();
        crate::group::register(
            &mut connection,
            &self.schema,
            name,
            &[Counted::TOPIC.to_owned()],
            Mode::default(),
            start,
        )
        .await
        .unwrap();
    }

    pub(crate) async fn close(self) {
        self.pool.close().await;
        self.database.close().await.unwrap();
    }
}

impl From<&TestLog> for EventBox {
    fn from(log: &TestLog) -> Self {
        Self::from(&log.pool)
    }
}

/// The `n`th event of its key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Counted {
    pub(crate) key: String,
    pub(crate) n: i64,
}

impl Counted {
    pub(crate) const TOPIC: &'static str = "counted";
}

impl Event for Counted {
    const TOPICS: &'static [&'static str] = &[Self::TOPIC];

    fn topic(&self) -> &'static str {
        Self::TOPIC
    }

    fn partition_key(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(&self.key))
    }

    fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    fn decode(topic: &str, version: i16, payload: &[u8]) -> Result<Self, DecodeError> {
        crate::__private::from_json(topic, Self::VERSION, version, payload)
    }
}
