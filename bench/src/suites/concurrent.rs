use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use event_box::{BoxError, Consumer, Detached, EventBox};

use crate::{
    comparison::{Comparison, Line},
    counter::Counter,
    event::OrderPlaced,
    stage::{Bench, Running},
};

const HANDLERS: u32 = 64;
const WAIT: Duration = Duration::from_millis(20);

/// Handlers that wait for 20 ms, up to 64 at once in one process with the default of 4 workers, beside the time that 64 slots would take
/// if none of them ever stood idle.
pub(super) async fn waiting(bench: &Bench) -> anyhow::Result<Comparison> {
    let events = bench.sized(10_000, 10_000);
    let stage = bench.stage().await?;
    stage.fill(events, 1_000).await?;
    let mut took = Vec::new();
    for _ in 0..bench.repetitions {
        let counter = Counter::new(events);
        let consumer = Consumer::builder(&stage.pool, "concurrent")
            .state(counter.clone())
            .concurrent(HANDLERS as usize)
            .on(async |event: OrderPlaced, cx: &mut Detached<'_, Arc<Counter>>| -> Result<(), BoxError> {
                std::hint::black_box(event);
                tokio::time::sleep(WAIT).await;
                cx.state().count();
                Ok(())
            })
            .retention(None)
            .build()?;
        let started = Instant::now();
        let running = Running::start(consumer);
        counter.done().await;
        took.push(started.elapsed().as_secs_f64());
        running.stop().await?;
        EventBox::from(&stage.pool).group("concurrent").remove().await?;
    }
    stage.close().await?;
    let ideal = (WAIT * events as u32 / HANDLERS).as_secs_f64();
    let what = "concurrent, 10,000 handlers of 20 ms, 64 at once; of the time 64 slots take";
    Ok(Comparison::with(what, Line::AtMost(1.3), "s", &took, ideal))
}
