use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use event_box::{BoxError, Consumer, Context, EventBox};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    measure::Comparison,
    stage::{OrderPlaced, Stage},
};

pub(crate) struct Counter {
    left: AtomicUsize,
    done: Notify,
}

impl Counter {
    pub(crate) fn new(events: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(events), done: Notify::new() })
    }

    pub(crate) fn count(&self) {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.done.notify_one();
        }
    }
}

/// A group that was away reads the whole log: each payload decoded to its type, the handler does nothing, the cursor advances in the
/// delivery's transaction. Beside it: keyset reading in pages of 1,000 with a checkpoint updated in each page's transaction, decoded too.
pub(crate) async fn no_op(
    stage: &Stage,
    repetitions: usize,
    events: usize,
    workers: usize,
) -> anyhow::Result<Comparison> {
    let ours = async || drain(stage, events, workers).await;
    let raw = async || keyset(stage).await;
    let what = format!("drain, no-op, {workers} worker{}", if workers == 1 { "" } else { "s" });
    Comparison::run(what, repetitions, events, ours, raw).await
}

/// What parked events cost those that go by: the same drain where each partition holds ten events that wait for a retry, beside one where
/// nothing is parked.
pub(crate) async fn beside_parked(stage: &Stage, repetitions: usize, events: usize) -> anyhow::Result<Comparison> {
    let ours = async || {
        // Of keys that no other event has; their retry is far off.
        let park = "insert into event_box.parked (group_name, partition, sequence, topic, partition_key, reason, attempts, due_at)
                    select 'drain', p, i, 'orders.placed', 'parked-' || i, 'failed', 1, now() + interval '1 day'
                    from generate_series(0, 63) as p, generate_series(1, 10) as i";
        sqlx::query(park).execute(&stage.pool).await?;
        sqlx::query("analyze event_box.parked").execute(&stage.pool).await?;
        drain(stage, events, 1).await
    };
    let raw = async || drain(stage, events, 1).await;
    Comparison::run("drain beside 640 parked events, of one without".to_owned(), repetitions, events, ours, raw).await
}

async fn drain(stage: &Stage, events: usize, workers: usize) -> anyhow::Result<Duration> {
    let counter = Counter::new(events);
    let consumer = Consumer::builder(&stage.pool, "drain")
        .state(counter.clone())
        .on(async |event: OrderPlaced, cx: &mut Context<'_, Arc<Counter>>| -> Result<(), BoxError> {
            std::hint::black_box(event);
            cx.state().count();
            Ok(())
        })
        .workers(workers)
        .retention(None)
        .build()?;
    timed(stage, consumer, "drain", &counter).await
}

/// How long the consumer takes until all is counted; its group is gone afterwards.
pub(crate) async fn timed(
    stage: &Stage,
    consumer: Consumer,
    group: &str,
    counter: &Counter,
) -> anyhow::Result<Duration> {
    let shutdown = CancellationToken::new();
    let started = Instant::now();
    let running = tokio::spawn(consumer.run(shutdown.clone()));
    counter.done.notified().await;
    let took = started.elapsed();
    shutdown.cancel();
    running.await??;
    EventBox::from(&stage.pool).group(group).remove().await?;
    Ok(took)
}

async fn keyset(stage: &Stage) -> anyhow::Result<Duration> {
    let mut connection = stage.pool.acquire().await?;
    sqlx::query("update checkpoint set position = 0").execute(&mut *connection).await?;
    let started = Instant::now();
    loop {
        let mut tx = sqlx::Connection::begin(&mut *connection).await?;
        let position: i64 =
            sqlx::query_scalar("select position from checkpoint for update").fetch_one(&mut *tx).await?;
        let page: Vec<(i64, String, String, String)> =
            sqlx::query_as("select id, topic, key, payload::text from raw where id > $1 order by id limit 1000")
                .bind(position)
                .fetch_all(&mut *tx)
                .await?;
        let Some((last, ..)) = page.last() else { break };
        for (_, _, _, payload) in &page {
            std::hint::black_box(serde_json::from_str::<OrderPlaced>(payload)?);
        }
        sqlx::query("update checkpoint set position = $1").bind(last).execute(&mut *tx).await?;
        tx.commit().await?;
    }
    Ok(started.elapsed())
}
