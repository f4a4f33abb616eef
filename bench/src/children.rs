//! What the benchmark's children do.

use std::sync::Arc;

use event_box::{BoxError, Consumer, Context, EventBox};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::{
    arguments::Child,
    child::until_told_to_stop,
    counter::Counter,
    event::OrderPlaced,
    latency,
    stage::{Running, pool},
    suites::idle::{APPLICATION, GROUPS},
};

/// Runs as a child of the benchmark.
///
/// # Errors
/// Whatever fails.
pub async fn run(child: Child) -> anyhow::Result<()> {
    match child {
        Child::Consume { url, side, events } => latency::consume(&pool(&url).await?, side, events).await,
        Child::Emit { url, side, events, arrivals } => {
            let pool = pool(&url).await?;
            latency::emit_all(arrivals, events, async |event| latency::emit(&pool, side, event).await).await
        }
        Child::Drain { url, events } => drain(&url, events).await,
        Child::Idle { url } => idle(&url).await,
    }
}

struct Fifth {
    counter: Arc<Counter>,
    /// Left after a fifth.
    left: usize,
}

async fn drain(url: &str, events: usize) -> anyhow::Result<()> {
    let counter = Counter::new(events);
    let consumer = Consumer::builder(pool(url).await?, "memory")
        .state(Fifth { counter: counter.clone(), left: events - events / 5 })
        .on(async |event: OrderPlaced, cx: &mut Context<'_, Fifth>| -> Result<(), BoxError> {
            std::hint::black_box(event);
            if cx.state().counter.count() == cx.state().left {
                println!("fifth");
            }
            Ok(())
        })
        .retention(None)
        .build()?;
    let running = Running::start(consumer);
    counter.done().await;
    println!("done");
    until_told_to_stop().await?;
    running.stop().await
}

async fn idle(url: &str) -> anyhow::Result<()> {
    let options: PgConnectOptions = url.parse()?;
    let pool = PgPoolOptions::new().max_connections(48).connect_with(options.application_name(APPLICATION)).await?;
    let log = EventBox::new(pool.clone());
    let counter = Counter::new(GROUPS);
    let running: Result<Vec<_>, anyhow::Error> =
        (0..GROUPS).map(|group| Ok(Running::start(idle_group(&log, group, &counter)?))).collect();
    // There is one event: all have started when all were given it.
    counter.done().await;
    println!("ready");
    until_told_to_stop().await?;
    for running in running? {
        running.stop().await?;
    }
    Ok(())
}

/// With every default, the upkeep of the log once a minute included.
fn idle_group(log: &EventBox, group: usize, counter: &Arc<Counter>) -> anyhow::Result<Consumer> {
    let consumer = Consumer::builder(log, format!("idle-{group}"))
        .state(counter.clone())
        .on(async |_: OrderPlaced, cx: &mut Context<'_, Arc<Counter>>| -> Result<(), BoxError> {
            cx.state().count();
            Ok(())
        })
        .build()?;
    Ok(consumer)
}
