//! pgmq by its crate, which installs the extension's SQL objects itself (`install_sql_from_embedded`): the extension need not be there. An
//! ordinary (logged) queue, read 1,000 at a time and deleted in one statement a batch, both in one transaction: the strongest of what its
//! manual shows. Waiting for messages: `enable_notify_insert` and a poll every 100 ms beside it. Unthrottled
//! notifications serialise commits, so they are throttled to its default of one in 250 ms but where latency is measured.

use std::time::Duration;

use event_box_bench::event::OrderPlaced;
use pgmq::{Message, PGMQueueExt};
use sqlx::{
    PgPool,
    postgres::{PgListener, PgPoolOptions},
};
use tokio::task::JoinHandle;

use crate::sink::Sink;

const QUEUE: &str = "bench";

pub struct Pgmq {
    pool: PgPool,
    queue: PGMQueueExt,
}

pub struct Running(JoinHandle<anyhow::Result<()>>);

impl Pgmq {
    pub async fn open(url: &str) -> anyhow::Result<Self> {
        let pool = PgPoolOptions::new().max_connections(24).test_before_acquire(false).connect(url).await?;
        let queue = PGMQueueExt::new_with_pool(pool.clone()).await;
        let there: bool = sqlx::query_scalar("select to_regclass('pgmq.q_bench') is not null").fetch_one(&pool).await?;
        if !there {
            queue.install_sql_from_embedded().await?;
            queue.create(QUEUE).await?;
        }
        Ok(Self { pool, queue })
    }

    pub async fn emit(&self, orders: &[i64]) -> anyhow::Result<()> {
        let mut tx = self.pool.begin().await?;
        if let [order] = orders {
            self.queue.send_with_cxn(QUEUE, &OrderPlaced::new(*order), &mut *tx).await?;
        } else {
            let events: Vec<_> = orders.iter().map(|order| OrderPlaced::new(*order)).collect();
            self.queue.send_batch_with_cxn(QUEUE, &events, &mut *tx).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    pub async fn consume(&self, sink: Sink, prompt: bool) -> anyhow::Result<Running> {
        sqlx::query("select pgmq.enable_notify_insert($1, $2)")
            .bind(QUEUE)
            .bind(if prompt { 0 } else { 250 })
            .execute(&self.pool)
            .await?;
        let mut listener = PgListener::connect_with(&self.pool).await?;
        listener.listen("pgmq.q_bench.INSERT").await?;
        let (pool, queue) = (self.pool.clone(), self.queue.clone());
        Ok(Running(tokio::spawn(async move {
            loop {
                let mut tx = pool.begin().await?;
                let messages: Vec<Message<OrderPlaced, ()>> =
                    queue.read_batch_with_cxn(QUEUE, Duration::from_secs(30), 1_000, &mut *tx).await?;
                let ids: Vec<_> = messages.iter().map(|message| message.msg_id).collect();
                for message in messages {
                    sink.put(message.message.order_id);
                }
                if !ids.is_empty() {
                    queue.delete_batch_with_cxn(QUEUE, &ids, &mut *tx).await?;
                }
                tx.commit().await?;
                if ids.is_empty() {
                    let _ = tokio::time::timeout(Duration::from_millis(100), listener.recv()).await;
                }
            }
        })))
    }
}

impl Running {
    pub async fn stop(self) -> anyhow::Result<()> {
        self.0.abort();
        Ok(())
    }
}
