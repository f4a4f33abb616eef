use std::time::Duration;

use tokio::time::Instant;

/// A group begins a transaction for few events so often, in the long run,
const INTERVAL: Duration = Duration::from_millis(4);
/// and so many at once after a rest.
const BURST: u32 = 25;
/// So many partitions of one transaction count as another.
const PARTITIONS: usize = 8;

/// How often a group goes for a few events. At low rates each is fetched as it comes. At high ones a transaction for each would take the
/// server's time from those who emit: events are then fetched some at a time, the more of them the faster they come. None waits for
/// longer than some 50 ms on account of it.
///
/// Kept as one number by the generic cell rate algorithm (ITU-T I.371): the time at which all of `BURST` would be there again.
#[derive(Debug)]
pub(crate) struct Pace {
    full_at: Instant,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// A transaction for few events in so many partitions has ended.
    pub(crate) fn spend(&mut self, now: Instant, partitions: usize) {
        let cost = INTERVAL * (1 + partitions / PARTITIONS) as u32;
        // Several workers may have begun at once: their debt is not added up.
        self.full_at = (self.full_at.max(now) + cost).min(now + INTERVAL * (BURST - 1) + cost);
    }

    /// From when on a few events are fetched again.
    pub(crate) fn open_at(&self) -> Instant {
        self.full_at - INTERVAL * (BURST - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// An hour from the beginning of the clock, which may lie right behind us.
    fn some_time() -> Instant {
        Instant::now() + 3_600_000 * MS
    }

    #[test]
    fn a_low_rate_never_waits() {
        let mut now = some_time();
        let mut pace = Pace::new(now);
        for _ in 0..1_000 {
            now += 5 * MS;
            assert!(pace.open_at() <= now);
            pace.spend(now, 1);
        }
    }

    #[test]
    fn a_high_rate_goes_at_intervals_after_a_burst() {
        let start = some_time();
        let (mut now, mut pace, mut times) = (start, Pace::new(start), 0);
        while now < start + 1_000 * MS {
            now = now.max(pace.open_at());
            pace.spend(now, 1);
            times += 1;
        }
        assert!((250 + BURST - 2..=250 + BURST).contains(&times), "{times}");
    }

    #[test]
    fn nobody_waits_long() {
        let now = some_time();
        let mut pace = Pace::new(now);
        (0..1_000).for_each(|_| pace.spend(now, 64));
        assert!(pace.open_at() <= now + 36 * MS);
    }
}
