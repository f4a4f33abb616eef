use std::time::Duration;

use event_box::Event;

use crate::{
    measure::{Comparison, at_once},
    stage::{OrderPlaced, Stage},
};

/// One event in each transaction, from 8 tasks, while a consumer group listens.
pub(crate) async fn one_a_transaction(stage: &Stage, repetitions: usize, each: usize) -> anyhow::Result<Comparison> {
    const TASKS: usize = 8;
    let ours = async || {
        let (pool, outbox) = (&stage.pool, &stage.outbox);
        at_once(TASKS, |task| {
            let (pool, outbox) = (pool.clone(), outbox.clone());
            async move {
                let mut connection = pool.acquire().await?;
                for i in 0..each {
                    let mut tx = sqlx::Connection::begin(&mut *connection).await?;
                    outbox.emit(&mut *tx, &OrderPlaced::new((task * each + i) as i64)).await?;
                    tx.commit().await?;
                }
                Ok(())
            }
        })
        .await
    };
    let raw = async || {
        at_once(TASKS, |task| {
            let pool = stage.pool.clone();
            async move {
                let mut connection = pool.acquire().await?;
                for i in 0..each {
                    let event = OrderPlaced::new((task * each + i) as i64);
                    let mut tx = sqlx::Connection::begin(&mut *connection).await?;
                    sqlx::query("insert into raw (topic, key, payload) values ($1, $2, $3::json)")
                        .bind(event.topic())
                        .bind(event.partition_key())
                        .bind(text(&event)?)
                        .execute(&mut *tx)
                        .await?;
                    tx.commit().await?;
                }
                Ok(())
            }
        })
        .await
    };
    Comparison::run("emit, one a transaction, 8 tasks, a group listening", repetitions, TASKS * each, ours, raw).await
}

/// A thousand events in each statement, from 4 tasks.
pub(crate) async fn a_thousand_a_statement(
    stage: &Stage,
    repetitions: usize,
    statements: usize,
) -> anyhow::Result<Comparison> {
    let ours = async || {
        at_once(BULK_TASKS, |_| {
            let (pool, outbox) = (stage.pool.clone(), stage.outbox.clone());
            async move {
                for _ in 0..statements {
                    let events: Vec<_> = (0..1_000).map(OrderPlaced::new).collect();
                    outbox.emit_all(&pool, &events).await?;
                }
                Ok(())
            }
        })
        .await
    };
    let raw = async || unnest(stage, statements, 1_000).await;
    let events = BULK_TASKS * statements * 1_000;
    Comparison::run("emit_all of 1,000, 4 tasks, beside unnest", repetitions, events, ours, raw).await
}

/// Ten thousand events in each COPY, from 4 tasks, beside `insert … select unnest` of 1,000.
pub(crate) async fn by_copy(stage: &Stage, repetitions: usize, each: usize) -> anyhow::Result<Comparison> {
    let size = each.min(10_000);
    let rounds = each / size;
    let ours = async || {
        at_once(BULK_TASKS, |_| {
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
    };
    let statement = size.min(1_000);
    let raw = async || unnest(stage, rounds * size / statement, statement as i64).await;
    let events = BULK_TASKS * rounds * size;
    Comparison::run("copy of 10,000, 4 tasks, beside unnest of 1,000", repetitions, events, ours, raw).await
}

const BULK_TASKS: usize = 4;

async fn unnest(stage: &Stage, statements: usize, size: i64) -> anyhow::Result<Duration> {
    at_once(BULK_TASKS, |_| {
        let pool = stage.pool.clone();
        async move {
            for _ in 0..statements {
                let (mut topics, mut keys, mut payloads) = (Vec::new(), Vec::new(), Vec::new());
                for event in (0..size).map(OrderPlaced::new) {
                    topics.push(event.topic());
                    keys.push(event.partition_key().map(|key| key.into_owned()));
                    payloads.push(text(&event)?);
                }
                sqlx::query(
                    "insert into raw (topic, key, payload) select topic, key, payload::json \
                     from unnest($1::text[], $2::text[], $3::text[]) as batch (topic, key, payload)",
                )
                .bind(topics)
                .bind(keys)
                .bind(payloads)
                .execute(&pool)
                .await?;
            }
            Ok(())
        }
    })
    .await
}

fn text(event: &OrderPlaced) -> anyhow::Result<String> {
    Ok(String::from_utf8(event.encode()?)?)
}
