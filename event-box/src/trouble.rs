use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;

/// How a group backs off while the database, or what its handlers depend on, fails it.
#[derive(Debug)]
pub(crate) struct Trouble {
    times: u32,
    /// The partition whose batch met it; none where it was a look.
    pub(crate) partition: Option<i16>,
    /// No batch and no look begins before this.
    pub(crate) not_before: Instant,
}

impl Trouble {
    pub(crate) fn none() -> Self {
        Self { times: 0, partition: None, not_before: Instant::now() }
    }

    /// Waits from 100 ms, twice as long each time, to 30 s. Answers whether this is the first of a row.
    pub(crate) fn back_off(&mut self, partition: Option<i16>) -> bool {
        self.partition = partition;
        // Neighbours that began before the pause have met the same trouble.
        if Instant::now() < self.not_before {
            return false;
        }
        self.times = self.times.saturating_add(1);
        let backoff = Backoff::exponential(Duration::from_millis(100), 2.0, Duration::from_secs(30));
        self.not_before = Instant::now() + backoff.after(self.times);
        self.times == 1
    }

    /// Answers whether there was any.
    pub(crate) fn is_over(&mut self) -> bool {
        std::mem::take(&mut self.times) > 0
    }
}
