use std::time::Duration;

/// How long a failed event waits before it is tried again: exponentially longer, up to a limit, each wait varied by a tenth either way
/// so that events which failed together do not return together.
///
/// Default: 1 s after the first failure, three times as long after each further one, at most 4 hours. With the default of 15 attempts
/// that makes about a day.
#[derive(Debug, Clone, PartialEq)]
pub struct Backoff {
    first: Duration,
    factor: f64,
    max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), factor: 3.0, max: Duration::from_secs(4 * 60 * 60) }
    }
}

impl Backoff {
    /// Waits `first` after the first failure, `factor` times as long after each further one (a factor below 1 counts as 1), and never
    /// longer than `max`.
    pub fn exponential(first: Duration, factor: f64, max: Duration) -> Self {
        Self { first, factor, max }
    }

    /// Always waits this long.
    pub fn fixed(wait: Duration) -> Self {
        Self::exponential(wait, 1.0, wait)
    }

    /// The wait after this many failures, 1 for the first, varied by a tenth either way.
    pub(crate) fn after(&self, failures: u32) -> Duration {
        let exponent = failures.saturating_sub(1).min(1_000) as i32;
        let seconds = self.first.as_secs_f64() * self.factor.max(1.0).powi(exponent);
        let seconds = seconds.min(self.max.as_secs_f64()) * (0.9 + 0.2 * fastrand::f64());
        Duration::try_from_secs_f64(seconds).unwrap_or(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_limit_and_varies_by_a_tenth() {
        let backoff = Backoff::default();
        for (failures, expected) in [(1, 1.0), (2, 3.0), (5, 81.0), (14, 14_400.0), (u32::MAX, 14_400.0)] {
            for _ in 0..100 {
                let seconds = backoff.after(failures).as_secs_f64();
                assert!((0.9 * expected..=1.1 * expected).contains(&seconds), "{failures}: {seconds}");
            }
        }
    }

    #[test]
    fn the_default_attempts_take_about_a_day() {
        let hours = (1..15).map(|failures| Backoff::default().after(failures).as_secs_f64()).sum::<f64>() / 3600.0;
        assert!((20.0..26.0).contains(&hours), "{hours}");
    }
}
