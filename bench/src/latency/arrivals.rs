use std::time::Duration;

use clap::ValueEnum;

/// When events come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Arrivals {
    /// At equal distances.
    Even,
    /// Independently of each other, always the same ones: of a fixed seed.
    Poisson,
}

impl Arrivals {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Even => "even",
            Self::Poisson => "poisson",
        }
    }

    /// When each event comes, from the beginning.
    pub fn times(self, rate: f64) -> impl Iterator<Item = Duration> {
        let mut random = fastrand::Rng::with_seed(42);
        let mut at = 0.0;
        std::iter::repeat_with(move || {
            at += match self {
                Self::Even => 1.0 / rate,
                Self::Poisson => -(1.0 - random.f64()).ln() / rate,
            };
            Duration::from_secs_f64(at)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_keep_the_rate() {
        for arrivals in [Arrivals::Even, Arrivals::Poisson] {
            let last = arrivals.times(100.0).nth(9_999).expect("no end").as_secs_f64();
            assert!((97.0..103.0).contains(&last), "{arrivals:?}: {last}");
        }
    }
}
