use std::time::Duration;

use event_box::{ConsumerGroup, GroupError};
use recipes::until;
use sqlx::PgPool;
use tokio::time::Instant;

/// Whether the group was given everything that was emitted longer ago than this, and nothing of it has failed. Asked so, it can be true
/// while events keep coming: that nothing at all is pending may never be.
pub(crate) async fn has_all_before(group: &ConsumerGroup, age: Duration) -> anyhow::Result<bool> {
    let health = match group.health().await {
        // Its consumer has only just been started.
        Err(GroupError::NoSuchGroup { .. }) => return Ok(false),
        health => health?,
    };
    let parked = health.retrying + health.waiting + health.snoozed + health.no_handler + health.dead;
    Ok(parked == 0 && !health.more() && health.oldest().is_none_or(|oldest| oldest < age))
}

/// Swaps readers over from the old group's table to the new one's. Where it fails they are where they were, and the old group goes on.
pub(crate) async fn swap(
    pool: &PgPool,
    old: &ConsumerGroup,
    new: &ConsumerGroup,
    meanwhile: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let swapped = try_swap(pool, old, new, meanwhile).await;
    if swapped.is_err() {
        old.resume().await?;
    }
    swapped
}

async fn try_swap(
    pool: &PgPool,
    old: &ConsumerGroup,
    new: &ConsumerGroup,
    meanwhile: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    // The race: whatever the old table still gets after the new one was found complete, readers would miss after the swap. So it gets
    // nothing more: once the group is paused and its batches in hand have ended, the table stands still.
    old.pause().await?;
    until("the old group stands still", async || {
        Ok(old.health().await?.partitions.iter().all(|partition| partition.held_by.is_none()))
    })
    .await?;
    let stands_still = Instant::now();
    meanwhile().await?;
    // What the old table holds was emitted before it stood still, and so it may only be the newer that the new group still has to be given.
    until("the new group has all that the old one had", async || has_all_before(new, stands_still.elapsed()).await)
        .await?;

    let mut tx = pool.begin().await?;
    // It waits for those who are reading, and all who come after wait for it: rather not at all than for long.
    sqlx::raw_sql("set local lock_timeout = '2s'").execute(&mut *tx).await?;
    // Where columns go or change their type: drop and create, in this transaction, and grant anew.
    sqlx::raw_sql("create or replace view revenue as select sku, orders, cents, units from revenue_v2")
        .execute(&mut *tx)
        .await?;
    Ok(tx.commit().await?)
}
