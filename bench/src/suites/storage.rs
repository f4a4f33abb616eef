use std::time::Duration;

use event_box::{Consumer, EventBox};

use super::{drain::write_one, emit};
use crate::{
    counter::Counter,
    figure::Figure,
    raw,
    stage::{Bench, Running, Stage},
};

/// Bytes of WAL per event emitted and delivered, tuples made dead and left so, table sizes; beside the raw table's.
pub(super) async fn storage(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let mut figures = emitted(bench).await?;
    figures.extend(delivered(bench).await?);
    Ok(figures)
}

async fn emitted(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let stage = bench.stage().await?;
    let (each, statements) = (bench.sized(1_000, 2_000), bench.sized(20, 50));
    let one = (4 * each) as f64;
    let many = (2 * statements * 1_000) as f64;
    let size = async |table: &str| -> anyhow::Result<f64> {
        let per_million = "select pg_total_relation_size($1::regclass)::float8 / (select count(*) from event_box.events) * 1000000 / 1048576";
        Ok(sqlx::query_scalar(per_million).bind(table).fetch_one(&stage.pool).await?)
    };
    let figure = |what: &str, ours: f64, raw: f64, events: f64| {
        Figure::new(format!("WAL per event emitted, {what}"), ours / events, "bytes").beside(raw / events)
    };
    let ours = wal(&stage, async || emit::emit_each(&stage, 4, each).await).await?;
    let beside = wal(&stage, async || raw::one_a_transaction(&stage.pool, 4, each).await).await?;
    let mut figures = vec![figure("one a transaction", ours, beside, one)];
    let ours = wal(&stage, async || emit::emit_many(&stage, 2, statements, 1_000).await).await?;
    let beside = wal(&stage, async || raw::unnest(&stage.pool, 2, statements, 1_000).await).await?;
    figures.push(figure("emit_all of 1,000", ours, beside, many));
    // Of as many events in both.
    let table = Figure::new("table and indexes per million events", size("event_box.events").await?, "MiB");
    figures.push(table.beside(size("raw").await?));
    let ours = wal(&stage, async || emit::copy_many(&stage, 2, 1, 10_000).await).await?;
    figures.push(Figure::new("WAL per event emitted, copy of 10,000", ours / 20_000.0, "bytes"));
    stage.close().await?;
    Ok(figures)
}

async fn delivered(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let stage = bench.stage().await?;
    let events = bench.sized(64_000, 192_000);
    stage.fill(events, 10_000).await?;
    let figure = |what: &str, bytes: f64| {
        Figure::new(format!("WAL per event delivered, {what}"), bytes / events as f64, "bytes")
    };
    let mut figures = Vec::new();
    let keyset = wal(&stage, async || raw::keyset(&stage.pool).await).await?;
    for batch in [1_000, 50] {
        let group = format!("wal-{batch}");
        let counter = Counter::new(events);
        let consumer = stage.no_op(&group, 1, batch, &counter)?;
        let ours = wal(&stage, async || consume(consumer, &counter).await).await?;
        let figure = figure(&format!("no-op, batches of {batch}"), ours);
        figures.push(if batch == 1_000 { figure.beside(keyset / events as f64) } else { figure });
    }
    figures.extend(dead(&stage, events).await?);
    let by_hand = wal(&stage, async || raw::write_by_hand(&stage.pool, events, 50).await).await?;
    let counter = Counter::new(events);
    let builder = Consumer::builder(&stage.pool, "wal-writing").state(counter.clone()).on(write_one);
    let consumer = builder.workers(1).batch_size(50).retention(None).build()?;
    let ours = wal(&stage, async || consume(consumer, &counter).await).await?;
    figures.push(figure("one row written, savepoints, batches of 50", ours).beside(by_hand / events as f64));
    stage.close().await?;
    Ok(figures)
}

async fn consume(consumer: Consumer, counter: &Counter) -> anyhow::Result<()> {
    let running = Running::start(consumer);
    counter.done().await;
    running.stop().await
}

/// Of two drains: in batches of 1,000 and of 50.
async fn dead(stage: &Stage, events: usize) -> anyhow::Result<Vec<Figure>> {
    // Sessions report what they did once a second at most.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    EventBox::from(&stage.pool).groups().await?;
    let sums = "select coalesce(sum(n_tup_upd + n_tup_del), 0)::float8, coalesce(sum(n_dead_tup), 0)::float8 \
                from pg_stat_user_tables where schemaname = 'event_box'";
    let (made, left): (f64, f64) = sqlx::query_as(sums).fetch_one(&stage.pool).await?;
    let of = format!("two no-op drains of {events}, batches of 1,000 and of 50");
    let thousands = 2.0 * events as f64 / 1_000.0;
    Ok(vec![
        Figure::new(format!("row versions replaced per 1,000 events delivered, {of}"), made / thousands, "tuples"),
        Figure::new(format!("dead tuples left by {of}, before any vacuum but autovacuum"), left, "tuples"),
    ])
}

/// From a checkpoint on, so with the full image of each page that was there before.
async fn wal<T>(stage: &Stage, work: impl AsyncFnOnce() -> anyhow::Result<T>) -> anyhow::Result<f64> {
    sqlx::query("checkpoint").execute(&stage.pool).await?;
    let here: String = sqlx::query_scalar("select pg_current_wal_insert_lsn()::text").fetch_one(&stage.pool).await?;
    work().await?;
    let written = "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1::pg_lsn)::float8";
    Ok(sqlx::query_scalar(written).bind(here).fetch_one(&stage.pool).await?)
}
