use crate::{
    comparison::{Comparison, Line},
    latency::{self, Arrivals, Percentiles, Side, WARM_UP, measure},
    stage::{Bench, Stage},
    turns::{self, paired},
};

/// From the commit's return to the handler at 100 events a second, beside NOTIFY in the transaction and a read on wake-up.
pub(super) async fn latency(bench: &Bench, arrivals: Arrivals) -> anyhow::Result<Vec<Comparison>> {
    let events = WARM_UP + bench.sized(400, 1_500);
    let stage = bench.stage().await?;
    let (ours, beside) = paired(bench.repetitions, async |side| {
        let side = match side {
            turns::Side::Ours => Side::EventBox,
            turns::Side::Beside => Side::Raw,
        };
        run(&stage, side, arrivals, events).await
    })
    .await?;
    stage.close().await?;
    let row = |percentile: &str, line, figure: fn(&Percentiles) -> f64| {
        let column = |runs: &[Percentiles]| runs.iter().map(figure).collect::<Vec<_>>();
        let what = format!("latency at 100/s, {} arrivals, {percentile}; of raw NOTIFY and a read", arrivals.name());
        Comparison::of(what, Line::AtMost(line), "ms", &column(&ours), &column(&beside))
    };
    let p50 = if arrivals == Arrivals::Even { 2.5 } else { 3.0 };
    Ok(vec![row("p50", p50, |run| run.p50), row("p99", 3.0, |run| run.p99)])
}

/// One run between two processes.
async fn run(stage: &Stage, side: Side, arrivals: Arrivals, events: usize) -> anyhow::Result<Percentiles> {
    let child = |of: &str| {
        let fixed = ["child", of, "--url", stage.url(), "--side", side.name(), "--events"];
        let mut arguments: Vec<_> = fixed.map(str::to_owned).to_vec();
        arguments.push(events.to_string());
        arguments
    };
    let mut emitter = child("emit");
    emitter.extend(["--arrivals".to_owned(), arrivals.name().to_owned()]);
    measure(child("consume"), emitter, async || latency::emit(&stage.pool, side, 0).await).await
}
