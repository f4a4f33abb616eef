//! Emitting.

use std::time::Duration;

use event_box::{BoxError, Consumer, Context};
use sqlx::Connection;

use crate::{
    comparison::{Comparison, Line},
    event::OrderPlaced,
    raw,
    stage::{Bench, Running, Stage},
    turns::{Side, at_once, paired, rate},
};

const TASKS: usize = 8;
const BULK_TASKS: usize = 4;

async fn ignore(_: OrderPlaced, _: &mut Context<'_>) -> Result<(), BoxError> {
    Ok(())
}

/// One event in each transaction, from 8 tasks, while a consumer group listens.
pub(super) async fn one_a_transaction(bench: &Bench) -> anyhow::Result<Comparison> {
    let stage = bench.stage().await?;
    let each = bench.sized(750, 2_500);
    let listening = Consumer::builder(&stage.pool, "listening").on(ignore).workers(2).build()?;
    let listening = Running::start(listening);
    let (ours, beside) = paired(bench.repetitions, async |side| {
        let took = match side {
            Side::Ours => emit_each(&stage, TASKS, each).await?,
            Side::Beside => raw::one_a_transaction(&stage.pool, TASKS, each).await?,
        };
        Ok(rate(TASKS * each, took))
    })
    .await?;
    listening.stop().await?;
    stage.close().await?;
    let what = "emit, one a transaction, 8 tasks, a group listening; of raw inserts";
    Ok(Comparison::of(what, Line::AtLeast(0.85), "/s", &ours, &beside))
}

/// One event a transaction, from so many tasks with `each` of them to emit.
///
/// # Errors
/// Where the server refuses.
pub async fn emit_each(stage: &Stage, tasks: usize, each: usize) -> anyhow::Result<Duration> {
    at_once(tasks, |task| {
        let (pool, outbox) = (stage.pool.clone(), stage.outbox.clone());
        async move {
            let mut connection = pool.acquire().await?;
            for i in 0..each {
                let mut tx = connection.begin().await?;
                outbox.emit(&mut *tx, &OrderPlaced::new((task * each + i) as i64)).await?;
                tx.commit().await?;
            }
            Ok(())
        }
    })
    .await
}

/// `emit_all` of so many events a statement, from so many tasks.
///
/// # Errors
/// Where the server refuses.
pub async fn emit_many(stage: &Stage, tasks: usize, statements: usize, size: usize) -> anyhow::Result<Duration> {
    at_once(tasks, |_| {
        let (pool, outbox) = (stage.pool.clone(), stage.outbox.clone());
        async move {
            for _ in 0..statements {
                let events: Vec<_> = (0..size as i64).map(OrderPlaced::new).collect();
                outbox.emit_all(&pool, &events).await?;
            }
            Ok(())
        }
    })
    .await
}

/// `copy` of so many events each time, from so many tasks.
pub(super) async fn copy_many(stage: &Stage, tasks: usize, rounds: usize, size: usize) -> anyhow::Result<Duration> {
    at_once(tasks, |_| {
        let (pool, outbox) = (stage.pool.clone(), stage.outbox.clone());
        async move {
            let mut connection = pool.acquire().await?;
            for _ in 0..rounds {
                let events: Vec<_> = (0..size as i64).map(OrderPlaced::new).collect();
                outbox.copy(&mut connection, &events).await?;
            }
            Ok(())
        }
    })
    .await
}

/// A thousand events in each statement, from 4 tasks.
pub(super) async fn a_thousand_a_statement(bench: &Bench) -> anyhow::Result<Comparison> {
    let stage = bench.stage().await?;
    let statements = bench.sized(20, 50);
    let (ours, beside) = paired(bench.repetitions, async |side| {
        let took = match side {
            Side::Ours => emit_many(&stage, BULK_TASKS, statements, 1_000).await?,
            Side::Beside => raw::unnest(&stage.pool, BULK_TASKS, statements, 1_000).await?,
        };
        Ok(rate(BULK_TASKS * statements * 1_000, took))
    })
    .await?;
    stage.close().await?;
    let what = "emit_all of 1,000, 4 tasks; of raw unnest";
    Ok(Comparison::of(what, Line::AtLeast(0.75), "/s", &ours, &beside))
}

/// Ten thousand events in each COPY, from 4 tasks, beside `insert … select unnest` of 1,000.
pub(super) async fn by_copy(bench: &Bench) -> anyhow::Result<Comparison> {
    let stage = bench.stage().await?;
    let rounds = bench.sized(4, 10);
    let (ours, beside) = paired(bench.repetitions, async |side| {
        let took = match side {
            Side::Ours => copy_many(&stage, BULK_TASKS, rounds, 10_000).await?,
            Side::Beside => raw::unnest(&stage.pool, BULK_TASKS, rounds * 10, 1_000).await?,
        };
        Ok(rate(BULK_TASKS * rounds * 10_000, took))
    })
    .await?;
    stage.close().await?;
    let what = "copy of 10,000, 4 tasks; of raw unnest of 1,000";
    Ok(Comparison::of(what, Line::AtLeast(0.85), "/s", &ours, &beside))
}
