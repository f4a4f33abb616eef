use event_box::{BoxError, Consumer, Context, Event, EventBox, Outbox};
use event_box_dev::{Database, Server, ServerOptions};
use serde::{Deserialize, Serialize};
use sqlx::{Executor, PgPool};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// An event of about 150 bytes.
#[derive(Debug, Clone, Serialize, Deserialize, Event)]
#[event(topic = "orders.placed", partition_key = "order_id")]
pub(crate) struct OrderPlaced {
    pub(crate) order_id: i64,
    customer: String,
    total_cents: i64,
    currency: String,
    note: String,
}

impl OrderPlaced {
    pub(crate) fn new(order_id: i64) -> Self {
        Self {
            order_id,
            customer: Uuid::nil().to_string(),
            total_cents: 12_345,
            currency: "EUR".to_owned(),
            note: "please ring twice".to_owned(),
        }
    }
}

/// A PostgreSQL of the benchmark's own, with default durability, the log and the tables to compare it with.
pub(crate) struct Stage {
    pub(crate) pool: PgPool,
    pub(crate) outbox: Outbox,
    database: Database,
    _server: Server,
}

/// A group that reads what the emitters write.
pub(crate) struct Listening {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), event_box::RunError>>,
}

async fn ignore(_: OrderPlaced, _: &mut Context<'_>) -> Result<(), BoxError> {
    Ok(())
}

impl Stage {
    pub(crate) async fn set() -> anyhow::Result<Self> {
        let server = tokio::task::spawn_blocking(|| Server::start(&ServerOptions::new())).await??;
        let database = server.create_database("bench").await?;
        let pool = database.pool(32).await?;
        event_box::migrate(&pool).await?;
        pool.execute(
            "create table raw (id bigint generated always as identity primary key, topic text not null, key text not null, \
                 payload json not null, created_at timestamptz not null default now());
             create table checkpoint (position bigint not null);
             insert into checkpoint values (0)",
        )
        .await?;
        Ok(Self { pool, outbox: Outbox::new(), database, _server: server })
    }

    pub(crate) async fn listening_consumer(&self) -> anyhow::Result<Listening> {
        let consumer = Consumer::builder(&self.pool, "listening").on(ignore).workers(2).build()?;
        let shutdown = CancellationToken::new();
        Ok(Listening { task: tokio::spawn(consumer.run(shutdown.clone())), shutdown })
    }

    /// The same events in the log and in the raw table, of so many keys in turn, and nothing else.
    pub(crate) async fn fill(&self, events: usize, keys: i64) -> anyhow::Result<()> {
        EventBox::from(&self.pool).group("listening").remove().await?;
        self.pool.execute("truncate event_box.events, raw restart identity").await?;
        let all: Vec<_> = (0..events as i64).map(|i| OrderPlaced::new(i % keys)).collect();
        let mut connection = self.pool.acquire().await?;
        for chunk in all.chunks(10_000) {
            self.outbox.copy(&mut connection, chunk).await?;
        }
        let copied = "insert into raw (topic, key, payload) select topic, partition_key, payload from event_box.events order by sequence";
        connection.execute(copied).await?;
        connection.execute("vacuum analyze event_box.events").await?;
        connection.execute("vacuum analyze raw").await?;
        Ok(())
    }

    pub(crate) async fn close(self) -> anyhow::Result<()> {
        self.pool.close().await;
        Ok(self.database.close().await?)
    }
}

impl Listening {
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        Ok(self.task.await??)
    }
}
