use event_box::{BoxError, Consumer, Context, Delivery};
use std::sync::Arc;

use crate::{
    comparison::{Comparison, Line},
    counter::Counter,
    event::OrderPlaced,
    raw,
    stage::{Bench, Stage},
    turns::{Side, in_turn, paired, rate},
};

/// Events a key: order matters, and no key is a hot one.
const KEYS: usize = 10_000;

/// A group that was away reads the whole log: each payload decoded to its type, the handler does nothing, the cursor advances in the
/// delivery's transaction.
pub(super) async fn no_op(bench: &Bench) -> anyhow::Result<Vec<Comparison>> {
    let events = bench.sized(200_000, 200_000);
    let stage = bench.stage().await?;
    stage.fill(events, KEYS).await?;
    let mut comparisons = Vec::new();
    for (workers, line) in [(1, 0.80), (2, 1.1)] {
        let (ours, beside) = paired(bench.repetitions, async |side| match side {
            Side::Ours => drain(&stage, events, workers).await,
            Side::Beside => Ok(rate(events, raw::keyset(&stage.pool).await?)),
        })
        .await?;
        let s = if workers == 1 { "" } else { "s" };
        let what = format!("drain, no-op, {workers} worker{s}; of raw paging with a checkpoint");
        comparisons.push(Comparison::of(what, Line::AtLeast(line), "/s", &ours, &beside));
    }
    stage.close().await?;
    Ok(comparisons)
}

async fn drain(stage: &Stage, events: usize, workers: usize) -> anyhow::Result<f64> {
    let counter = Counter::new(events);
    stage.drain(stage.no_op("drain", workers, 1_000, &counter)?, "drain", 1_000, &counter).await
}

/// What parked events cost those that go by: the same drain where each partition holds ten events that wait for a retry, beside one where
/// nothing is parked.
pub(super) async fn beside_parked(bench: &Bench) -> anyhow::Result<Comparison> {
    let events = bench.sized(100_000, 200_000);
    let stage = bench.stage().await?;
    stage.fill(events, KEYS).await?;
    let (ours, beside) = paired(bench.repetitions, async |side| {
        if side == Side::Ours {
            // Of keys that no other event has; their retry is far off.
            let park = "insert into event_box.parked (group_name, partition, sequence, topic, partition_key, reason, attempts, due_at)
                        select 'drain', p, i, 'orders.placed', 'parked-' || i, 'failed', 1, now() + interval '1 day'
                        from generate_series(0, 63) as p, generate_series(1, 10) as i";
            sqlx::query(park).execute(&stage.pool).await?;
            sqlx::query("analyze event_box.parked").execute(&stage.pool).await?;
        }
        drain(&stage, events, 1).await
    })
    .await?;
    stage.close().await?;
    Ok(Comparison::of("drain beside 640 parked events; of without", None, "/s", &ours, &beside))
}

/// A transaction that has written is open from before the drain until after it.
pub(super) async fn beside_an_open_transaction(bench: &Bench) -> anyhow::Result<Comparison> {
    let events = bench.sized(100_000, 200_000);
    let stage = bench.stage().await?;
    stage.fill(events, KEYS).await?;
    let (ours, beside) = paired(bench.repetitions, async |side| {
        if side == Side::Beside {
            return drain(&stage, events, 1).await;
        }
        let mut open = stage.pool.begin().await?;
        stage.outbox.emit(&mut *open, &OrderPlaced::new(0)).await?;
        let rate = drain(&stage, events, 1).await?;
        open.rollback().await?;
        Ok(rate)
    })
    .await?;
    stage.close().await?;
    let what = "drain while a writing transaction is open; of without";
    Ok(Comparison::of(what, Line::AtLeast(0.9), "/s", &ours, &beside))
}

