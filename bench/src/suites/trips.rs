use std::{sync::Arc, time::Duration};

use event_box::{Consumer, EventBox};
use tokio::time::Instant;

use super::drain::write_one;
use crate::{
    counter::Counter,
    event::OrderPlaced,
    figure::Figure,
    stage::{Bench, Running, Stage, no_op, pool},
    statements::Counting,
    wire::Wire,
};

const BATCH: usize = 50;
/// Three full batches of each partition.
const BATCHES: usize = 64 * 3;
const SINGLE: usize = 100;
/// Between two events that are delivered one by one.
const PACE: Duration = Duration::from_millis(50);

/// Statements and round trips per batch and per single delivery, everything that the process does at the time included.
pub(super) async fn trips(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let bench = bench.counting().await?;
    let stage = bench.stage().await?;
    stage.fill_evenly(BATCHES * BATCH).await?;
    let port = bench.server().port();
    let wire = Wire::before(port).await?;
    let through = pool(&wire.url(stage.url(), port)).await?;
    let log = EventBox::new(through.clone());
    let counting = Counting::of(&stage.pool).await;
    let mut figures = Vec::new();

    let counter = Counter::new(BATCHES * BATCH);
    let counted = Counted { stage: &stage, wire: &wire, counting };
    let plain = no_op(&log, "plain", 1, BATCH, &counter)?;
    let what = "per batch of 50, no-op";
    figures.extend(counted.figures(what, BATCHES, async || drain(plain, &counter).await).await?);

    for all_or_nothing in [false, true] {
        let counter = Counter::new(BATCHES * BATCH);
        let (group, what) = match all_or_nothing {
            false => ("savepoints", "per batch of 50, one row written by each handler, savepoints"),
            true => ("all-or-nothing", "per batch of 50, one row written by each handler, all or nothing"),
        };
        let builder = Consumer::builder(&log, group).state(counter.clone()).on(write_one).workers(1);
        let builder = builder.batch_size(BATCH).retention(None);
        let consumer = if all_or_nothing { builder.all_or_nothing().build()? } else { builder.build()? };
        figures.extend(counted.figures(what, BATCHES, async || drain(consumer, &counter).await).await?);
    }
    figures.extend(single(&counted, &log).await?);
    through.close().await;
    stage.close().await?;
    Ok(figures)
}

async fn drain(consumer: Consumer, counter: &Counter) -> anyhow::Result<()> {
    let running = Running::start(consumer);
    counter.done().await;
    running.stop().await
}

/// Events that come one by one, each long after the one before is handled: the polls in between are counted too.
async fn single(counted: &Counted<'_>, log: &EventBox) -> anyhow::Result<Vec<Figure>> {
    let stage = counted.stage;
    let before = BATCHES * BATCH;
    let counter: Arc<Counter> = Counter::new(before + 1 + SINGLE);
    let running = Running::start(no_op(log, "single", 1, 1_000, &counter)?);
    // The log is read to its end first.
    stage.outbox.emit(&stage.pool, &OrderPlaced::new(0)).await?;
    while counter.left() > SINGLE {
        tokio::time::sleep(PACE).await;
    }
    let work = async || {
        let started = Instant::now();
        for event in 1..=SINGLE {
            stage.outbox.emit(&stage.pool, &OrderPlaced::new(event as i64)).await?;
            tokio::time::sleep_until(started + PACE * event as u32).await;
        }
        counter.done().await;
        Ok(())
    };
    let figures = counted.figures("per single delivery at 20 events/s, polls included", SINGLE, work).await?;
    running.stop().await?;
    Ok(figures)
}

struct Counted<'a> {
    stage: &'a Stage,
    wire: &'a Wire,
    counting: Counting,
}

impl Counted<'_> {
    async fn figures(
        &self,
        what: &str,
        by: usize,
        work: impl AsyncFnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Vec<Figure>> {
        let others = ["insert into event_box.events"];
        let statements = self.counting.total(&self.stage.pool, &others).await?;
        let trips = self.wire.trips();
        work().await?;
        let trips = self.wire.trips() - trips;
        let statements = self.counting.total(&self.stage.pool, &others).await? - statements;
        Ok(vec![
            Figure::new(format!("{} {what}", self.counting.name()), statements / by as f64, self.counting.name()),
            Figure::new(format!("round trips {what}"), trips / by as f64, "round trips"),
        ])
    }
}
