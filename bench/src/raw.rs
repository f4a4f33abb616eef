//! What PostgreSQL itself can do, through the same client: into a minimal table, and out of it.

use std::time::{Duration, Instant};

use event_box::Event;
use sqlx::{Connection, PgConnection, PgPool};

use crate::{event::OrderPlaced, turns::at_once};

/// One row, by one statement.
///
/// # Errors
/// Where the server refuses.
pub async fn insert(connection: &mut PgConnection, event: &OrderPlaced) -> anyhow::Result<()> {
    sqlx::query("insert into raw (topic, key, payload) values ($1, $2, $3::json)")
        .bind(event.topic())
        .bind(event.partition_key())
        .bind(event.text()?)
        .execute(connection)
        .await?;
    Ok(())
}

/// One row a transaction, from so many tasks with `each` of them to write.
///
/// # Errors
/// Where the server refuses.
pub async fn one_a_transaction(pool: &PgPool, tasks: usize, each: usize) -> anyhow::Result<Duration> {
    at_once(tasks, |task| {
        let pool = pool.clone();
        async move {
            let mut connection = pool.acquire().await?;
            for i in 0..each {
                let mut tx = connection.begin().await?;
                insert(&mut tx, &OrderPlaced::new((task * each + i) as i64)).await?;
                tx.commit().await?;
            }
            Ok(())
        }
    })
    .await
}

/// `insert … select unnest` of `size` rows a statement, from so many tasks.
///
/// # Errors
/// Where the server refuses.
pub async fn unnest(pool: &PgPool, tasks: usize, statements: usize, size: usize) -> anyhow::Result<Duration> {
    at_once(tasks, |_| {
        let pool = pool.clone();
        async move {
            for _ in 0..statements {
                let (mut topics, mut keys, mut payloads) = (Vec::new(), Vec::new(), Vec::new());
                for event in (0..size as i64).map(OrderPlaced::new) {
                    topics.push(event.topic());
                    keys.push(event.partition_key().map(|key| key.into_owned()));
                    payloads.push(event.text()?);
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

/// Keyset reading in pages of 1,000, each decoded to its type, with a checkpoint updated in the page's transaction.
///
/// # Errors
/// Where the server refuses.
pub async fn keyset(pool: &PgPool) -> anyhow::Result<Duration> {
    let mut connection = pool.acquire().await?;
    sqlx::query("update checkpoint set position = 0").execute(&mut *connection).await?;
    let started = Instant::now();
    loop {
        let mut tx = connection.begin().await?;
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

/// What a handler does that writes one row, and what the raw side does by hand.
pub const WRITE: &str = "insert into written (order_id, total) values ($1, $2)";

/// The inserts of such handlers by hand, one row a statement and `batch` of them a transaction.
///
/// # Errors
/// Where the server refuses.
pub async fn write_by_hand(pool: &PgPool, events: usize, batch: usize) -> anyhow::Result<Duration> {
    let mut connection = pool.acquire().await?;
    let started = Instant::now();
    for begin in (0..events).step_by(batch) {
        let mut tx = connection.begin().await?;
        for i in begin..events.min(begin + batch) {
            sqlx::query(WRITE).bind(i as i64).bind("123.45").execute(&mut *tx).await?;
        }
        tx.commit().await?;
    }
    Ok(started.elapsed())
}
