use crate::{comparison::Spread, counter::Counter, figure::Figure, stage::Bench, turns::in_turn};

/// How the rate of a no-op drain moves with workers and batch sizes.
pub(super) async fn settings(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    // Full batches: 1,000 events in each of 64 partitions, and 3,000.
    let events = bench.sized(64_000, 192_000);
    let stage = bench.stage().await?;
    stage.fill_evenly(events).await?;
    let batches = [50, 200, 1_000];
    let sides: Vec<(usize, usize)> =
        [1, 2, 4].into_iter().flat_map(|workers| batches.map(|batch| (workers, batch))).collect();
    let rates = in_turn(bench.repetitions.min(3), &sides, async |(workers, batch)| {
        let counter = Counter::new(events);
        stage.drain(stage.no_op("settings", workers, batch, &counter)?, "settings", batch, &counter).await
    })
    .await?;
    stage.close().await?;
    let figure = |((workers, batch), rates): (&(usize, usize), &Vec<f64>)| {
        let s = if *workers == 1 { "" } else { "s" };
        Figure::new(
            format!("drain of {events}, no-op, {workers} worker{s}, batches of {batch}"),
            Spread::of(rates).median,
            "events/s",
        )
    };
    Ok(sides.iter().zip(&rates).map(figure).collect())
}
