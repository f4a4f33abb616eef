//! Repetitions of several sides in turn.

use std::time::{Duration, Instant};

/// The two sides of most comparisons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What is measured.
    Ours,
    /// What it is measured by.
    Beside,
}

/// Runs every side once a repetition, each repetition beginning with the next one, so that the machine's noise and drift are in all of them.
/// Answers the repetitions' figures, side by side in the order of `sides`.
///
/// # Errors
/// The first of any side.
pub async fn in_turn<S: Copy, T>(
    repetitions: usize,
    sides: &[S],
    mut run: impl AsyncFnMut(S) -> anyhow::Result<T>,
) -> anyhow::Result<Vec<Vec<T>>> {
    let mut figures: Vec<Vec<T>> = sides.iter().map(|_| Vec::new()).collect();
    for repetition in 0..repetitions {
        for i in 0..sides.len() {
            let side = (repetition + i) % sides.len();
            figures[side].push(run(sides[side]).await?);
        }
    }
    Ok(figures)
}

/// [`in_turn`] of [`Side::Ours`] and [`Side::Beside`].
///
/// # Errors
/// The first of either side.
pub async fn paired<T>(
    repetitions: usize,
    mut run: impl AsyncFnMut(Side) -> anyhow::Result<T>,
) -> anyhow::Result<(Vec<T>, Vec<T>)> {
    let mut sides = in_turn(repetitions, &[Side::Ours, Side::Beside], async |side| run(side).await).await?;
    let beside = sides.pop().unwrap_or_default();
    Ok((sides.pop().unwrap_or_default(), beside))
}

/// Runs so many tasks at once and answers how long they took together.
///
/// # Errors
/// The first of any task.
pub async fn at_once<F: Future<Output = anyhow::Result<()>> + Send + 'static>(
    tasks: usize,
    task: impl Fn(usize) -> F,
) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let running: Vec<_> = (0..tasks).map(|i| tokio::spawn(task(i))).collect();
    for running in running {
        running.await??;
    }
    Ok(started.elapsed())
}

/// So many in this time, a second.
pub fn rate(events: usize, took: Duration) -> f64 {
    events as f64 / took.as_secs_f64()
}
