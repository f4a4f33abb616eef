//! The server, its databases, and consumers on them.

use std::{sync::Arc, time::Duration};

use event_box::{BoxError, Consumer, Context, EventBox, Outbox};
use event_box_dev::{Database, Server, ServerOptions};
use sqlx::{Executor, PgPool, postgres::PgPoolOptions};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{counter::Counter, event::OrderPlaced};

/// The benchmark's own server, and how much is to be done on it.
#[derive(Debug)]
pub struct Bench {
    server: Server,
    /// Of each comparison, at least five for a result worth quoting.
    pub repetitions: usize,
    /// The work of a repetition, in per cent.
    pub scale: usize,
    /// The sizes that take longer.
    pub full: bool,
}

/// A database of its own: the log, and the tables to compare it with.
#[derive(Debug)]
pub struct Stage {
    /// Up to 48 connections.
    pub pool: PgPool,
    /// Of the log in `event_box`.
    pub outbox: Outbox,
    database: Database,
}

/// A consumer that runs beside what is measured.
#[derive(Debug)]
pub struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), event_box::RunError>>,
}

impl Bench {
    /// A PostgreSQL with default durability, whatever `EVENT_BOX_DATABASE_URL` says.
    ///
    /// # Errors
    /// Where none is found or it does not start.
    pub async fn start(repetitions: usize, scale: usize, full: bool) -> anyhow::Result<Self> {
        let server = start(ServerOptions::new()).await?;
        Ok(Self { server, repetitions: repetitions.max(1), scale, full })
    }

    /// The same with another server that counts statements, where PostgreSQL has `pg_stat_statements` installed; comparisons run without it.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn counting(&self) -> anyhow::Result<Self> {
        let counting = ServerOptions::new()
            .setting("shared_preload_libraries", "pg_stat_statements")
            .setting("pg_stat_statements.max", 10_000);
        let server = match start(counting).await {
            Ok(server) => server,
            Err(_) => start(ServerOptions::new()).await?,
        };
        Ok(Self { server, ..*self })
    }

    /// So many, in per cent of the scale: `full` of them under `--full`.
    pub fn sized(&self, usual: usize, full: usize) -> usize {
        (if self.full { full } else { usual } * self.scale / 100).max(1)
    }

    /// The server.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// A fresh database.
    ///
    /// # Errors
    /// Where the server refuses.
    pub async fn stage(&self) -> anyhow::Result<Stage> {
        let database = self.server.create_database("bench").await?;
        let pool = pool(database.url()).await?;
        event_box::migrate(&pool).await?;
        pool.execute(
            "create table raw (id bigint generated always as identity primary key, topic text not null, key text not null, \
                 payload json not null, created_at timestamptz not null default now());
             create table checkpoint (position bigint not null);
             insert into checkpoint values (0);
             create table written (order_id bigint not null, total text not null)",
        )
        .await?;
        Ok(Stage { pool, outbox: Outbox::new(), database })
    }
}

async fn start(options: ServerOptions) -> anyhow::Result<Server> {
    Ok(tokio::task::spawn_blocking(move || Server::start(&options)).await??)
}

/// As large as any side needs it.
///
/// # Errors
/// Where the server refuses.
pub async fn pool(url: &str) -> Result<PgPool, sqlx::Error> {
    PgPoolOptions::new().max_connections(48).connect(url).await
}

impl Stage {
    /// The database's URL.
    pub fn url(&self) -> &str {
        self.database.url()
    }

    /// The same events in the log and in the raw table, of so many keys in turn, and nothing else.
    ///
    /// # Errors
    /// Where the server refuses.
    pub async fn fill(&self, events: usize, keys: usize) -> anyhow::Result<()> {
        let keys: Vec<_> = (0..keys as i64).collect();
        self.fill_with(events, &keys).await?;
        let mut connection = self.pool.acquire().await?;
        let copied = "insert into raw (topic, key, payload) select topic, partition_key, payload from event_box.events order by sequence";
        connection.execute(copied).await?;
        connection.execute("vacuum analyze raw").await?;
        Ok(())
    }

