use std::time::{Duration, Instant};

use serde::Serialize;

/// Two rates from the same repetitions, taken in turn.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) what: String,
    /// The median of the repetitions' own ratios: ours by raw.
    pub(crate) ratio: f64,
    pub(crate) ratio_min: f64,
    pub(crate) ratio_max: f64,
    pub(crate) ours_per_second: f64,
    pub(crate) raw_per_second: f64,
}

impl Comparison {
    /// Runs both sides in turn, each time the other one first, and compares within a repetition: the machine's noise is in both.
    pub(crate) async fn run(
        what: impl Into<String>,
        repetitions: usize,
        events: usize,
        mut ours: impl AsyncFnMut() -> anyhow::Result<Duration>,
        mut raw: impl AsyncFnMut() -> anyhow::Result<Duration>,
    ) -> anyhow::Result<Self> {
        let (mut our_rates, mut raw_rates, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for repetition in 0..repetitions {
            let (ours, raw) = if repetition % 2 == 0 {
                let ours = ours().await?;
                (ours, raw().await?)
            } else {
                let raw = raw().await?;
                (ours().await?, raw)
            };
            our_rates.push(events as f64 / ours.as_secs_f64());
            raw_rates.push(events as f64 / raw.as_secs_f64());
            ratios.push(raw.as_secs_f64() / ours.as_secs_f64());
        }
        ratios.sort_by(f64::total_cmp);
        Ok(Self {
            what: what.into(),
            ratio: median(ratios.clone()),
            ratio_min: ratios[0],
            ratio_max: ratios[ratios.len() - 1],
            ours_per_second: median(our_rates),
            raw_per_second: median(raw_rates),
        })
    }

    pub(crate) fn line(&self) -> String {
        format!(
            "{:<48} {:>6.2}  ({:.2} to {:.2}) {:>12.0}/s {:>12.0}/s",
            self.what, self.ratio, self.ratio_min, self.ratio_max, self.ours_per_second, self.raw_per_second
        )
    }
}

/// Every comparison, a line each.
pub(crate) fn table(comparisons: &[Comparison]) -> String {
    let head = format!("{:<48} {:>6}  {:<15} {:>13} {:>13}", "what", "ratio", "(min to max)", "event-box", "raw");
    let lines: Vec<_> = std::iter::once(head).chain(comparisons.iter().map(Comparison::line)).collect();
    lines.join("\n")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs so many tasks at once and answers how long they took together.
pub(crate) async fn at_once<F: Future<Output = anyhow::Result<()>> + Send + 'static>(
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
