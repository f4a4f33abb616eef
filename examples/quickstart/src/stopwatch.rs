use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use uuid::Uuid;

/// Measures the time from an order's commit to its handler.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stopwatch(Arc<Mutex<HashMap<Uuid, Times>>>);

#[derive(Debug, Default)]
struct Times {
    committed: Option<Instant>,
    handled: Option<Instant>,
}

impl Stopwatch {
    pub(crate) fn committed(&self, order: Uuid) {
        self.note(order, |times| times.committed = Some(Instant::now()));
    }

    pub(crate) fn handled(&self, order: Uuid) {
        self.note(order, |times| {
            times.handled.get_or_insert_with(Instant::now);
        });
    }

    fn note(&self, order: Uuid, what: impl FnOnce(&mut Times)) {
        what(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(order).or_default());
    }

    /// The median and the 99th percentile. A handler may start before the emitter has seen its own commit: that counts as zero.
    pub(crate) fn percentiles(&self) -> Option<(Duration, Duration)> {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waits: Vec<_> = times
            .values()
            .filter_map(|times| Some(times.handled?.saturating_duration_since(times.committed?)))
            .collect();
        waits.sort_unstable();
        let at = |percent: usize| waits.get((waits.len() * percent / 100).min(waits.len().saturating_sub(1))).copied();
        Some((at(50)?, at(99)?))
    }
}
