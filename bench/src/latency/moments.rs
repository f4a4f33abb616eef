use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::SystemTime,
};

use anyhow::Context;
use tokio::sync::Notify;

/// When each event was committed, or handled.
#[derive(Debug)]
pub struct Moments {
    /// Nanoseconds of Unix time by event; 0 for what has not happened.
    times: Vec<AtomicU64>,
    left: AtomicUsize,
    first: Notify,
    all: Notify,
}

impl Moments {
    /// Of events 0, which tells that all is ready, to `events`.
    pub fn new(events: usize) -> Self {
        let times = (0..=events).map(|_| AtomicU64::new(0)).collect();
        Self { times, left: AtomicUsize::new(events), first: Notify::new(), all: Notify::new() }
    }

    /// It happens now, unless it has before.
    pub fn note(&self, event: i64) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64);
        let Some(time) = usize::try_from(event).ok().and_then(|event| self.times.get(event)) else { return };
        if time.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        if event == 0 {
            self.first.notify_one();
        } else if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.all.notify_one();
        }
    }

    pub(super) async fn first(&self) {
        self.first.notified().await;
    }

    pub(super) async fn all(&self) {
        self.all.notified().await;
    }

    pub(super) fn print(&self) {
        for time in &self.times {
            println!("{}", time.load(Ordering::Relaxed));
        }
    }

    pub(super) fn parse(lines: &[String]) -> anyhow::Result<Self> {
        let times = lines.iter().map(|line| Ok(AtomicU64::new(line.parse()?))).collect::<anyhow::Result<_>>()?;
        Ok(Self { times, left: AtomicUsize::new(0), first: Notify::new(), all: Notify::new() })
    }

    pub(super) fn len(&self) -> usize {
        self.times.len()
    }

    /// Milliseconds from when the other noted an event.
    pub(super) fn since(&self, other: &Self, event: usize) -> anyhow::Result<f64> {
        let at = |moments: &Self| match moments.times.get(event).map(|time| time.load(Ordering::Relaxed)) {
            None | Some(0) => None,
            Some(time) => Some(time as i64),
        };
        let both = at(self).zip(at(other)).with_context(|| format!("event {event} is missing on one side"))?;
        Ok((both.0 - both.1) as f64 / 1_000_000.0)
    }
}
