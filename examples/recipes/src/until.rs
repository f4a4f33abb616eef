use std::time::Duration;

use anyhow::bail;
use sqlx::PgPool;
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until the condition holds, asking every 10 ms.
///
/// # Errors
/// Where it does not hold within a minute, or cannot be asked.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await? {
        if Instant::now() > deadline {
            bail!("still not after {PATIENCE:?}: {what}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Waits until the query answers `true`.
///
/// # Errors
/// As [`until`].
pub async fn until_true(pool: &PgPool, what: &str, query: &'static str) -> anyhow::Result<()> {
    until(what, async || Ok(sqlx::query_scalar(query).fetch_one(pool).await?)).await
}
