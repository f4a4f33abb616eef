use std::time::Duration;

use crate::{
    child::Process,
    comparison::{Comparison, Line},
    proc,
    stage::{Bench, Stage},
};

const MIB: f64 = 1_048_576.0;

/// What a consuming process has resident while it drains a log, with the default of 4 workers and batches of 1,000.
pub(super) async fn memory(bench: &Bench) -> anyhow::Result<Vec<Comparison>> {
    let events = bench.sized(200_000, 1_000_000).max(10);
    let stage = bench.stage().await?;
    stage.fill(events, 10_000).await?;
    let (mut most, mut early, mut late) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.repetitions {
        let run = run(&stage, events).await?;
        most.push(run.most / MIB);
        early.push(run.after_a_fifth / MIB);
        late.push(run.at_the_end / MIB);
    }
    stage.close().await?;
    let peak =
        Comparison::with("memory of a draining process, most; of 100 MiB", Line::AtMost(1.0), "MiB", &most, 100.0);
    let what = "memory of a draining process, at the end; of that after a fifth";
    let flat = Comparison::of(what, Line::AtMost(1.25), "MiB", &late, &early);
    let note = (events != 1_000_000).then(|| format!("{events} events here; --full drains 1,000,000"));
    Ok([peak, flat].map(|row| Comparison { note: note.clone(), ..row }).to_vec())
}

struct Run {
    most: f64,
    after_a_fifth: f64,
    at_the_end: f64,
}

async fn run(stage: &Stage, events: usize) -> anyhow::Result<Run> {
    let events = events.to_string();
    let mut child = Process::start(["child", "drain", "--url", stage.url(), "--events", &events])?;
    let id = child.id()?;
    child.expect("fifth").await?;
    let after_a_fifth = proc::resident(id)?;
    child.expect("done").await?;
    let run = Run { most: proc::most_resident(id)?, after_a_fifth, at_the_end: proc::resident(id)? };
    child.stop().await?;
    event_box::EventBox::from(&stage.pool).group("memory").remove().await?;
    // The server's processes of the child end a moment later.
    tokio::time::sleep(Duration::from_millis(50)).await;
    Ok(run)
}
