use event_box::EventBox;

use crate::{
    comparison::{Comparison, Line},
    counter::Counter,
    stage::{Bench, Running, Stage, no_op},
    turns::{Side, paired},
};

const GROUPS: usize = 5;

/// Five groups of one process read the same log at once, each with the default of 4 workers, beside one that does.
pub(super) async fn five(bench: &Bench) -> anyhow::Result<Comparison> {
    let events = bench.sized(100_000, 200_000);
    let stage = bench.stage().await?;
    stage.fill(events, 10_000).await?;
    let (ours, beside) = paired(bench.repetitions, async |side| match side {
        Side::Ours => drain(&stage, events, GROUPS).await,
        Side::Beside => drain(&stage, events, 1).await,
    })
    .await?;
    stage.close().await?;
    let what = "five groups draining one log, deliveries in total; of one group";
    Ok(Comparison::of(what, Line::AtLeast(0.8), "/s", &ours, &beside))
}

async fn drain(stage: &Stage, events: usize, groups: usize) -> anyhow::Result<f64> {
    let log = EventBox::from(&stage.pool);
    let names: Vec<_> = (0..groups).map(|group| format!("group-{group}")).collect();
    let counter = Counter::new(groups * events);
    let consumers: Result<Vec<_>, _> = names.iter().map(|name| no_op(&log, name, 4, 1_000, &counter)).collect();
    let running: Vec<_> = consumers?.into_iter().map(Running::start).collect();
    counter.done().await;
    for running in running {
        running.stop().await?;
    }
    for name in names {
        log.group(name).remove().await?;
    }
    Ok(counter.rate(1_000))
}