/// A batch handler that writes all its rows by one statement.
pub(super) async fn by_unnest(bench: &Bench) -> anyhow::Result<Comparison> {
    let events = bench.sized(100_000, 200_000);
    let stage = bench.stage().await?;
    stage.fill(events, KEYS).await?;
    let (ours, beside) = paired(bench.repetitions, async |side| {
        if side == Side::Beside {
            return drain(&stage, events, 1).await;
        }
        sqlx::query("truncate written").execute(&stage.pool).await?;
        let counter = Counter::new(events);
        let consumer = Consumer::builder(&stage.pool, "unnest")
            .state(counter.clone())
            .on_batch(write_all)
            .workers(1)
            .retention(None)
            .build()?;
        stage.drain(consumer, "unnest", 1_000, &counter).await
    })
    .await?;
    stage.close().await?;
    let what = "drain, on_batch writing by unnest, 1 worker; of the no-op drain";
    Ok(Comparison::of(what, Line::AtLeast(0.5), "/s", &ours, &beside))
}

async fn write_all(orders: Vec<Delivery<OrderPlaced>>, cx: &mut Context<'_, Arc<Counter>>) -> Result<(), BoxError> {
    let ids: Vec<_> = orders.iter().map(|order| order.event.order_id).collect();
    sqlx::query("insert into written (order_id, total) select id, '123.45' from unnest($1::bigint[]) as id")
        .bind(ids)
        .execute(&mut *cx)
        .await?;
    cx.state().count_many(orders.len());
    Ok(())
}

#[derive(Debug, Clone, Copy)]
enum Writer {
    Savepoints,
    AllOrNothing(usize),
    ByHand(usize),
}

/// A handler that writes one row through its context, beside the same inserts by hand, without savepoints, in one transaction a batch.
pub(super) async fn writing(bench: &Bench) -> anyhow::Result<Vec<Comparison>> {
    // Full batches: 200 events in each of 64 partitions, and 600.
    let events = bench.sized(12_800, 38_400);
    let stage = bench.stage().await?;
    stage.fill_evenly(events).await?;
    let sides = [
        Writer::Savepoints,
        Writer::AllOrNothing(50),
        Writer::ByHand(50),
        Writer::AllOrNothing(200),
        Writer::ByHand(200),
    ];
    let rates = in_turn(bench.repetitions, &sides, async |side| {
        sqlx::query("truncate written").execute(&stage.pool).await?;
        write(&stage, events, side).await
    })
    .await?;
    stage.close().await?;
    let [savepoints, fifty, by_hand_50, two_hundred, by_hand_200] = &rates[..] else { return Ok(Vec::new()) };
    let row = |what: &str, line, ours: &[f64], beside: &[f64]| {
        let what = format!("drain, one row written through cx, {what}; of the same inserts by hand");
        Comparison::of(what, Line::AtLeast(line), "/s", ours, beside)
    };
    Ok(vec![
        row("savepoints, batches of 50", 0.45, savepoints, by_hand_50),
        row("all or nothing, batches of 50", 0.75, fifty, by_hand_50),
        row("all or nothing, batches of 200", 0.85, two_hundred, by_hand_200),
    ])
}

async fn write(stage: &Stage, events: usize, writer: Writer) -> anyhow::Result<f64> {
    let counter = Counter::new(events);
    let builder = Consumer::builder(&stage.pool, "writing").state(counter.clone()).on(write_one);
    let (builder, batch) = match writer {
        Writer::ByHand(batch) => return Ok(rate(events, raw::write_by_hand(&stage.pool, events, batch).await?)),
        Writer::Savepoints => (builder, 50),
        Writer::AllOrNothing(batch) => (builder.all_or_nothing(), batch),
    };
    let consumer = builder.batch_size(batch).workers(1).retention(None).build()?;
    stage.drain(consumer, "writing", batch, &counter).await
}

/// Also for the figures of the second table.
pub(super) async fn write_one(event: OrderPlaced, cx: &mut Context<'_, Arc<Counter>>) -> Result<(), BoxError> {
    sqlx::query(raw::WRITE).bind(event.order_id).bind("123.45").execute(&mut *cx).await?;
    cx.state().count();
    Ok(())
}
