//! graphile_worker with what its manual recommends for many small jobs: a local queue of 100, completions flushed together after 5 ms,
//! concurrency 4, NOTIFY on, a poll every 10 ms as in its own benchmark. Jobs have no queue name: no order per key, its faster way.

use std::{sync::Arc, time::Duration};

use event_box_bench::event::OrderPlaced;
use graphile_worker::{
    IntoTaskHandlerResult, JobSpec, LocalQueueConfig, TaskHandler, Worker, WorkerContext, WorkerOptions, WorkerUtils,
};
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::task::JoinHandle;

use crate::sink::Sink;

const SCHEMA: &str = "graphile_worker";

pub struct Graphile {
    pool: PgPool,
    utils: WorkerUtils,
}

pub struct Running {
    worker: Arc<Worker>,
    task: JoinHandle<()>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Task(OrderPlaced);

impl TaskHandler for Task {
    const IDENTIFIER: &'static str = "order_placed";

    async fn run(self, ctx: WorkerContext) -> impl IntoTaskHandlerResult {
        if let Some(sink) = ctx.get_ext::<Sink>() {
            sink.put(self.0.order_id);
        }
        Ok::<(), String>(())
    }
}

impl Graphile {
    pub async fn open(url: &str) -> anyhow::Result<Self> {
        let pool = PgPoolOptions::new().max_connections(24).test_before_acquire(false).connect(url).await?;
        let utils = WorkerUtils::new(&pool, SCHEMA);
        utils.migrate().await?;
        Ok(Self { pool, utils })
    }

    pub async fn emit(&self, orders: &[i64]) -> anyhow::Result<()> {
        let mut tx = self.pool.begin().await?;
        {
            let mut utils = self.utils.clone().with_executor(&mut tx);
            if let [order] = orders {
                utils.add_job(Task(OrderPlaced::new(*order)), JobSpec::default()).await?;
            } else {
                let spec = JobSpec::default();
                let jobs: Vec<_> = orders.iter().map(|order| (Task(OrderPlaced::new(*order)), &spec)).collect();
                utils.add_jobs(&jobs).await?;
            }
        }
        tx.commit().await?;
        Ok(())
    }

    pub async fn consume(&self, sink: Sink) -> anyhow::Result<Running> {
        let worker = WorkerOptions::default()
            .pg_pool(self.pool.clone())
            .schema(SCHEMA)
            .concurrency(4)
            .poll_interval(Duration::from_millis(10))
            .local_queue(LocalQueueConfig::default().with_size(100))
            .complete_job_batch_delay(Duration::from_millis(5))
            .listen_os_shutdown_signals(false)
            .add_extension(sink)
            .define_job::<Task>()
            .init()
            .await?;
        let worker = Arc::new(worker);
        let running = worker.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = running.run().await {
                eprintln!("graphile_worker ended: {error}");
            }
        });
        Ok(Running { worker, task })
    }
}

impl Running {
    pub async fn stop(self) -> anyhow::Result<()> {
        self.worker.request_shutdown();
        self.task.await?;
        Ok(())
    }
}