    /// Events in the log alone, as even over its 64 partitions as their number allows: one key a partition.
    ///
    /// # Errors
    /// Where the server refuses.
    pub async fn fill_evenly(&self, events: usize) -> anyhow::Result<()> {
        let keys =
            "select min(i)::bigint from generate_series(1, 2000) as i group by hashtextextended(i::text, 0) & 63";
        let keys: Vec<i64> = sqlx::query_scalar(keys).fetch_all(&self.pool).await?;
        anyhow::ensure!(keys.len() == 64, "2,000 keys reach {} of 64 partitions", keys.len());
        self.fill_with(events, &keys).await
    }

    async fn fill_with(&self, events: usize, keys: &[i64]) -> anyhow::Result<()> {
        let mut connection = self.pool.acquire().await?;
        for begin in (0..events).step_by(10_000) {
            let chunk = begin..events.min(begin + 10_000);
            let chunk: Vec<_> = chunk.map(|i| OrderPlaced::new(keys[i % keys.len()])).collect();
            self.outbox.copy(&mut connection, &chunk).await?;
        }
        connection.execute("vacuum analyze event_box.events").await?;
        Ok(())
    }

    /// Until so many groups have been made, within 30 s: a consumer does so when it starts.
    ///
    /// # Errors
    /// Where they do not come, or the server refuses.
    pub async fn wait_for_groups(&self, groups: i64) -> anyhow::Result<()> {
        let made = async {
            while sqlx::query_scalar::<_, i64>("select count(*) from event_box.consumer_groups")
                .fetch_one(&self.pool)
                .await?
                < groups
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ok(())
        };
        tokio::time::timeout(Duration::from_secs(30), made).await?
    }

    /// Runs the consumer until all is counted, and answers the rate from its first event on; its group is gone afterwards. The start of a
    /// consumer is not in it, and so neither are the events of its first batch, which was read before.
    ///
    /// # Errors
    /// Those of the consumer.
    pub async fn drain(&self, consumer: Consumer, group: &str, batch: usize, counter: &Counter) -> anyhow::Result<f64> {
        let running = Running::start(consumer);
        counter.done().await;
        running.stop().await?;
        EventBox::from(&self.pool).group(group).remove().await?;
        Ok(counter.rate(batch))
    }

    /// A consumer whose handler does nothing but count.
    ///
    /// # Errors
    /// Where so many workers are too many for the pool.
    pub fn no_op(&self, group: &str, workers: usize, batch: usize, counter: &Arc<Counter>) -> anyhow::Result<Consumer> {
        no_op(&EventBox::from(&self.pool), group, workers, batch, counter)
    }

    /// Drops the database.
    ///
    /// # Errors
    /// Where the server refuses.
    pub async fn close(self) -> anyhow::Result<()> {
        self.pool.close().await;
        Ok(self.database.close().await?)
    }
}

/// A consumer whose handler does nothing but count.
///
/// # Errors
/// Where so many workers are too many for the pool.
pub fn no_op(
    log: &EventBox,
    group: &str,
    workers: usize,
    batch: usize,
    counter: &Arc<Counter>,
) -> anyhow::Result<Consumer> {
    let consumer = Consumer::builder(log, group)
        .state(counter.clone())
        .on(async |event: OrderPlaced, cx: &mut Context<'_, Arc<Counter>>| -> Result<(), BoxError> {
            std::hint::black_box(event);
            cx.state().count();
            Ok(())
        })
        .workers(workers)
        .batch_size(batch)
        .retention(None)
        .build()?;
    Ok(consumer)
}

impl Running {
    /// Starts it.
    pub fn start(consumer: Consumer) -> Self {
        let shutdown = CancellationToken::new();
        Self { task: tokio::spawn(consumer.run(shutdown.clone())), shutdown }
    }

    /// Until it has stopped.
    ///
    /// # Errors
    /// Those of the consumer.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        Ok(self.task.await??)
    }
}
