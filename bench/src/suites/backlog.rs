use std::time::Duration;

use crate::{
    comparison::{Comparison, Line},
    counter::Counter,
    stage::{Bench, Running, Stage},
    turns::{Side, paired},
};

/// So that 156 events of a partition are three full batches.
const BATCH: usize = 52;
/// 64 partitions × 156: what is handled of either log.
const SMALL: usize = 64 * 3 * BATCH;

/// What a batch takes where the group is far behind, and where it is not: the same number of full batches from logs of both sizes.
pub(super) async fn cost_of_a_batch(bench: &Bench) -> anyhow::Result<Comparison> {
    let large = bench.sized(200_000, 1_000_000).max(SMALL);
    let (far_behind, not_far) = (bench.stage().await?, bench.stage().await?);
    far_behind.fill_evenly(large).await?;
    not_far.fill_evenly(SMALL).await?;
    let (ours, beside) = paired(bench.repetitions, async |side| match side {
        Side::Ours => batch(&far_behind).await,
        Side::Beside => batch(&not_far).await,
    })
    .await?;
    far_behind.close().await?;
    not_far.close().await?;
    let what = "cost of a batch of 52 at a backlog of 1,000,000; of one at 10,000";
    let comparison = Comparison::of(what, Line::AtMost(1.2), "ms/batch", &ours, &beside);
    if large == 1_000_000 {
        return Ok(comparison);
    }
    Ok(comparison.note(format!("the large backlog was {large} here; --full takes 1,000,000")))
}

async fn batch(stage: &Stage) -> anyhow::Result<f64> {
    let counter = Counter::new(SMALL);
    let running = Running::start(stage.no_op("backlog", 1, BATCH, &counter)?);
    counter.done().await;
    running.stop().await?;
    event_box::EventBox::from(&stage.pool).group("backlog").remove().await?;
    let took = counter.between().unwrap_or(Duration::ZERO);
    // The first batch was read before its first event was counted.
    Ok(took.as_secs_f64() * 1_000.0 / (SMALL / BATCH - 1) as f64)
}
