use std::{sync::Arc, time::Duration};

use event_box::{BoxError, Consumer, Detached};

use crate::{
    drain::{Counter, timed},
    measure::Comparison,
    stage::{OrderPlaced, Stage},
};

const HANDLERS: u32 = 64;
const WAIT: Duration = Duration::from_millis(20);

/// Handlers that wait for 20 ms, up to 64 at once in one process with the default of 4 workers, beside the time that 64 slots would take
/// if none of them ever stood idle.
pub(crate) async fn waiting(stage: &Stage, repetitions: usize, events: usize) -> anyhow::Result<Comparison> {
    let ours = async || {
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
        timed(stage, consumer, "concurrent", &counter).await
    };
    let ideal = async || Ok(WAIT * events as u32 / HANDLERS);
    Comparison::run("concurrent, 64 handlers of 20 ms", repetitions, events, ours, ideal).await
}
