use anyhow::{Context, bail};
use event_box::Consumer;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Runs consumers for as long as the work takes, and stops them in good order.
///
/// # Errors
/// That of the work, or of a consumer that ends before it.
pub async fn while_running<T>(
    consumers: impl IntoIterator<Item = Consumer>,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let stop = CancellationToken::new();
    let mut running: JoinSet<_> = consumers.into_iter().map(|consumer| consumer.run(stop.clone())).collect();
    let done = tokio::select! {
        done = work => done?,
        Some(ended) = running.join_next() => {
            ended?.context("a consumer ended by itself")?;
            bail!("a consumer ended by itself");
        }
    };
    stop.cancel();
    while let Some(ended) = running.join_next().await {
        ended?.context("a consumer ended with an error")?;
    }
    Ok(done)
}
