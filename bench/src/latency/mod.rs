//! From a commit to its handler, with the emitter and the consumer in two processes.
//!
//! The emitter notes the time when each commit has returned, the consumer the time when each handler begins, by the machine's one
//! `SystemTime`, and both print what they noted when they are told to stop. So nothing of the measuring lies between the two times.

mod arrivals;
mod moments;
mod sides;

pub use self::{
    arrivals::Arrivals,
    moments::Moments,
    sides::{Side, consume, emit},
};
use crate::child::{Process, until_told_to_stop};

/// Events that come first and are not counted: connections are opened, statements prepared. A second of them.
pub const WARM_UP: usize = 100;
/// Events a second.
pub const RATE: f64 = 100.0;

/// The middle and the 99th percentile of one run, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Percentiles {
    /// The middle.
    pub p50: f64,
    /// One in a hundred took longer.
    pub p99: f64,
}

/// Runs a consumer and an emitter as children of this process, with the arguments that make it one, and joins what they noted. Event 0 tells
/// that the consumer is ready: `probe` emits it.
///
/// # Errors
/// Where either side fails or an event is missing.
pub async fn measure(
    consumer: Vec<String>,
    emitter: Vec<String>,
    probe: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Percentiles> {
    let mut consumer = Process::start(consumer)?;
    consumer.expect("started").await?;
    probe().await?;
    consumer.expect("ready").await?;
    let mut emitter = Process::start(emitter)?;
    emitter.expect("done").await?;
    // An emitter may announce its last events a moment after they are committed: it lives until all are handled.
    consumer.expect("done").await?;
    let committed = Moments::parse(&emitter.stop().await?)?;
    let handled = Moments::parse(&consumer.stop().await?)?;
    let mut took: Vec<f64> = Vec::new();
    for event in WARM_UP + 1..committed.len() {
        // A handler may begin before the emitter has read the answer to its commit.
        took.push(handled.since(&committed, event)?.max(0.0));
    }
    took.sort_by(f64::total_cmp);
    let at = |share: f64| took[((took.len() as f64 * share).ceil() as usize).clamp(1, took.len()) - 1];
    anyhow::ensure!(!took.is_empty(), "no event was measured");
    Ok(Percentiles { p50: at(0.5), p99: at(0.99) })
}

/// In the consuming child: says when it is ready, when all has been handled, and what it noted.
///
/// # Errors
/// Where the standard input cannot be read.
pub async fn report(moments: &Moments) -> anyhow::Result<()> {
    println!("started");
    moments.first().await;
    println!("ready");
    moments.all().await;
    println!("done");
    until_told_to_stop().await?;
    moments.print();
    Ok(())
}

/// In the emitting child: commits events 1 to `events`, one after the other over one connection, when they arrive or as soon after as the
/// connection is free, and prints when each commit had returned.
///
/// # Errors
/// Those of `emit`.
pub async fn emit_all(
    arrivals: Arrivals,
    events: usize,
    mut emit: impl AsyncFnMut(i64) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let moments = Moments::new(events);
    let started = tokio::time::Instant::now();
    for (event, due) in (1..=events).zip(arrivals.times(RATE)) {
        tokio::time::sleep_until(started + due).await;
        emit(event as i64).await?;
        moments.note(event as i64);
    }
    println!("done");
    until_told_to_stop().await?;
    moments.print();
    Ok(())
}
