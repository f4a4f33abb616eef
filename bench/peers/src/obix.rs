//! obix 0.16: an outbox in insert order. A subscriber that collects in memory and lands its checkpoint once a batch (`collect`, its fastest
//! way), batches of up to 1,000 instead of its default of 100; all else by default. Its tables are those of its two migrations, copied from the
//! crate (Apache-2.0), as its manual says to.

use event_box_bench::event::OrderPlaced;
use obix::{
    EventCtx, EventDelivery, Handled, InsertOrder, MailboxConfig, OutboxEventJobConfig, SingletonSubscriber,
    out::Outbox, prelude::sqlx as sqlx08,
};

use crate::sink::Sink;

pub struct Obix {
    pool: sqlx08::PgPool,
    outbox: Outbox<OrderPlaced>,
}

pub struct Running(job::Jobs);

impl Obix {
    /// Makes its tables first, where it is the first.
    pub async fn open(url: &str) -> anyhow::Result<Self> {
        let pool = sqlx08::postgres::PgPoolOptions::new().max_connections(24).connect(url).await?;
        let there: bool =
            sqlx08::query_scalar("select to_regclass('persistent_outbox_events') is not null").fetch_one(&pool).await?;
        if !there {
            for sql in [
                include_str!("../obix/20250904065521_job_setup.sql"),
                include_str!("../obix/20251204130225_obix_setup.sql"),
            ] {
                sqlx08::raw_sql(sql).execute(&pool).await?;
            }
        }
        let outbox = Outbox::init(&pool, MailboxConfig::builder().build()).await?;
        Ok(Self { pool, outbox })
    }

    pub async fn emit(&self, orders: &[i64]) -> anyhow::Result<()> {
        let mut op = self.outbox.begin_op().await?;
        let events = orders.iter().map(|order| OrderPlaced::new(*order));
        self.outbox.publish_all_persisted(&mut op, events).await?;
        op.commit().await?;
        Ok(())
    }

    pub async fn consume(&self, sink: Sink) -> anyhow::Result<Running> {
        let config = job::JobSvcConfig::builder().pool(self.pool.clone()).build().map_err(anyhow::Error::msg)?;
        let mut jobs = job::Jobs::init(config).await?;
        let subscriber = OutboxEventJobConfig::new(job::JobType::new("bench")).with_max_batch_size(1_000);
        self.outbox.register_singleton_subscriber(&mut jobs, subscriber, Collecting(sink)).await?;
        jobs.start_poll().await?;
        Ok(Running(jobs))
    }
}

impl Running {
    pub async fn stop(self) -> anyhow::Result<()> {
        self.0.shutdown().await?;
        Ok(())
    }
}

struct Collecting(Sink);

impl SingletonSubscriber<OrderPlaced, InsertOrder> for Collecting {
    type Batch = usize;

    async fn handle_persistent<'inv>(
        &self,
        ctx: EventCtx<'inv, usize>,
        event: &EventDelivery<OrderPlaced, InsertOrder>,
    ) -> Result<Handled<'inv>, Box<dyn std::error::Error + Send + Sync>> {
        let Some(event) = &event.payload else { return Ok(ctx.skip()) };
        self.0.put(event.order_id);
        Ok(ctx.collect_with(|collected| *collected += 1))
    }
}
