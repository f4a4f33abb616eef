//! Counts what is handled.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// Counts events down as they are handled.
#[derive(Debug)]
pub struct Counter {
    events: usize,
    left: AtomicUsize,
    first: OnceLock<Instant>,
    last: OnceLock<Instant>,
    done: Notify,
}

impl Counter {
    /// For so many events.
    pub fn new(events: usize) -> Arc<Self> {
        let (first, last) = (OnceLock::new(), OnceLock::new());
        Arc::new(Self { events, left: AtomicUsize::new(events), first, last, done: Notify::new() })
    }

    /// One event is handled; answers how many are left. More than there are to count are no error.
    pub fn count(&self) -> usize {
        self.count_many(1)
    }

    /// So many events are handled; answers how many are left.
    pub fn count_many(&self, events: usize) -> usize {
        self.first.get_or_init(Instant::now);
        let update = |left: usize| Some(left.saturating_sub(events));
        let before = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update).unwrap_or_default();
        if before > 0 && before <= events {
            self.last.get_or_init(Instant::now);
            self.done.notify_one();
        }
        before.saturating_sub(events)
    }

    /// How many are left.
    pub fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }

    /// Until all are handled.
    pub async fn done(&self) {
        self.done.notified().await;
    }

    /// The events beyond a first batch of so many, a second, from the first event handled to the last; once [`done`](Self::done).
    pub fn rate(&self, first_batch: usize) -> f64 {
        let events = self.events.saturating_sub(first_batch).max(1);
        events as f64 / self.between().unwrap_or(Duration::MAX).as_secs_f64()
    }

    /// From the first event handled to the last, once [`done`](Self::done): without the consumer's start.
    pub fn between(&self) -> Option<Duration> {
        Some(*self.last.get()? - *self.first.get()?)
    }
}
